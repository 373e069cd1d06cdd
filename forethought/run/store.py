"""The run folder: append-only logs, manifests written last, atomic publishing, one writer at a time.

::

    runs/<name>/measurements.jsonl                     every figure of the run
    runs/<name>/run.json                               the config it was last run with
    runs/<name>/primary.jsonl                          its primary endpoint, and when it was named
    runs/<name>/<arm or "shared">/<stage>/config.json  the resolved config
                                         *.jsonl       append-only logs
                                         checkpoints/  whole folders, published by renaming
                                         manifest.json written last: its presence means "done"
    runs/<name>/.replaced/<arm>/<stage>/<config>       what another config had made, with its figures

Everything survives ``kill -9`` at any moment: a file or folder is either whole or not there, and a
log loses at most the line that was being written.  This is the only module that builds paths of a run.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from forethought import __version__
from forethought.records import Measurement, content_id
from forethought.run import integrity
from forethought.run.files import (
    StoreError,
    append_jsonl,
    atomic_write,
    encode,
    hash_file,
    holder,
    inside,
    keep_rows,
    locked,
    read_json,
    read_jsonl,
    remove,
    restore,
    writing,
)
from forethought.run.folder import BASE, FIGURES, SHARED, Config, ConfigChangedError, StageFolder, as_stored
from forethought.run.integrity import checksum_fault, with_checksum
from forethought.run.rows import sealed

__all__ = ["BASE", "REPLACED", "SHARED", "ConfigChangedError", "Run", "RunLockedError", "StageFolder", "StoreError"]

REPLACED = ".replaced"
"""Folder of what started over.  Whoever needs the room may remove it while nothing runs."""

_FIGURES = "figures"
_PRIMARY = "primary.jsonl"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class RunLockedError(StoreError):
    """Another process is writing to this run."""


class Run:
    """A run folder, ``runs/<name>``; :class:`forethought.pipeline.runner.Lifecycle` fills it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.machine: Callable[[], Mapping[str, Any]] = dict
        """Tells what computes here: manifests record it when a stage is done."""
        self._known_hashes: dict[str, str] | None = None
        self._writes = False

    @classmethod
    def create_or_open(cls, path: str | Path) -> Run:
        with writing(Path(path)):
            Path(path).mkdir(parents=True, exist_ok=True)
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> Run:
        if not Path(path).is_dir():
            raise StoreError(f"{path}: no such run folder. `forethought run CONFIG` makes runs/<name>")
        return cls(path)

    def stage(self, arm: str, stage: str) -> StageFolder:
        """Return the folder of ``stage`` of ``arm`` (or :data:`SHARED`), made if it is missing."""
        for name in (arm, stage):
            if not _NAME.fullmatch(name):
                raise StoreError(f"{name!r} cannot name a folder: use letters, digits, '.', '_' and '-'")
        folder = self.look(arm, stage)
        with writing(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
        return folder

    def look(self, arm: str, stage: str) -> StageFolder:
        """Return the folder of ``stage`` of ``arm``, which may not be there; nothing is created."""
        return StageFolder(self.path / arm / stage, self.machine, self.hash_of)

    @property
    def _figures(self) -> Path:
        return self._file(FIGURES)

    def _file(self, name: str) -> Path:
        """Return the path of a file of this run, which no link may lead out of it."""
        return inside(self.path / name, self.path)

    def stages(self) -> list[StageFolder]:
        paths = sorted({path.parent for name in ("config", "manifest") for path in self.path.glob(f"*/*/{name}.json")})
        folders = (StageFolder(path, self.machine, self.hash_of) for path in paths)
        return [folder for folder in folders if _NAME.fullmatch(folder.arm) and _NAME.fullmatch(folder.stage)]

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing to this run; what a killed one left half-done is repaired."""
        with locked(self._file(".lock")) as other:
            if other is not None:
                raise RunLockedError(
                    f"{self.path}: process {other} is working on this run. "
                    "Wait for it, stop it, or choose another --run"
                )
            # Folders of which a publish was killed, then figures of stages that were being set aside.
            for folder in (self.path, *self.path.glob("*"), *self.path.glob("*/*"), *self.path.glob("*/*/checkpoints")):
                for left in folder.glob(".*.old"):
                    restore(left.with_name(left.name[1 : -len(".old")]))
                for left in folder.glob(".*.tmp"):
                    remove(left)
            for stage in self.stages():
                self._give_back(stage)
            self._writes = True
            try:
                yield
            finally:
                self._writes = False

    def measure(self, measurements: Iterable[Measurement]) -> None:
        append_jsonl(self._figures, measurements)

    def measurements(self) -> list[Measurement]:
        """Return the last figure of each (stage, arm, against, metric, condition, judge), oldest key first.

        Raises:
            StoreError: if figures of finished stages are not there any more.
        """
        latest: dict[tuple[str, ...], Measurement] = {}
        for figure in read_jsonl(self._figures, Measurement):
            key = (figure.stage, figure.arm, figure.against, figure.metric, figure.condition, figure.judge)
            latest[key] = figure
        self._check_figures(list(latest.values()))
        return list(latest.values())

    def _check_figures(self, figures: Sequence[Measurement]) -> None:
        """Refuse a table of figures that lacks what finished stages had measured; older manifests do not tell."""
        lost = []
        for folder in self.stages():
            measured = (folder.manifest() or {}).get("figures", 0)
            there = sum(folder.measured(one.stage, one.arm, one.against) for one in figures) if measured else 0
            # Those of `reasoning` may be replaced by fewer, of what was asked for later.
            if there < measured and (there == 0 or folder.stage != "reasoning"):
                lost.append(f"{folder.arm}/{folder.stage}")
        if lost:
            raise StoreError(
                f"{self._figures}: figures of {', '.join(lost)} are missing. Put back a copy of the file, or measure "
                f"again: `forethought run CONFIG --run {self.path} --only {','.join(lost)} --force`"
            )

    def drop(self, gone: Callable[[Mapping[str, Any]], bool]) -> None:
        keep_rows(self._figures, lambda row: not gone(row))

    def set_aside(self, folder: StageFolder) -> Path:
        """Move a stage and its figures out of the way, and return where it now is.

        At a kill the stage is here or there: as long as it is here, the next :meth:`lock` gives its figures back.
        """
        mine = [row for row in read_jsonl(self._figures) if _owns(folder, row)]
        atomic_write(folder.path / f"{_FIGURES}.jsonl", b"".join(sealed(encode(row)) for row in mine))
        self.drop(lambda row: _owns(folder, row))
        place = self._aside(folder, folder.read_json("config"))
        with writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.exists():  # the same config, started over with --force
                taken = sum(other.name.startswith(place.name) for other in place.parent.iterdir())
                place.rename(place.with_name(f"{place.name}.{taken}"))
            folder.path.rename(place)
            folder.path.mkdir()
        return place

    def bring_back(self, folder: StageFolder, config: Config) -> bool:
        """Put what ``config`` had made before into a folder that holds nothing; return whether there was any."""
        place = self._aside(folder, as_stored(config))
        if not place.exists():
            return False
        with writing(folder.path):
            remove(folder.path)
            place.rename(folder.path)
        self._give_back(folder)
        return True

    def save_config(self, config: Any) -> None:
        """Keep the config that this run was last asked for: what reads the folder then knows what is missing."""
        path, data = self._file("run.json"), encode(with_checksum({"version": __version__, "config": config}), indent=2)
        if not path.exists() or path.read_bytes() != data:
            atomic_write(path, data)

    def keep_primary(self, primary: Mapping[str, Any] | None) -> None:
        """Note the primary endpoint that this run is asked for with, and whether its stage had figures by then."""
        kept = list(read_jsonl(self._file(_PRIMARY), keys=("primary", "late")))
        if (kept[-1]["primary"] if kept else None) != primary:
            stage = "" if primary is None else primary["stage"]
            seen = any(figure.stage == stage for figure in self.measurements())
            late = seen or any((self.path / REPLACED).glob(f"*/{stage or '-'}"))
            append_jsonl(self._file(_PRIMARY), [{"primary": primary, "late": late}])

    def primary_is_late(self) -> bool | None:
        """Return whether the primary endpoint was named after its stage had been measured; ``None``: not known."""
        kept = list(read_jsonl(self._file(_PRIMARY), keys=("primary", "late")))
        return bool(kept[-1]["late"]) if kept else None

    def config(self) -> dict[str, Any] | None:
        """Return the config that this run was last asked for.

        Raises:
            StoreError: if ``run.json`` is damaged.
        """
        path = self._file("run.json")
        kept = read_json(path)
        if kept is None:
            return None
        fault = checksum_fault(kept) if isinstance(kept, dict) else "it is no object"
        if fault or not isinstance(kept.get("config"), dict):
            raise StoreError(
                f"{path}: {fault or 'it holds no config'}. Remove it: "
                f"`forethought run CONFIG --run {self.path}` writes it anew, and what is done is not run again"
            )
        return dict(kept["config"])

    def hashes(self) -> dict[str, str]:
        return {row["name"]: row["hash"] for row in read_jsonl(self._file("hashes.jsonl"), keys=("name", "hash"))}

    def hash_of(self, path: Path) -> str:
        """Return the sha256 of a file; of a large one it is computed once for its path, size and time of change."""
        found = path.stat()
        if found.st_size <= integrity.SMALL:
            return hash_file(path)
        place = path.relative_to(self.path).as_posix() if path.is_relative_to(self.path) else str(path)
        name = content_id({"file": place, "size": found.st_size, "changed": found.st_mtime_ns})
        if self._known_hashes is None:
            self._known_hashes = self.hashes()
        if name not in self._known_hashes:
            self._known_hashes[name] = hash_file(path)
            if self._writes:
                self.keep_hash(name, self._known_hashes[name])
        return self._known_hashes[name]

    def keep_hash(self, name: str, value: str) -> None:
        """Keep the hash of something long that stages depend on, so that it need not be read again to know it."""
        append_jsonl(self._file("hashes.jsonl"), [{"name": name, "hash": value}])

    def writer(self) -> str | None:
        """Return the id of the process that holds the lock, or ``None``; nothing is created."""
        return holder(self._file(".lock"))

    def _aside(self, folder: StageFolder, config: Config) -> Path:
        return self.path / REPLACED / folder.arm / folder.stage / content_id(config)

    def _give_back(self, folder: StageFolder) -> None:
        kept = folder.path / f"{_FIGURES}.jsonl"
        if kept.exists():
            append_jsonl(self._figures, read_jsonl(kept))
            remove(kept)


def _owns(folder: StageFolder, row: Mapping[str, Any]) -> bool:
    """Return whether a figure goes when this stage starts over (an audit's arms are its judges)."""
    if row["stage"] == "run":
        return (row["arm"], row["condition"]) == (folder.arm, folder.stage)
    named = (row["arm"], row["against"])
    return row["stage"] == folder.stage and (folder.arm == SHARED or folder.arm in named or named == (BASE, ""))

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
import datetime
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from forethought import __version__
from forethought.records import Measurement, Record, content_id
from forethought.run.differences import differences
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

R = TypeVar("R", bound=Record)
Config = Mapping[str, Any]

SHARED = "shared"
"""The arm of stages whose results all arms use."""

BASE = "base"
"""The arm that nothing has trained; what is measured on it belongs to all that are compared with it."""

REPLACED = ".replaced"
"""Folder of what started over.  Whoever needs the room may remove it while nothing runs."""

_FIGURES = "figures"
_PRIMARY = "primary.jsonl"
_MEASUREMENTS = "measurements.jsonl"

TIMED_LOGS = frozenset({"metrics.jsonl"})
"""Logs that hold seconds and rates, so that they differ between two equal runs."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class ConfigChangedError(StoreError):
    """A stage's folder was made with another config; ``reset()`` starts it over."""


class RunLockedError(StoreError):
    """Another process is writing to this run."""


class Run:
    """A run folder, ``runs/<name>``; :class:`forethought.pipeline.runner.Lifecycle` fills it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.machine: Callable[[], Mapping[str, Any]] = dict
        """Tells what computes here: manifests record it when a stage is done."""

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
        return StageFolder(self.path / arm / stage, self.machine)

    def _file(self, name: str) -> Path:
        """Return the path of a file of this run, which no link may lead out of it."""
        return inside(self.path / name, self.path)

    def stages(self) -> list[StageFolder]:
        folders = (StageFolder(path.parent) for path in sorted(self.path.glob("*/*/config.json")))
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
            yield

    def measure(self, measurements: Iterable[Measurement]) -> None:
        append_jsonl(self._file(_MEASUREMENTS), measurements)

    def measurements(self) -> list[Measurement]:
        """Return the last figure of each (stage, arm, against, metric, condition, judge), oldest key first."""
        latest: dict[tuple[str, ...], Measurement] = {}
        for figure in read_jsonl(self._file(_MEASUREMENTS), Measurement):
            key = (figure.stage, figure.arm, figure.against, figure.metric, figure.condition, figure.judge)
            latest[key] = figure
        return list(latest.values())

    def drop(self, gone: Callable[[Mapping[str, Any]], bool]) -> None:
        keep_rows(self._file(_MEASUREMENTS), lambda row: not gone(row))

    def set_aside(self, folder: StageFolder) -> Path:
        """Move a stage and its figures out of the way, and return where it now is.

        At a kill the stage is here or there: as long as it is here, the next :meth:`lock` gives its figures back.
        """
        mine = [row for row in read_jsonl(self._file(_MEASUREMENTS)) if _owns(folder, row)]
        atomic_write(folder.path / f"{_FIGURES}.jsonl", b"".join(map(encode, mine)))
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
        place = self._aside(folder, _stored(config))
        if not place.exists():
            return False
        with writing(folder.path):
            remove(folder.path)
            place.rename(folder.path)
        self._give_back(folder)
        return True

    def save_config(self, config: Any) -> None:
        """Keep the config that this run was last asked for: what reads the folder then knows what is missing."""
        path, data = self._file("run.json"), encode({"version": __version__, "config": config}, indent=2)
        if not path.exists() or path.read_bytes() != data:
            atomic_write(path, data)

    def keep_primary(self, primary: Mapping[str, Any] | None) -> None:
        """Note the primary endpoint that this run is asked for with, and whether its stage had figures by then."""
        kept = list(read_jsonl(self._file(_PRIMARY)))
        if (kept[-1]["primary"] if kept else None) != primary:
            stage = "" if primary is None else primary["stage"]
            seen = any(figure.stage == stage for figure in self.measurements())
            late = seen or any((self.path / REPLACED).glob(f"*/{stage or '-'}"))
            append_jsonl(self._file(_PRIMARY), [{"primary": primary, "late": late}])

    def primary_is_late(self) -> bool | None:
        """Return whether the primary endpoint was named after its stage had been measured; ``None``: not known."""
        kept = list(read_jsonl(self._file(_PRIMARY)))
        return bool(kept[-1]["late"]) if kept else None

    def config(self) -> dict[str, Any] | None:
        kept = read_json(self._file("run.json"))
        return None if kept is None else dict(kept["config"])

    def hashes(self) -> dict[str, str]:
        return {row["name"]: row["hash"] for row in read_jsonl(self._file("hashes.jsonl"))}

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
            append_jsonl(self._file(_MEASUREMENTS), read_jsonl(kept))
            remove(kept)


class StageFolder:
    def __init__(self, path: Path, machine: Callable[[], Mapping[str, Any]] = dict) -> None:
        self.path = path
        self.machine = machine

    @property
    def stage(self) -> str:
        return self.path.name

    @property
    def arm(self) -> str:
        return self.path.parent.name

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def _file(self, name: str) -> Path:
        """Return the path of a file of this folder, which no link may lead out of the run."""
        return inside(self.path / name, self.path.parent.parent)

    def write_config(self, config: Config) -> None:
        """Write what the stage depends on, or check that what is in the folder was made with it.

        Raises:
            ConfigChangedError: if something was made with another one, naming the keys that differ.
        """
        changes = self.changes(config)
        if changes:
            raise ConfigChangedError(
                f"{self.path} was made with another config ({', '.join(changes)}). "
                "Start it over, or choose another --run"
            )
        if self.read_json("config") != _stored(config):
            self.write_json("config", _stored(config))

    @property
    def begun(self) -> bool:
        return self.path.is_dir() and any(path.name != "config.json" for path in self.path.iterdir())

    def changes(self, config: Config) -> list[str]:
        """Return the keys in which this config differs from the one that made what is here, with the values."""
        present = self.read_json("config")
        return [] if present is None or not self.begun else differences(present, _stored(config))

    def append(self, name: str, rows: Any) -> None:
        """Append a record, a mapping, or an iterable of them to ``<name>.jsonl``; on disk when it returns."""
        single = isinstance(rows, Mapping) or hasattr(rows, "__dataclass_fields__")
        append_jsonl(self._file(f"{name}.jsonl"), [rows] if single else rows)

    def read(self, name: str) -> Iterator[dict[str, Any]]:
        return read_jsonl(self._file(f"{name}.jsonl"))

    def load(self, name: str, kind: type[R]) -> list[R]:
        return list(read_jsonl(self._file(f"{name}.jsonl"), kind))

    def truncate(self, name: str, keep: Callable[[dict[str, Any]], bool]) -> int:
        """Keep some rows of a log: what was logged after the last checkpoint will be computed and logged again."""
        return keep_rows(self._file(f"{name}.jsonl"), keep)

    def write_json(self, name: str, value: Any) -> None:
        atomic_write(self._file(f"{name}.json"), encode(value, indent=2))

    def read_json(self, name: str) -> Any:
        return read_json(self._file(f"{name}.json"))

    def finish(self, inputs: Mapping[str, str], summary: Mapping[str, Any]) -> None:
        """Write ``manifest.json``, which says that the stage is done.

        ``inputs``: what the stage read, by name: the :attr:`identity` of earlier stages, hashes of files or models;
        ``summary``: what it made, in a few values.  No durations: both are part of :attr:`identity`, which equal runs
        share.
        """
        config = self.read_json("config")
        if config is None:
            raise StoreError(f"{self.path}: a stage writes its config before it can finish")
        started = datetime.datetime.fromtimestamp((self.path / "config.json").stat().st_mtime, datetime.UTC)
        manifest = {
            "config": content_id(config),
            "inputs": dict(inputs),
            "summary": dict(summary),
            "files": {path.name: hash_file(path) for path in sorted(self.path.glob("*.jsonl"))},
            "version": __version__,
            "machine": dict(self.machine()),
            "started": started.isoformat(timespec="seconds"),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        self.write_json("manifest", manifest)

    def manifest(self) -> dict[str, Any] | None:
        return self.read_json("manifest")

    @property
    def done(self) -> bool:
        """Whether the manifest exists and belongs to the present config."""
        manifest, config = self.manifest(), self.read_json("config")
        return manifest is not None and config is not None and manifest["config"] == content_id(config)

    @property
    def identity(self) -> str:
        """Hash of what the stage made and from what, without times: what later stages name as their input."""
        manifest = self.manifest()
        if manifest is None:
            raise StoreError(f"{self.path}: the stage is not done, so it has no identity yet. Run it first")
        files = {name: digest for name, digest in manifest["files"].items() if name not in TIMED_LOGS}
        return content_id({key: manifest[key] for key in ("config", "inputs", "summary", "version")} | {"files": files})

    def reset(self) -> None:
        """Remove everything in the folder, at once even if it is interrupted."""
        discarded = self.path.with_name(f".{self.path.name}.tmp")
        with writing(self.path):
            remove(discarded)
            self.path.rename(discarded)
            self.path.mkdir()
            remove(discarded)


def _stored(config: Config) -> Any:
    """Return ``config`` as JSON gives it back, where tuples are lists: what is compared and written."""
    return json.loads(json.dumps(dict(config)))


def _owns(folder: StageFolder, row: Mapping[str, Any]) -> bool:
    """Return whether a figure goes when this stage starts over (an audit's arms are its judges)."""
    if row["stage"] == "run":
        return (row["arm"], row["condition"]) == (folder.arm, folder.stage)
    named = (row["arm"], row["against"])
    return row["stage"] == folder.stage and (folder.arm == SHARED or folder.arm in named or named == (BASE, ""))

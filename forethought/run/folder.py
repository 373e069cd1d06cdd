"""The folder of one stage: its config, its logs, its manifest, and whether they are what was written."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from forethought import __version__
from forethought.records import Record, content_id
from forethought.run import integrity
from forethought.run.differences import differences
from forethought.run.files import (
    StoreError,
    append_jsonl,
    atomic_write,
    encode,
    hash_file,
    inside,
    is_there,
    keep_rows,
    read_json,
    read_jsonl,
    reading,
    remove,
    writing,
)
from forethought.run.integrity import checksum_fault, file_fault, hashes_of, with_checksum

R = TypeVar("R", bound=Record)
Config = Mapping[str, Any]

SHARED = "shared"
"""The arm of stages whose results all arms use."""

BASE = "base"
"""The arm that nothing has trained; what is measured on it belongs to all that are compared with it."""

FIGURES = "measurements.jsonl"
"""Of a run: the table of its figures."""

TIMED_LOGS = frozenset({"metrics.jsonl"})
"""Logs that hold seconds and rates, so that they differ between two equal runs."""


class ConfigChangedError(StoreError):
    """A stage's folder was made with another config; ``reset()`` starts it over."""


class StageFolder:
    def __init__(
        self,
        path: Path,
        machine: Callable[[], Mapping[str, Any]] = dict,
        hash_of: Callable[[Path], str] = hash_file,
    ) -> None:
        self.path = path
        self.machine = machine
        self.hash_of = hash_of

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
        if self.read_json("config") != as_stored(config):
            self.write_json("config", as_stored(config))

    @property
    def begun(self) -> bool:
        return self.path.is_dir() and any(path.name != "config.json" for path in self.path.iterdir())

    def changes(self, config: Config) -> list[str]:
        """Return the keys in which this config differs from the one that made what is here, with the values."""
        present = self.read_json("config")
        if not self.begun:
            return []
        if present is None:
            made_with = (self.manifest() or {}).get("config")
            return [] if made_with == content_id(as_stored(config)) else [f"{self.path / 'config.json'} is missing"]
        return differences(present, as_stored(config))

    def append(self, name: str, rows: Any) -> None:
        """Append a record, a mapping, or an iterable of them to ``<name>.jsonl``; on disk when it returns."""
        single = isinstance(rows, Mapping) or hasattr(rows, "__dataclass_fields__")
        append_jsonl(self._file(f"{name}.jsonl"), [rows] if single else rows)

    def read(self, name: str) -> Iterator[dict[str, Any]]:
        return read_jsonl(self._file(f"{name}.jsonl"), content=self._checked(f"{name}.jsonl"))

    def load(self, name: str, kind: type[R]) -> list[R]:
        return list(read_jsonl(self._file(f"{name}.jsonl"), kind, content=self._checked(f"{name}.jsonl")))

    def _checked(self, name: str) -> bytes | None:
        """Return the content of a small file of a finished stage, as it was written; check others where they are."""
        path, expected = self._file(name), self.written().get(name)
        if expected is not None and path.is_file() and path.stat().st_size <= integrity.SMALL:
            with reading(path):
                content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() == expected:
                return content
        self.check(name)
        return None

    def check(self, *names: str) -> None:
        """Refuse files of a finished stage that are not what it wrote; what the manifest does not name is not checked.

        Raises:
            StoreError: naming the first such file and the way out.
        """
        written = self.written()
        for name in names:
            fault = file_fault(self.path / name, written[name], self.hash_of) if name in written else ""
            if fault:
                raise StoreError(
                    f"{self.path / name}: {fault}. Put back a copy of it, or make the stage anew: "
                    f"`forethought run CONFIG --run {self.path.parent.parent} --only {self.arm}/{self.stage} --force`"
                )

    def check_model(self) -> Path:
        """Return the folder of the trained model, whose files are what was written."""
        final = self.checkpoints / "final"
        if final.is_dir():
            self.check(*(name for name in self.written() if name.startswith("checkpoints/final/")))
        return final

    def written(self) -> dict[str, str]:
        """Return the hashes of the files of a finished stage, by their paths in its folder."""
        manifest = self.manifest()
        if manifest is None:
            return {}
        weights = manifest["summary"].get("weights", {})  # all that older manifests say of the model
        model = {f"checkpoints/final/{name}": digest for name, digest in weights.items()}
        return {**manifest["files"], **model, **manifest.get("outputs", {})}

    def clear(self, name: str) -> None:
        """Drop all rows of a log: they will be made again."""
        path = self._file(f"{name}.jsonl")
        if is_there(path):
            atomic_write(path, b"")

    def truncate(self, name: str, keep: Callable[[dict[str, Any]], bool], keys: Sequence[str] = ()) -> int:
        """Keep some rows of a log: what was logged after the last checkpoint will be computed and logged again."""
        return keep_rows(self._file(f"{name}.jsonl"), keep, keys)

    def extent(self, name: str) -> dict[str, Any] | None:
        """Return the size and the hash of a log as it is now, or ``None`` if it is not there."""
        path = self._file(f"{name}.jsonl")
        return {"size": path.stat().st_size, "sha256": hash_file(path)} if is_there(path) else None

    def begins_with(self, name: str, size: int, sha256: str) -> bool:
        """Return whether a log still begins with what was there when :meth:`extent` was asked."""
        path = self._file(f"{name}.jsonl")
        if not is_there(path):
            return False
        digest, left = hashlib.sha256(), size
        with reading(path), open(path, "rb") as handle:
            while left and (data := handle.read(min(left, 1 << 20))):
                digest.update(data)
                left -= len(data)
        return not left and digest.hexdigest() == sha256

    def cut(self, name: str, size: int) -> None:
        """Keep the first ``size`` bytes of a log."""
        path = self._file(f"{name}.jsonl")
        if is_there(path):
            with writing(path), open(path, "r+b") as handle:
                handle.truncate(size)

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
            "files": hashes_of(self.path, self.path.glob("*.jsonl"), self.hash_of),
            "figures": self.figures(),
            # Besides the logs, and not part of the identity: the model with its tokenizer, tables, a card.
            "outputs": hashes_of(self.path, self._outputs(), self.hash_of),
            "version": __version__,
            "machine": dict(self.machine()),
            "started": started.isoformat(timespec="seconds"),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        self.write_json("manifest", with_checksum(manifest))

    def manifest(self) -> dict[str, Any] | None:
        """Return what says that the stage is done, or ``None``.

        Raises:
            StoreError: if the file is damaged.
        """
        manifest = self.read_json("manifest")
        if manifest is None:
            return None
        fault = checksum_fault(manifest) if isinstance(manifest, dict) else "it is no object"
        if not fault:
            kinds = {"config": str, "version": str, "inputs": dict, "summary": dict, "files": dict}
            lacking = [key for key, kind in kinds.items() if not isinstance(manifest.get(key), kind)]
            fault = f"it lacks {', '.join(lacking)}" if lacking else ""
        if fault:
            raise StoreError(
                f"{self.path / 'manifest.json'}: {fault}. Put back a copy of it, or remove it: the same command then "
                f"makes {self.arm}/{self.stage} anew"
            )
        return dict(manifest)

    @property
    def done(self) -> bool:
        """Whether the manifest exists and belongs to the present config."""
        manifest, config = self.manifest(), self.read_json("config")
        return manifest is not None and config is not None and manifest["config"] == content_id(config)

    def figures(self) -> int:
        """Return how many figures of this stage, and of its arm alone, are in the run's table."""
        keys = ("stage", "arm", "against", "metric", "condition", "judge")
        rows = read_jsonl(self.path.parent.parent / FIGURES, keys=keys)
        mine = (row for row in rows if self.measured(row["stage"], row["arm"], row["against"]))
        return len({tuple(row[key] for key in keys) for row in mine})

    def measured(self, stage: str, arm: str, against: str) -> bool:
        """Return whether this stage makes such a figure, and no other folder may replace it."""
        return stage == self.stage and (self.arm == SHARED or (arm == self.arm and against in ("", BASE)))

    def _outputs(self) -> Iterator[Path]:
        own = {"config.json", "manifest.json"}
        yield from (path for path in self.path.glob("*") if path.suffix != ".jsonl" and path.name not in own)
        yield from (self.checkpoints / "final").rglob("*")

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


def as_stored(config: Config) -> Any:
    """Return ``config`` as JSON gives it back, where tuples are lists: what is compared and written."""
    return json.loads(json.dumps(dict(config)))

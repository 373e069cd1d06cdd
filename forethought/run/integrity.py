"""Whether files are what was written: sealed JSON, files against their hashes, checkpoints against their state."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from forethought.records import content_id
from forethought.run.files import StoreError, encode, hash_file, is_there, read_json

CHECKSUM = "checksum"
SMALL = 1 << 20
"""Files of up to so many bytes are hashed whenever they are read, larger ones once in a run."""
STATE = Path("trainer") / "state.json"
"""Of a checkpoint: its step, and the hashes of its other files and of the logs up to it."""

_STEP = re.compile(r"step_(\d+)")


def with_checksum(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with the hash of the rest of it as its last key."""
    plain = json.loads(encode(dict(value)))
    return {**plain, CHECKSUM: content_id(plain)}


def checksum_fault(value: Mapping[str, Any]) -> str:
    """Return what is wrong with a JSON object by its checksum, or nothing; older ones have none."""
    rest = {name: item for name, item in value.items() if name != CHECKSUM}
    if CHECKSUM in value and value[CHECKSUM] != content_id(rest):
        return "its checksum does not match: it was changed by hand or by the disk"
    return ""


def hashes_of(folder: Path, paths: Iterator[Path], hash_of: Callable[[Path], str] = hash_file) -> dict[str, str]:
    """Return the hash of each file in ``folder`` among ``paths``, by its path there."""
    return {path.relative_to(folder).as_posix(): hash_of(path) for path in sorted(paths) if path.is_file()}


def file_fault(path: Path, expected: str, hash_of: Callable[[Path], str] = hash_file) -> str:
    """Return what is wrong with a file that had the hash ``expected`` when it was written, or nothing."""
    try:
        if not is_there(path):
            return "it is missing"
        return "" if hash_of(path) == expected else "it is not what was written (by its sha256)"
    except StoreError as error:
        return str(error).removeprefix(f"{path}: ").rstrip(".")


def checkpoint_state(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the state of a checkpoint, ``step_<n>``, and what is wrong with the files in it, or nothing.

    Checkpoints that older code wrote carry no hashes.
    """
    try:
        state = read_json(folder / STATE)
    except StoreError as error:
        return {}, str(error)
    step, named = state.get("step") if isinstance(state, dict) else None, _STEP.fullmatch(folder.name)
    if not isinstance(step, int) or not folder.is_dir():
        return {}, f"{STATE} tells no step" if folder.is_dir() else "it is no folder"
    if fault := checksum_fault(state):
        return {}, f"{STATE}: {fault}"
    if named is None or int(named[1]) != step:
        return {}, f"{STATE} is of step {step}"
    if state.get("files") and CHECKSUM not in state:
        return {}, f"{STATE} has no checksum"
    for name, expected in state.get("files", {}).items():
        if fault := file_fault(folder / name, expected):
            return state, f"{name}: {fault}"
    return state, ""

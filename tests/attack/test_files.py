"""One fault at every file of a finished and of a begun run: the right result, or one clear line."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from click.testing import Result
from helpers.smoke_runs import CONFIG, SMALL, Finished, Kill, cli, lifecycle, rows

from attack.conftest import Attack

IMPROVE = "self-improved/improve"
BEGUN = Kill("write", f"{IMPROVE}/pools.jsonl", 6)  # checkpoints of steps 2 and 4, and a step after them
VIEWS = {"report.html", "summary.json", ".lock"}
"""Made anew from the rest whenever they are wanted."""


def missing(path: Path, luck: random.Random) -> None:
    path.unlink()


def empty(path: Path, luck: random.Random) -> None:
    path.write_bytes(b"")


def torn(path: Path, luck: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: luck.randrange(path.stat().st_size)])


def one_bit(path: Path, luck: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[luck.randrange(len(data))] ^= 1 << luck.randrange(8)
    path.write_bytes(data)


def other_version(path: Path, luck: random.Random) -> None:
    path.write_bytes(b'{"version": "99.0", "rows": []}\n')


def no_object(path: Path, luck: random.Random) -> None:
    path.write_bytes(b"[" * 100_000 + b"\n")


def a_folder(path: Path, luck: random.Random) -> None:
    path.unlink()
    path.mkdir()


def a_link_elsewhere(path: Path, luck: random.Random) -> None:
    path.unlink()
    path.symlink_to(__file__)


def a_link_to_nothing(path: Path, luck: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nothing"))


def unreadable(path: Path, luck: random.Random) -> None:
    path.chmod(0)


Fault = Callable[[Path, random.Random], None]
FAULTS: list[Fault] = [
    missing,
    empty,
    torn,
    one_bit,
    other_version,
    no_object,
    a_folder,
    a_link_elsewhere,
    a_link_to_nothing,
    *([unreadable] if os.geteuid() else []),
]


def files(folder: Path) -> list[str]:
    """Return every file of a run that holds something and is no view of others."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size)
    names = [path.relative_to(folder).as_posix() for path in paths]
    return [name for name in names if name not in VIEWS and not name.endswith(("-wal", "-shm"))]


def planted(folder: Path, names: list[str], whole: bool, some: int) -> Iterator[tuple[str, str]]:
    """Yield what is damaged (fault, file) in ``folder``, mended after each: all there is, or ``some``."""
    cases = [(fault, name) for name in names for fault in FAULTS]
    luck = random.Random(17)
    for fault, name in cases if whole else luck.sample(cases, min(some, len(cases))):
        path = folder / name
        data, times = path.read_bytes(), path.stat()
        fault(path, luck)
        yield fault.__name__, name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def is_one_clear_line(result: Result) -> bool:
    """Whether a command ended as it does on an error that the user can mend."""
    lines = [line for line in result.output.splitlines() if line.startswith("error: ")]
    return isinstance(result.exception, SystemExit) and result.exit_code in (1, 2) and len(lines) == 1


HARMLESS = {"hashes.jsonl", "primary.jsonl", "run.json"}
"""Kept for speed, or of what was asked for last: a run goes without them."""


def test_a_finished_run_is_verified(finished: Finished, attack: Callable[[str], Attack], whole: bool) -> None:
    folder = finished()
    assert cli("verify", folder).exit_code == 0
    tried = attack("a damaged file of a finished run, `forethought verify` (of caches: no traceback)")
    for fault, name in planted(folder, files(folder), whole, 25):
        result = cli("verify", folder)
        found = isinstance(result.exception, SystemExit) and result.exit_code == 1 and "DAMAGED" in result.output
        # A bit may turn where a table holds nothing; a log without its last rows is one of an earlier moment.
        spared = name.endswith(".sqlite") or (name in HARMLESS and fault in ("missing", "empty", "torn"))
        spared |= name == "measurements.jsonl" and fault == "torn"  # the last rows are seconds
        clear = isinstance(result.exception, SystemExit | None)
        tried.case(f"{fault} {name}: {result.exit_code} {result.exception!r}", clear and (found or spared))


def test_a_finished_run_is_shown(finished: Finished, attack: Callable[[str], Attack], whole: bool) -> None:
    folder = finished()
    right = cli("show", folder).output
    tried = attack("a damaged file of a finished run, `forethought show`")
    for fault, name in planted(folder, files(folder), whole, 6):
        result = cli("show", folder)
        same = result.exit_code == 0 and result.output == right
        tried.case(f"{fault} {name}: {said(result)}", same or is_one_clear_line(result))


READERS = {
    "shared/chunk": "self-improved/evaluate",
    "shared/interleave": "shared/evaluate-sft",
    "shared/calibrate": "shared/evaluate-rlmt",
    "self-improved/improve": "self-improved/evaluate",
    "self-improved-think/sft": "shared/evaluate-sft",
    "base-rlmt/rlmt": "shared/evaluate-rlmt",
}
"""Of steps, one that reads what they made."""


def test_what_another_stage_reads(finished: Finished, attack: Callable[[str], Attack], whole: bool) -> None:
    whole_run = finished()
    names = [name for name in files(whole_run) if step_of(name) in READERS]
    tried = attack("a damaged file of a finished stage, read by another stage")
    right = {reader: outcome(whole_run, reader) for reader in READERS.values()}
    for place in sorted(READERS) if whole else ["self-improved/improve"]:
        reader, mine = READERS[place], [name for name in names if step_of(name) == place]
        for fault, name in planted(whole_run, mine, whole, 4):
            folder = shutil.copytree(whole_run, whole_run.with_name("copy"), symlinks=True)
            result = go_on(folder, "--only", reader, "--force")
            same = result.exit_code == 0 and outcome(folder, reader) == right[reader]
            tried.case(f"{fault} {name}: {said(result)}", same or is_one_clear_line(result))
            shutil.rmtree(folder)


def test_a_begun_run_goes_on(tmp_path: Path, attack: Callable[[str], Attack], whole: bool) -> None:
    begun, folder = tmp_path / "begun", tmp_path / "run"
    assert lifecycle(begun, kill=BEGUN) == -9
    shutil.copytree(begun, folder)
    assert go_on(folder, "--until", IMPROVE).exit_code == 0
    right = outcome(folder, IMPROVE)
    shutil.rmtree(folder)
    tried = attack("a damaged file of a begun run, which goes on")
    names = files(begun)
    if not whole:  # those of the stage that goes on
        names = [name for name in names if step_of(name) == IMPROVE or name.endswith(".sqlite")]
    for fault, name in planted(begun, names, whole, 6):
        shutil.copytree(begun, folder, symlinks=True)
        result = go_on(folder, "--until", IMPROVE)
        same = result.exit_code == 0 and outcome(folder, IMPROVE) == right
        tried.case(f"{fault} {name}: {said(result)}", same or is_one_clear_line(result))
        shutil.rmtree(folder)


def step_of(name: str) -> str:
    """Return the step that a file of a run belongs to."""
    return "/".join(name.split("/")[:2])


def go_on(folder: Path, *options: str) -> Result:
    return cli("run", CONFIG, "--run", folder, *(f"--set={item}" for item in SMALL), *options)


def outcome(folder: Path, step: str) -> object:
    """Return what a step made: rows, what its manifest says of them, and weights."""
    place = folder / step
    manifest = json.loads((place / "manifest.json").read_text())
    logs = {path.name: rows(place, path.name) for path in sorted(place.glob("*.jsonl"))}
    weights = {path.name: path.read_bytes() for path in sorted(place.glob("checkpoints/*/*.safetensors"))}
    return logs, weights, [manifest[key] for key in ("config", "inputs", "summary")]


def said(result: Result) -> str:
    return f"{result.exit_code} {result.exception!r} {result.output[-300:]}"

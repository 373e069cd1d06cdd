"""Other systems, planted: no fcntl and no resource, Windows, the drive of a Mac, and memory that is refused."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from helpers.processes import python
from helpers.small_disk import on_small_disk
from helpers.smoke_runs import CONFIG, ROOT, cli
from safetensors import SafetensorError

from forethought.cli.terminal import guard
from forethought.config import LogConfig
from forethought.engine import heap
from forethought.evals.reasoning import verifier
from forethought.models import ModelError
from forethought.run import files, metric_log
from forethought.run.files import StoreError, append_jsonl, atomic_write, publish
from forethought.run.store import Run

WITHOUT = """
import builtins, sys
real = builtins.__import__
def refusing(name, globals=None, *args, **more):
    if name in ("fcntl", "resource") and (globals or {}).get("__name__", "").startswith("forethought"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return real(name, globals, *args, **more)
builtins.__import__ = refusing
"""
"""Our modules have neither, as on Windows; other packages keep what they import on this system."""


def test_every_module_can_be_imported_without_fcntl_and_resource() -> None:
    code = (
        f"{WITHOUT}import importlib, pkgutil, forethought\n"
        "names = [found.name for found in pkgutil.walk_packages(forethought.__path__, 'forethought.')]\n"
        "for name in names:\n    importlib.import_module(name)\n"
        "print(len(names))"
    )
    assert int(python("-c", code)) == len(list((ROOT / "forethought").rglob("*.py"))) - 1  # all but the package itself


def test_without_fcntl_a_run_is_read_but_not_written(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path / "run")
    code = (
        f"{WITHOUT}from forethought.run.files import StoreError\nfrom forethought.run.store import Run\n"
        "run = Run.open(sys.argv[1])\n"
        "print(run.writer())\n"
        "try:\n    with run.lock(): pass\n"
        "except StoreError as error:\n    print(error)"
    )
    writer, refused = python("-c", code, run.path).splitlines()
    assert writer == "None"
    assert refused.endswith(".lock: this system cannot lock files; runs are written on Linux, macOS and WSL2")
    assert list(run.path.iterdir()) == []
    with run.lock():
        writer = python("-c", code, run.path).splitlines()[0]
    assert writer == f"{os.getpid()} (unless it was killed: this system cannot tell)"


def test_a_disk_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(handle: object, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    run = Run.create_or_open(tmp_path / "run")
    with (
        pytest.raises(StoreError, match=r"\.lock: this disk cannot lock files .*on another one with --run"),
        run.lock(),
    ):
        pass


LOCKS = """
import sys
from pathlib import Path
from forethought.run.store import Run
from forethought.cli.terminal import guard
def work():
    run = Run.create_or_open(sys.argv[1])
    Path(sys.argv[1], "filler").write_bytes(bytes(4096))
    with run.lock():
        print("locked")
guard()(work)()
"""


def test_a_run_on_a_full_disk_says_so(tmp_path: Path) -> None:
    done = on_small_disk(tmp_path, "size=4k", LOCKS, str(tmp_path))
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == (
        f"error: {tmp_path}/.lock: the disk is full; there was no room. "
        "Free some space and run the same command again: it goes on where it was"
    )


def test_a_run_on_a_disk_that_is_only_for_reading_says_so(tmp_path: Path) -> None:
    done = on_small_disk(tmp_path, "ro", LOCKS, str(tmp_path / "run"))
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == (
        f"error: {tmp_path}/run: cannot write: Read-only file system. Make the folder writable, or use another one"
    )


def test_without_resource_peak_memory_is_not_known_and_not_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metric_log, "resource", None)
    assert metric_log.peak_memory() == 0
    folder = Run.create_or_open(tmp_path / "run").stage("base", "improve")
    assert metric_log.MetricLog(folder, LogConfig()).log(1, {}) == {"step": 1, "improve/peak_memory_gib": None}


def test_without_resource_the_verifier_still_compares() -> None:
    code = f"{WITHOUT}from forethought.evals.reasoning.verifier import main\nmain()"
    asked = '{"gold": "1/2", "answer": "0.5"}\n{"gold": "1/2", "answer": "0.4"}\n'
    done = subprocess.run([sys.executable, "-c", code], input=asked, capture_output=True, text=True, check=True)
    assert done.stdout == "true\nfalse\n"


@pytest.mark.parametrize(
    "code",
    ["raise SystemExit", "import time; time.sleep(60)", "print('tr', end='', flush=True); import time; time.sleep(60)"],
    ids=["ends", "hangs", "hangs in the middle of its answer"],
)
def test_a_verifier_that_does_not_answer_is_killed_and_counted(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return started[-1]

    monkeypatch.setattr(verifier, "_start", start)
    asked = verifier.Verifier(timeout=0.5)
    assert not asked.same("1", "1")
    assert asked.killed == 1
    assert started[0].returncode is not None


@pytest.mark.parametrize("error", [OSError("no such library"), TypeError("argument of type 'NoneType'")])
def test_without_a_handle_of_the_c_library_nothing_is_kept(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(name: str | None) -> ctypes.CDLL:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", refused)
    assert not heap.keep_freed_memory()
    heap.release()


def test_another_c_library_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    assert not heap.keep_freed_memory()
    heap.release()


@pytest.mark.parametrize("known", [True, False], ids=["a Mac's own disk", "a Mac's network disk"])
def test_on_a_mac_the_drive_is_told_to_flush(known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, synced = list[int](), list[int]()

    def control(handle: int, command: int) -> None:
        asked.append(command)
        if not known:
            raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(files, "fcntl", SimpleNamespace(fcntl=control, F_FULLFSYNC=51))
    monkeypatch.setattr(os, "fsync", synced.append)
    append_jsonl(tmp_path / "rows.jsonl", [{"step": 1}])
    atomic_write(tmp_path / "summary.json", "{}")
    assert asked == [51] * 3  # the log, the file, and the folder that names it
    assert len(synced) == (0 if known else 3)


def test_folders_are_not_flushed_where_they_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def windows(path: Path, flags: int, mode: int = 0o777, **more: int) -> int:
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, flags, mode, **more)

    monkeypatch.setattr(os, "open", windows)
    with pytest.raises(StoreError, match="cannot write: Permission denied"):
        atomic_write(tmp_path / "report.html", "page")
    monkeypatch.setattr(sys, "platform", "win32")
    atomic_write(tmp_path / "report.html", "page")
    with publish(tmp_path / "model") as partial:
        (partial / "weights").write_text("1")
    assert (tmp_path / "model" / "weights").read_text() == "1"


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        Exception("No space left on device (os error 28)"),  # tokenizers
    ],
)
def test_a_full_disk_is_known_from_words_too(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="last: the disk is full"), publish(tmp_path / "last"):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(KeyError), publish(tmp_path / "last"):
        raise KeyError("(os error 28)")
    with pytest.raises(SafetensorError), publish(tmp_path / "last"):
        raise SafetensorError("the header is too large")


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "forethought", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "Usage: forethought" in done.stdout


@pytest.mark.parametrize("command", ["run", "chunk", "evaluate"])
def test_windows_itself_is_refused_before_anything_is_written(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    refused = cli(command, CONFIG, "--run", tmp_path / "run")
    assert refused.exit_code == 1
    assert refused.stderr == (
        "error: forethought runs on Linux, macOS and WSL2 (Windows Subsystem for Linux). Start it inside WSL2\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_windows_itself_can_read_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.create_or_open(tmp_path / "run")
    monkeypatch.setattr(sys, "platform", "win32")
    assert "no process is working on it" in cli("status", run.path).stdout


HUGE = 2**60
"""Bytes; no machine has them, so each library says in its own words that they are refused."""


def on_cuda() -> None:
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB; 1.00 GiB is free."
    )


def on_mps() -> None:
    raise RuntimeError(
        "MPS backend out of memory (MPS allocated: 17.92 GB, other allocations: 384.00 KB, max allowed: 18.13 GB). "
        "Tried to allocate 200.00 MB on private pool."
    )


def cublas() -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def of_ours() -> None:
    try:
        on_cuda()
    except RuntimeError as error:
        raise ModelError("the weights cannot be read") from error


def in_the_system() -> None:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda: torch.empty(2**48, dtype=torch.uint8), "this machine is too small for 256 TiB more."),
        (lambda: np.empty(HUGE, np.uint8), "this machine is too small for 1.00 EiB more."),
        (lambda: bytearray(HUGE), "this machine is too small."),
        (in_the_system, "this machine is too small."),
        (on_cuda, "the GPU is too small for 2.50 GiB more."),
        (of_ours, "the GPU is too small for 2.50 GiB more."),
        (on_mps, "the GPU is too small for 200.00 MB more."),
        (cublas, "the GPU is too small."),
    ],
)
def test_too_little_memory_is_one_line_that_says_what_to_lower(
    work: object, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        guard()(work)()  # type: ignore[type-var]
    assert ended.value.exit_code == 1
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: the memory of {said} Lower improve.micro_tokens and improve.sample_rows")
    assert "smaller policy" in line
    assert "run the same command again to resume" in line


def test_the_memory_of_a_server_is_its_own_matter(capfd: pytest.CaptureFixture[str]) -> None:
    def served() -> None:
        raise ModelError("http://127.0.0.1:8000 answers 500: CUDA out of memory")

    with pytest.raises(typer.Exit) as ended:
        guard()(served)()
    assert ended.value.exit_code == 2
    assert capfd.readouterr().err == "error: http://127.0.0.1:8000 answers 500: CUDA out of memory\n"


def test_other_errors_keep_their_traceback() -> None:
    def broken() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        guard()(broken)()

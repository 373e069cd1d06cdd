"""Smoke lifecycles in processes of their own, which may be killed at any event on disk."""

from __future__ import annotations

import gc
import itertools
import json
import multiprocessing
import os
import pkgutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from click.testing import Result
from typer.testing import CliRunner

from forethought import stages
from forethought.cli.app import app

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "forethought" / "configs" / "smoke.toml"

SMALL = (
    "dtype=float32",
    "improve.control_lineage=false",
    "rlmt.control=false",
    "audit.prefixes=4",
    "improve.steps=6",
    "improve.prefixes_per_step=2",
    "improve.rollouts=4",
    "improve.checkpoint_every=2",
    "improve.monitor_every=3",
    "improve.monitor_chunks=2",
    "evaluate.prefixes=4",
    "evaluate.nll_chunks=4",
    "interleave.rows=8",
    "interleave.heldout_rows=6",
    "interleave.rlmt_rows=4",
    "sft.steps=4",
    "sft.rows_per_step=2",
    "sft.checkpoint_every=2",
    "sft.monitor_every=2",
    "sft.monitor_rows=2",
    "evaluate.thoughts.prefixes=3",
    "evaluate.thoughts.free_tokens=8",
    "evaluate.thoughts.thought_tokens=8",
    "rlmt.steps=4",
    "rlmt.windows_per_step=2",
    "rlmt.rollouts=4",
    "rlmt.thought_tokens=8",
    "rlmt.checkpoint_every=2",
    "rlmt.monitor_every=2",
    "rlmt.monitor_windows=2",
    "rlmt.monitor_samples=2",
    "rlmt.match.calibration_chunks=8",
    "thinking.windows=4",
    "thinking.samples=2",
    "thinking.probe_samples=1",
)
"""Overrides of smoke.toml: the whole lifecycle in seconds, in the arithmetic that every machine has."""

Finished = Callable[..., Path]
"""The fixture of conftest.py that takes overrides and returns a copy of a finished run."""

# A clean process that has imported what a run imports, and has run nothing; every run is forked from it.
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(
    [
        "forethought.cli.app",
        "forethought.pipeline.plan",
        "forethought.report.examples",
        "forethought.report.page",
        "forethought.report.summary",
        *(f"forethought.stages.{module.name}" for module in pkgutil.iter_modules(stages.__path__)),
        "matplotlib.backends.backend_svg",
        "matplotlib.figure",
        "pandas",
        "transformers.models.llama.modeling_llama",
    ]
)


@dataclass(frozen=True)
class Kill:
    """``kill -9`` just before the ``nth`` time that something is done to a path of the run folder.

    Python reports every file that it opens, renames or removes (``sys.addaudithook``), so the moment is exact and is
    named by what lies on disk, not by a function of ours.  A kill between two such events leaves what a kill at the
    later one leaves, or a torn line, which is a matter of ``test_store.py``.
    """

    what: str = "*"
    """``write``, ``make`` (a folder), ``rename`` (to this path) or ``remove``, or ``*``."""
    path: str = "*"
    """In the run folder; ``*`` and ``?`` stand for anything."""
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.what}-{self.path}" + (f"-{self.nth}" if self.nth > 1 else "")

    def plant(self, folder: Path) -> None:
        """Make this process die there."""
        events = itertools.count(1)

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            found = _disk_event(event, arguments)
            if found is None or not str(found[1]).startswith(f"{folder}{os.sep}"):
                return
            inside = os.path.relpath(found[1], folder)
            if fnmatch(found[0], self.what) and fnmatch(inside, self.path) and next(events) == self.nth:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)


def _disk_event(event: str, arguments: tuple[Any, ...]) -> tuple[str, str] | None:
    if event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        return "write", arguments[0]
    if event == "os.rename":
        return "rename", os.fspath(arguments[1])
    if event in ("os.remove", "os.rmdir", "shutil.rmtree"):
        return "remove", os.fspath(arguments[0])
    return ("make", os.fspath(arguments[0])) if event == "os.mkdir" else None


def lifecycle(folder: Path, overrides: Sequence[str] = SMALL, kill: Kill | None = None, until: str = "") -> int:
    """Run ``forethought run smoke --run FOLDER`` in a process of its own and return its exit code."""
    options = [f"--set={item}" for item in overrides] + ([f"--until={until}"] if until else [])
    process = _server.Process(target=_run, args=(folder, options, kill))
    process.start()
    process.join(240)  # it takes six seconds alone on a core
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


def _run(folder: Path, options: Sequence[str], kill: Kill | None) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # a third of such a short run goes by with looking for garbage in what was imported
    if kill is not None:
        kill.plant(folder)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    app(["run", str(CONFIG), "--run", str(folder), *options])


def cli(*arguments: str | Path) -> Result:
    """Run ``forethought ARGUMENTS`` in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def smoke(command: str, folder: Path, *overrides: str) -> Result:
    """Run ``forethought COMMAND smoke --run FOLDER`` with the small overrides and ``overrides``."""
    return cli(command, CONFIG, "--run", folder, *(f"--set={item}" for item in (*SMALL, *overrides)))


def rows(folder: Path, log: str) -> list[dict[str, Any]]:
    """Return the rows of ``log``, a path inside ``folder``, without the times and sizes in which equal runs differ."""
    lines = (folder / log).read_text().split("\n")  # and no splitlines: texts hold other ends of lines
    found = [json.loads(line) for line in lines if line]
    timed = ("crc32", "seconds", "tokens_per_second", "peak_memory")
    return [{key: value for key, value in row.items() if not any(word in key for word in timed)} for row in found]


def made(folder: Path) -> dict[str, Any]:
    """Return everything that a run made and that may not depend on how often it was killed."""
    found: dict[str, Any] = {
        log: rows(folder, log) for log in sorted(str(p.relative_to(folder)) for p in folder.glob("*/*/*.jsonl"))
    }
    for path in sorted(folder.glob("*/*/manifest.json")):
        manifest = json.loads(path.read_text())
        found[str(path.relative_to(folder))] = {key: manifest[key] for key in ("config", "inputs", "summary")}
    for path in sorted(folder.glob("*/*/checkpoints/*/*.safetensors")):
        found[str(path.relative_to(folder))] = path.read_bytes()
    summary = json.loads((folder / "summary.json").read_text())
    found["measurements"] = sorted(
        json.dumps(one, sort_keys=True) for one in summary["measurements"] if one["stage"] != "run"
    )
    found["curves"] = summary["curves"]
    return found


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []

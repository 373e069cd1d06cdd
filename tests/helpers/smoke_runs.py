"""Smoke lifecycles in processes of their own, which may be killed at any call of any function."""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from click.testing import Result
from typer.testing import CliRunner

from forethought.cli import app

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "forethought" / "configs" / "smoke.toml"

SMALL = (
    "dtype=float32",
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
        "forethought.cli",
        "forethought.lifecycle",
        "forethought.midtraining",
        "forethought.pipeline.plan",
        "forethought.reasoning",
        "forethought.report.examples",
        "forethought.report.page",
        "forethought.report.summary",
        "matplotlib.backends.backend_svg",
        "matplotlib.figure",
        "pandas",
        "transformers.models.llama.modeling_llama",
    ]
)


@dataclass(frozen=True)
class Kill:
    """``kill -9`` at the ``call``-th call of ``function`` (``module:name`` or ``module:Class.name``)."""

    function: str
    call: int
    after: bool = False

    def __str__(self) -> str:
        return f"{self.function.partition(':')[2]}-{'after' if self.after else 'before'}-{self.call}"

    def plant(self) -> None:
        """Make this process die there."""
        Moment(self.call, (self.function,), self.after).plant()


@dataclass(frozen=True)
class Moment:
    """``kill -9`` at the ``event``-th call of any of ``functions``: whatever reaches the disk, and the model."""

    event: int
    functions: tuple[str, ...] = (
        "os:fsync",
        "os:rename",
        "os:replace",
        "pathlib:Path.rename",
        "pathlib:Path.replace",
        "shutil:rmtree",
        "forethought.engine.policy:Policy.packed_hidden",
        "forethought.engine.backends.plain:TorchBackend._hidden",
    )
    after: bool = False

    def plant(self) -> None:
        """Make this process die there."""
        calls = itertools.count(1)
        for function in self.functions:
            owner, name = _owner(function)
            setattr(owner, name, self._deadly(getattr(owner, name), calls))

    def _deadly(self, original: Any, calls: Iterator[int]) -> Any:
        def deadly(*args: Any, **kwargs: Any) -> Any:
            due = next(calls) == self.event
            if due and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*args, **kwargs)
            if due and self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return deadly


def _owner(function: str) -> tuple[Any, str]:
    module, _, path = function.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    return owner, name


def lifecycle(
    folder: Path, overrides: Sequence[str] = SMALL, kill: Kill | Moment | None = None, until: str = ""
) -> int:
    """Run ``forethought run smoke --run FOLDER`` in a process of its own and return its exit code."""
    options = [f"--set={item}" for item in overrides] + ([f"--until={until}"] if until else [])
    process = _server.Process(target=_run, args=(folder, options, kill))
    process.start()
    process.join(240)  # it takes six seconds alone on a core
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


def _run(folder: Path, options: Sequence[str], kill: Kill | Moment | None) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # a third of such a short run goes by with looking for garbage in what was imported
    if kill is not None:
        kill.plant()
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
    timed = ("seconds", "tokens_per_second", "peak_memory")
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

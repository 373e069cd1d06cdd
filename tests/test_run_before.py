"""A run that earlier code finished is finished for today's: nothing of it starts over, and nothing is made again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.repository import ROOT

from forethought import Lifecycle, Run, load_config

RECORDED = ROOT / "tests" / "data" / "run-before"
STEPS = sorted(path.parent.relative_to(RECORDED).as_posix() for path in RECORDED.glob("*/*/manifest.json"))
TRAINED = ("improve", "sft", "rlmt")
OVERRIDES = ("dtype=float32", "improve.control_lineage=false", "rlmt.control=false")
"""The recorded run computed in what every machine has, with the fewest arms."""
ASKED = [word for override in OVERRIDES for word in ("--set", override)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the recorded run, with files in the place of weights; whoever loads one of them fails."""
    folder = shutil.copytree(RECORDED, tmp_path / "run")
    for step in STEPS:
        if step.split("/")[1] in TRAINED:
            final = folder / step / "checkpoints" / "final"
            final.mkdir(parents=True)
            for name in json.loads((folder / step / "manifest.json").read_text())["summary"]["weights"]:
                (final / name).write_bytes(b"these are no weights")
    return folder


def forethought(command: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "forethought", command, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return (time of change, content) of all that stages have written, and of the figures."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.parent != folder]
    paths.append(folder / "measurements.jsonl")
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def changed(before: dict[str, tuple[int, bytes]], after: dict[str, tuple[int, bytes]]) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def test_all_of_the_smoke_run_is_recorded() -> None:
    arms = {step.split("/")[0] for step in STEPS if step.split("/")[1] in TRAINED}
    assert arms == {"continued", "self-improved"} | {
        f"{lineage}-{made}" for lineage in ("base", "self-improved") for made in ("think", "raw", "rlmt")
    }
    assert len(STEPS) == 23


def test_the_command_that_made_it_finds_nothing_to_do(run: Path) -> None:
    before = state(run)
    again = forethought("run", "smoke", *ASKED, "--run", run)
    assert again.returncode == 0, again.stderr
    assert "starts over" not in again.stdout + again.stderr
    assert changed(before, state(run)) == []


@pytest.mark.parametrize("own", [False, True], ids=["the shipped config", "the run's own config"])
def test_the_library_finds_nothing_to_do(own: bool, run: Path) -> None:
    before = state(run)
    config = load_config(run / "run.json") if own else load_config("smoke", OVERRIDES)
    opened = Run.open(run)
    with opened.lock():
        Lifecycle(config, opened).everything()
    assert changed(before, state(run)) == []


def test_the_status_says_that_every_step_is_done(run: Path) -> None:
    shown = forethought("status", run)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert {step: " done " in line for step in STEPS for line in lines if f" {step} " in f" {line} "} == dict.fromkeys(
        STEPS, True
    )


def test_a_key_that_a_stage_depends_on_is_noticed(run: Path) -> None:
    """What the tests above compare can differ."""
    path = run / "base-raw" / "sft" / "config.json"
    recorded = json.loads(path.read_text())
    recorded["sft"]["steps"] += 1
    path.write_text(json.dumps(recorded))
    before = state(run)
    again = forethought("run", "smoke", *ASKED, "--run", run, "--only", "base-raw/sft")
    assert "base-raw/sft starts over" in again.stderr
    assert "base-raw/sft/manifest.json" in changed(before, state(run))

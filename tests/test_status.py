"""Where the steps of a run stand, and two runs side by side: from the folders alone, without torch."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.smoke_runs import SMALL, Finished, Kill, cli, lifecycle
from rich.console import Console

from forethought.records import Measurement
from forethought.report import compare, status
from forethought.run.store import Run

FEWER = (*SMALL, "improve.control=false", "sft.control=false")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in stage 1, two steps after its checkpoint."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    assert lifecycle(folder, FEWER, Kill("write", "self-improved/improve/pools.jsonl", 4)) == -9
    return folder


@pytest.fixture(scope="module")
def done(finished: Finished) -> Path:
    """A finished run."""
    return finished(FEWER)


def survey(folder: Path) -> dict[str, status.StepStatus]:
    return {one.name: one for one in status.survey(Run.open(folder))}


def test_a_killed_run_says_where_it_goes_on(killed: Path) -> None:
    found = survey(killed)
    assert [one.state for one in found.values()] == ["done", "done", "begun", *["missing"] * 10]
    begun = found["self-improved/improve"]
    assert (begun.step, begun.of, begun.checkpoint) == (3, 6, 2)
    assert begun.seconds is not None
    assert begun.seconds > 0
    shown = cli("status", killed)
    assert shown.exit_code == 0
    assert "begun: 3/6, saved 2" in shown.stdout
    assert "2 of 13 steps done" in shown.stdout
    assert "no process is working on it" in shown.stdout


def test_a_finished_run_says_what_it_cost(done: Path) -> None:
    found = survey(done)
    assert {one.state for one in found.values()} == {"done"}
    improved, rewarded = found["self-improved/improve"], found["base-rlmt/rlmt"]
    assert improved.verdicts == 60  # 6 steps, 2 prefixes, 4 rollouts and the original
    assert rewarded.verdicts == 32  # 4 steps, 2 windows, 4 rollouts
    assert improved.tokens is not None
    assert improved.tokens > 6 * 2 * 4 * 12  # at least what was sampled
    folder = done / "self-improved" / "improve"
    assert improved.bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    measured = [one for one in Run.open(done).measurements() if one.subject == "base-rlmt/rlmt"]
    assert rewarded.seconds == next(one.value for one in measured if one.metric == "seconds")


def test_status_changes_nothing_and_needs_no_torch(done: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*")}
    code = "import sys\nfrom forethought.cli.app import main\n"
    code += f"sys.argv = ['forethought', 'status', {str(done)!r}]\n"
    code += "try:\n    main()\nfinally:\n    print('heavy:', 'torch' in sys.modules, 'transformers' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert "heavy: False False" in shown.stdout
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*")} == before


def test_status_names_who_works_on_the_run(done: Path) -> None:
    with Run.open(done).lock():
        assert f"process {os.getpid()} is working on it" in cli("status", done).stdout


def test_without_its_config_a_run_shows_what_is_there(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path / "old")
    folder = run.stage("shared", "chunk")
    folder.write_config({})
    folder.append("chunks", {"id": 1})
    stranger = run.stage("mine", "own")
    stranger.write_config({})
    assert {name: one.state for name, one in survey(run.path).items()} == {
        "shared/chunk": "begun",
        "mine/own": "missing",
    }
    assert "what is missing is not known" in " ".join(cli("status", run.path).stdout.split())


def test_replaced_stages_are_told_with_their_size(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path / "run")
    folder = run.stage("shared", "chunk")
    folder.write_config({})
    folder.append("chunks", {"text": "x" * 5000})
    place = run.set_aside(folder)
    assert "4.9 KiB of it replaced stages in" in " ".join(cli("status", run.path).stdout.split())
    assert place.exists()


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (12 * 2**30, "12 GiB")])
def test_sizes(count: int, text: str) -> None:
    assert status.size(count) == text


def figure(value: float, low: float | None = None, high: float | None = None, **fields: Any) -> Measurement:
    known = {
        "stage": "evaluate",
        "arm": "self-improved",
        "against": "base",
        "metric": "win_rate",
        "condition": "greedy",
    }
    return Measurement(value=value, low=low, high=high, n=64, unit="share", subject="x", **(known | fields))


@pytest.fixture
def two(tmp_path: Path) -> tuple[Run, Run]:
    """Two runs of few figures."""
    left, right = Run.create_or_open(tmp_path / "a"), Run.create_or_open(tmp_path / "b")
    left.save_config({"name": "same", "improve": {"steps": 4, "beta": 0.1}})
    right.save_config({"name": "same", "improve": {"steps": 8, "beta": 0.1}, "sft": {"steps": 2}})
    gate = {"stage": "evaluate-rlmt", "metric": "gate reward", "against": "", "condition": ""}
    clock = {"stage": "run", "metric": "seconds", "against": "", "condition": "improve"}
    left.measure([figure(0.5, 0.4, 0.6), figure(0.7, 0.65, 0.75, condition="sampled"), figure(3.0, metric="only here")])
    left.measure([figure(0.1, 0.05, 0.2, judge="letters >= 0.300", **gate), figure(61.0, **clock)])
    left.measure([figure(5.0, 5.0, 5.0, metric="rows")])
    right.measure([figure(0.58, 0.5, 0.7), figure(0.8, 0.76, 0.9, condition="sampled")])
    right.measure([figure(0.3, 0.25, 0.4, judge="letters >= 0.450", **gate), figure(5.0, **clock)])
    right.measure([figure(6.0, 6.0, 6.0, metric="rows"), figure(1.0, metric="there"), figure(2.0, metric="also")])
    return left, right


def table(left: Run, right: Run, **options: Any) -> str:
    stream = io.StringIO()
    Console(file=stream, width=120).print(compare.render(left, right, **options))
    return stream.getvalue()


def line(text: str, *words: str) -> str:
    [found] = [one for one in text.splitlines() if all(word in one for word in words)]
    return found


def test_configs_come_first_then_figures_with_marks(two: tuple[Run, Run]) -> None:
    text = table(*two)
    assert text.index("keys that differ") < text.index("evaluate: figures") < text.index("evaluate-rlmt: figures")
    steps = line(text, "improve.steps")
    assert "4" in steps
    assert "8" in steps
    assert "absent" in line(text, "sft", '{"steps": 2}')
    assert "beta" not in text
    overlapping = line(text, "win_rate, greedy", "0.5 [0.4, 0.6] of 64", "0.58 [0.5, 0.7] of 64")
    assert "≠" not in overlapping
    assert "≠" in line(text, "win_rate, sampled", "0.7 [0.65, 0.75] of 64", "0.8 [0.76, 0.9] of 64")
    assert "≠" not in line(text, "rows")  # counts have no interval
    assert "judge letters >= 0.300 | 0.450" in " ".join(text.split())
    assert "≠" not in line(text, "gate reward", "not comparable: thresholds differ")
    assert "1:01" in line(text, " x ")
    assert "1 of 2 shared figures with intervals do not overlap" in " ".join(text.split())
    assert "only in a: 1 figures; only in b: 2" in text


def test_a_part_of_the_comparison(two: tuple[Run, Run]) -> None:
    text = table(*two, stages=["evaluate"], significant_only=True)
    assert "win_rate, sampled" in text
    assert "win_rate, greedy" not in text
    assert "gate reward" not in text


def test_runs_that_are_equal(done: Path) -> None:
    both = cli("compare", done, done)
    assert both.exit_code == 0
    assert "none" in both.stdout
    assert "0 of" in both.stdout
    assert "≠ " not in both.stdout.replace("(≠)", "")


def test_without_kept_configs_those_of_the_stages_are_compared(two: tuple[Run, Run]) -> None:
    for run, value in zip(two, ("1", "2"), strict=True):
        (run.path / "run.json").unlink()
        run.stage("shared", "chunk").write_config({"seed": int(value)})
    assert compare.config_differences(*two) == [("shared/chunk.seed", 1, 2)]

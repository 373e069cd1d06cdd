"""Metrics, their sinks and live progress."""

import io
import math
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forethought.config import ConfigError, LogConfig
from forethought.monitor import Metrics, Progress, Terminal, clock_time, peak_memory, sparkline
from forethought.store import Run, StageFolder


@pytest.fixture
def folder(tmp_path: Path) -> StageFolder:
    folder = Run.create_or_open(tmp_path / "demo").stage("self-improved", "improve")
    folder.write_config({"steps": 2})
    return folder


def test_a_row_holds_values_phases_and_memory(folder: StageFolder) -> None:
    with Metrics(folder, LogConfig(), peak=lambda: 3 * 2**30) as metrics:
        with metrics.timer("sample"):
            time.sleep(0.02)
        with metrics.timer("sample"):
            time.sleep(0.02)
        metrics.count("sample", tokens=60)
        metrics.count("sample", tokens=40)
        with metrics.timer("judge"):
            pass
        row = metrics.log(1, {"improve/margin": np.float32(0.5), "improve/ties": 0, "improve/gap": math.nan})
        second = metrics.log(2, {"improve/margin": None})
    assert row["improve/seconds_sample"] == pytest.approx(0.04, abs=0.02)
    rate = row["improve/tokens_per_second_sample"]
    assert rate == pytest.approx(100 / row["improve/seconds_sample"], rel=0.01)
    assert "improve/tokens_per_second_judge" not in row
    assert second == {"step": 2, "improve/margin": None, "improve/peak_memory_gib": 3.0}
    assert list(folder.read("metrics")) == [
        {
            "step": 1,
            "improve/margin": 0.5,
            "improve/ties": 0,
            "improve/gap": None,
            "improve/seconds_sample": row["improve/seconds_sample"],
            "improve/tokens_per_second_sample": rate,
            "improve/seconds_judge": row["improve/seconds_judge"],
            "improve/peak_memory_gib": 3.0,
        },
        second,
    ]


def test_a_phase_that_fails_is_timed_all_the_same(folder: StageFolder) -> None:
    metrics = Metrics(folder, LogConfig())
    with pytest.raises(KeyError), metrics.timer("train"):
        raise KeyError
    assert "improve/seconds_train" in metrics.log(1, {})


def test_peak_memory_is_in_bytes_and_never_falls() -> None:
    before = peak_memory()
    assert 10 * 2**20 < before < 2**40
    block = np.ones(8 * 2**20)
    assert peak_memory() >= before
    assert block[0] == 1


def test_tensorboard_gets_the_scalars(folder: StageFolder) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Metrics(folder, LogConfig(tensorboard=True)) as metrics:
        metrics.log(1, {"improve/margin": 0.25})
        metrics.log(2, {"improve/margin": None})
        metrics.log(3, {"improve/margin": 0.75})
    events = EventAccumulator(str(folder.path / "tensorboard"))
    events.Reload()
    read = [(event.step, event.tensor_proto.float_val[0]) for event in events.Tensors("improve/margin")]
    assert read == [(1, 0.25), (3, 0.75)]


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_trackers_get_the_same_rows(folder: StageFolder, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    calls: list[Any] = []
    tracker_run = types.SimpleNamespace(
        log=lambda values, step: calls.append((step, values["improve/margin"])), finish=lambda: calls.append("finish")
    )
    module = types.ModuleType(package)
    module.init = lambda **options: calls.append(options) or tracker_run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, package, module)
    with Metrics(folder, LogConfig(**{package: "words"})) as metrics:
        metrics.log(4, {"improve/margin": 0.5})
    options, *rest = calls
    assert rest == [(4, 0.5), "finish"]
    assert options["project"] == "words"
    assert options["name"] == "demo-self-improved-improve"
    assert options["config"] == {"steps": 2}
    assert options["resume"] == "allow"
    assert ("id" in options) == (package == "wandb")


@pytest.mark.parametrize(("package", "value"), [("wandb", "words"), ("trackio", "words"), ("tensorboard", True)])
def test_a_missing_sink_names_the_command(
    folder: StageFolder, monkeypatch: pytest.MonkeyPatch, package: str, value: Any
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "tensorboard.summary", raising=False)
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        Metrics(folder, LogConfig(**{package: value}))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def plain(clock: Clock) -> tuple[Progress, io.StringIO]:
    out = io.StringIO()
    return Progress("improve", total=100, console=Terminal(file=out, force_terminal=False), clock=clock), out


def test_without_a_terminal_there_is_a_line_now_and_then() -> None:
    clock = Clock()
    progress, out = plain(clock)
    with progress:
        for done in range(20, 101):
            progress.update(done, margin=done / 100, nothing=None)
            clock.now += 1
    lines = out.getvalue().splitlines()
    assert lines[0] == "improve  20/100 (20%)  margin 0.2"
    assert lines[1] == "improve  25/100 (25%)  1:15 left  margin 0.25"
    assert lines[-1] == "improve  100/100 (100%)  0:00 left  margin 1"
    assert len(lines) == 17


def test_as_a_callback() -> None:
    clock = Clock()
    progress, out = plain(clock)
    progress(1, 3, "verdicts")
    clock.now += 10
    progress(2, 3)
    progress(3, 3, "done")
    assert out.getvalue() == (
        "improve  1/3 (33%)  verdicts\nimprove  2/3 (67%)  0:10 left\nimprove  3/3 (100%)  0:00 left  done\n"
    )


def test_an_unknown_total_is_fine() -> None:
    out = io.StringIO()
    with Progress("read", console=Terminal(file=out, force_terminal=False)) as progress:
        progress.update(7)
    assert out.getvalue() == "read  7\n"


def test_on_a_terminal_there_is_a_bar_with_sparklines() -> None:
    out = io.StringIO()
    clock = Clock()
    console = Terminal(file=out, force_terminal=True, width=100)
    with Progress("improve", total=10, console=console, clock=clock) as progress:
        for done in range(1, 9):
            clock.now += 30
            progress.update(done, margin=float(done))
    head, rates = out.getvalue()[out.getvalue().rindex("improve") :].splitlines()[:2]
    assert "8/10" in head
    assert "1:00 left" in head
    assert "margin  8" in rates
    assert "▁▂▃▄▅▆▇█" in rates


def test_a_bar_within_a_bar_is_fine() -> None:
    console = Terminal(file=io.StringIO(), force_terminal=True)
    with Progress("outer", total=2, console=console) as outer, Progress("inner", total=2, console=console) as inner:
        inner.update(2)
        outer.update(1)


class Closed(io.StringIO):
    encoding = "ascii"

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError


@pytest.mark.parametrize("terminal", [True, False])
def test_a_closed_terminal_does_not_stop_the_run(terminal: bool) -> None:
    with Progress("improve", total=2, console=Terminal(file=Closed(), force_terminal=terminal)) as progress:
        progress.update(1, loss=math.inf)
        progress(5, 2)
        progress.update(0)


def test_an_ascii_terminal_does_not_stop_the_run() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    for terminal in (True, False):
        with Progress("größer", total=2, console=Terminal(file=out, force_terminal=terminal)) as progress:
            progress.update(1, loss=1.0)


@pytest.mark.parametrize(
    ("values", "width", "shown"),
    [([], 5, ""), ([3.0], 5, "▁"), ([2.0, 2.0], 5, "▁▁"), ([0.0, 7.0], 5, "▁█"), ([0, 0, 4, 4, 7, 7], 3, "▁▅█")],
)
def test_sparkline(values: list[float], width: int, shown: str) -> None:
    assert sparkline(values, width) == shown


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0:00"), (59.6, "1:00"), (754, "12:34"), (3661, "1:01:01")])
def test_clock_time(seconds: float, shown: str) -> None:
    assert clock_time(seconds) == shown

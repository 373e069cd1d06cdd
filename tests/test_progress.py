"""Progress of a stage and of a run: ticks, a scaled guess of the time left, plain lines without a terminal."""

from __future__ import annotations

import io
import math
import time

import pytest
from rich.console import Console

from forethought.run.progress import RunProgress, StageProgress, Terminal, clock_time

NAMES = ["shared/chunk", "self-improved/improve", "self-improved/evaluate"]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Closed(io.StringIO):
    encoding = "ascii"

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError


def plain() -> Terminal:
    return Terminal(file=io.StringIO(), force_terminal=False)


def live(width: int = 100) -> Terminal:
    return Terminal(file=io.StringIO(), force_terminal=True, width=width, height=40)


def written(console: Terminal) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def picture(progress: RunProgress) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=100).print(progress.get_renderable())
    return stream.getvalue().splitlines()


def test_without_a_terminal_there_is_a_line_now_and_then() -> None:
    clock, console = Clock(), plain()
    with StageProgress("improve", 100, console, clock) as progress:
        for done in range(20, 101):
            progress.update(done, margin=done / 100, nothing=None)
            clock.now += 1
    lines = written(console).splitlines()
    assert lines[0] == "improve  20/100 (20%)  margin 0.2"
    assert lines[1] == "improve  25/100 (25%)  1:15 left  margin 0.25"
    assert lines[-1] == "improve  100/100 (100%)  0:00 left  margin 1"
    assert len(lines) == 17


def test_as_a_callback() -> None:
    clock, console = Clock(), plain()
    progress = StageProgress("improve", None, console, clock)
    progress(1, 3, "verdicts")
    clock.now += 10
    progress(2, 3)
    progress(3, 3, "done")
    assert written(console) == (
        "improve  1/3 (33%)  verdicts\nimprove  2/3 (67%)  0:10 left\nimprove  3/3 (100%)  0:00 left  done\n"
    )


def test_an_unknown_total_is_fine() -> None:
    console = plain()
    with StageProgress("read", console=console) as progress:
        progress(7, None, "3 chunks")
    assert written(console) == "read  7  3 chunks\n"


def test_steps_of_minutes_have_a_pace_and_a_new_count_has_its_own() -> None:
    clock, console = Clock(), plain()
    progress = StageProgress("evaluate", None, console, clock)
    for done in (40, 41, 42):
        progress(done, 50, "policy")
        clock.now += 300
    assert "42/50 (84%)  40:00 left  policy" in written(console).splitlines()[-1]
    for done in (1, 2):
        progress(done, 50, "base")
        clock.now += 10
    assert "2/50 (4%)  8:00 left  base" in written(console).splitlines()[-1]
    progress(0, 0, "verdicts")
    clock.now += 10
    assert written(console).splitlines()[-1] == "evaluate  0  verdicts"


def test_on_a_terminal_there_is_a_bar_with_the_latest_rates() -> None:
    clock, console = Clock(), live()
    with StageProgress("improve", 10, console, clock) as progress:
        for done in range(1, 9):
            clock.now += 30
            progress.update(done, margin=float(done), loss=1 / 3)
        progress(8, 10, "[red]not markup")
    last = written(console)[written(console).rindex("improve") :]
    assert "8/10" in last
    assert "01:00" in last
    assert "[red]not markup" in last
    assert "margin 8  loss 0.3333" in last


def test_a_bar_within_a_bar_is_fine() -> None:
    console = live()
    with StageProgress("outer", 2, console) as outer, StageProgress("inner", 2, console) as inner:
        inner.update(2)
        outer.update(1)
        display = console.display
        assert display is not None
        assert [task.description for task in display.tasks] == ["outer", "inner"]
    assert console.display is None


@pytest.mark.parametrize("terminal", [True, False])
def test_a_closed_terminal_does_not_stop_the_run(terminal: bool) -> None:
    console = Terminal(file=Closed(), force_terminal=terminal)
    with RunProgress(NAMES, console) as run, StageProgress("improve", 2, console) as progress:
        run.begin(NAMES[0])
        progress.update(1, loss=math.inf)
        progress(5, 2)
        progress.update(0)
        run.tick(NAMES[0])


def test_an_ascii_terminal_does_not_stop_the_run() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    for terminal in (True, False):
        with StageProgress("größer", 2, Terminal(file=out, force_terminal=terminal)) as progress:
            progress.update(1, loss=1.0)


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0:00"), (59.6, "1:00"), (754, "12:34"), (3661, "1:01:01")])
def test_clock_time(seconds: float, shown: str) -> None:
    assert clock_time(seconds) == shown


def test_steps_are_ticked_by_arm() -> None:
    clock = Clock()
    run = RunProgress(NAMES, plain(), clock=clock)
    assert run.begin("shared/chunk") == "shared/chunk (1 of 3)"
    clock.now += 7
    run.tick("shared/chunk")
    run.begin("self-improved/improve")
    clock.now += 65
    lines = picture(run)
    assert lines[0] == "1 of 3 steps"
    assert "✓ chunk 0:07" in lines[1]
    assert "▸ improve 1:05   · evaluate" in lines[2]


def test_what_was_done_before_is_ticked_without_a_time() -> None:
    run = RunProgress(NAMES, plain())
    run.tick("shared/chunk")
    assert "✓ chunk   " in picture(run)[1]


def test_estimates_are_scaled_by_what_was_measured() -> None:
    clock = Clock()
    run = RunProgress(NAMES, plain(), dict(zip(NAMES, (10.0, 100.0, 30.0), strict=True)), clock)
    assert run.seconds_left() == pytest.approx(140)
    run.begin("shared/chunk")
    clock.now += 20  # twice as slow as thought
    run.tick("shared/chunk")
    assert run.seconds_left() == pytest.approx(260)
    assert run.begin("self-improved/improve") == "self-improved/improve (2 of 3, about 4:20 left in all)"
    clock.now += 50
    assert run.seconds_left() == pytest.approx(210)


def test_the_pace_of_the_present_step_beats_its_estimate() -> None:
    clock, console = Clock(), live()
    with RunProgress(NAMES, console, {NAMES[1]: 1000.0, NAMES[2]: 10.0}, clock) as run:
        run.begin(NAMES[1])
        with StageProgress("improve", 10, console, clock) as progress:
            progress.update(1)
            clock.now += 4
            progress.update(5, margin=0.25)
            assert run.seconds_left() == pytest.approx(15)
            lines = picture(run)
            assert "about 0:15 left" in lines[0]
            assert "5/10" in lines[-1]
            assert "margin 0.25" in lines[-1]
        assert len(picture(run)) == 3  # the bar of a finished stage goes


def test_a_step_that_was_not_announced_is_added() -> None:
    assert RunProgress(NAMES, plain()).begin("shared/audit") == "shared/audit (4 of 4)"


def test_on_a_terminal_the_stage_is_drawn_beneath_the_steps() -> None:
    console = live()
    with RunProgress(NAMES, console) as run:
        run.begin(NAMES[1])
        with StageProgress("improve", 2, console) as progress:
            progress.update(1, loss=0.5)
            console.print("a line above")
            time.sleep(1.2)  # it is drawn twice a second
    text = written(console)
    assert "▸ improve" in text
    assert "1/2" in text
    assert "a line above" in text


def test_without_a_terminal_a_stage_writes_its_own_lines() -> None:
    console = plain()
    with RunProgress(NAMES, console), StageProgress("improve", 2, console) as progress:
        progress.update(2)
    assert written(console) == "improve  2/2 (100%)  0:00 left\n"

"""The board of a run: ticks, an honest guess of the time that is left, plain lines without a terminal."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from forethought.board import Board
from forethought.monitor import Progress, Terminal

NAMES = ["shared/chunk", "self-improved/improve", "self-improved/evaluate"]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def shown(board: Board) -> str:
    stream = io.StringIO()
    Console(file=stream, width=100).print(board.picture())
    return stream.getvalue()


def test_steps_are_ticked_by_arm() -> None:
    clock = Clock()
    board = Board(NAMES, Terminal(file=io.StringIO()), clock=clock)
    assert board.begin("shared/chunk") == "shared/chunk (1 of 3)"
    clock.now += 7
    board.tick("shared/chunk")
    board.begin("self-improved/improve")
    clock.now += 65
    lines = shown(board).splitlines()
    assert lines[0] == "1 of 3 steps"
    assert "✓ chunk 0:07" in lines[1]
    assert "▸ improve 1:05   · evaluate" in lines[2]


def test_what_was_done_before_is_ticked_without_a_time() -> None:
    board = Board(NAMES, Terminal(file=io.StringIO()))
    board.tick("shared/chunk")
    assert "✓ chunk   " in shown(board)


def test_estimates_are_scaled_by_what_was_measured() -> None:
    clock = Clock()
    estimates = {"shared/chunk": 10.0, "self-improved/improve": 100.0, "self-improved/evaluate": 30.0}
    board = Board(NAMES, Terminal(file=io.StringIO()), estimates, clock)
    assert board.seconds_left() == pytest.approx(140)
    board.begin("shared/chunk")
    clock.now += 20  # twice as slow as thought
    board.tick("shared/chunk")
    assert board.seconds_left() == pytest.approx(260)
    assert board.begin("self-improved/improve") == "self-improved/improve (2 of 3, about 4:20 left in all)"
    clock.now += 50
    assert board.seconds_left() == pytest.approx(210)


def test_the_pace_of_the_present_step_beats_its_estimate() -> None:
    clock = Clock()
    board = Board(NAMES, Terminal(file=io.StringIO()), {NAMES[1]: 1000.0, NAMES[2]: 10.0}, clock)
    board.begin(NAMES[1])
    progress = Progress("improve", total=10, console=Terminal(file=io.StringIO()), clock=clock)
    board.show(progress)
    progress.update(0)
    clock.now += 5
    progress.update(5, margin=0.25)
    assert board.seconds_left() == pytest.approx(15)
    picture = shown(board)
    assert "about 0:15 left" in picture
    assert "5/10" in picture
    assert "margin  0.25" in picture


def test_a_step_that_was_not_announced_is_added() -> None:
    board = Board(NAMES, Terminal(file=io.StringIO()))
    assert board.begin("shared/audit") == "shared/audit (4 of 4)"


def test_on_a_terminal_progress_is_shown_on_the_board() -> None:
    out = io.StringIO()
    console = Terminal(file=out, force_terminal=True, width=100, height=40)
    board = Board(NAMES, console)
    with board.live():
        board.begin(NAMES[1])
        with Progress("improve", total=2, console=Terminal(file=io.StringIO(), force_terminal=True)) as progress:
            progress.update(1, loss=0.5)
            console.print("a line above")
            time.sleep(1.2)  # it is drawn twice a second
    text = out.getvalue()
    assert "▸ improve" in text
    assert "1/2" in text
    assert "a line above" in text


def test_without_a_terminal_progress_writes_its_own_lines() -> None:
    out = io.StringIO()
    with Board(NAMES, Terminal(file=out)).live(), Progress("improve", total=2, console=Terminal(file=out)) as progress:
        progress.update(2)
    assert out.getvalue() == "improve  2/2 (100%)\n"


class Closed(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_closed_terminal_stops_nothing() -> None:
    with Board(NAMES, Terminal(file=Closed(), force_terminal=True)).live(), Progress("improve", total=1) as progress:
        progress.update(1)

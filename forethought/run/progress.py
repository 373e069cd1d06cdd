"""What a run shows while it runs: its steps with their ticks, the progress of the present one, and the time left.

On a terminal this is one live display at the bottom, above which lines go on being printed.  Elsewhere it is a line at
the beginning of each step and one now and then.  It goes to stderr, so that stdout holds results only.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

import rich.progress
from rich.console import RenderableType
from rich.errors import LiveError
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from forethought.metrics import clock_time
from forethought.run.terminal import PlainConsole
from forethought.text import printable

SECONDS_BETWEEN_LINES = 5.0
"""Without a terminal, progress is a line at most this often."""


class Progress(Protocol):
    """Takes how many units of a stage are done, of how many if that is known, and what is going on."""

    def __call__(self, done: int, total: int | None, note: str = "") -> None: ...


class Terminal(PlainConsole):
    """A console that falls silent when its reader is gone, where rich would end the process."""

    display: RunProgress | None = None

    def on_broken_pipe(self) -> None:
        self.quiet = True


STDERR = Terminal(stderr=True)


class RunProgress(rich.progress.Progress):
    """The steps of one command, to which :class:`StageProgress` adds a bar; live inside of ``with``, on a terminal."""

    def __init__(
        self,
        names: Iterable[str] = (),
        console: Terminal = STDERR,
        estimates: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the steps in order, ``arm/stage``, and the seconds that each is expected to take."""
        self._names, self._estimates = list(dict.fromkeys(names)), dict(estimates or {})
        self._terminal, self._clock = console, clock
        self._done: dict[str, float | None] = {}  # seconds, unless it was done before
        self._current: tuple[str, float] | None = None
        super().__init__(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", markup=False, table_column=Column(overflow="fold")),
            console=console,
            refresh_per_second=2,
            speed_estimate_period=math.inf,  # a step may take minutes
            get_time=clock,
        )

    def start(self) -> None:
        """Go live, unless there is no terminal, it is gone, or something else is live on it."""
        if self._terminal.is_terminal and self._terminal.display is None:
            with contextlib.suppress(LiveError, OSError, ValueError):
                super().start()
            self._terminal.display = self if self.live.is_started else None

    def stop(self) -> None:
        if self._terminal.display is self:
            self._terminal.display = None
            with contextlib.suppress(OSError, ValueError):
                super().stop()

    def refresh(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().refresh()

    def begin(self, name: str) -> str:
        """Note that a step begins; return the line that announces it."""
        if name not in self._names:
            self._names.append(name)
        self._current = (name, self._clock())
        left = self.seconds_left()
        about = f", about {clock_time(left)} left in all" if left and left >= 1 else ""
        return f"{name} ({self._names.index(name) + 1} of {len(self._names)}{about})"

    def tick(self, name: str) -> None:
        self._done.setdefault(name)
        if self._current is not None and self._current[0] == name:
            self._done[name] = self._clock() - self._current[1]
            self._current = None

    def seconds_left(self) -> float | None:
        """Return about how many seconds the rest takes; ``None`` where nothing is known.

        The estimates of the steps that are left, scaled by what the finished ones took against theirs.
        """
        done, bars = self._done.copy(), self.tasks  # the thread that draws asks, too
        measured = {name: took for name, took in done.items() if took and self._estimates.get(name)}
        expected = sum(self._estimates[name] for name in measured)
        scale = sum(measured.values()) / expected if expected else 1.0
        left = {name: scale * self._estimates.get(name, 0.0) for name in self._names if name not in done}
        if self._current is not None:
            name, start = self._current
            own = bars[-1].time_remaining if bars else None
            left[name] = max(0.0, left.get(name, 0.0) - (self._clock() - start)) if own is None else own
        return sum(left.values()) or None

    def get_renderables(self) -> Iterator[RenderableType]:
        if self._names:
            left = self.seconds_left()
            about = f", about {clock_time(left)} left" if left else ""
            yield Text(f"{len(self._done.keys() & set(self._names))} of {len(self._names)} steps{about}", style="bold")
            arms: dict[str, Text] = {}
            for name in self._names:
                arm, _, stage = name.partition("/")
                arms.setdefault(arm, Text()).append_text(self._cell(name, stage))
            rows = Table.grid(padding=(0, 2))
            for arm, cells in arms.items():
                rows.add_row(f"  {arm}", cells)
            yield rows
        yield from super().get_renderables()

    def _cell(self, name: str, stage: str) -> Text:
        if name in self._done:
            took = self._done[name]
            return Text(f"✓ {stage}{f' {clock_time(took)}' if took else ''}   ", style="green")
        if self._current is not None and self._current[0] == name:
            return Text(f"▸ {stage} {clock_time(self._clock() - self._current[1])}   ", style="bold yellow")
        return Text(f"· {stage}   ", style="dim")


class StageProgress:
    """A :class:`Progress`: a bar on what is live on the console, or of its own, else a line now and then."""

    def __init__(
        self,
        title: str,
        total: int | None = None,
        console: Terminal = STDERR,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._clock = console, clock
        self._note, self._rates, self._last_line = "", dict[str, float](), -math.inf
        self._own = console.display is None
        self._display = console.display or RunProgress(console=console, clock=clock)
        self._display.add_task(title, total=total or None, note="")
        self._task = self._display.tasks[-1]

    def __enter__(self) -> StageProgress:
        if self._own:
            self._display.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._own:
            self._display.stop()
        else:
            self._display.remove_task(self._task.id)

    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        self._note = note
        if (total or None) != self._task.total:
            self._task.total = total or None
            self._display.reset(self._task.id)
        self.update(done)

    def update(self, done: int, **rates: float | None) -> None:
        self._rates |= {name: value for name, value in rates.items() if value is not None and math.isfinite(value)}
        if done < self._task.completed:
            self._display.reset(self._task.id)
        note = "  ".join(filter(None, (self._note, *(f"{name} {value:.4g}" for name, value in self._rates.items()))))
        self._display.update(self._task.id, completed=done, note=note)
        due = self._task.finished or self._clock() - self._last_line >= SECONDS_BETWEEN_LINES
        if due and not self._display.live.is_started:
            self._last_line = self._clock()
            with contextlib.suppress(OSError, ValueError):
                print(printable(self._line()), file=self._console.file, flush=True)

    def _line(self) -> str:
        done, total, left = int(self._task.completed), self._task.total, self._task.time_remaining
        count = f"{done}/{int(total)} ({done / total:.0%})" if total else str(done)
        remaining = "" if left is None else f"{clock_time(left)} left"
        return "  ".join(filter(None, (self._task.description, count, remaining, self._task.fields["note"])))

"""The run at a glance: every step with its tick, the progress of the present one, and about how long it all takes.

On a terminal it is one live picture at the bottom, above which lines go on being printed.  In logs and CI it is a line
at the beginning of each step.  There is no torch here.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.errors import LiveError
from rich.live import Live
from rich.table import Table
from rich.text import Text

from forethought.monitor import Progress, Terminal, clock_time, shown_by

TICK, NOW, OPEN = "✓", "▸", "·"


class Board:
    """Follows the steps of one command.

    Example::

        board = Board(["shared/chunk", "self-improved/improve"], Terminal(stderr=True))
        with board.live():
            print(board.begin("shared/chunk"))
            board.tick("shared/chunk")
    """

    def __init__(
        self,
        names: Iterable[str],
        console: Terminal,
        estimates: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a board.

        Args:
            names: the steps in order, ``arm/stage``.
            console: where it is drawn.
            estimates: seconds that each step is thought to take; their proportions matter more than their sum.
            clock: seconds.
        """
        self._names = list(dict.fromkeys(names))
        self._console, self._clock = console, clock
        self._estimates = dict(estimates or {})
        self._done: set[str] = set()
        self._took: dict[str, float] = {}
        self._current: tuple[str, float] | None = None
        self._progress: Progress | None = None

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Draw the board while inside, if there is a terminal."""
        if not self._console.is_terminal:
            yield
            return
        picture = Live(get_renderable=self.picture, console=self._console, refresh_per_second=2)
        try:
            picture.start()
        except (LiveError, OSError, ValueError):  # another one is live, or the terminal is gone
            yield
            return
        try:
            with shown_by(self):
                yield
        finally:
            with contextlib.suppress(OSError, ValueError):
                picture.stop()

    def begin(self, name: str) -> str:
        """Say that a step begins; return the line that tells so."""
        if name not in self._names:
            self._names.append(name)
        self._current = (name, self._clock())
        left = self.seconds_left()
        about = f", about {clock_time(left)} left in all" if left and left >= 1 else ""
        return f"{name} ({self._names.index(name) + 1} of {len(self._names)}{about})"

    def tick(self, name: str) -> None:
        """Say that a step is done."""
        self._done.add(name)
        if self._current is not None and self._current[0] == name:
            self._took[name] = self._clock() - self._current[1]
            self._current = None

    def show(self, progress: Progress | None) -> None:
        """Show this progress beneath the steps, or none."""
        self._progress = progress

    def seconds_left(self) -> float | None:
        """Return about how many seconds the rest takes; ``None`` where nothing is known.

        The estimates of the steps that are left, scaled by what the finished ones took against theirs.
        """
        open_ = [name for name in self._names if name not in self._done]
        known = {name: seconds for name, seconds in self._took.items() if self._estimates.get(name)}
        thought = sum(self._estimates[name] for name in known)
        scale = sum(known.values()) / thought if thought else 1.0
        left = {name: scale * self._estimates.get(name, 0.0) for name in open_}
        if self._current is not None:
            name, start = self._current
            own = self._progress.seconds_left() if self._progress is not None else None
            left[name] = max(0.0, left.get(name, 0.0) - (self._clock() - start)) if own is None else own
        return sum(left.values()) if any(left.values()) else None

    def picture(self) -> RenderableType:
        """Return the steps, a line for each arm, then the progress of the present one."""
        left = self.seconds_left()
        head = f"{len(self._done & set(self._names))} of {len(self._names)} steps"
        lines: list[RenderableType] = [Text(head + (f", about {clock_time(left)} left" if left else ""), style="bold")]
        rows = Table.grid(padding=(0, 2))
        for arm, stages in _by_arm(self._names):
            cells = Text()
            for stage in stages:
                cells += self._cell(f"{arm}/{stage}", stage)
            rows.add_row(f"  {arm}", cells)
        lines.append(rows)
        if self._progress is not None:
            lines.append(self._progress.picture())
        return Group(*lines)

    def _cell(self, name: str, stage: str) -> Text:
        if name in self._done:
            took = self._took.get(name)
            return Text(f"{TICK} {stage}{f' {clock_time(took)}' if took else ''}   ", style="green")
        if self._current is not None and self._current[0] == name:
            return Text(f"{NOW} {stage} {clock_time(self._clock() - self._current[1])}   ", style="bold yellow")
        return Text(f"{OPEN} {stage}   ", style="dim")


def _by_arm(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    arms: dict[str, list[str]] = {}
    for name in names:
        arm, _, stage = name.partition("/")
        arms.setdefault(arm, []).append(stage)
    return list(arms.items())

"""What a run tells while it runs: metrics at every step, seconds by phase, memory, and live progress.

Metrics are named ``<stage>/<what>``.  This module imports no torch.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import math
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType, TracebackType
from typing import Any, Protocol

from rich.console import Console, Group
from rich.errors import LiveError
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from forethought.config import ConfigError, LogConfig
from forethought.metrics import clock_time as clock_time
from forethought.store import StageFolder

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

SECONDS_BETWEEN_LINES = 5.0
"""Without a terminal, progress is a line at most this often."""

_BLOCKS = "▁▂▃▄▅▆▇█"


def peak_memory() -> int:
    """Return the largest resident size of this process so far, in bytes; 0 where the system does not tell (Windows)."""
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Metrics:
    """Writes one row per step to ``metrics.jsonl`` and to the sinks of :class:`~forethought.config.LogConfig`.

    Example::

        with Metrics(folder, config.log) as metrics:
            with metrics.timer("sample"):
                metrics.count("sample", tokens=1024)
            metrics.log(step, {"improve/margin": 0.4})

    adds ``improve/seconds_sample``, ``improve/tokens_per_second_sample`` and ``improve/peak_memory_gib`` to the row.
    """

    def __init__(self, folder: StageFolder, config: LogConfig, peak: Callable[[], int] = peak_memory) -> None:
        """Open the sinks.

        Args:
            folder: the stage that is measured.
            config: which sinks there are.
            peak: peak memory in bytes, 0 if not known; on CUDA pass ``torch.cuda.max_memory_allocated``.

        Raises:
            ConfigError: if a sink's package is missing, with the command that installs it.
        """
        self._folder = folder
        self._peak = peak
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._tokens: Counter[str] = Counter()
        self._sinks: list[_Sink] = []
        if config.tensorboard:
            self._sinks.append(_TensorBoard(folder))
        if config.wandb is not None:
            self._sinks.append(_Tracker("wandb", config.wandb, folder))
        if config.trackio is not None:
            self._sinks.append(_Tracker("trackio", config.trackio, folder))

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for sink in self._sinks:
            sink.close()

    @contextlib.contextmanager
    def timer(self, phase: str) -> Iterator[None]:
        """Add the wall-clock seconds spent inside to ``phase`` of the present step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[phase] += time.perf_counter() - start

    def count(self, phase: str, tokens: int) -> None:
        """Add ``tokens`` to what ``phase`` processed in the present step."""
        self._tokens[phase] += tokens

    def log(self, step: int, values: Mapping[str, float | None]) -> dict[str, Any]:
        """Write the row of ``step`` and return it; seconds and tokens start again from zero.

        A value that is ``None`` or not finite means that there was nothing to measure: it is written as ``null``.
        """
        row: dict[str, Any] = {"step": step}
        row |= {name: value if _finite(value) else None for name, value in values.items()}
        for phase, seconds in self._seconds.items():
            row[f"{self._folder.stage}/seconds_{phase}"] = round(seconds, 4)
            if phase in self._tokens and seconds > 0:
                row[f"{self._folder.stage}/tokens_per_second_{phase}"] = round(self._tokens[phase] / seconds, 2)
        peak = self._peak()
        row[f"{self._folder.stage}/peak_memory_gib"] = round(peak / 2**30, 3) if peak else None
        self._seconds.clear()
        self._tokens.clear()
        self._folder.append("metrics", row)
        known = {name: float(value) for name, value in row.items() if name != "step" and value is not None}
        for sink in self._sinks:
            sink.log(step, known)
        return row


class _Sink(Protocol):
    def log(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class _TensorBoard:
    def __init__(self, folder: StageFolder) -> None:
        self._writer = _package("tensorboard.summary").Writer(str(folder.path / "tensorboard"))

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Tracker:
    """Weights & Biases, or trackio, which has the same interface."""

    def __init__(self, package: str, project: str, folder: StageFolder) -> None:
        name = f"{folder.path.parent.parent.name}-{folder.arm}-{folder.stage}"
        # A resumed stage goes on in the tracker's run of the same name; wandb knows runs by their id.
        known = {"id": name, "dir": str(folder.path)} if package == "wandb" else {}
        self._run = _package(package).init(
            project=project, name=name, config=folder.read_json("config"), resume="allow", **known
        )

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


def _package(module: str) -> ModuleType:
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"log.{package}: {error}. Install it with `pip install {package}`, or leave it out") from None


class Terminal(Console):
    """A console that falls silent when its reader is gone, where rich would end the process."""

    def on_broken_pipe(self) -> None:
        """Print nothing from now on."""
        self.quiet = True


class Host(Protocol):
    """What shows the progress of stages among other things, while it is live; see :mod:`forethought.board`."""

    def show(self, progress: Progress | None) -> None:
        """Show this progress from now on, or none."""


_hosts: list[Host] = []


@contextlib.contextmanager
def shown_by(host: Host) -> Iterator[None]:
    """Inside, :class:`Progress` opens no display of its own."""
    _hosts.append(host)
    try:
        yield
    finally:
        _hosts.remove(host)


class Progress:
    """Live progress of one stage: on a terminal a bar, the remaining time and sparklines, else a line now and then.

    Example::

        with Progress("improve", total=100) as progress:
            progress.update(12, margin=0.41, selection=0.62)

    It can also be called with ``(done, total, note)``, wherever a callback is wanted.  It writes to
    stderr, so that stdout holds results only.  A closed terminal or one that cannot show the text
    silences it; the run goes on.
    """

    def __init__(
        self, title: str, total: int = 0, console: Terminal | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._title, self._total, self._done, self._note = title, total, 0, ""
        self._console = console or Terminal(stderr=True)
        self._clock = clock
        self._began: tuple[float, int] | None = None
        self._last_line = -math.inf
        self._rates: dict[str, deque[float]] = {}
        self._live: Live | None = None
        self._host: Host | None = None

    def __enter__(self) -> Progress:
        if _hosts:
            self._host = _hosts[-1]
            self._host.show(self)
        elif self._console.is_terminal:
            self._live = Live(get_renderable=self.picture, console=self._console, refresh_per_second=2)
            try:
                self._live.start()
            except (LiveError, OSError, ValueError):  # another bar is live, or the terminal is gone
                self._live = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._host is not None:
            self._host.show(None)
        if self._live is not None:
            with contextlib.suppress(OSError, ValueError):
                self._live.stop()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show that ``done`` of ``total`` are done."""
        self._total, self._note = total, note
        self.update(done)

    def update(self, done: int, **rates: float | None) -> None:
        """Show that ``done`` are done, and the latest ``rates`` by name."""
        now = self._clock()
        if self._began is None or done < self._began[1]:
            self._began = (now, done)  # a resumed stage begins at its checkpoint
        self._done = done
        for name, value in rates.items():
            if value is not None and _finite(value):
                self._rates.setdefault(name, deque(maxlen=200)).append(float(value))
        last = 0 < self._total <= done
        if self._live is None and self._host is None and (last or now - self._last_line >= SECONDS_BETWEEN_LINES):
            self._last_line = now
            with contextlib.suppress(OSError, ValueError):
                print(self._line(), file=self._console.file, flush=True)

    def seconds_left(self) -> float | None:
        """Return the seconds that what is left takes at the pace so far; ``None`` before there is one."""
        if self._began is None or self._done <= self._began[1] or not self._total:
            return None
        start, first = self._began
        pace = (self._clock() - start) / (self._done - first)
        return pace * max(0, self._total - self._done)

    def _remaining(self) -> str:
        left = self.seconds_left()
        return "" if left is None else f"{clock_time(left)} left"

    def _line(self) -> str:
        share = f"({self._done / self._total:.0%})" if self._total else ""
        count = f"{self._done}/{self._total}" if self._total else str(self._done)
        rates = (f"{name} {values[-1]:.4g}" for name, values in self._rates.items())
        return "  ".join(
            part for part in (self._title, f"{count} {share}".strip(), self._remaining(), self._note, *rates) if part
        )

    def picture(self) -> Group:
        """Return what a terminal shows: a bar, the time that is left, the latest rates and their course."""
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self._total or None, completed=min(self._done, self._total), width=30)
        head.add_row(
            Text(self._title, style="bold"), bar, f"{self._done}/{self._total or '?'}", self._remaining(), self._note
        )
        rows = Table.grid(padding=(0, 2))
        for name, values in self._rates.items():
            rows.add_row(f"  {name}", f"{values[-1]:.4g}", Text(sparkline(values, 40), style="cyan"))
        return Group(head, rows)


def sparkline(values: Sequence[float] | deque[float], width: int) -> str:
    """Return ``values`` as at most ``width`` block characters, each the mean of a stretch if there are more."""
    count = min(width, len(values))
    edges = [len(values) * i // count for i in range(count + 1)] if count else []
    items = list(values)
    means = [math.fsum(items[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((mean - low) * scale)] for mean in means)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)

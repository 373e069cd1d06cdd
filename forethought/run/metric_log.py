"""Metrics of a stage: a row for every step, seconds and tokens by phase, memory; names are ``<stage>/<what>``."""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

from forethought.config import ConfigError, LogConfig
from forethought.run.store import StageFolder

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

Sink = Callable[[int, Mapping[str, float]], None]


def peak_memory() -> int:
    """Return the largest resident size of this process so far, in bytes; 0 where the system does not tell (Windows)."""
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class MetricLog(contextlib.ExitStack):
    """Writes one row per step to ``metrics.jsonl`` and to the sinks of :class:`~forethought.config.LogConfig`.

    A phase that is timed and counted adds ``<stage>/seconds_<phase>`` and ``<stage>/tokens_per_second_<phase>``.
    """

    def __init__(self, folder: StageFolder, config: LogConfig, peak: Callable[[], int] = peak_memory) -> None:
        """Open the sinks; ``peak`` gives peak memory in bytes, 0 if not known (``torch.cuda.max_memory_allocated``)."""
        super().__init__()
        self._folder, self._peak = folder, peak
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._tokens: Counter[str] = Counter()
        trackers = {"wandb": config.wandb, "trackio": config.trackio}
        self._sinks = [self._tensorboard()] if config.tensorboard else []
        self._sinks += [self._tracker(package, name) for package, name in trackers.items() if name is not None]

    @contextlib.contextmanager
    def timer(self, phase: str) -> Iterator[None]:
        """Add the wall-clock seconds spent inside to ``phase`` of the present step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[phase] += time.perf_counter() - start

    def count(self, phase: str, tokens: int) -> None:
        self._tokens[phase] += tokens

    def log(self, step: int, values: Mapping[str, float | None]) -> dict[str, Any]:
        """Write the row of ``step`` and return it; seconds and tokens start again from zero.

        A value that is ``None`` or not finite means that there was nothing to measure: it is written as ``null``.
        """
        row: dict[str, Any] = {"step": step}
        row |= {name: None if value is None or not math.isfinite(value) else value for name, value in values.items()}
        for phase, seconds in self._seconds.items():
            row[f"{self._folder.stage}/seconds_{phase}"] = round(seconds, 4)
            if phase in self._tokens and seconds > 0:
                row[f"{self._folder.stage}/tokens_per_second_{phase}"] = round(self._tokens[phase] / seconds, 2)
        peak = self._peak()
        row[f"{self._folder.stage}/peak_memory_gib"] = round(peak / 2**30, 3) if peak else None
        self._seconds.clear()
        self._tokens.clear()
        self._folder.append("metrics", row)
        measured = {name: float(value) for name, value in row.items() if name != "step" and value is not None}
        for sink in self._sinks:
            sink(step, measured)
        return row

    def _tensorboard(self) -> Sink:
        writer = _package("tensorboard.summary").Writer(str(self._folder.path / "tensorboard"))
        self.callback(writer.close)

        def log(step: int, values: Mapping[str, float]) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)
            writer.flush()

        return log

    def _tracker(self, package: str, project: str) -> Sink:
        """Return a sink to Weights & Biases, or to trackio, which has the same interface."""
        folder = self._folder
        name = f"{folder.path.parent.parent.name}-{folder.arm}-{folder.stage}"
        # A resumed stage goes on in the tracker's run of the same name; wandb knows runs by their id.
        known = {"id": name, "dir": str(folder.path)} if package == "wandb" else {}
        tracked = _package(package).init(
            project=project, name=name, config=folder.read_json("config"), resume="allow", **known
        )
        self.callback(tracked.finish)
        return lambda step, values: tracked.log(values, step=step)


def _package(module: str) -> ModuleType:
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"log.{package}: {error}. Install it with `pip install {package}`, or leave it out") from None

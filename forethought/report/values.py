"""How figures read: a value with its 95% interval, and what a paired difference shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from forethought import graph, metrics
from forethought.metrics import Format, Metric
from forethought.records import Measurement
from forethought.report.independence import Judges
from forethought.stats import Z80, Z95

FEWEST = 10
"""A bootstrap over fewer units gives intervals that are too narrow to be called anything."""


@dataclass(frozen=True, slots=True)
class Value:
    """A figure of a page: how it reads, and where it stands in ``summary.json``."""

    measured: Measurement
    form: Format | None = None

    @property
    def text(self) -> str:
        """Value and interval, with minus signs that are as wide as plus signs."""
        return text(self.measured, self.form).replace("-", "\N{MINUS SIGN}")

    @property
    def about(self) -> str:
        """Denominator, unit and provenance."""
        return f"{name(self.measured)}; n = {self.measured.n}, {self.measured.unit}; {self.measured.subject}"


def name(figure: Measurement) -> str:
    """Return all names of a figure: ``win_rate of self-improved against base (greedy, judge)``."""
    against = f" against {figure.against}" if figure.against else ""
    where = ", ".join(filter(None, (figure.condition, figure.judge)))
    return f"{figure.metric} of {figure.arm}{against}" + (f" ({where})" if where else "")


def text(figure: Measurement, form: Format | None = None) -> str:
    """Return the value with its 95% interval: ``62.5% [50.2, 73.4]``."""
    return interval(figure.value, figure.low, figure.high, form or metrics.form(figure))


def interval(value: float, low: float | None, high: float | None, form: Format) -> str:
    """Return a value with the ends of its interval, if it has one of some width."""
    if low is None or high is None or low == high:
        return form(value)
    ends = (form(end).removesuffix("%").removesuffix(" points") for end in (low, high))
    return f"{form(value)} [{', '.join(ends)}]"


def sign(figure: Measurement) -> int:
    """Return on which side of zero the whole interval lies, or 0; few units are on none."""
    if figure.low is None or figure.high is None or figure.n < FEWEST:
        return 0
    return 1 if figure.low > 0 else -1 if figure.high < 0 else 0


def judgement(change: Measurement, needed: Measurement | None, units: str = "windows") -> str:
    """Return in words what a paired difference shows, and how many units would show it where it shows nothing.

    Example: ``inside the noise of 24 windows; about 310 would resolve it``
    """
    if change.low == change.high:
        return f"no difference in any of {change.n} {units}"
    if change.n < FEWEST:
        return f"{change.n} {units} are too few to tell"
    if sign(change):
        return "above zero" if sign(change) > 0 else "below zero"
    return f"inside the noise of {change.n} {units}" + (
        f"; about {needed.value:,.0f} would resolve it" if needed is not None else ""
    )


def resolution(change: Measurement) -> float | None:
    """Return the smallest true difference that a comparison like this one shows four times in five.

    ``(z_0.975 + z_0.8) * standard error``, the error read off the interval's width; ``None`` without one.
    """
    if change.low is None or change.high is None or change.low == change.high:
        return None
    return (Z95 + Z80) * (change.high - change.low) / (2 * Z95)


class Figures:
    """The measurements of a run, to be looked up by their names, and what its judges did in it."""

    def __init__(self, measurements: Iterable[Measurement], judges: Judges | None = None) -> None:
        self.all = list(measurements)
        self.judges = judges or Judges()

    def get(self, stage: str, arm: str, metric: str, **names: str) -> Measurement | None:
        """Return one figure, or ``None``; of whichever judge comes first if ``judge`` is not named.

        ``against`` and ``condition`` are none unless they are named.
        """
        return next(self.select(stage, metric, **{"arm": arm, "against": "", "condition": "", **names}), None)

    def select(self, stage: str, metric: str, **names: str) -> Iterator[Measurement]:
        """Yield the figures that agree with all that is named: ``arm``, ``against``, ``condition``, ``judge``."""
        for figure in self.all:
            same = (figure.stage, figure.metric) == (stage, metric)
            if same and all(getattr(figure, field) == value for field, value in names.items()):
                yield figure

    def needed(self, change: Measurement, units: str = "windows") -> Measurement | None:
        """Return how many units would resolve a difference, if that was computed."""
        metric = metrics.of(change)
        names = {"against": change.against, "condition": change.condition, "judge": change.judge}
        return self.get(change.stage, change.arm, (metric.of or metric).needed(units), **names)

    def least(self, stage: str, arm: str, metric: Metric, **names: str) -> Measurement | None:
        """Return one figure, of several judges' the least favourable by where its interval begins, or ``None``.

        Only judges that had no part in what is compared are asked, if there are any, else those of which it is not
        known.  The order of judges does not matter.
        """
        asked = list(self.select(stage, metric, **{"arm": arm, "against": "", "condition": "", **names}))
        unmarked = [figure for figure in asked if not self.judges.of(figure.judge, stage).took_part(stage)]
        fair = [figure for figure in asked if self.independent(figure)] or unmarked or asked
        return min(fair, key=lambda figure: _favour(figure, metric), default=None)

    def independent(self, figure: Measurement) -> bool:
        """Return whether the judge of a figure, and its model, trained nothing that is compared there."""
        return self.judges.of(figure.judge, figure.stage).independent(figure.stage)

    def unknown(self) -> list[Measurement]:
        """Return the figures of which some name is in no registry: a new metric, condition, arm or stage."""
        arms = [arm.name for arm in graph.ARMS]
        return [figure for figure in self.all if not metrics.known(figure, arms)]


def _favour(figure: Measurement, metric: Metric) -> tuple[float, float, str]:
    """Return what orders figures of one kind by how well they speak of the arm, the worst first."""
    way = -1 if metric.better == metrics.DOWN else 1
    end = figure.low if way > 0 else figure.high
    # Without an interval nothing can be claimed, which is the least of all.
    return (-math.inf if end is None else way * end), way * figure.value, figure.judge

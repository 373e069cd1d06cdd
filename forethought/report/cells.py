"""Cells of the terminal tables: numbers with their 95% intervals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from forethought.records import Measurement

Format = Callable[[float], str]

_BLOCKS = "▁▂▃▄▅▆▇█"


def percent(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.1f}%"


def plain(value: float) -> str:
    """Three digits."""
    return f"{value:.3f}"


def short(value: float) -> str:
    """Two digits."""
    return f"{value:.2f}"


def signed(value: float) -> str:
    """Three digits and the sign."""
    return f"{value:+.3f}"


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * value:+.1f} points"


def whole(value: float) -> str:
    """No digits."""
    return f"{value:.0f}"


def sparkline(values: Sequence[float], width: int) -> str:
    """Return ``values`` as at most ``width`` block characters, each the mean of a stretch if there are more."""
    count = min(width, len(values))
    edges = [len(values) * i // count for i in range(count + 1)] if count else []
    means = [math.fsum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((mean - low) * scale)] for mean in means)


def figure(measurement: Measurement, form: Format) -> str:
    """Return the value with its 95% interval: ``62.5% [50.2, 73.4]``."""
    return interval(measurement.value, measurement.low, measurement.high, form)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A figure of a page: how it reads, and where it stands in ``summary.json``."""

    text: str
    """Value and interval."""
    measured: Measurement
    """The row of the measurement table."""

    @property
    def about(self) -> str:
        """Denominator, unit and provenance, for who points at it."""
        one = self.measured
        against = f" against {one.against}" if one.against else ""
        where = ", ".join(filter(None, (one.condition, one.judge)))
        what = f"{one.metric} of {one.arm}{against}" + (f" ({where})" if where else "")
        return f"{what}; n = {one.n}, {one.unit}; {one.subject}"


def shown(measurement: Measurement, form: Format) -> Shown:
    """Return ``measurement`` as a figure of a page, with minus signs that are as wide as plus signs."""
    return Shown(text=figure(measurement, form).replace("-", "\N{MINUS SIGN}"), measured=measurement)


def titled(title: str) -> Table:
    """Return an empty table under ``title``."""
    return Table(
        title=title, title_justify="left", title_style="bold", header_style="dim", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )


def stacked(one: Measurement, form: Format) -> str:
    """Return the value over its interval."""
    return stack(figure(one, form))


def stack(shown: str) -> str:
    """Break before an interval."""
    return shown.replace(" [", "\n[")


def interval(value: float, low: float | None, high: float | None, form: Format) -> str:
    """Return a value with the ends of its interval, if it has one of some width."""
    if low is None or high is None or low == high:
        return form(value)
    ends = (form(end).removesuffix("%").removesuffix(" points") for end in (low, high))
    return f"{form(value)} [{', '.join(ends)}]"

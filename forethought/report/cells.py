"""Cells of the terminal tables: numbers with their 95% intervals."""

from __future__ import annotations

from collections.abc import Callable

from rich.box import SIMPLE_HEAD
from rich.table import Table

from forethought.records import Measurement

Format = Callable[[float], str]


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


def whole(value: float) -> str:
    """No digits."""
    return f"{value:.0f}"


def figure(measurement: Measurement, form: Format) -> str:
    """Return the value with its 95% interval: ``62.5% [50.2, 73.4]``."""
    return interval(measurement.value, measurement.low, measurement.high, form)


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
    return f"{form(value)} [{form(low).removesuffix('%')}, {form(high).removesuffix('%')}]"

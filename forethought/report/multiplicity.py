"""How many of a run's differences would lie outside of their intervals by chance, and how many survive that thought.

The p-values are read off 95% intervals, as if estimates were normal: approximate, and enough to count with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from forethought import metrics as m
from forethought.records import Measurement
from forethought.report.tables import Table
from forethought.report.values import FEWEST, name
from forethought.stats import Z95

RATE = 0.05
"""The share of false discoveries that is allowed among those that survive, and of intervals that miss by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """A family of differences: one metric of one stage, of all arms, conditions and judges."""

    stage: str
    metric: str
    differences: int
    """How many have an interval of some width."""
    excluding: int
    """How many of these intervals exclude what no effect would give."""
    by_chance: float
    """How many would if there were no effect anywhere: 5%."""
    surviving: list[str]
    """Names of the figures that survive at a false discovery rate of 5% within the family."""


def p_value(figure: Measurement, null: float = 0.0) -> float | None:
    """Return the two-sided normal p-value of a figure against ``null``; ``None`` without an interval of some width.

    ``p = 2 (1 - Phi(|value - null| / s))`` with ``s = (high - low) / (2 * 1.96)``.
    """
    if figure.low is None or figure.high is None or figure.high <= figure.low or figure.n < FEWEST:
        return None
    error = (figure.high - figure.low) / (2 * Z95)
    return math.erfc(abs(figure.value - null) / error / math.sqrt(2))


def surviving(p_values: Sequence[float], rate: float = RATE) -> list[bool]:
    """Return which of ``p_values`` are discoveries at this false discovery rate (Benjamini & Hochberg 1995).

    The largest k counts for which the k-th smallest p is at most ``rate * k / n``; with it, all smaller ones.
    """
    ranked = sorted(p_values)
    passing = [k for k, p in enumerate(ranked, 1) if p <= rate * k / len(ranked)]
    most = ranked[passing[-1] - 1] if passing else -1.0
    return [p <= most for p in p_values]


def families(figures: Iterable[Measurement]) -> list[Tested]:
    """Return the families of all differences of a run, in the order in which they were measured."""
    grouped: dict[tuple[str, str], list[tuple[Measurement, float, float]]] = {}
    for figure in figures:
        null = _null(figure)
        p = None if null is None else p_value(figure, null)
        if null is not None and p is not None:
            metric = m.of(figure)
            family = m.split_k(metric.of or metric)[0]
            grouped.setdefault((figure.stage, family), []).append((figure, null, p))
    tested = []
    for (stage, family), rows in grouped.items():
        kept = surviving([p for *_, p in rows])
        outside = [not ((figure.low or 0.0) <= null <= (figure.high or 0.0)) for figure, null, _ in rows]
        names = [name(figure) for (figure, *_), one in zip(rows, kept, strict=True) if one]
        tested.append(
            Tested(
                stage=stage,
                metric=family,
                differences=len(rows),
                excluding=sum(outside),
                by_chance=RATE * len(rows),
                surviving=names,
            )
        )
    return tested


def table(tested: Sequence[Tested]) -> Table:
    """Return the families as a table; without rows if there are no differences."""
    head = ("stage", "figure", "differences", "exclude no effect", "would by chance", "survive at 5% FDR")
    shown = Table("Many comparisons: differences of this run, by stage and figure", head)
    for one in tested:
        counts = (f"{one.differences}", f"{one.excluding}", m.short(one.by_chance), f"{len(one.surviving)}")
        shown.rows.append((one.stage, one.metric, *counts))
    shown.note = (
        "Wins are compared with one half, differences with zero. Survivors: Benjamini-Hochberg within a row; p-values "
        "are approximate, from the widths of intervals. Figures of one run are not independent: they share data."
    )
    return shown


def _null(figure: Measurement) -> float | None:
    """Return what a difference is if there is no effect; ``None`` for levels and for what only helps to read them."""
    metric = m.of(figure)
    if figure.metric == m.WIN_RATE:
        return 0.5
    if metric.of is not None:
        # How many units or how large an effect is derived from a difference, and no figure of its own.
        derived = figure.metric in (metric.of.difference, metric.of.change, metric.of.interaction, m.SUFFIX_NLL_CHANGE)
        return 0.0 if derived else None
    return 0.0 if metric.paired and figure.against else None

"""The primary endpoint: the one figure that the run is made for, named in the config before there was any."""

from __future__ import annotations

from forethought import metrics as m
from forethought.config import PrimaryConfig
from forethought.records import Measurement
from forethought.report.sentences import NO, NONE, PARTLY, UNCLEAR, YES, Part, Sentence, by_whom
from forethought.report.values import FEWEST, Figures, Value, sign

TITLES = {
    False: "Primary endpoint, written down before the run",
    True: "Primary endpoint, written down only after its stage had been measured",
    None: "Primary endpoint; it is not known whether it was written down before the run",
}
"""By whether there were figures of its stage when the run was first asked for with it."""
NONE_NAMED = "This run has no primary endpoint ([primary] in its config), so every figure of it is exploratory."
OTHERS = "Everything but the primary endpoint is exploratory."
"""What a reader is told of all other figures."""


def primary(figures: Figures, late: bool | None = None) -> Sentence | None:
    """Return the primary endpoint with its value, interval and verdict; ``None`` if the config names none.

    ``late``: whether it was named only after its stage had been measured; ``None``: not known.
    """
    config = figures.judges.config
    asked = config.primary if config is not None else None
    if asked is None:
        return None
    figure = find(figures, asked)
    named = f"{asked.metric} of {asked.arm}" + (f" against {asked.against}" if asked.against else "")
    where = f"{asked.stage}{f', {asked.condition}' if asked.condition else ''}"
    parts: list[Part] = [f"{named[:1].upper()}{named[1:]} ({where})"]
    if figure is None:
        return Sentence(TITLES[late], NONE, [*parts, ": not measured, or not yet."])
    parts += [": ", Value(figure)]
    if figure.judge:
        parts.append(f", by {by_whom(figures, figure)}")
    side = _side(figure)
    if side is None:
        return Sentence(TITLES[late], UNCLEAR, [*parts, "; a level shows nothing by itself: name a difference."])
    if not side:
        what = f"{figure.n} units are too few to tell" if figure.n < FEWEST else "the interval includes no effect"
        return Sentence(TITLES[late], UNCLEAR, [*parts, f"; {what}."])
    if side > 0 and figure.judge and not figures.independent(figure):
        return Sentence(TITLES[late], PARTLY, [*parts, "; better, by a judge that is an interested party."])
    return Sentence(TITLES[late], YES if side > 0 else NO, [*parts, f"; {'better' if side > 0 else 'worse'}."])


def find(figures: Figures, asked: PrimaryConfig) -> Measurement | None:
    """Return the figure that ``[primary]`` names; without a judge's name, by the least favourable of those that may."""
    metric = m.find(asked.stage, asked.metric)
    if metric is None:
        return None
    names = {"against": asked.against, "condition": asked.condition}
    if not asked.judge:
        return figures.least(asked.stage, asked.arm, metric, **names)
    every = figures.select(asked.stage, metric, arm=asked.arm, **names)
    # Its name is that in the config, or that in the table of figures.
    own = (
        f
        for f in every
        if asked.judge in (f.judge, f.judge.partition(" >= ")[0], figures.judges.of(f.judge, f.stage).name)
    )
    return next(own, None)


def _side(figure: Measurement) -> int | None:
    """Return 1 where a difference is surely better, -1 where it is worse, 0 where neither; ``None`` for a level."""
    metric = m.of(figure)
    way = -1 if metric.better == m.DOWN else 1
    if figure.metric == m.WIN_RATE:
        if figure.low is None or figure.high is None or figure.n < FEWEST:
            return 0
        return 1 if figure.low > 0.5 else -1 if figure.high < 0.5 else 0
    is_change = metric.of is not None or (metric.paired and bool(figure.against))
    return way * sign(figure) if is_change else None

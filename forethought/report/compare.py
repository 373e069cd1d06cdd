"""Two runs next to each other: in which keys their configs differ, then the figures that both have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType

from forethought.metrics import (
    GATE_REWARD,
    ORACLE,
    PROBE_REWARD,
    RUN,
    STAGE_SECONDS,
    UNKNOWN,
    clock_time,
    of,
    split_k,
)
from forethought.records import Measurement
from forethought.report.tables import Table
from forethought.report.values import Figures, name, text
from forethought.run.differences import changed, shown
from forethought.run.store import Run
from forethought.run.terminal import plain

SIGNIFICANT = "≠"
"""Marks two intervals that do not overlap."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A figure that both runs have."""

    left: Measurement
    right: Measurement

    @property
    def comparable(self) -> bool:
        """Whether both say the same of a text: what is rewarded above one threshold is not rewarded above another."""
        return self.left.judge == self.right.judge or not _by_threshold(self.left)

    @property
    def bounded(self) -> bool:
        """Whether both have an interval (a value that is known exactly has none), and the two compare."""
        if not self.comparable:
            return False
        ends = (self.left.low, self.left.high, self.right.low, self.right.high)
        return None not in ends and (ends[0] != ends[1] or ends[2] != ends[3])

    @property
    def significant(self) -> bool:
        """Whether both have an interval and the two do not overlap."""
        (a, b), (c, d) = ((figure.low or 0.0, figure.high or 0.0) for figure in (self.left, self.right))
        return self.bounded and (b < c or d < a)

    @property
    def judge(self) -> str:
        """The judge of both, whose thresholds may differ."""
        left, right = self.left.judge, self.right.judge
        return left if left == right else f"{left} | {right.partition(' >= ')[2]}"


def render(left: Run, right: Run, *, stages: Sequence[str] = (), significant_only: bool = False) -> RenderableType:
    """Return the comparison for the terminal.

    Args:
        left: the first run.
        right: the second run.
        stages: figures of these stages only; by default of all.
        significant_only: only figures whose intervals do not overlap.
    """
    ours, theirs = ({_key(figure): figure for figure in run.measurements()} for run in (left, right))
    pairs = [Pair(figure, theirs[key]) for key, figure in ours.items() if key in theirs]
    alone = [
        [figure for key, figure in mine.items() if key not in other] for mine, other in ((ours, theirs), (theirs, ours))
    ]
    chosen = [pair for pair in pairs if pair.left.stage != RUN and (not stages or pair.left.stage in stages)]
    listed = [pair for pair in chosen if pair.significant or not significant_only]
    a, b = left.path.resolve().name, right.path.resolve().name
    names = (a, b) if a != b else (str(left.path), str(right.path))
    configs = [(key, shown(value), shown(other)) for key, value, other in config_differences(left, right)]
    times = [
        (pair.left.subject, clock_time(pair.left.value), clock_time(pair.right.value))
        for pair in pairs
        if (pair.left.stage, pair.left.metric) == (RUN, STAGE_SECONDS)
    ]
    unknown = [
        (f"{figure.stage}: {name(figure)}", *((_value(figure), "–") if side == 0 else ("–", _value(figure))))
        for side, figures in enumerate(alone)
        for figure in Figures(figures).unknown()
    ]
    tables = [
        Table("Configs: keys that differ", ("key", *names), [*configs] or [("none", "", "")]),
        *(
            _figures(stage, [pair for pair in listed if pair.left.stage == stage], names)
            for stage in dict.fromkeys(pair.left.stage for pair in listed)
        ),
        Table("Other figures, which one run has alone", ("figure", *names), [*unknown]),
        Table("Time (h:mm:ss)", ("step", *names), [*times]),
    ]
    lines = (
        f"{sum(pair.significant for pair in chosen)} of {sum(pair.bounded for pair in chosen)} shared figures with "
        f"intervals do not overlap ({SIGNIFICANT}); some of many differ by chance, and intervals that overlap do not "
        "show that two values are equal",
        f"only in {names[0]}: {len(alone[0])} figures; only in {names[1]}: {len(alone[1])}",
    )
    return Group(*(table.rich() for table in tables if table.rows), *map(plain, lines))


def config_differences(left: Run, right: Run) -> list[tuple[str, Any, Any]]:
    """Return (dotted key, value, value) where the configs differ; without kept configs, of stages that both have."""
    kept = left.config(), right.config()
    if None not in kept:
        return changed(*kept)
    ours, theirs = (
        {f"{folder.arm}/{folder.stage}": folder.read_json("config") for folder in run.stages()} for run in (left, right)
    )
    return [row for step in ours if step in theirs for row in changed(ours[step], theirs[step], step)]


def _key(figure: Measurement) -> tuple[str, ...]:
    # Each run calibrates its own threshold, which scores do not depend on; see :attr:`Pair.comparable`.
    judge = figure.judge.partition(" >= ")[0]
    return figure.stage, figure.arm, figure.against, figure.metric, figure.condition, judge


def _by_threshold(figure: Measurement) -> bool:
    """Return whether a figure counts what reaches the threshold of its judge."""
    metric = of(figure)
    return " >= " in figure.judge and split_k(metric.of or metric)[0] in (GATE_REWARD, ORACLE, PROBE_REWARD)


def _figures(stage: str, pairs: Sequence[Pair], names: tuple[str, str]) -> Table:
    judges = {pair.judge for pair in pairs} - {""}
    single = judges.pop() if len(judges) == 1 else ""
    title = f"{stage}: figures that both have, with 95% intervals" + (f"; judge {single}" if single else "")
    table = Table(title, ("figure", *names, ""))
    arms: dict[str, list[Pair]] = {}
    for pair in pairs:
        against = f" against {pair.left.against}" if pair.left.against else ""
        arms.setdefault(pair.left.arm + against, []).append(pair)
    for arm, rows in arms.items():
        table.rows.append((arm, "", "", ""))
        for pair in rows:
            parts = filter(None, (pair.left.metric, pair.left.condition, "" if single else pair.judge))
            mark = "not comparable: thresholds differ" if not pair.comparable else SIGNIFICANT * pair.significant
            table.rows.append(("  " + ", ".join(parts), _value(pair.left), _value(pair.right), mark))
    return table


def _value(figure: Measurement) -> str:
    return f"{text(figure, UNKNOWN.level)} of {figure.n}"

"""Two runs next to each other: in which keys their configs differ, then the figures that both have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from forethought.differences import changed, shown
from forethought.metrics import RUN, STAGE_SECONDS, UNKNOWN, clock_time
from forethought.records import Measurement
from forethought.report.tables import Table
from forethought.report.values import Figures, interval, name
from forethought.store import Run

SIGNIFICANT = "≠"
"""Marks two intervals that do not overlap."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A figure that both runs have."""

    left: Measurement
    right: Measurement

    @property
    def bounded(self) -> bool:
        """Return whether both have an interval (a value that is known exactly has none)."""
        ends = (self.left.low, self.left.high, self.right.low, self.right.high)
        return None not in ends and (ends[0] != ends[1] or ends[2] != ends[3])

    @property
    def significant(self) -> bool:
        """Return whether both have an interval and the two do not overlap."""
        if not self.bounded:
            return False
        (a, b), (c, d) = ((one.low or 0.0, one.high or 0.0) for one in (self.left, self.right))
        return b < c or d < a


def pairs(left: Run, right: Run) -> tuple[list[Pair], tuple[list[Measurement], list[Measurement]]]:
    """Return the figures that both runs have, in the order of the first, and what each has alone."""
    ours, theirs = ({_key(one): one for one in run.measurements()} for run in (left, right))
    both = [Pair(one, theirs[key]) for key, one in ours.items() if key in theirs]
    alone = [one for key, one in ours.items() if key not in theirs], [o for key, o in theirs.items() if key not in ours]
    return both, alone


def render(left: Run, right: Run, *, stages: Sequence[str] = (), significant_only: bool = False) -> RenderableType:
    """Return the comparison for the terminal.

    Args:
        left: the first run.
        right: the second run.
        stages: figures of these stages only; by default of all.
        significant_only: only figures whose intervals do not overlap.
    """
    both, alone = pairs(left, right)
    chosen = [pair for pair in both if pair.left.stage != RUN and (not stages or pair.left.stage in stages)]
    listed = [pair for pair in chosen if pair.significant] if significant_only else chosen
    a, b = left.path.resolve().name, right.path.resolve().name
    names = (a, b) if a != b else (str(left.path), str(right.path))
    configs = [(key, shown(one), shown(other)) for key, one, other in config_differences(left, right)]
    times = [
        (pair.left.subject, *(clock_time(one.value) for one in (pair.left, pair.right)))
        for pair in both
        if (pair.left.stage, pair.left.metric) == (RUN, STAGE_SECONDS)
    ]
    tables = [
        Table("Configs: keys that differ", ("key", *names), [*configs] or [("none", "", "")]),
        *(
            _figures(stage, [pair for pair in listed if pair.left.stage == stage], names)
            for stage in dict.fromkeys(pair.left.stage for pair in listed)
        ),
        Table("Other figures, which one run has alone", ("figure", *names), _unknown(*alone)),
        Table("Time (h:mm:ss)", ("step", *names), [*times]),
    ]
    lines = (
        f"{sum(pair.significant for pair in chosen)} of {sum(pair.bounded for pair in chosen)} shared figures with "
        f"intervals do not overlap ({SIGNIFICANT}); some of many differ by chance, and intervals that overlap do not "
        "show that two values are equal",
        f"only in {names[0]}: {len(alone[0])} figures; only in {names[1]}: {len(alone[1])}",
    )
    return Group(*(table.rich() for table in tables if table.rows), *map(Text, lines))


def config_differences(left: Run, right: Run) -> list[tuple[str, Any, Any]]:
    """Return (dotted key, value, value) where the configs differ; without kept configs, of stages that both have."""
    kept = left.config(), right.config()
    if None not in kept:
        return changed(*kept)
    ours, theirs = (
        {f"{one.arm}/{one.stage}": one.read_json("config") for one in run.stages()} for run in (left, right)
    )
    return [row for name in ours if name in theirs for row in changed(ours[name], theirs[name], name)]


def _key(one: Measurement) -> tuple[str, ...]:
    judge = one.judge.partition(" >= ")[0]  # each run calibrates its own threshold
    return one.stage, one.arm, one.against, one.metric, one.condition, judge


def _figures(stage: str, found: Sequence[Pair], names: tuple[str, str]) -> Table:
    judges = {_judge(pair) for pair in found} - {""}
    single = judges.pop() if len(judges) == 1 else ""
    title = f"{stage}: figures that both have, with 95% intervals" + (f"; judge {single}" if single else "")
    table = Table(title, ("figure", *names, ""))
    arms: dict[str, list[Pair]] = {}
    for pair in found:
        against = f" against {pair.left.against}" if pair.left.against else ""
        arms.setdefault(pair.left.arm + against, []).append(pair)
    for arm, rows in arms.items():
        table.rows.append((arm, "", "", ""))
        for pair in rows:
            parts = filter(None, (pair.left.metric, pair.left.condition, "" if single else _judge(pair)))
            mark = SIGNIFICANT if pair.significant else ""
            table.rows.append(("  " + ", ".join(parts), _value(pair.left), _value(pair.right), mark))
    return table


def _unknown(left: Sequence[Measurement], right: Sequence[Measurement]) -> list[Sequence[str]]:
    ours = [(f"{one.stage}: {name(one)}", _value(one), "–") for one in Figures(left).unknown()]
    return [*ours, *((f"{one.stage}: {name(one)}", "–", _value(one)) for one in Figures(right).unknown())]


def _judge(pair: Pair) -> str:
    left, right = pair.left.judge, pair.right.judge
    return left if left == right else f"{left} | {right.partition(' >= ')[2]}"


def _value(one: Measurement) -> str:
    return f"{interval(one.value, one.low, one.high, UNKNOWN.level)} of {one.n}"

"""Two runs side by side: in which keys their configs differ, then the figures that both have, with their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from forethought.differences import changed, shown
from forethought.progress import clock_time
from forethought.records import Measurement
from forethought.report.cells import interval, titled
from forethought.store import Run

APART = "≠"
"""Marks two intervals that do not overlap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A figure that both runs have."""

    left: Measurement
    """Of the first run."""
    right: Measurement
    """Of the second one."""

    @property
    def bounded(self) -> bool:
        """Return whether both have an interval (a value that is known exactly has none)."""
        ends = (self.left.low, self.left.high, self.right.low, self.right.high)
        return None not in ends and (ends[0] != ends[1] or ends[2] != ends[3])

    @property
    def apart(self) -> bool:
        """Return whether both have an interval and the two do not overlap."""
        if not self.bounded:
            return False
        (a, b), (c, d) = ((one.low or 0.0, one.high or 0.0) for one in (self.left, self.right))
        return b < c or d < a


def pairs(left: Run, right: Run) -> tuple[list[Pair], tuple[int, int]]:
    """Return the figures that both runs have, in the order of the first, and how many each has alone."""
    ours, theirs = ({_key(one): one for one in run.measurements()} for run in (left, right))
    both = [Pair(left=one, right=theirs[key]) for key, one in ours.items() if key in theirs]
    return both, (len(ours) - len(both), len(theirs) - len(both))


def render(left: Run, right: Run, *, stages: Sequence[str] = (), apart: bool = False) -> RenderableType:
    """Return the comparison for the terminal.

    Args:
        left: the first run.
        right: the second run.
        stages: figures of these stages only; by default of all.
        apart: only figures whose intervals do not overlap.
    """
    both, alone = pairs(left, right)
    figures = [pair for pair in both if pair.left.stage != "run"]
    chosen = [pair for pair in figures if not stages or pair.left.stage in stages]
    listed = [pair for pair in chosen if pair.apart] if apart else chosen
    names = _names(left, right)
    tables = [_configs(left, right, names)]
    for stage in dict.fromkeys(pair.left.stage for pair in listed):
        tables.append(_figures(stage, [pair for pair in listed if pair.left.stage == stage], names))
    tables.append(_times([pair for pair in both if pair.left.stage == "run"], names))
    bounded = [pair for pair in chosen if pair.bounded]
    lines = (
        f"{sum(pair.apart for pair in chosen)} of {len(bounded)} shared figures with intervals do not overlap "
        f"({APART}); some of many differ by chance, and intervals that overlap do not show that two values are equal",
        f"only in {names[0]}: {alone[0]} figures; only in {names[1]}: {alone[1]}",
    )
    return Group(*(table for table in tables if table.row_count), *map(Text, lines))


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


def _names(left: Run, right: Run) -> tuple[str, str]:
    a, b = left.path.resolve().name, right.path.resolve().name
    return (a, b) if a != b else (str(left.path), str(right.path))


def _configs(left: Run, right: Run, names: tuple[str, str]) -> Table:
    table = titled("Configs: keys that differ")
    for column in ("key", *names):
        table.add_column(column, overflow="fold")
    for key, one, other in config_differences(left, right):
        table.add_row(key, shown(one), shown(other))
    if not table.row_count:
        table.add_row("none", "", "")
    return table


def _figures(stage: str, found: Sequence[Pair], names: tuple[str, str]) -> Table:
    judges = {_judge(pair) for pair in found} - {""}
    single = judges.pop() if len(judges) == 1 else ""
    table = titled(f"{stage}: figures that both have, with 95% intervals" + (f"; judge {single}" if single else ""))
    for column in ("figure", *names, ""):
        table.add_column(column, overflow="fold")
    arms: dict[str, list[Pair]] = {}
    for pair in found:
        one = pair.left
        arms.setdefault(f"{one.arm} against {one.against}" if one.against else one.arm, []).append(pair)
    for arm, rows in arms.items():
        table.add_row(Text(arm, style="bold"), "", "", "")
        for pair in rows:
            cells = (_value(side) for side in (pair.left, pair.right))
            parts = (pair.left.metric, pair.left.condition, "" if single else _judge(pair))
            table.add_row(
                "  " + ", ".join(filter(None, parts)), *cells, Text(APART if pair.apart else "", style="bold red")
            )
    return table


def _times(found: Sequence[Pair], names: tuple[str, str]) -> Table:
    table = titled("Time (h:mm:ss)")
    for column in ("step", *names):
        table.add_column(column)
    for pair in found:
        if pair.left.metric == "seconds":
            table.add_row(pair.left.subject, *_clock(pair))
    return table


def _judge(pair: Pair) -> str:
    left, right = pair.left.judge, pair.right.judge
    return left if left == right else f"{left} | {right.partition(' >= ')[2]}"


def _clock(pair: Pair) -> Iterator[str]:
    return (clock_time(one.value) for one in (pair.left, pair.right))


def _value(one: Measurement) -> str:
    return f"{interval(one.value, one.low, one.high, lambda value: f'{value:.3g}')} of {one.n}"

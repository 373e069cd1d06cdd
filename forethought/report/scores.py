"""Reasoning tasks: scores of every arm by task, with and without the thought interface, and paired differences."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from forethought.records import Measurement
from forethought.report.cells import percent, plain, points, signed, stacked, titled

STAGE = "reasoning"
_BITS = "gold_bits_per_byte"
_STRICT = ", strict"
"""Behind the name of a grader that takes answers in the form of the examples only."""
_NEEDED = " problems needed"


def levels(measurements: Sequence[Measurement], kind: str, task: str | None = None) -> list[Measurement]:
    """Return ``kind@k`` of every arm for the largest k, of the lenient grader, for a task or for all."""
    found = [
        one
        for one in measurements
        if one.stage == STAGE and not one.against and not one.judge.endswith(_STRICT)
        if one.metric.startswith(f"{kind}@") and one.metric.rpartition("@")[2].isdigit()
        if task in (None, task_of(one))
    ]
    most = max((int(one.metric.rpartition("@")[2]) for one in found), default=0)
    return [one for one in found if one.metric == f"{kind}@{most}"]


def task_of(one: Measurement) -> str:
    """Return the task of a figure, whose condition is ``<task>/<interface>``."""
    return one.condition.rpartition("/")[0]


def interface_of(one: Measurement) -> str:
    """Return the interface of a figure."""
    return one.condition.rpartition("/")[2]


def tables(measurements: Sequence[Measurement]) -> list[Table]:
    """Return a table for each task and one of differences; none where no task was run.

    A figure's condition is ``<task>/<interface>``; figures with ``against`` are paired differences.
    """
    found = [one for one in measurements if one.stage == STAGE and not one.metric.endswith(_NEEDED)]
    own = [one for one in found if not one.against]
    shown = [_task(task, [one for one in own if task_of(one) == task]) for task in dict.fromkeys(map(task_of, own))]
    return [*shown, *([_changes(found)] if any(one.against for one in found) else [])]


def _task(task: str, figures: Sequence[Measurement]) -> Table:
    metrics = list(dict.fromkeys(map(_name, figures)))
    shown = titled(f"{task}, with 95% intervals")
    for column in ("arm", "interface", *(metric.replace("_", " ") for metric in metrics), "problems"):
        shown.add_column(column)
    places = {(one.arm, one.condition, _name(one)): one for one in figures}
    for arm, condition in dict.fromkeys((one.arm, one.condition) for one in figures):
        row = [places.get((arm, condition, metric)) for metric in metrics]
        cells = [stacked(one, plain if one.metric == _BITS else percent) if one else "–" for one in row]
        shown.add_row(arm, condition.rpartition("/")[2], *cells, str(max(one.n for one in row if one)))
    return shown


def _changes(found: Sequence[Measurement]) -> Table:
    shown = titled("Paired differences, with 95% intervals")
    for column in ("arm", "against", "task", "interface", "figure", "difference", "problems"):
        shown.add_column(column)
    for one in found:
        if one.against:
            metric = _name(one).removesuffix(" difference")
            form = signed if metric == _BITS else points
            cells = (one.arm, one.against, task_of(one), interface_of(one), metric)
            shown.add_row(*cells, stacked(one, form), str(one.n))
    return shown


def _name(one: Measurement) -> str:
    return one.metric + (_STRICT if one.judge.endswith(_STRICT) else "")

"""Reasoning tasks: scores of every arm by task, with and without the thought interface, and paired differences."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from forethought.records import Measurement
from forethought.report.cells import percent, plain, points, signed, stacked, titled

STAGE = "reasoning"
_BITS = "gold_bits_per_byte"


def tables(measurements: Sequence[Measurement]) -> list[Table]:
    """Return a table for each task and one of differences; none where no task was run.

    A figure's condition is ``<task>/<interface>``; figures with ``against`` are paired differences.
    """
    found = [one for one in measurements if one.stage == STAGE]
    levels = [one for one in found if not one.against]
    tasks = dict.fromkeys(one.condition.partition("/")[0] for one in levels)
    shown = [_task(task, [one for one in levels if one.condition.partition("/")[0] == task]) for task in tasks]
    return [*shown, *([_changes(found)] if any(one.against for one in found) else [])]


def _task(task: str, figures: Sequence[Measurement]) -> Table:
    metrics = list(dict.fromkeys(one.metric for one in figures))
    shown = titled(f"{task}, with 95% intervals")
    for column in ("arm", "interface", *(metric.replace("_", " ") for metric in metrics), "problems"):
        shown.add_column(column)
    places = {(one.arm, one.condition, one.metric): one for one in figures}
    for arm, condition in dict.fromkeys((one.arm, one.condition) for one in figures):
        row = [places.get((arm, condition, metric)) for metric in metrics]
        cells = [stacked(one, plain if one.metric == _BITS else percent) if one else "–" for one in row]
        shown.add_row(arm, condition.partition("/")[2], *cells, str(max(one.n for one in row if one)))
    return shown


def _changes(found: Sequence[Measurement]) -> Table:
    shown = titled("Paired differences, with 95% intervals")
    for column in ("arm", "against", "task", "interface", "figure", "difference", "problems"):
        shown.add_column(column)
    for one in found:
        if one.against:
            task, _, interface = one.condition.partition("/")
            metric = one.metric.removesuffix(" difference")
            form = signed if metric == _BITS else points
            shown.add_row(one.arm, one.against, task, interface, metric, stacked(one, form), str(one.n))
    return shown

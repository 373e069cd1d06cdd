"""The tables of the reasoning benchmarks: per task and macro, how arms differ, and what the table can resolve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.table import Table

from forethought.records import Measurement
from forethought.report.cells import Format, figure, percent, plain, signed, stacked, titled
from forethought.report.midtraining import judgement
from forethought.stats import Z80, Z95

STAGE, MACRO, STRICT = "reasoning", "macro", ", strict"
BITS = "gold_bits_per_byte"

_SHORT = {
    BITS: "bits/byte of gold",
    "no_answer_rate": "no answer",
    "truncation_rate": "cut at the cap",
    "extraction_rate": "in the form asked",
}

Found = Mapping[tuple[str, str, str, str], Measurement]
"""Figures by arm, against, metric and condition; of two graders the strict one has ``", strict"`` behind its metric."""


def tables(measurements: Sequence[Measurement]) -> list[Table]:
    """Return the tables, empty where nothing was measured."""
    found: dict[tuple[str, str, str, str], Measurement] = {}
    for one in measurements:
        if one.stage == STAGE:
            strict = STRICT if one.judge.endswith(STRICT) else ""
            found[one.arm, one.against, one.metric + strict, one.condition] = one
    return [*(_scores(found, task) for task in _tasks(found)), _ends(found), _changes(found)]


def levels(measurements: Sequence[Measurement], kind: str, task: str | None = None) -> list[Measurement]:
    """Return ``kind@k`` of every arm for the largest k, of the lenient grader, for a task or for all."""
    found = [
        one
        for one in measurements
        if one.stage == STAGE and not one.against and not one.judge.endswith(STRICT)
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


def resolution(change: Measurement) -> float | None:
    """Return the smallest true difference that a comparison like this one shows four times in five.

    ``(z_0.975 + z_0.8) * standard error``, the error read off the interval's width; ``None`` without one.
    """
    if change.low is None or change.high is None or change.low == change.high:
        return None
    return (Z95 + Z80) * (change.high - change.low) / (2 * Z95)


def _tasks(found: Found) -> list[str]:
    names = list(dict.fromkeys(condition.partition("/")[0] for _, _, _, condition in found))
    tasks = [name for name in names if name != MACRO]
    return [*tasks, *([MACRO] if len(tasks) > 1 and MACRO in names else [])]


def _mean(found: Found) -> str:
    """Return the name of Mean@n, with the n of this run."""
    return next((metric for _, _, metric, _ in found if metric.startswith("mean@") and metric[5:].isdigit()), "")


def _most(found: Found, kind: str) -> str:
    """Return the metric ``kind@k`` with the largest k."""
    sizes = [
        int(metric.partition("@")[2]) for _, against, metric, _ in found if not against and metric.startswith(kind)
    ]
    return f"{kind}@{max(sizes, default=0)}"


def _scores(found: Found, task: str) -> Table:
    title = "Reasoning, macro average over tasks" if task == MACRO else f"Reasoning: {task}"
    shown = titled(f"{title}; 95% intervals over problems")
    mean = _mean(found)
    columns: tuple[tuple[str, Format], ...] = (
        (mean, percent),
        (mean + STRICT, percent),
        (_most(found, "pass"), percent),
        (_most(found, "majority"), percent),
        (BITS, plain),
    )
    _rows(shown, found, task, columns)
    return shown


def _ends(found: Found) -> Table:
    shown = titled("Reasoning: how answers ended, with 95% intervals over problems")
    columns = tuple((name, percent) for name in ("no_answer_rate", "truncation_rate", "extraction_rate"))
    for task in _tasks(found):
        if task != MACRO:
            _rows(shown, found, task, columns, named=True)
    return shown


def _rows(shown: Table, found: Found, task: str, columns: Sequence[tuple[str, Format]], *, named: bool = False) -> None:
    """Add a row for each arm and interface; the first call also names the columns."""
    if not shown.columns:
        for title in ("arm", *(["task"] if named else []), *(_SHORT.get(name, name) for name, _ in columns), "n"):
            shown.add_column(title, no_wrap=title == "arm")
    for arm, against, metric, condition in found:
        name, _, interface = condition.partition("/")
        if against or metric != _mean(found) or name != task:
            continue
        cells = [
            "–" if (one := found.get((arm, "", column, condition))) is None else stacked(one, form)
            for column, form in columns
        ]
        who = arm if interface == "plain" else f"{arm}\n  after a {interface}"
        shown.add_row(who, *([task] if named else []), *cells, str(found[arm, "", metric, condition].n))


def _changes(found: Found) -> Table:
    shown = titled("Reasoning: differences, paired by problem, with 95% intervals")
    mean = _mean(found)
    for column in ("arm", "task", mean, "bits/byte"):
        shown.add_column(column)
    tasks, last = _tasks(found), ("", "", "")
    smallest: dict[str, float] = {}
    for arm, against, metric, condition in found:
        task, _, interface = condition.partition("/")
        if not against or metric != mean or task not in tasks:
            continue
        change = found[arm, against, mean, condition]
        seen = resolution(change)
        if seen is not None and task != MACRO:
            smallest[task] = max(smallest.get(task, 0.0), seen)
        after = "" if interface == "plain" else f" after a {interface}"
        row = (arm, against, interface)
        who = f"{arm}{after}\n  against {_versus(arm, against)}" if row != last else ""
        shown.add_row(who, task, *(_change(found, (arm, against, name, condition)) for name in (mean, BITS)))
        last = row
    if smallest:
        shown.caption, shown.caption_justify = _note(mean, smallest), "left"
    return shown


def _change(found: Found, place: tuple[str, str, str, str]) -> str:
    """Return a difference over what it shows."""
    arm, against, metric, condition = place
    change = found.get(place)
    if change is None:
        return "–"
    needed = found.get((arm, against, f"{metric} problems needed", condition))
    return f"{figure(change, signed)}\n{judgement(change, needed, 'problems')}"


def _note(mean: str, smallest: Mapping[str, float]) -> str:
    """Return what the comparisons can show: the widest one of each task decides."""
    parts = ", ".join(f"{task} {100 * math.ceil(1000 * size) / 1000:.1f}" for task, size in smallest.items())
    return (
        f"Smallest true difference in {mean} that every comparison of this size shows four times in five, in points: "
        f"{parts}. Smaller ones need more problems: four times as many for half the difference."
    )


def _versus(arm: str, against: str) -> str:
    return "its own plain answers" if arm == against else against

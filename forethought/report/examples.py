"""Held-out examples side by side, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from forethought.store import Run

_PREFIX_END = 160
"""Characters of the prefix that are shown."""


def render_examples(run: Run, count: int, condition: str = "greedy") -> RenderableType:
    """Return the first ``count`` examples of every evaluated arm: prefix, original, and what both sides wrote.

    ``condition`` is shown if it was evaluated, else the first one that was.
    """
    shown: list[RenderableType] = []
    for folder in run.stages():
        if folder.stage == "evaluate-rlmt":
            shown += _thinking(list(folder.read("examples")), count)
        if folder.stage != "evaluate":
            continue
        for row in list(folder.read("examples"))[:count]:
            name = condition if condition in row["conditions"] else next(iter(row["conditions"]))
            shown += [Text(), _example(folder.arm, name, row)]
    return Group(*shown)


def _thinking(rows: Sequence[Mapping[str, Any]], count: int) -> list[RenderableType]:
    """Return what each arm thought and predicted under each condition of the probe."""
    shown: list[RenderableType] = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        for row in [one for one in rows if one["arm"] == arm][:count]:
            table = Table(title=f"{arm}, thought-use probe", title_justify="left", show_header=False, box=None)
            table.add_column(style="bold", no_wrap=True)
            table.add_column()
            table.add_row("prefix", Text("…" + row["prefix"][-_PREFIX_END:], style="dim"))
            table.add_row("original", Text(row["suffix"]))
            for condition, one in row["conditions"].items():
                table.add_row(condition, Text(f"[{one['thought'].strip()}]", style="italic") if one["thought"] else "")
                score = "unscored" if one["score"] is None else f"{one['score']:.2f}"
                table.add_row("", Text(f"{one['prediction']}  ({score})"))
            shown += [Text(), table]
    return shown


def _example(arm: str, condition: str, row: Mapping[str, Any]) -> Table:
    found = row["conditions"][condition]
    table = Table(title=f"{arm} against base, {condition}", title_justify="left", show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    prefix = row["prefix"]
    table.add_row("prefix", Text(("…" if len(prefix) > _PREFIX_END else "") + prefix[-_PREFIX_END:], style="dim"))
    table.add_row("original", Text(row["suffix"]))
    table.add_row("base", Text(found["base"]))
    table.add_row(arm, Text(found["policy"]))
    for judge, said in found["judges"].items():
        points = {None: "unscored", 1.0: f"prefers {arm}", 0.5: "tie", 0.0: "prefers base"}[said["points"]]
        scores = "" if said["policy"] is None else f" ({said['policy']:.2f} against {said['base']:.2f})"
        table.add_row("", Text(f"{judge}: {points}{scores}", style="italic"))
    return table

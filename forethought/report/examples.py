"""Held-out examples for the terminal: prefix, original, what each side wrote, and what the judges said."""

from __future__ import annotations

from collections import Counter

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from forethought.metrics import EVALUATE, EVALUATE_RLMT, GREEDY
from forethought.report.texts import DIM, THOUGHT, Item, makers
from forethought.run.store import Run

_PREFIX_END = 160
"""Characters of the prefix that are shown."""


def render_examples(run: Run, count: int, condition: str = GREEDY) -> RenderableType:
    """Return the first ``count`` examples of every evaluated arm, of a comparison under one condition.

    ``condition`` is shown if it was evaluated, else the first one that was.
    """
    shown: list[RenderableType] = []
    for folder in run.stages():
        seen: Counter[str] = Counter()
        for log, make in makers(folder.stage, {}) if folder.stage in (EVALUATE, EVALUATE_RLMT) else ():
            for row in folder.read(log):
                items = list(make(folder.arm, row))
                wanted = [item for item in items if item["where"].startswith(f"{condition},")]
                for item in (wanted or items)[:1]:
                    seen[item["arm"]] += 1
                    if seen[item["arm"]] <= count:
                        shown += [Text(), _table(item)]
    return Group(*shown)


def _table(item: Item) -> Table:
    title = f"{item['arm']}, {item['kind']}: {item['where']}"
    table = Table(title=Text(title), title_justify="left", show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column()
    for block in item["blocks"]:
        text = Text()
        for kind, piece in block["pieces"]:
            cut = kind == DIM and len(piece) > _PREFIX_END
            shown = "…" + piece[-_PREFIX_END:] if cut else f"[{piece.strip()}] " if kind == THOUGHT else piece
            text.append(shown, style={DIM: "dim", THOUGHT: "italic"}.get(kind))
        table.add_row(Text(block["label"]), text)
        if block["note"]:
            table.add_row("", Text(block["note"], style="italic"))
    return table

"""Tables and interval plots of figures: the terminal, the page and the model card are three ways to write them.

A figure of which a name is unknown and that stands in no table comes last, under "other figures".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable

from forethought import metrics as m
from forethought.metrics import Format
from forethought.records import Measurement
from forethought.report.families import FAMILIES, FIELDS, Column, Family
from forethought.report.values import Figures, judgement, name, text, trained

OTHER = "other"
"""The section of what no other section knows."""
_SUBJECT = re.compile(r"^(.*?)(?=, |; | given )")


@dataclass(slots=True)
class Table:
    """Cells of text, in which a newline starts a line of less weight."""

    title: str
    head: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    note: str = ""

    def rich(self) -> RichTable:
        """Return it for the terminal."""
        shown = RichTable(
            title=self.title,
            title_justify="left",
            title_style="bold",
            header_style="dim",
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            caption=self.note or None,
            caption_justify="left",
        )
        for column in self.head:
            shown.add_column(column, no_wrap=column == "arm", overflow="fold")
        for row in self.rows:
            shown.add_row(*row)
        return shown

    def markdown(self) -> list[str]:
        """Return its lines in Markdown."""
        rows = [self.head, ["---"] * len(self.head), *self.rows]
        lines = ["| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in row) + " |" for row in rows]
        return [f"### {self.title}", "", *lines, "", *([self.note, ""] if self.note else [])]


@dataclass(frozen=True, slots=True)
class Series:
    """Labelled figures of one interval plot, and what they are compared with."""

    title: str
    lines: Sequence[tuple[str, Measurement]]
    reference: float | None
    form: Format
    note: str


def build(measurements: Iterable[Measurement]) -> dict[str, list[Table]]:
    """Return the tables by section; what no table shows and is not registered is in the section ``other``."""
    figures, placed = Figures(measurements), set[int]()
    found: dict[str, list[Table]] = {}
    for family in FAMILIES:
        for title, group in _groups(family, figures):
            placed |= {id(figure) for figure in group}
            found.setdefault(family.section, []).append(_table(family, title, group, figures))
    if other := [figure for figure in figures.unknown() if id(figure) not in placed]:
        rows = [(one.stage, name(one), text(one), str(one.n), one.unit) for one in other]
        found[OTHER] = [Table("Other figures", ("stage", "figure", "value", "n", "unit"), [*rows])]
    return found


def plots(figures: Figures, section: str) -> Iterator[Series]:
    """Yield the interval plots of a section."""
    for family in FAMILIES:
        for title, group in _groups(family, figures) if family.section == section and family.plot else ():
            yield from _series(family, title, group)


def _groups(family: Family, figures: Figures) -> Iterator[tuple[str, list[Measurement]]]:
    """Yield title and figures of each table; of ``pass@k`` the largest k, and no average over a single task."""
    mine = [figure for figure in figures.all if family.column_of(figure)]
    largest: dict[str, int] = {}
    for figure in mine:
        largest[m.without_k(figure.metric)] = max(m.k_of(figure.metric), largest.get(m.without_k(figure.metric), 0))
    tasks = {m.task_of(figure) for figure in mine} - {m.MACRO}
    found: dict[str, list[Measurement]] = {}
    for figure in mine:
        single = family.stage == m.REASONING and m.task_of(figure) == m.MACRO and len(tasks) < 2
        if m.k_of(figure.metric) == largest[m.without_k(figure.metric)] and not single:
            names = {key: FIELDS[key][1](figure) for key in family.split.split()}
            found.setdefault(family.title.format(**names), []).append(figure)
    yield from found.items()


def _named(family: Family, group: Iterable[Measurement]) -> Iterator[tuple[Measurement, Column, tuple[str, ...]]]:
    """Yield the figures of a table by columns, with their columns and the names of their rows."""
    found = [(place, figure) for figure in group if (place := family.column_of(figure))]
    for (_, column), figure in sorted(found, key=lambda one: one[0][0]):
        yield figure, column, tuple(FIELDS[key][1](figure) for key in family.rows.split())


def _table(family: Family, title: str, group: Sequence[Measurement], figures: Figures) -> Table:
    cells: dict[tuple[str, ...], dict[str, dict[str, None]]] = {}
    counts: dict[tuple[str, ...], str] = {}
    heads: dict[str, None] = {}
    for figure, column, row in _named(family, group):
        head = {"": column.head(figure), "arm": figure.arm}.get(family.across, "value")
        heads[head] = None
        counts.setdefault(row, str(figure.n))
        # The base is measured once for each arm that is compared with it: what reads alike is written once.
        cells.setdefault(row, {}).setdefault(head, {})[_cell(family, figure, figures)] = None
    first = list(dict.fromkeys(FIELDS[family.rows.split()[0]][1](figure) for figure in group))
    order = list(cells) if family.across else sorted(cells, key=lambda row: first.index(row[0]))
    counted = family.count not in ("", "cell")
    table = Table(title, [*(FIELDS[key][0] for key in family.rows.split()), *heads, *([family.count] * counted)])
    for number, row in enumerate(order):
        again = len(row) > 1 and number > 0 and order[number - 1][0] == row[0]
        values = ("\n".join(cells[row].get(head, ("–",))) for head in heads)
        table.rows.append(("" if again else row[0], *row[1:], *values, *([counts[row]] * counted)))
    table.note = family.note(group)
    return table


def _cell(family: Family, figure: Measurement, figures: Figures) -> str:
    """Return a value over its interval, its denominator where no column has it, and what a difference shows."""
    value, bracket, ends = text(figure).partition(" [")
    of, _, estimator = figure.unit.removeprefix("share of ").partition("; ")
    kind = f" {of}" if of == "documents" or (not estimator and figure.unit.startswith("share of ")) else ""
    count = f" of {figure.n}{kind}" if family.count == "cell" else ""
    lines = [value + count, *([f"[{ends}"] if bracket else [])]
    if family.units:
        lines.append(judgement(figure, figures.needed(figure, family.units), family.units))
    if family.compared is None and figure.against:
        lines.append(f"against {figure.against}")
    return "\n".join(lines)


def _series(family: Family, title: str, group: Sequence[Measurement]) -> Iterator[Series]:
    found: dict[str, list[tuple[str, Measurement]]] = {}
    subject = match[1] if (match := _SUBJECT.match(title)) else title
    wanted = [figure for figure in group if (place := family.column_of(figure)) and place[0] in family.plot]
    for figure, column, row in _named(family, wanted):
        by = FIELDS[family.plot_by][1](figure) if family.plot_by else ""
        label = ", ".join(part for part in row if part and part != by)
        label = label.replace("\n  against ", " – ").replace("\n ", "").removeprefix(m.own_against(""))
        heading = f"{subject}: {column.head(figure)}" + (f", {by}" if by else "")
        found.setdefault(heading, []).append((label, figure))
    for heading, lines in found.items():
        metric, form = m.of(lines[0][1]), m.form(lines[0][1])
        change = form is not metric.kind.level or metric.of is not None
        notes = ["percentage points" if form is m.points else metric.kind.unit]
        if change:
            notes += {m.Better.UP: ["right of zero is better"], m.Better.DOWN: ["left of zero is better"]}.get(
                metric.better, []
            )
        notes += ["dashed: one half"] if family.reference and not change else []
        notes += ["ring: the judge trained it"] if any(trained(figure.judge) for _, figure in lines) else []
        yield Series(heading, lines, 0.0 if change else family.reference, form, "; ".join(notes))

"""Tables and interval plots of figures: the terminal, the page and the model card are three ways to write them.

A figure of which a name is unknown and that stands in no table comes last, under "other figures".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rich.box import SIMPLE_HEAD
from rich.table import Column as RichColumn
from rich.table import Table as RichTable

from forethought import metrics as m
from forethought.metrics import Format
from forethought.records import Measurement
from forethought.report.families import FAMILIES, FIELDS, Column, Family
from forethought.report.independence import Judges
from forethought.report.values import Figures, judgement, name, text
from forethought.run.terminal import plain

OTHER = "other"
"""The section of what no other section knows."""
_COMPARED = (m.EVALUATE, m.EVALUATE_SFT, m.EVALUATE_RLMT)
"""Stages whose judges say what training was good for."""
_SUBJECT = re.compile(r"^.*?(?=, |; | given |$)", re.DOTALL)

Placed = tuple[int, Column, Measurement]
"""A figure, with number and column of where it stands in a table."""


@dataclass(slots=True)
class Table:
    """Cells of text, in which a newline starts a line of less weight."""

    title: str
    head: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    note: str = ""

    def rich(self) -> RichTable:
        shown = RichTable(
            *(RichColumn(plain(title), no_wrap=title == "arm", overflow="fold") for title in self.head),
            title=plain(self.title),
            title_justify="left",
            title_style="bold",
            header_style="dim",
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            caption=plain(self.note) if self.note else None,
            caption_justify="left",
        )
        for row in self.rows:
            shown.add_row(*map(plain, row))
        return shown

    def markdown(self) -> list[str]:
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
    partial: Sequence[Measurement] = ()
    """Those whose judge had a part in what they compare."""


def build(measurements: Iterable[Measurement], judges: Judges | None = None) -> dict[str, list[Table]]:
    """Return the tables by section; what no table shows and is not registered is in the section ``other``."""
    figures, shown = Figures(measurements, judges), set[int]()
    tables: dict[str, list[Table]] = {}
    for family in FAMILIES:
        for title, group in _groups(family, figures):
            shown |= {id(figure) for *_, figure in group}
            tables.setdefault(family.section, []).append(_table(family, title, group, figures))
    if other := [figure for figure in figures.unknown() if id(figure) not in shown]:
        rows = [(figure.stage, name(figure), text(figure), str(figure.n), figure.unit) for figure in other]
        tables[OTHER] = [Table("Other figures", ("stage", "figure", "value", "n", "unit"), [*rows])]
    return tables


def plots(figures: Figures, section: str) -> Iterator[Series]:
    """Yield the interval plots of a section."""
    for family in FAMILIES:
        for title, group in _groups(family, figures) if family.section == section and family.plot else ():
            yield from _series(family, title, group, figures)


def _groups(family: Family, figures: Figures) -> Iterator[tuple[str, list[Placed]]]:
    """Yield title and figures of each table; of ``pass@k`` the largest k, and no average over a single task."""
    placed = [(*place, figure) for figure in figures.all if (place := family.column_of(figure))]
    largest: dict[str, int] = {}
    for *_, figure in placed:
        metric, k = m.split_k(figure.metric)
        largest[metric] = max(k, largest.get(metric, 0))
    single_task = family.stage == m.REASONING and len({m.task_of(figure) for *_, figure in placed} - {m.MACRO}) < 2
    groups: dict[str, list[Placed]] = {}
    for number, column, figure in placed:
        metric, k = m.split_k(figure.metric)
        if k == largest[metric] and not (single_task and m.task_of(figure) == m.MACRO):
            names = {key: FIELDS[key][1](figure) for key in family.split.split()}
            groups.setdefault(family.title.format(**names), []).append((number, column, figure))
    yield from groups.items()


def _table(family: Family, title: str, group: Sequence[Placed], figures: Figures) -> Table:
    fields = [FIELDS[key] for key in family.rows.split()]
    cells: dict[tuple[str, ...], dict[str, dict[str, None]]] = {}
    counts: dict[tuple[str, ...], str] = {}
    heads: dict[str, None] = {}
    for _, column, figure in sorted(group, key=lambda placed: placed[0]):
        row = tuple(value(figure) for _, value in fields)
        head = {"": column.head(figure), "arm": figure.arm}.get(family.across, "value")
        heads[head] = None
        counts.setdefault(row, str(figure.n))
        # The base is measured once for each arm that is compared with it: what reads alike is written once.
        cells.setdefault(row, {}).setdefault(head, {})[_cell(family, figure, figures)] = None
    # Rows of one name stand together, in the order in which the names were measured.
    first = list(dict.fromkeys(fields[0][1](figure) for *_, figure in group))
    order = list(cells) if family.across else sorted(cells, key=lambda row: first.index(row[0]))
    counted = family.count not in ("", "cell")
    table = Table(title, [*(field for field, _ in fields), *heads, *([family.count] * counted)])
    above = ""
    for row in order:
        values = ("\n".join(cells[row].get(head, ("–",))) for head in heads)
        again = len(row) > 1 and row[0] == above
        table.rows.append(("" if again else row[0], *row[1:], *values, *([counts[row]] * counted)))
        above = row[0]
    shown = [figure for *_, figure in group]
    smallest = (figures.detectable(figure) for figure in shown) if family.units else ()
    notes = [family.note([figure for figure in smallest if figure is not None]), _judged(shown, figures)]
    table.note = " ".join(filter(None, notes))
    return table


def _judged(group: Sequence[Measurement], figures: Figures) -> str:
    """Return what is known of the judges of a comparison: what they did, and share with those that trained."""
    asked = {figure.judge: figure.stage for figure in group if figure.judge and figure.stage in _COMPARED}
    known = {judge: figures.judges.of(judge, stage) for judge, stage in asked.items()}
    said = [f"{judge}: {one.text}" for judge, one in known.items() if one.known]
    return f"Judges: {'. '.join(said)}." if said else ""


def _cell(family: Family, figure: Measurement, figures: Figures) -> str:
    """Return a value over its interval, its denominator where no column has it, and what a difference shows."""
    value, bracket, ends = text(figure).partition(" [")
    of, _, estimator = figure.unit.removeprefix("share of ").partition("; ")
    kind = f" {of}" if of == "documents" or (not estimator and figure.unit.startswith("share of ")) else ""
    lines = [value + (f" of {figure.n}{kind}" if family.count == "cell" else "")]
    if bracket:
        lines.append(f"[{ends}")
    if family.units:
        lines.append(judgement(figure, figures.detectable(figure), family.units))
    if family.compared is None and figure.against:
        lines.append(f"against {figure.against}")
    return "\n".join(lines)


def _series(family: Family, title: str, group: Sequence[Placed], figures: Figures) -> Iterator[Series]:
    subject = _SUBJECT.findall(title)[0]
    plotted: dict[str, list[tuple[str, Measurement]]] = {}
    for number, column, figure in sorted(group, key=lambda placed: placed[0]):
        if number in family.plot:
            by = FIELDS[family.plot_by][1](figure) if family.plot_by else ""
            names = (FIELDS[key][1](figure) for key in family.rows.split())
            label = ", ".join(part for part in names if part and part != by)
            label = label.replace("\n  against ", " – ").replace("\n ", "").removeprefix(m.own_against(""))
            heading = f"{subject}: {column.head(figure)}" + (f", {by}" if by else "")
            plotted.setdefault(heading, []).append((label, figure))
    for heading, lines in plotted.items():
        metric, form = m.of(lines[0][1]), m.form(lines[0][1])
        change = form is not metric.kind.level or metric.of is not None
        notes = ["percentage points" if form is m.points else metric.kind.unit]
        if change and metric.better:
            notes.append(f"{'right' if metric.better == m.UP else 'left'} of zero is better")
        if family.reference and not change:
            notes.append("dashed: one half")
        if family.split == "judge":
            notes.append(f"by {lines[0][1].judge}")
        partial = [figure for _, figure in lines if figure.judge and not figures.independent(figure)]
        if partial and metric.stages != (m.AUDIT,):
            notes.append("ring: the judge had a part in its training")
        yield Series(heading, lines, 0.0 if change else family.reference, form, "; ".join(notes), partial)

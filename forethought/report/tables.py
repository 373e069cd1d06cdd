"""Tables of figures, specified once: the terminal, the page and the model card are three ways to write them.

A figure of which a name is unknown and that stands in no table comes last, under "other figures".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable

from forethought import metrics as m
from forethought.metrics import Metric
from forethought.records import Measurement
from forethought.report.values import Figures, judgement, name, resolution, text

OTHER = "other"
"""The section of what no other section knows."""


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
        lines = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
        return [f"### {self.title}", "", *lines, "", *([self.note, ""] if self.note else [])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Which figures stand in a column; ``condition`` and ``strict`` narrow the metric down."""

    metric: Metric
    title: str = ""
    condition: str | None = None
    strict: bool = False

    def holds(self, figure: Measurement) -> bool:
        """Return whether a figure belongs here; of ``pass@k`` all k do."""
        same = self.metric in (figure.metric, m.without_k(figure.metric))
        return same and self.condition in (None, figure.condition) and figure.judge.endswith(m.STRICT) == self.strict


_FIELDS: dict[str, tuple[str, Callable[[Measurement], str]]] = {
    "arm": ("arm", lambda one: one.arm),
    "pair": ("arm", lambda one: f"{one.arm}\n  against {one.against}"),
    "both": ("", lambda one: " and ".join(sorted((one.arm, one.against)))),
    "against": ("against", lambda one: one.against),
    "condition": ("condition", lambda one: one.condition),
    "judge": ("judge", lambda one: one.judge),
    "metric": ("figure", lambda one: m.of(one).label),
    "task": ("task", lambda one: m.task_of(one)),
    "of task": ("", lambda one: ", average over tasks" if m.task_of(one) == m.MACRO else f": {m.task_of(one)}"),
    "answers": ("arm", lambda one: one.arm + _after(one)),
    "compared": ("arm", lambda one: f"{one.arm}{_after(one)}\n  against {_versus(one)}"),
}
"""What names a row or a table: title, and the text for a figure."""


def _after(figure: Measurement) -> str:
    interface = m.interface_of(figure)
    return "" if interface == m.PLAIN else f"\n  after a {interface}"


def _versus(figure: Measurement) -> str:
    return "its own plain answers" if figure.arm == figure.against else figure.against


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A kind of table: which figures, what names its rows, and what stands in its columns."""

    section: str
    stages: tuple[str, ...]
    title: str
    """May hold names of ``split`` in braces."""
    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    split: tuple[str, ...] = ()
    """A table for each value of these."""
    across: str = ""
    """What the columns are, if not ``columns``, which then are in the rows."""
    compared: bool | None = False
    """Whether figures against another arm are meant; ``None`` means both."""
    count: str = ""
    """Title of a column of denominators; ``cell`` puts them in the cells."""
    units: str = ""
    """What differences are paired by: then cells say what they show."""
    note: Callable[[Sequence[Measurement]], str] = lambda figures: ""

    def holds(self, figure: Measurement) -> bool:
        """Return whether a figure is meant."""
        return (
            figure.stage in self.stages
            and self.compared in (None, bool(figure.against))
            and any(column.holds(figure) for column in self.columns)
        )


def _columns(*metrics: Metric, **names: str) -> tuple[Column, ...]:
    return tuple(Column(metric=metric, **names) for metric in metrics)  # type: ignore[arg-type]


def _nll(change: bool) -> tuple[Column, ...]:
    """Return the columns of NLL by kind of token."""
    wanted = [(kind, kind, m.PER_TOKEN) for kind in m.NLL]
    wanted.insert(3, ("both, mean of rows", m.TAGGED, m.PER_ROW))
    return tuple(
        Column(
            metric=m.NLL[kind].change if change else m.NLL[kind],
            title="both" if title == m.TAGGED else title,
            condition=condition,
        )
        for title, kind, condition in wanted
    )


def _resolves(figures: Sequence[Measurement]) -> str:
    """Return what comparisons of tasks can show: the widest one of each task decides."""
    smallest: dict[str, float] = {}
    for figure in figures:
        task, size = m.task_of(figure), resolution(figure)
        if m.without_k(figure.metric) == m.MEAN and task != m.MACRO and size is not None:
            smallest[task] = max(smallest.get(task, 0.0), size)
    parts = ", ".join(f"{task} {100 * math.ceil(1000 * size) / 1000:.1f}" for task, size in smallest.items())
    return parts and (
        f"Smallest true difference in the mean that every comparison of this size shows four times in five, in points: "
        f"{parts}. Smaller ones need more problems: four times as many for half the difference."
    )


_SFT, _GATE, _ANSWERS = (m.EVALUATE_SFT,), (m.EVALUATE_RLMT,), (m.REASONING,)
_SIDES = _columns(m.ENTROPY, m.REPETITION, m.DISTINCT, m.CHARACTERS)
_GATE_CHANGES = _columns(m.GATE_REWARD.difference, m.GATE_SCORE.difference)
_PROBE = (m.PROBE_REWARD, m.PROBE_SCORE, m.PROBE_GAIN)
_AFTER = (m.OWN, m.TEACHER)


def _comparisons(section: str, stage: str) -> tuple[Family, ...]:
    title = "{arm} against {against}, held-out: prefixes won, ties half, with 95% intervals"
    wins = _columns(m.WIN_RATE, m.TIE_RATE, m.SIGN_TEST, m.UNSCORED_RATE)
    split, ways = ("arm", "against"), ("condition", "judge")
    matching = _columns(m.MATCHING_TEMPERATURE, m.ENTROPY_GAP)
    sides = "What both wrote: {both}, means per text with 95% intervals"
    return (
        Family(section=section, stages=(stage,), title=title, rows=ways, columns=wins, split=split, compared=True,
               count="cell"),
        Family(section=section, stages=(stage,), title=sides, rows=("condition", "arm"), columns=_SIDES,
               split=("both",), compared=True, count="texts"),
        Family(section=section, stages=(stage,), title="Entropy matching: the base's temperature, and what is left",
               rows=("pair", "condition"), columns=matching, compared=True, count="texts"),
    )  # fmt: skip


FAMILIES: tuple[Family, ...] = (
    *_comparisons("improve", m.EVALUATE),
    Family(section="improve", stages=(m.EVALUATE,), compared=None, count="suffixes", rows=("arm",),
           title="Suffix NLL on held-out text, nats per token, with 95% intervals",
           columns=_columns(m.SUFFIX_NLL, m.SUFFIX_NLL_CHANGE)),
    *_comparisons("sft", m.EVALUATE_SFT),
    Family(section="sft", stages=(m.INTERLEAVE,), rows=("metric", "condition"), across="arm", count="cell",
           title="Thoughts beside the text, with 95% intervals; no two splits share a document",
           columns=_columns(m.ROWS, m.EXACT, m.PLACES, m.WORDS, m.POSITION, m.ACCEPTED, m.LEAK_RATE, m.KEPT_LEAK,
                            m.REJECTED, m.DROPPED)),
    Family(section="sft", stages=_SFT, rows=("arm",), columns=_nll(change=False), count="rows",
           title="NLL on held-out rows by kind of token, nats per token, with 95% intervals"),
    Family(section="sft", stages=_SFT, rows=("pair",), columns=_nll(change=True), compared=True,
           title="What changed, paired by row, nats per token, with 95% intervals"),
    Family(section="sft", stages=_SFT, rows=("arm",), count="cell",
           title="Free continuations of held-out prefixes: what becomes of the tags, with 95% intervals",
           columns=_columns(m.OPENS, m.WELL_FORMED, m.CLOSES, m.CLOSES_WHEN_ASKED)),
    Family(section="sft", stages=_SFT, rows=("arm",), title="NLL of the text after a place, given a thought there or "
           "none, nats per token, with 95% intervals", columns=(
               *(Column(metric=m.NEXT_TEXT, title=one, condition=one) for one in (m.NOTHING, *_AFTER)),
               *(Column(metric=m.NEXT_TEXT.change, title=f"{one} less {m.NOTHING}", condition=m.against_nothing(one))
                 for one in _AFTER))),
    Family(section="rlmt", stages=(m.CALIBRATE,), rows=("judge",), count="cell",
           title="Match judge: what reaches its threshold on held-out text, with 95% intervals",
           columns=_columns(m.THRESHOLD, m.BASE_PASSES, m.UNRELATED_PASSES)),
    Family(section="rlmt", stages=_GATE, rows=("arm",), count="windows",
           title="Reward gate: all arms on the same held-out windows, with 95% intervals",
           columns=_columns(m.GATE_REWARD, m.ORACLE, m.GATE_SCORE, m.CLOSE_RATE, m.THOUGHT_TOKENS, m.GATE_UNSCORED)),
    Family(section="rlmt", stages=_GATE, rows=("pair",), columns=_GATE_CHANGES, compared=True, units="windows",
           title="Reward gate: differences, paired by window, with 95% intervals"),
    Family(section="rlmt", stages=_GATE, rows=("arm", "condition"), columns=_columns(*_PROBE, m.PROBE_COPIED),
           title="Thought-use probe: what stands between prefix and suffix, with 95% intervals"),
    Family(section="rlmt", stages=_GATE, rows=("arm", "condition"), units="windows",
           title="Thought-use probe: own thoughts against each condition, paired by window, with 95% intervals",
           columns=_columns(*(one.difference for one in _PROBE))),
    Family(section="rlmt", stages=_GATE, rows=("pair",), compared=True, units="windows",
           title="Thought-use probe: what training changed, nats per token, paired by window, with 95% intervals",
           columns=(Column(metric=m.PROBE_GAIN.difference, title="gain of own thoughts", condition=m.OWN),
                    Column(metric=m.PROBE_SPECIFIC.difference))),
    Family(section="reasoning", stages=_ANSWERS, rows=("answers",), split=("of task",), count="n",
           title="Reasoning{of task}; 95% intervals over problems",
           columns=(Column(metric=m.MEAN), Column(metric=m.MEAN, strict=True), Column(metric=m.PASS),
                    Column(metric=m.MAJORITY), Column(metric=m.GOLD_BITS))),
    Family(section="reasoning", stages=_ANSWERS, rows=("answers", "task"), count="n",
           title="Reasoning: how answers ended, with 95% intervals over problems",
           columns=_columns(m.NO_ANSWER, m.TRUNCATED, m.EXTRACTED)),
    Family(section="reasoning", stages=_ANSWERS, rows=("compared", "task"), compared=True, units="problems",
           title="Reasoning: differences, paired by problem, with 95% intervals",
           columns=_columns(m.MEAN, m.GOLD_BITS), note=_resolves),
    Family(section="judges", stages=(m.AUDIT,), rows=("judge", "metric", "condition"), across="stage", count="cell",
           title="Audit of the judges, shares with 95% intervals",
           columns=_columns(m.ACCURACY, m.AUDIT_UNSCORED, m.CONSISTENCY, m.FIRST_POSITION, m.TIES, m.LENGTH_BIAS)),
    Family(section="run", stages=(m.RUN,), rows=("condition", "arm"), columns=_columns(m.STAGE_SECONDS, m.PEAK_MEMORY),
           title="By stage: time since it was last started, and peak memory of the process so far"),
)  # fmt: skip


def build(measurements: Iterable[Measurement]) -> dict[str, list[Table]]:
    """Return the tables by section; what no table shows and is not registered is in the section ``other``."""
    figures, placed = Figures(measurements), set[int]()
    found: dict[str, list[Table]] = {}
    for family in FAMILIES:
        for table in _tables(family, figures, placed):
            found.setdefault(family.section, []).append(table)
    if other := [figure for figure in figures.unknown() if id(figure) not in placed]:
        found[OTHER] = [others(other)]
    return found


def others(figures: Iterable[Measurement]) -> Table:
    """Return figures as they are, with all their names."""
    rows = [(one.stage, name(one), text(one), str(one.n), one.unit) for one in figures]
    return Table("Other figures", ("stage", "figure", "value", "n", "unit"), list(rows))


def _tables(family: Family, figures: Figures, placed: set[int]) -> Iterator[Table]:
    groups: dict[tuple[str, ...], list[Measurement]] = {}
    mine = _largest_k([figure for figure in figures.all if family.holds(figure)])
    for figure in mine:
        groups.setdefault(tuple(_FIELDS[name][1](figure) for name in family.split), []).append(figure)
    for key, group in groups.items():
        placed |= {id(figure) for figure in group}
        yield _table(family, family.title.format(**dict(zip(family.split, key, strict=True))), group, figures)


def _largest_k(figures: list[Measurement]) -> list[Measurement]:
    """Return the figures without ``pass@k`` of smaller k, and without the average over a single task."""
    largest: dict[str, int] = {}
    for figure in figures:
        largest[m.without_k(figure.metric)] = max(m.k_of(figure.metric), largest.get(m.without_k(figure.metric), 0))
    tasks = {m.task_of(figure) for figure in figures} - {m.MACRO}
    return [
        figure
        for figure in figures
        if m.k_of(figure.metric) == largest[m.without_k(figure.metric)]
        if figure.stage != m.REASONING or len(tasks) > 1 or m.task_of(figure) != m.MACRO
    ]


def _table(family: Family, title: str, group: Sequence[Measurement], figures: Figures) -> Table:
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    counts: dict[tuple[str, ...], int] = {}
    heads: dict[str, None] = {}
    for column in family.columns:
        for figure in filter(column.holds, group):
            metric = m.of(figure)
            plain = column.title or (metric.label + m.STRICT if column.strict else metric.label)
            head = {"": plain, "arm": figure.arm}.get(family.across, "value")
            heads[head] = None
            row = tuple(_FIELDS[name][1](figure) for name in family.rows)
            counts.setdefault(row, figure.n)
            there = cells.setdefault(row, {})
            cell = _cell(family, figure, figures)
            if cell not in there.get(head, ""):  # the base is measured once for each arm that is compared with it
                there[head] = "\n".join(filter(None, (there.get(head), cell)))
    order = list(cells) if family.across else sorted(cells, key=_order(family, group).__getitem__)
    counted = family.count not in ("", "cell")
    table = Table(title, [*(_FIELDS[name][0] for name in family.rows), *heads, *([family.count] * counted)])
    last = ""
    for row in order:
        first = row[0] if row[0] != last or len(row) == 1 else ""
        values = (cells[row].get(head, "–") for head in heads)
        table.rows.append((first, *row[1:], *values, *([str(counts[row])] * counted)))
        last = row[0]
    table.note = family.note(group)
    return table


def _order(family: Family, group: Sequence[Measurement]) -> dict[tuple[str, ...], int]:
    """Return the place of each row: rows of one first name stand together, otherwise as they were measured."""
    keys = dict.fromkeys(tuple(_FIELDS[name][1](figure) for name in family.rows) for figure in group)
    firsts = list(dict.fromkeys(key[0] for key in keys))
    ranked = sorted(keys, key=lambda key: firsts.index(key[0]))
    return {key: number for number, key in enumerate(ranked)}


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

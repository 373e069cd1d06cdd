"""The tables of stage 2: the data set, NLL by kind of token, and what the arms do with thoughts."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from forethought.records import Measurement
from forethought.report.cells import Format, figure, percent, plain, short, signed, stacked, titled
from forethought.thoughts.article import ARTICLE

_DATA: tuple[tuple[str, str, Format], ...] = (
    ("rows", "rows", lambda value: f"{value:.0f}"),
    ("exact_preservation", "text spans join to the raw chunk", percent),
    ("places_per_row", "thoughts per row", short),
    ("words_per_thought", "words per thought", short),
    ("relative_position", "text before a thought", percent),
    ("accepted", "offered thoughts that were kept", percent),
    ("leak_rate", "offered thoughts that quote the coming text", percent),
    ("kept_leak", "3-grams of kept thoughts that only the coming text has", percent),
)
_COLUMNS = (
    ("thought", "thought", "per token"),
    ("tag", "tag", "per token"),
    ("both", "thought with tags", "per token"),
    ("both, mean of rows", "thought with tags", "per row"),
    ("text", "text", "per token"),
    ("raw text", "raw text", "per token"),
)
"""Title, kind of token, and what the mean is over."""


def tables(measurements: Sequence[Measurement]) -> list[Table]:
    """Return the tables, empty where nothing was measured."""
    found = [one for one in measurements if one.stage == "evaluate-sft"]
    return [_data(measurements), _levels(found), _changes(found), _habits(found), _use(found)]


def _data(measurements: Sequence[Measurement]) -> Table:
    found = {(one.metric, one.arm): one for one in measurements if one.stage == "interleave" and not one.condition}
    splits = list(dict.fromkeys(arm for _, arm in found))
    shown = titled("Thoughts beside the text, with 95% intervals; no two splits share a document")
    for column in ("figure", *splits, "the article"):
        shown.add_column(column)
    for metric, title, form in _DATA:
        cells = [_cell(found.get((metric, split)), form) for split in splits]
        if any(cells):
            shown.add_row(title, *cells, ARTICLE.get(metric, ""))
    for kind, of in (("rejected", "offered"), ("dropped", "chunks")):
        reasons = {
            (one.condition, one.arm): one
            for one in measurements
            if one.stage == "interleave" and one.metric == kind and one.condition
        }
        for reason in dict.fromkeys(reason for reason, _ in reasons):
            cells = [_cell(reasons.get((reason, split)), percent) for split in splits]
            shown.add_row(
                f"{kind}, of {of}: {reason}", *cells, ARTICLE.get("malformed", "") if "malf" in reason else ""
            )
    return shown


def _levels(found: Sequence[Measurement]) -> Table:
    shown = _of_arms("NLL on held-out rows by kind of token, nats per token, with 95% intervals", _COLUMNS, "rows")
    places = {(one.arm, one.condition, one.metric): one for one in found if not one.against}
    for arm in dict.fromkeys(one.arm for one in found if one.metric == "thought NLL"):
        cells = [places.get((arm, counted, f"{kind} NLL")) for _, kind, counted in _COLUMNS]
        shown.add_row(arm, *(_stacked(one, plain) for one in cells), next(str(one.n) for one in cells if one))
    return shown


def _changes(found: Sequence[Measurement]) -> Table:
    shown = _of_arms("What changed, paired by row, nats per token, with 95% intervals", _COLUMNS)
    places = {(one.arm, one.against, one.condition, one.metric): one for one in found if one.against}
    for arm, against in dict.fromkeys((one.arm, one.against) for one in found if one.metric == "thought NLL change"):
        cells = [places.get((arm, against, counted, f"{kind} NLL change")) for _, kind, counted in _COLUMNS]
        shown.add_row(f"{arm}\n  against {against}", *(_stacked(one, signed) for one in cells))
    return shown


def _of_arms(title: str, columns: Sequence[tuple[str, ...]], *more: str) -> Table:
    shown = titled(title)
    shown.add_column("arm", no_wrap=True)
    for column in (*(column[0] for column in columns), *more):
        shown.add_column(column)
    return shown


def _habits(found: Sequence[Measurement]) -> Table:
    names = ("opens", "well-formed", "closes", "closes when asked")
    title = "Free continuations of held-out prefixes: what becomes of the tags, with 95% intervals"
    shown = _of_arms(title, [(name,) for name in names])
    places = {(one.arm, one.metric): one for one in found}
    for arm in dict.fromkeys(one.arm for one in found if one.metric in names):
        cells = [places.get((arm, name)) for name in names]
        shown.add_row(arm, *(f"{_stacked(one, percent)}\nof {one.n}" if one else "–" for one in cells))
    return shown


def _use(found: Sequence[Measurement]) -> Table:
    names = ("none", "own thought", "teacher's thought")
    title = "NLL of the text after a place, given a thought there or none, nats per token, with 95% intervals"
    shown = _of_arms(title, [(name,) for name in (*names, "own - none", "teacher's - none")])
    places = {(one.arm, one.metric, one.condition): one for one in found}
    for arm in dict.fromkeys(one.arm for one in found if one.metric == "next-text NLL"):
        levels = [places.get((arm, "next-text NLL", name)) for name in names]
        gains = [places.get((arm, "next-text NLL change", f"{name} against none")) for name in names[1:]]
        shown.add_row(arm, *(_stacked(one, plain) for one in levels), *(_stacked(one, signed) for one in gains))
    return shown


def _cell(one: Measurement | None, form: Format) -> str:
    return f"{figure(one, form)}\nof {one.n}" if one else ""


def _stacked(one: Measurement | None, form: Format) -> str:
    return stacked(one, form) if one else "–"

"""``report.html``: a run as one page that needs no network, for reading, printing and a phone.

What models and corpora wrote is never markup here: the template escapes, texts for the browser are JSON in a script
element that is not executed, and a content security policy allows this page's own style sheet and script only.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from rich.table import Table

from forethought import __version__
from forethought.progress import clock_time
from forethought.records import Measurement
from forethought.report import answer, article, sections, texts
from forethought.report.cells import Format, Shown, percent, short, shown, stack, titled
from forethought.report.diagram import diagram
from forethought.report.facts import machines, scheduled
from forethought.report.found import Found
from forethought.report.summary import Trend, read_curves, trend, write_summary
from forethought.report.svg import Styles
from forethought.store import Run, atomic_write

NAME = "report.html"
"""Its file in the run folder."""

_ORDER = "sample judge reference update monitor checkpoint"
_NUMBER = re.compile(r"[-+\N{MINUS SIGN}]?\d|–$")
_SAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A cell of a table."""

    lines: tuple[str, ...]
    """What stands in it, line by line."""
    numeric: bool
    """Whether its column is one of numbers."""


def write_page(run: Run) -> Path:
    """Write ``report.html`` and ``summary.json`` of ``run`` and return the path of the page."""
    summary = write_summary(run)
    path = run.path / NAME
    atomic_write(path, render(run, summary).encode("utf-8", "replace"))
    return path


def render(run: Run, summary: Mapping[str, Any]) -> str:
    """Return the page; every figure on it is in ``summary``."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("forethought.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = Markup  # made by svg.py, whose texts ElementTree has escaped
    environment.globals["cells"] = cells
    found, curves, styles = Found(run.measurements()), read_curves(run), Styles()
    states = {(folder.arm, folder.stage): folder.done for folder in run.stages()}
    parts = sections.build(found, curves, styles)
    css, script = _asset("page.css") + "\n" + styles.css, _asset("page.js")
    return environment.get_template("page.html.j2").render(
        about=about(run, summary),
        sentences=answer.answer(found),
        article=[(row, _ours(row, curves)) for row in article.table(found)],
        sources=article.SOURCES,
        diagrams=[diagram(found, states), diagram(found, states, tall=True)],
        sections=parts,
        cost=cost_tables(summary["cost"], found),
        elsewhere=summary["cost"]["elsewhere"],
        css=Markup(css),
        script=Markup(script),
        policy=security(css, script),
        data=Markup(embedded(texts.collect(run))),
        Shown=Shown,
    )


def embedded(value: Any) -> str:
    """Return ``value`` as JSON that cannot end a script element, whatever it holds."""
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character, escape in _SAFE.items():
        data = data.replace(character, escape)
    return data


def security(css: str, script: str) -> str:
    """Return the content security policy: nothing but this style sheet, this script, and images that stand here."""
    style, code = (_hash(text) for text in (css, script))
    return (
        f"default-src 'none'; style-src '{style}'; script-src '{code}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def cells(table: Table) -> list[list[Cell]]:
    """Return the cells of a terminal table by row, the headers first."""
    columns = []
    for column in table.columns:
        lines = [stack(str(cell)).split("\n") for cell in column.cells]
        numeric = sum(bool(_NUMBER.match(cell[0])) for cell in lines) * 2 > len(lines)
        columns.append([Cell(lines=tuple(cell), numeric=numeric) for cell in ([str(column.header)], *lines)])
    return [list(row) for row in zip(*columns, strict=True)]


def about(run: Run, summary: Mapping[str, Any]) -> dict[str, str]:
    """Return what stands under the heading: names, by what they are names of."""
    configs: Mapping[str, Any] = summary["config"]
    chunk = configs.get("shared/chunk") or {}
    improve = configs.get("self-improved/improve") or {}
    finished = [one["finished"] for one in summary["durations"].values() if one["finished"]]
    corpus = chunk.get("corpus") or {}
    known = {
        "run": run.path.resolve().name,
        "policy": (chunk.get("policy") or {}).get("model"),
        "text": " ".join(filter(None, (corpus.get("source"), corpus.get("path")))),
        "judge while training": ", ".join(improve.get("judges") or []),
        "schedule": scheduled(run),
        "computed in": "; ".join(machines(run)),
        "last stage done": max(finished).replace("T", " ")[:16] + " UTC" if finished else "",
        "forethought": __version__,
    }
    return {name: str(value) for name, value in known.items() if value}


def cost_tables(cost: Mapping[str, Any], found: Found) -> list[Table]:
    """Return what every stage and phase took."""
    stages = titled("By stage: time since it was last started, and peak memory of the process so far")
    for column in ("stage", "arm", "time, h:mm:ss", "peak memory"):
        stages.add_column(column)
    for one in found.some("run", "seconds"):
        peak = found.one("run", one.arm, "peak_memory_bytes", condition=one.condition)
        memory = f"{peak.value / 2**30:.2f} GiB" if peak else "–"
        stages.add_row(one.condition, one.arm, clock_time(one.value), memory)
    tables = [_phases(cost["phases"]), stages, *_elsewhere(cost)]
    return [table for table in tables if table.row_count]


def _phases(phases: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    names = sorted({name for some in phases.values() for name in some}, key=lambda name: (_ORDER.find(name), name))
    table = titled("Training by phase: time as h:mm:ss, tokens, verdicts")
    for column in ("arm", *names):
        table.add_column(column)
    for arm, some in phases.items():
        table.add_row(arm, *(_phase(some[name]) if name in some else "–" for name in names))
    return table


def _phase(phase: Mapping[str, float]) -> str:
    counts = (f"\n{phase[key]:,.0f} {key}" for key in ("tokens", "verdicts") if key in phase)
    return clock_time(phase["seconds"]) + "".join(counts)


def _elsewhere(cost: Mapping[str, Any]) -> list[Table]:
    if not cost["elsewhere"]:
        return []
    table = titled("Elsewhere, estimated: the training phases above")
    for column in ("hardware", "time, h:mm:ss"):
        table.add_column(column)
    table.add_row("here, measured", clock_time(cost["elsewhere"]["seconds_here"]))
    for name, seconds in cost["elsewhere"]["seconds"].items():
        table.add_row(name, clock_time(seconds))
    return [table]


def _ours(row: article.Row, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, Shown]]:
    """Return this run's figures for a row, from measurements or from both ends of a training curve."""
    ours = list(row.ours)
    for arm, steps in curves.items():
        if row.curve and (ends := trend(steps, row.curve)):
            ours += _ends(arm, row.curve, ends)
    return ours


def _ends(arm: str, key: str, ends: Trend) -> list[tuple[str, Shown]]:
    form: Format = percent if key.endswith("rate") else short
    stage, _, metric = key.partition("/")
    found = []
    for name, end in (("first", ends.first), ("last", ends.last)):
        measured = Measurement(
            stage=stage,
            arm=arm,
            metric=metric,
            condition=f"{name} steps",
            value=end.value,
            low=end.low,
            high=end.high,
            n=end.n,
            unit="steps; bootstrap over steps",
            subject=f"{arm}/{stage}/metrics.jsonl",
        )
        found.append((f"{arm}, {name} steps", shown(measured, form)))
    return found


def _asset(name: str) -> str:
    return (resources.files("forethought.report") / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"

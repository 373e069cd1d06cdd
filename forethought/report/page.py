"""``report.html``: a run as one page that needs no network, for reading, printing and a phone.

What models and corpora wrote is never markup here: the template escapes, drawings are images, and texts for the browser
are JSON in a script element that is not executed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forethought import __version__
from forethought.graph import arm_of
from forethought.metrics import clock_time
from forethought.report import answer, article, drawing, primary, tables, texts
from forethought.report.curves import Curves, chosen, read_curves, section_of
from forethought.report.diagram import boxes
from forethought.report.facts import machines, schedule_line
from forethought.report.independence import judges_of
from forethought.report.status import states
from forethought.report.summary import tables_by_section, write_summary
from forethought.report.tables import Table
from forethought.report.values import Figures
from forethought.run.files import atomic_write
from forethought.run.store import Run
from forethought.text import printable

NAME = "report.html"
"""Its file in the run folder."""

_ORDER = "sample judge reference update monitor checkpoint"
_NUMBER = re.compile(r"[-+\N{MINUS SIGN}]?\d|–$")


def write_page(run: Run) -> Path:
    """Write ``report.html`` and ``summary.json`` of ``run`` and return the path of the page."""
    summary = write_summary(run)
    path = run.path / NAME
    atomic_write(path, render(run, summary).encode("utf-8", "replace"))
    return path


def render(run: Run, summary: Mapping[str, Any]) -> str:
    """Return the page; every figure on it is in ``summary``."""
    figures, curves = Figures(run.measurements(), judges_of(run)), read_curves(run)
    endpoint = primary.primary(figures, run.primary_is_late())
    return fill(
        "page.html.j2",
        about=about(run, summary),
        primary=endpoint,
        exploratory=primary.NONE_NAMED if endpoint is None else primary.OTHERS,
        sentences=answer.answer(figures),
        article=[(row, row.values(figures, curves)) for row in article.ROWS],
        sources=article.SOURCES,
        diagram=boxes(figures, states(run)),
        sections=sections(figures, curves),
        cost=[*cost_tables(summary["cost"]), *tables_by_section(figures.all, {}).get("run", [])],
        elsewhere=summary["cost"]["elsewhere"],
        data=texts.collect(run),
    )


def fill(template: str, **values: Any) -> str:
    """Return a template with ``values`` in it, which are escaped in HTML; what may not be shown is replaced."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("forethought.report"),
        autoescape=template.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.tests["number"] = lambda cell: bool(_NUMBER.match(cell))
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return printable(environment.get_template(template).render(values))


def sections(figures: Figures, curves: Curves) -> dict[str, dict[str, Any]]:
    """Return ``tables``, ``curves``, ``plots``, and ``lineages`` for the legend, by section, without empty ones."""
    return {
        name: {
            "tables": section,
            "curves": [
                image
                for curve in chosen(curves)
                if curve.plot and section_of([curve.key]) == name
                if (image := drawing.curve(curve, curves)) is not None
            ],
            "plots": [drawing.intervals(series) for series in tables.plots(figures, name)],
            "lineages": dict.fromkeys(
                arm_of(arm).lineage or "other"
                for arm, rows in curves.items()
                if section_of(itertools.chain.from_iterable(rows)) == name
            ),
        }
        for name, section in tables_by_section(figures.all, curves, figures.judges).items()
    }


def about(run: Run, summary: Mapping[str, Any]) -> dict[str, str]:
    """Return what stands under the heading: names, by what they are names of."""
    chunk = summary["config"].get("shared/chunk") or {}
    improve = summary["config"].get("self-improved/improve") or {}
    last = max((times["finished"] for times in summary["durations"].values()), default="")
    corpus = chunk.get("corpus") or {}
    known = {
        "run": run.path.resolve().name,
        "policy": (chunk.get("policy") or {}).get("model"),
        "text": " ".join(filter(None, (corpus.get("source"), corpus.get("path")))),
        "judge while training": ", ".join(improve.get("judges") or []),
        "schedule": schedule_line(run),
        "computed in": "; ".join(machines(run)),
        "last stage done": last and last.replace("T", " ")[:16] + " UTC",
        "forethought": __version__,
    }
    return {name: str(value) for name, value in known.items() if value}


def cost_tables(cost: Mapping[str, Any]) -> list[Table]:
    """Return what every phase of training took, and an estimate for other hardware."""
    names = {name for phases in cost["phases"].values() for name in phases}
    order = sorted(names, key=lambda name: (_ORDER.find(name), name))
    table = Table("Training by phase: time as h:mm:ss, tokens, verdicts", ("arm", *order))
    for arm, phases in cost["phases"].items():
        cells = []
        for name in order:
            phase = phases.get(name)
            counts = [f"{phase[key]:,.0f} {key}" for key in ("tokens", "verdicts") if key in phase] if phase else []
            cells.append("\n".join([clock_time(phase["seconds"]), *counts]) if phase else "–")
        table.rows.append((arm, *cells))
    elsewhere = Table("Elsewhere, estimated: the training phases above", ("hardware", "time, h:mm:ss"))
    if cost["elsewhere"]:
        seconds = {"here, measured": cost["elsewhere"]["seconds_here"], **cost["elsewhere"]["seconds"]}
        elsewhere.rows = [(name, clock_time(taken)) for name, taken in seconds.items()]
    return [table for table in (table, elsewhere) if table.rows]

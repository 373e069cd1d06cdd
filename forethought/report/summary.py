"""The tables at the end of a run, and ``summary.json``: views of the run's measurements and training metrics."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from forethought.records import Measurement, to_dict
from forethought.report import multiplicity
from forethought.report.curves import (
    Curves,
    chosen,
    curve_table,
    phase_seconds,
    phase_table,
    read_curves,
    section_of,
    trend,
)
from forethought.report.facts import facts
from forethought.report.independence import Judges, judges_of
from forethought.report.primary import primary
from forethought.report.tables import Table, build
from forethought.report.values import Figures
from forethought.run.files import atomic_write, encode
from forethought.run.store import Run


def summarise(measurements: Iterable[Measurement], curves: Curves) -> dict[str, Any]:
    """Return the content of ``summary.json``: all figures, both ends of every curve, seconds by phase."""
    return {
        "measurements": [to_dict(figure) for figure in measurements],
        "curves": {
            arm: {
                curve.key: {"first": to_dict(ends.first), "last": to_dict(ends.last), "steps": len(ends.points)}
                for curve in chosen({arm: rows})
                if (ends := trend(rows, curve.key)) is not None
            }
            for arm, rows in curves.items()
        },
        "seconds": {arm: phase_seconds(rows) for arm, rows in curves.items()},
    }


def write_summary(run: Run) -> dict[str, Any]:
    """Write ``summary.json`` of ``run`` and return its content: figures, curves, cost, config, versions, durations."""
    measured = run.measurements()
    content = summarise(measured, read_curves(run)) | facts(run) | _reading(run, measured)
    atomic_write(run.path / "summary.json", encode(content, indent=2))
    return content


def _reading(run: Run, measured: Sequence[Measurement]) -> dict[str, Any]:
    """Return how the figures are to be read: the primary endpoint, and what many comparisons do to the others.

    ``primary`` is ``None`` without one; its ``late`` says whether it was named after its stage had been measured.
    """
    asked = Figures(measured, judges_of(run))
    said, late = primary(asked, run.primary_is_late()), run.primary_is_late()
    named = None if said is None else {"verdict": said.verdict, "sentence": said.text, "late": late}
    tested = multiplicity.families(measured)
    return {"primary": named, "multiplicity": [dataclasses.asdict(one) for one in tested]}


def tables_by_section(
    measurements: Iterable[Measurement], curves: Curves, judges: Judges | None = None
) -> dict[str, list[Table]]:
    """Return all tables, those of training after those of what it came to; notes say what ``judges`` did in the run."""
    figures = list(measurements)
    tables = build(figures, judges)
    tables["exploratory"] = [multiplicity.table(multiplicity.families(figures))]
    for arm, rows in curves.items():
        tables.setdefault(section_of(itertools.chain.from_iterable(rows)), []).append(curve_table(arm, rows))
    tables.setdefault("run", []).append(phase_table(curves))
    return {name: shown for name, section in tables.items() if (shown := [table for table in section if table.rows])}


def render(measurements: Sequence[Measurement], curves: Curves, judges: Judges | None = None) -> RenderableType:
    """Return the run's tables for the terminal, 100 columns wide; what was not measured is left out."""
    tables = itertools.chain.from_iterable(tables_by_section(measurements, curves, judges).values())
    shown = [table.rich() for table in tables]
    return Group(*shown) if shown else Text("Nothing was measured yet.")

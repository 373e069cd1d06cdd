"""The sections of the page: for each stage its curves, its interval plots and its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from forethought.graph import arm_of
from forethought.report import curves as logs
from forethought.report import drawing, tables
from forethought.report.curves import Curves
from forethought.report.drawing import Image
from forethought.report.tables import OTHER, Table
from forethought.report.values import Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the report; ``absent`` is what it says if there is nothing in it."""

    name: str
    title: str
    lead: str
    absent: str = ""
    measured_on: str = "On held-out text"
    curves: Sequence[Image] = ()
    plots: Sequence[Image] = ()
    tables: Sequence[Table] = ()
    lineages: Sequence[str] = ()
    """Of its curves, for the legend."""


SECTIONS = (
    Section(
        name="improve",
        title="Stage 1: self-improving pretraining",
        lead="The policy continues prefixes, a judge ranks the continuations together with the original suffix, "
        "and DPO moves the policy from the worst to the best. A win at temperature 1 alone may only mean less "
        "random text: the greedy and the equal-entropy comparison say more.",
        absent="Stage 1 was not run.",
    ),
    Section(
        name="sft",
        title="Stage 2: interleaved thoughts",
        lead="Both lineages are trained on the same text with a teacher's thoughts in it. Whether thoughts are "
        "learned shows in their NLL; whether they help shows in the NLL of the text after them.",
        absent="Stage 2 was not run.",
    ),
    Section(
        name="rlmt",
        title="Stage 3: RL mid-training",
        lead="The policy writes a thought and then a suffix; only the suffix is judged. The gate puts all arms on "
        "the same held-out windows. The probe replaces the thought: if a blank or a foreign one does as well as "
        "the policy's own, it does not matter what the thought says.",
        absent="Stage 3 was not run.",
    ),
    Section(
        name="reasoning",
        title="Reasoning tasks",
        lead="Mean@k is the share of right answers, pass@k the unbiased chance that one of k is right.",
        absent="No reasoning task was run.",
        measured_on="Scores",
    ),
    Section(
        name="judges",
        title="Judge audit",
        lead="Before a judge may train anything it is examined on pairs whose better side is known: the original "
        "suffix against another document's text, shuffled words, changed facts, a rollout of the base.",
        absent="No judge was examined.",
        measured_on="On planted pairs",
    ),
    Section(
        name=OTHER,
        title="Other figures",
        lead="Stages, metrics, conditions and arms that this version of the report does not know, as they were "
        "measured.",
    ),
)


def tables_by_section(figures: Figures, curves: Curves) -> dict[str, list[Table]]:
    """Return all tables, those of training after those of what it came to."""
    found = tables.build(figures.all)
    for arm, rows in curves.items():
        stage = logs.stage_of(rows)
        found.setdefault(stage if stage in logs.STAGES else OTHER, []).append(logs.table(arm, curves))
    found.setdefault("run", []).append(logs.phases(curves))
    return {name: shown for name, some in found.items() if (shown := [table for table in some if table.rows])}


def build(figures: Figures, curves: Curves) -> list[Section]:
    """Return the sections with their contents; the last one, of what is unknown, only if there is any."""
    found = tables_by_section(figures, curves)
    sections = []
    for section in SECTIONS:
        specs = [one for one in logs.chosen(curves) if one.plot and _section_of(one.key) == section.name]
        drawn = [image for spec in specs if (image := drawing.curve(spec, curves)) is not None]
        mine = [arm for arm, rows in curves.items() if _section_of(f"{logs.stage_of(rows)}/") == section.name]
        filled: dict[str, Any] = {
            "curves": drawn,
            "plots": [drawing.intervals(series) for series in tables.plots(figures, section.name)],
            "tables": found.get(section.name, []),
            "lineages": tuple(dict.fromkeys(arm_of(arm).lineage or "other" for arm in mine)),
        }
        if section.absent or any(filled.values()):
            sections.append(replace(section, **filled))
    return sections


def _section_of(key: str) -> str:
    stage = key.partition("/")[0]
    return stage if stage in logs.STAGES else OTHER

"""The sections of the page: for each stage its curves, its interval plots and its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from forethought import metrics as m
from forethought.graph import arm_of
from forethought.records import Measurement
from forethought.report import curves as logs
from forethought.report import drawing, tables
from forethought.report.curves import Curves
from forethought.report.drawing import Image
from forethought.report.tables import OTHER, Column, Table
from forethought.report.values import Figures

Name = Callable[[Measurement], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """An interval plot of one metric: one for each value of ``split``, with a line for each figure."""

    section: str
    stages: tuple[str, ...]
    column: Column
    title: str
    """May hold ``{0}``, the value of ``split``, and ``{1}``, the metric."""
    label: Name = lambda one: one.arm
    split: Name = lambda one: ""
    reference: float | None = 0.0
    note: str = ""
    keep: Callable[[Measurement], bool] = lambda one: True

    def draw(self, figures: Figures) -> Iterator[Image]:
        """Yield its drawings."""
        groups: dict[str, list[Measurement]] = {}
        for figure in figures.all:
            if figure.stage in self.stages and self.column.holds(figure) and self.keep(figure):
                groups.setdefault(self.split(figure), []).append(figure)
        for value, group in groups.items():
            lines = [(self.label(figure), figure) for figure in group]
            title = self.title.format(value, m.of(group[0]).label)
            yield drawing.intervals(title, lines, self.reference, m.form(group[0]), self.note)


def _pair(one: Measurement) -> str:
    return f"{one.arm} – {one.against}"


_GATE = (m.EVALUATE_RLMT,)
_SCORE = m.PROBE_SCORE.difference
_OTHERS = {m.own_against(condition): condition for condition in m.PROBE}
PLOTS: tuple[Plot, ...] = (
    *(Plot(section=section, stages=(stage,), column=Column(metric=m.WIN_RATE), title="{0}", reference=0.5,
           split=lambda one: f"{one.arm} wins against {one.against}", label=lambda one: f"{one.condition}, {one.judge}",
           note="share of held-out prefixes; dashed: one half; ring: the judge trained it")
      for section, stage in (("improve", m.EVALUATE), ("sft", m.EVALUATE_SFT))),
    Plot(section="improve", stages=(m.EVALUATE,), column=Column(metric=m.SUFFIX_NLL_CHANGE), note="nats per token",
         title="Suffix NLL, change against base"),
    Plot(section="sft", stages=(m.EVALUATE_SFT,), title="NLL of held-out thoughts against the arm's start",
         column=Column(metric=m.NLL["thought"].change, condition=m.PER_TOKEN), note="nats per token",
         keep=lambda one: not arm_of(one.against).control),
    Plot(section="sft", stages=(m.EVALUATE_SFT,), column=Column(metric=m.NEXT_TEXT.change),
         title="NLL of the text after a thought, against none", note="nats per token; below zero it helps",
         label=lambda one: f"{one.arm}, {one.condition}", keep=lambda one: arm_of(one.arm).thinks),
    Plot(section="rlmt", stages=_GATE, column=Column(metric=m.GATE_REWARD), title="Reward on held-out windows",
         reference=None, note="share of predictions that match"),
    Plot(section="rlmt", stages=_GATE, column=Column(metric=m.GATE_REWARD.difference), label=_pair,
         title="Reward, paired differences", note="percentage points"),
    Plot(section="rlmt", stages=_GATE, column=Column(metric=m.GATE_SCORE.difference), label=_pair,
         title="Score, paired differences", note="of the match judge, before its threshold"),
    Plot(section="rlmt", stages=_GATE, note="nats per token of the true suffix",
         title="Probe: own thought above one about another window, by likelihood",
         column=Column(metric=m.PROBE_GAIN.difference, condition=m.own_against(m.SWAPPED))),
    Plot(section="rlmt", stages=_GATE, column=Column(metric=_SCORE), title="Probe, {0}: own thought above …",
         split=lambda one: one.arm, label=lambda one: _OTHERS.get(one.condition, one.condition),
         note="score; right of zero its own is better"),
    Plot(section="reasoning", stages=(m.REASONING,), column=Column(metric=m.MEAN), title="{0}: {1}", reference=None,
         split=m.task_of, label=lambda one: f"{one.arm}, {m.interface_of(one)}", keep=lambda one: not one.against,
         note="share of answers that are right"),
    Plot(section="judges", stages=(m.AUDIT,), column=Column(metric=m.ACCURACY), reference=0.5, split=lambda one:
         one.judge, title="{0}: original preferred to", label=lambda one: one.condition.replace("_", " "),
         note="share of pairs; dashed: guessing"),
)  # fmt: skip


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
            "plots": [image for plot in PLOTS if plot.section == section.name for image in plot.draw(figures)],
            "tables": found.get(section.name, []),
            "lineages": tuple(dict.fromkeys(arm_of(arm).lineage or "other" for arm in mine)),
        }
        if section.absent or any(filled.values()):
            sections.append(replace(section, **filled))
    return sections


def _section_of(key: str) -> str:
    stage = key.partition("/")[0]
    return stage if stage in logs.STAGES else OTHER

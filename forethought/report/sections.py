"""The sections of the report: for each stage its curves, its interval plots and its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table

from forethought.records import Measurement
from forethought.report import figures, reasoning, summary
from forethought.report.cells import percent, points, signed
from forethought.report.figures import Curves, Line
from forethought.report.found import ARMS, Found, trained
from forethought.report.midtraining import FOREIGN
from forethought.report.svg import Styles

Form = Callable[[float], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A drawn panel."""

    title: str
    """Above it."""
    svg: str
    """The drawing."""
    note: str = ""
    """Below it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the report."""

    name: str
    """Its anchor."""
    title: str
    """Its heading."""
    lead: str
    """What to look for, in a sentence or two."""
    curves: tuple[Plot, ...] = ()
    """Over the steps of training."""
    plots: tuple[Plot, ...] = ()
    """Held-out figures with intervals."""
    tables: tuple[Table, ...] = ()
    """All its figures."""
    tones: tuple[str, ...] = ()
    """Colours of its curves, for the legend."""
    absent: str = ""
    """What to say if there is nothing."""


def build(found: Found, curves: Curves, styles: Styles) -> list[Section]:
    """Return the sections of stages 1 to 3, reasoning and judges."""
    tables = summary.sections(found.all, curves)
    by_stage = {stage: {a: r for a, r in curves.items() if summary.stage_of(r) == stage} for stage in summary.STAGES}
    draw = _Drawing(found, styles)
    return [
        Section(
            name="improve",
            title="Stage 1: self-improving pretraining",
            lead="The policy continues prefixes, a judge ranks the continuations together with the original suffix, "
            "and DPO moves the policy from the worst to the best. A win at temperature 1 alone may only mean less "
            "random text: the greedy and the equal-entropy comparison say more.",
            curves=_curves("improve", by_stage["improve"], styles),
            tones=_tones(by_stage["improve"]),
            plots=draw.improve(),
            tables=tuple(tables["improve"]),
            absent="Stage 1 was not run.",
        ),
        Section(
            name="sft",
            title="Stage 2: interleaved thoughts",
            lead="Both lineages are trained on the same text with a teacher's thoughts in it. Whether thoughts are "
            "learned shows in their NLL; whether they help shows in the NLL of the text after them.",
            curves=_curves("sft", by_stage["sft"], styles),
            tones=_tones(by_stage["sft"]),
            plots=draw.thoughts(),
            tables=tuple(tables["sft"]),
            absent="Stage 2 was not run.",
        ),
        Section(
            name="rlmt",
            title="Stage 3: RL mid-training",
            lead="The policy writes a thought and then a suffix; only the suffix is judged. The gate puts all arms on "
            "the same held-out windows. The probe replaces the thought: if a blank or a foreign one does as well as "
            "the policy's own, it does not matter what the thought says.",
            curves=_curves("rlmt", by_stage["rlmt"], styles),
            tones=_tones(by_stage["rlmt"]),
            plots=draw.thinking(),
            tables=tuple(tables["rlmt"]),
            absent="Stage 3 was not run.",
        ),
        Section(
            name="reasoning",
            title="Reasoning tasks",
            lead="Mean@k is the share of right answers, pass@k the unbiased chance that one of k is right.",
            plots=draw.reasoning(),
            tables=tuple(tables["reasoning"]),
            absent="No reasoning task was run.",
        ),
        Section(
            name="judges",
            title="Judge audit",
            lead="Before a judge may train anything it is examined on pairs whose better side is known: the original "
            "suffix against another document's text, shuffled words, changed facts, a rollout of the base.",
            plots=draw.audit(),
            tables=tuple(tables["audit"]),
            absent="No judge was examined.",
        ),
    ]


def _curves(stage: str, curves: Curves, styles: Styles) -> tuple[Plot, ...]:
    drawn = ((panel, figures.curve(panel, curves, styles)) for panel in figures.PANELS[stage])
    return tuple(Plot(title=panel.title, svg=svg, note=panel.note) for panel, svg in drawn if svg)


def _tones(curves: Curves) -> tuple[str, ...]:
    return tuple(dict.fromkeys(figures.tone(arm) for arm in curves))


class _Drawing:
    """Draws interval plots of what was measured."""

    def __init__(self, found: Found, styles: Styles) -> None:
        self.found = found
        self.styles = styles

    def improve(self) -> tuple[Plot, ...]:
        return (*self._wins("evaluate"), *self._changes("evaluate", "suffix_nll_change", "Suffix NLL, change"))

    def thoughts(self) -> tuple[Plot, ...]:
        stage, condition = "evaluate-sft", "per token"
        made = [
            one
            for one in self.found.some(stage, "thought NLL change", condition=condition)
            if not one.against.endswith("-raw")
        ]
        used = [
            (f"{one.arm}, {one.condition.removesuffix(' against none')}", one)
            for one in self.found.some(stage, "next-text NLL change")
            if one.arm.endswith("-think")
        ]
        return self._drawn(
            ("NLL of held-out thoughts against the arm's start", _arms(made), 0.0, signed, "nats per token"),
            ("NLL of the text after a thought, against none", used, 0.0, signed, "nats per token; below zero it helps"),
        ) + self._wins(stage)

    def thinking(self) -> tuple[Plot, ...]:
        stage = "evaluate-rlmt"
        gate = [one for arm in ARMS if (one := self.found.one(stage, arm, "gate reward"))]
        differences = {
            name: [
                (f"{one.arm} – {one.against}", one)
                for one in self.found.some(stage, f"gate {name} difference")
                if one.arm in ARMS
            ]
            for name in ("reward", "score")
        }
        plots = self._drawn(
            ("Reward on held-out windows", _arms(gate), None, percent, "share of predictions that match"),
            ("Reward, paired differences", differences["reward"], 0.0, points, "percentage points"),
            (
                "Score, paired differences",
                differences["score"],
                0.0,
                signed,
                "of the match judge, before its threshold",
            ),
        )
        return plots + self._probe(stage)

    def _probe(self, stage: str) -> tuple[Plot, ...]:
        gains = self.found.some(stage, "probe gain difference", condition=FOREIGN)
        title = "Probe: own thought above one about another window, by likelihood"
        plots = [(title, [(one.arm, one) for one in gains], 0.0, signed, "nats per token of the true suffix")]
        for arm in ARMS:
            score = self.found.some(stage, "probe score difference", arm=arm)
            lines = [(one.condition.removeprefix("own against "), one) for one in score]
            plots.append(
                (f"Probe, {arm}: own thought above …", lines, 0.0, signed, "score; right of zero its own is better")
            )
        return self._drawn(*plots)

    def reasoning(self) -> tuple[Plot, ...]:
        means = reasoning.levels(self.found.all, "mean")
        plots = []
        for task in dict.fromkeys(map(reasoning.task_of, means)):
            lines = [
                (f"{one.arm}, {reasoning.interface_of(one)}", one) for one in means if reasoning.task_of(one) == task
            ]
            plots.append((f"{task}: {means[0].metric}", lines, None, percent, "share of answers that are right"))
        return self._drawn(*plots)

    def audit(self) -> tuple[Plot, ...]:
        known = list(self.found.some("audit", "accuracy"))
        judges = dict.fromkeys(one.judge for one in known)
        return self._drawn(
            *(
                (
                    f"{judge}: original preferred to",
                    [(one.condition.replace("_", " "), one) for one in known if one.judge == judge],
                    0.5,
                    percent,
                    "share of pairs; dashed: guessing",
                )
                for judge in judges
            )
        )

    def _wins(self, stage: str) -> tuple[Plot, ...]:
        found: dict[tuple[str, str], list[Measurement]] = {}
        for one in self.found.some(stage, "win_rate"):
            found.setdefault((one.arm, one.against), []).append(one)
        plots = []
        for (arm, against), some in found.items():
            order = dict.fromkeys(one.condition for one in some)
            lines = [(f"{one.condition}, {one.judge}", one) for way in order for one in some if one.condition == way]
            note = "share of held-out prefixes; dashed: one half; ring: the judge trained it"
            plots.append((f"{arm} wins against {against}", lines, 0.5, percent, note))
        return self._drawn(*plots)

    def _changes(self, stage: str, metric: str, title: str) -> tuple[Plot, ...]:
        lines = _arms(self.found.some(stage, metric))
        return self._drawn((f"{title} against base", lines, 0.0, signed, "nats per token"))

    def _drawn(
        self, *asked: tuple[str, Sequence[tuple[str, Measurement]], float | None, Form, str]
    ) -> tuple[Plot, ...]:
        return tuple(
            Plot(
                title=title,
                note=note,
                svg=figures.intervals(title, [_line(*one) for one in lines], reference, form, self.styles),
            )
            for title, lines, reference, form, note in asked
            if lines
        )


def _arms(some: Iterable[Measurement]) -> list[tuple[str, Measurement]]:
    return [(one.arm, one) for one in some]


def _line(label: str, one: Measurement) -> Line:
    return Line(label=label, measured=one, tone=figures.tone(one.arm), hollow=trained(one.judge))

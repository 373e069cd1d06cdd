"""What the paper and the article measured, row by row, next to this run.

Their figures are on their own models, data and judges, many times larger: the rows say what was measured, not who is
better.  Every one of theirs names its place; ours are measurements of the run or "not run".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from forethought import metrics as m
from forethought.graph import ARMS, CONTINUED, IMPROVED
from forethought.records import Measurement, Split, to_dict
from forethought.report.curves import CURVES, Curves, Rows, trend
from forethought.report.families import Column
from forethought.report.values import Figures, Value
from forethought.run.store import BASE

SOURCES = {
    "P": "Tan et al. 2026, Self-Improving Pretraining, arXiv 2601.21343 v3: Llama-2-style 1.4B (stage 1) and "
    "Llama-3-8B (stages 2 and 3), judged by GPT-OSS-120B",
    "A": "the article's released measurements: Qwen3-0.6B-Base on FineWeb-Edu, 16 rollouts and the original suffix",
}
"""Where their figures come from, by the letter in the heads of the columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row: what the paper and the article say, and which figures of this run stand next to it."""

    section: str
    what: str
    paper: str = ""
    article: str = ""
    stage: str = ""
    column: Column | None = None
    arms: tuple[str, ...] = ()
    """All arms by default."""
    task: str = ""
    label: Callable[[Measurement], str] | None = None
    """By default the arm, if there are several."""
    curve: str = ""
    """Key of a training curve whose two ends are this run's figure."""

    def values(self, figures: Figures, curves: Curves) -> list[tuple[str, Value]]:
        """Return this run's figures with their labels, from measurements or from both ends of a training curve."""
        shown = [figure for figure in figures.all if self._holds(figure, figures)]
        largest = max((m.split_k(figure.metric)[1] for figure in shown), default=0)
        label = self.label or (lambda figure: "" if len(self.arms) == 1 else figure.arm)
        values = [(label(figure), Value(figure)) for figure in shown if m.split_k(figure.metric)[1] == largest]
        return [*values, *(end for arm, rows in curves.items() for end in self._ends(arm, rows))]

    def _holds(self, figure: Measurement, figures: Figures) -> bool:
        if self.column is None or figure.stage != self.stage or not self.column.holds(figure):
            return False
        if (self.arms and figure.arm not in self.arms) or self.task not in ("", m.task_of(figure)):
            return False
        if figure.metric != m.WIN_RATE:
            return not figure.against
        return figure.against == BASE and figure.judge == figures.independent_judge(figure.stage, figure.arm, BASE)

    def _ends(self, arm: str, rows: Rows) -> Iterator[tuple[str, Value]]:
        ends = trend(rows, self.curve) if self.curve else None
        stage, _, metric = self.curve.partition("/")
        form = next((curve.form for curve in CURVES if curve.key == self.curve), None)
        for name, end in (("first", ends.first), ("last", ends.last)) if ends else ():
            measured = Measurement(
                stage=stage,
                arm=arm,
                metric=metric,
                condition=f"{name} steps",
                **to_dict(end),
                unit="steps",
                subject=f"{arm}/{stage}/metrics.jsonl",
            )
            yield f"{arm}, {name} steps", Value(measured, form)


_TRAINED = tuple(arm.name for arm in ARMS if not arm.control)
_WON, _WORDS, _EXACT = (Column(metric) for metric in (m.WIN_RATE, m.WORDS, m.EXACT))
_TAGGED = Column(m.NLL[m.TAGGED], m.PER_ROW)
_TEACHER = (Split.SFT.value,)


def _probe(condition: str, article: str) -> Row:
    return Row(section="Stage 3", what=f"Probe: reward after {condition}", article=article, stage=m.EVALUATE_RLMT,
               column=Column(m.PROBE_REWARD, condition), arms=_TRAINED)  # fmt: skip


def _answers(what: str, task: str, metric: m.Metric, *, paper: str = "", article: str = "") -> Row:
    return Row(section="Reasoning", what=what, paper=paper, article=article, stage=m.REASONING, task=task,
               column=Column(metric), label=lambda figure:
               f"{figure.arm}, {m.interface_of(figure)}, {figure.metric}")  # fmt: skip


ROWS: tuple[Row, ...] = (
    Row(section="Stage 1", article="62.5% to 74.6%", curve="improve/selection_rate",
        what="Pairs whose chosen side is a rollout, first to last steps; chance is K/(K+1), 94.1% for K = 16"),
    Row(section="Stage 1", what="Held-out win rate against the base", paper="86.3% (Table 1: quality, 16 rollouts, "
        "greedy)", article="63.3% [54.7, 71.1] of 128, greedy", stage=m.EVALUATE, column=_WON, arms=(IMPROVED,),
        label=lambda figure: figure.condition),
    Row(section="Stage 1", what="The same for plain next-token training, greedy", paper="49.0% (Table 1)",
        stage=m.EVALUATE, column=Column(m.WIN_RATE, m.GREEDY), arms=(CONTINUED,)),
    Row(section="Stage 2", what="Rows of the data set", article="8,704 (8,192 to train, 512 held out)",
        stage=m.INTERLEAVE, column=Column(m.ROWS)),
    Row(section="Stage 2", what="Thoughts per row", article="4.39", stage=m.INTERLEAVE, arms=_TEACHER,
        column=Column(m.PLACES)),
    Row(section="Stage 2", what="Words per thought (median there, mean here)", article="14", stage=m.INTERLEAVE,
        column=_WORDS, arms=_TEACHER),
    Row(section="Stage 2", what="Text that is preserved: of the words there, rows byte for byte here",
        article="99.98%", stage=m.INTERLEAVE, column=_EXACT, arms=_TEACHER),
    Row(section="Stage 2", what="Offered thoughts of malformed replies (rows there)", article="0", arms=_TEACHER,
        stage=m.INTERLEAVE, column=Column(m.REJECTED, "malformed reply")),
    Row(section="Stage 2", what="NLL of a thought with its tags, mean of rows, before and after SFT in both lineages",
        article="4.24, then 3.16 and 3.14", stage=m.EVALUATE_SFT, column=_TAGGED,
        arms=(BASE, *(arm.name for arm in ARMS if arm.stage == "sft" and arm.thinks))),
    Row(section="Stage 3", what="Share of held-out predictions that are rewarded",
        paper="about 0.5% before, 10 to 11% after some 8,000 steps (Figure 11, in training)",
        article="8.8% to 9.8% in its four arms", stage=m.EVALUATE_RLMT, column=Column(m.GATE_REWARD),
        arms=_TRAINED),
    Row(section="Stage 3", what="Tokens of a thought while training, first to last steps",
        paper="about 75 to 700 (Figure 11)", article="48 at most", curve="rlmt/thought_tokens"),
    _probe(m.OWN, "SFT 11.7% and 12.5%; RLMT 8.6% and 10.9% (base and self-improved)"),
    _probe(m.GENERIC, "18.0% to 20.3%"),
    _probe(m.SWAPPED, "SFT 1.6% and 2.3%; RLMT 1.6% and 1.6% (base and self-improved)"),
    _answers("GSM8K, mean@16 there", "gsm8k", m.MEAN,
             paper="1.2% base, 15.6% SFT on raw text, 40.8% SFT on thoughts, 67.7% then RLMT (Table 8, Llama-3-8B)"),
    _answers("MATH-500, mean@16 there", "math500", m.MEAN,
             paper="1.1% base, 8.2% raw, 24.3% thoughts, 40.1% then RLMT (Table 8)"),
    _answers("Macro average, mean@8 there", m.MACRO, m.MEAN, article="16.6% to 17.5%"),
    _answers("Macro average, pass@8 there", m.MACRO, m.PASS, article="50.0% and 51.2%"),
)  # fmt: skip

"""What the paper and the article measured, row by row, next to this run.

Their figures are on their own models, data and judges, many times larger: the rows say what was measured, not who is
better.  Every one of theirs names its place; ours are measurements of the run or "not run".

What stands beside a figure of theirs was chosen by how theirs was made, before any of ours: greedy beside greedy, the
training judge beside the training judge, four thinking arms beside four.  The other judges stand in the same cell, and
the least favourable one is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from forethought import metrics as m
from forethought.graph import CONTINUED, IMPROVED, RLMT, THINK
from forethought.records import Measurement, SpanKind, Split, to_dict
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
    against: str = ""
    """The arm that they are compared with; none by default."""
    task: str = ""
    label: Callable[[Measurement], str] | None = None
    """By default the arm, if there are several."""
    curve: str = ""
    """Key of a training curve whose two ends are this run's figure."""

    def values(self, figures: Figures, curves: Curves) -> list[tuple[str, Value]]:
        """Return this run's figures with their labels, from measurements or from both ends of a training curve."""
        shown = [figure for figure in figures.all if self._holds(figure)]
        largest = max((m.split_k(figure.metric)[1] for figure in shown), default=0)
        shown = [figure for figure in shown if m.split_k(figure.metric)[1] == largest]
        worst = _least_favourable(shown)
        judges = len({figure.judge for figure in shown}) > 1

        def named(figure: Measurement) -> str:
            parts = [figure.arm] * (len(self.arms) != 1) + [figure.judge] * judges
            return ", ".join(filter(None, parts))

        label = self.label or named
        values = [(label(figure) + ", least favourable" * (figure in worst), Value(figure)) for figure in shown]
        return [*values, *(end for arm, rows in curves.items() for end in self._ends(arm, rows))]

    def _holds(self, figure: Measurement) -> bool:
        return (
            self.column is not None
            and figure.stage == self.stage
            and self.column.holds(figure)
            and figure.against == self.against
            and (not self.arms or figure.arm in self.arms)
            and self.task in ("", m.task_of(figure))
        )

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


def _least_favourable(shown: list[Measurement]) -> list[Measurement]:
    """Return the lowest figure of each arm and condition that several judges gave one."""
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for figure in shown:
        groups.setdefault((figure.arm, figure.condition), []).append(figure)
    several = [group for group in groups.values() if len({figure.judge for figure in group}) > 1]
    return [min(group, key=lambda figure: figure.value) for group in several]


_THINK = f"{BASE}-{THINK}", f"{IMPROVED}-{THINK}"
_FOUR = *_THINK, f"{BASE}-{RLMT}", f"{IMPROVED}-{RLMT}"
"""The arms of the article's gate and probe; controls and starts of ours stand in the tables below."""
_TEACHER = (Split.SFT.value,)
_IMPROVE, _SFT, _RLMT, _ANSWERS = "Stage 1", "Stage 2", "Stage 3", "Reasoning"


def _by_judge(figure: Measurement) -> str:
    return f"{figure.condition}, {figure.judge}"


def _won(what: str, condition: str, *, arm: str = IMPROVED, paper: str = "", article: str = "") -> Row:
    return Row(section=_IMPROVE, what=what, paper=paper, article=article, stage=m.EVALUATE, arms=(arm,), against=BASE,
               column=Column(m.WIN_RATE, condition), label=_by_judge)  # fmt: skip


def _rows(what: str, metric: m.Metric, article: str, condition: str | None = None) -> Row:
    return Row(section=_SFT, what=what, article=article, stage=m.INTERLEAVE, arms=_TEACHER,
               column=Column(metric, condition))  # fmt: skip


def _nll(what: str, kind: str, article: str = "") -> Row:
    return Row(section=_SFT, what=what, article=article, stage=m.EVALUATE_SFT, arms=(BASE, IMPROVED, *_THINK),
               column=Column(m.NLL[kind], m.PER_ROW))  # fmt: skip


def _gate(what: str, condition: str, *, paper: str = "", article: str = "") -> Row:
    return Row(section=_RLMT, what=what, paper=paper, article=article, stage=m.EVALUATE_RLMT, arms=_FOUR,
               column=Column(m.GATE_REWARD, condition))  # fmt: skip


def _probe(condition: str, article: str = "") -> Row:
    return Row(section=_RLMT, what=f"Probe: reward after {condition}", article=article, stage=m.EVALUATE_RLMT,
               column=Column(m.PROBE_REWARD, condition), arms=_FOUR)  # fmt: skip


def _worth(condition: str, article: str = "") -> Row:
    return Row(section=_RLMT, what=f"Probe: reward after own thought less that after {condition}", article=article,
               stage=m.EVALUATE_RLMT, column=Column(m.PROBE_REWARD.difference, m.own_against(condition)),
               arms=_FOUR)  # fmt: skip


def _answers(
    what: str, task: str, metric: m.Metric = m.MEAN, *, paper: str = "", article: str = "", **more: Any
) -> Row:
    return Row(section=_ANSWERS, what=what, paper=paper, article=article, stage=m.REASONING, task=task,
               column=Column(metric), label=lambda figure:
               f"{figure.arm}, {m.interface_of(figure)}, {figure.metric}", **more)  # fmt: skip


_AMONG_FOUR = "one of its four benchmarks; only the macro average is known"

ROWS: tuple[Row, ...] = (
    Row(section=_IMPROVE, article="62.5% to 74.6%; a 270M model from random weights: near zero (scratch.toml is ours)",
        what="Pairs whose chosen side is a rollout, first to last steps; chance is K/(K+1), 94.1% for K = 16",
        curve="improve/selection_rate"),
    Row(section=_IMPROVE, what="DPO margin without beta, nats, first to last steps", curve="improve/margin",
        article="0.19, as its footnote has it"),
    Row(section=_IMPROVE, what="DPO margin with beta, nats, first to last steps", curve="improve/margin_beta",
        article="0.19, as its code computes it"),
    _won("Greedy continuations preferred to the base's, by the judge that trained (pairwise language models there) and "
         "by all others", m.GREEDY, paper="86.3% (Table 1: quality, 16 rollouts, 1,000 prefixes)",
         article="63.3% [54.7, 71.1] of 128"),
    _won("The same at matched entropy: what is left without sharpening", m.MATCHED),
    _won("Greedy, for plain next-token training", m.GREEDY, arm=CONTINUED, paper="49.0% (Table 1)"),
    Row(section=_IMPROVE, what="NLL of held-out true suffixes, nats per token, before and after", stage=m.EVALUATE,
        article="2.56, then 2.60", column=Column(m.SUFFIX_NLL), arms=(BASE, IMPROVED)),
    Row(section=_SFT, what="Rows of the data set", article="8,704 (8,192 to train, 512 held out)",
        stage=m.INTERLEAVE, column=Column(m.ROWS)),
    _rows("Thoughts per row", m.PLACES, "4.39"),
    _rows("Words per thought (median there, mean here)", m.WORDS, "14"),
    _rows("Text that is preserved: of the words there, rows byte for byte here", m.EXACT, "99.98%"),
    _rows("Offered thoughts of malformed replies (rows there)", m.REJECTED, "0", "malformed reply"),
    _nll("NLL of a thought with its tags, mean of rows, before and after SFT in both lineages", m.TAGGED,
         "4.24, then 3.16 and 3.14"),
    _nll("The same of its words alone: most of the fall above is the tags'", SpanKind.THOUGHT.value),
    Row(section=_SFT, what="Before RLMT: the thinking arm of the improved lineage preferred to that of the base, "
        "thoughts taken out", article="64 of 128", stage=m.EVALUATE_SFT, arms=(f"{IMPROVED}-{THINK}",),
        against=f"{BASE}-{THINK}", column=Column(m.WIN_RATE), label=_by_judge),
    _gate("Share of held-out predictions that are rewarded", "", article="8.8%, 9.1%, 9.4% and 9.8% in its four arms",
          paper="about 0.5% before, 10 to 11% after some 8,000 steps (Figure 11, in training)"),
    _gate("The same at matched entropy", m.MATCHED),
    Row(section=_RLMT, what="Gate: RLMT of the improved lineage less RLMT of the base, paired by window",
        article="not paired; two of its four arms differ by at most 1.0 points", stage=m.EVALUATE_RLMT,
        arms=(f"{IMPROVED}-{RLMT}",), against=f"{BASE}-{RLMT}", column=Column(m.GATE_REWARD.difference, "")),
    Row(section=_RLMT, what="Tokens of a thought while training, first to last steps",
        paper="about 75 to 700 (Figure 11)", article="48 at most", curve="rlmt/thought_tokens"),
    _probe(m.OWN, "SFT 11.7% and 12.5%; RLMT 8.6% and 10.9% (base and self-improved)"),
    _probe(m.BLANK, "measured; the value is not known to us"),
    _probe(m.GENERIC, "18.0% to 20.3%"),
    _probe(m.SWAPPED, "SFT 1.6% and 2.3%; RLMT 1.6% and 1.6% (base and self-improved)"),
    _worth(m.SWAPPED, "SFT 10.2 and 10.2 points; RLMT 7.0 and 9.4 (differences of the rows above)"),
    _worth(m.GENERIC, "below zero in every arm (differences of the rows above)"),
    _worth(m.BLANK),
    _answers("GSM8K, mean@16 there", "gsm8k", article=_AMONG_FOUR,
             paper="1.2% base, 15.6% SFT on raw text, 40.8% SFT on thoughts, 67.7% then RLMT (Table 8, Llama-3-8B)"),
    _answers("MATH-500, mean@16 there", "math500", article=_AMONG_FOUR,
             paper="1.1% base, 8.2% raw, 24.3% thoughts, 40.1% then RLMT (Table 8)"),
    _answers("OlympiadBench, mean@16 there; maths in the article, here physics, too", "olympiad", article=_AMONG_FOUR,
             paper="0.2% base, 1.8% raw, 6.4% thoughts, 12.2% then RLMT (Table 8)"),
    _answers("GPQA-Diamond, mean@16 there", "gpqa", article=_AMONG_FOUR,
             paper="20.9% base, 22.0% raw, 29.8% thoughts, 31.1% then RLMT (Table 8)"),
    _answers("Macro average, mean@8 there", m.MACRO, article="16.6% to 17.5%"),
    _answers("Macro average, pass@8 there", m.MACRO, m.PASS, article="50.0% and 51.2%"),
    _answers("Macro average, RLMT of the improved lineage less RLMT of the base, paired by problem", m.MACRO,
             article="not paired", arms=(f"{IMPROVED}-{RLMT}",), against=f"{BASE}-{RLMT}"),
)  # fmt: skip

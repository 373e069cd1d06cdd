"""What the paper and the article measured, row by row, beside this run.

Their figures are on their own models, data and judges, many times larger: the rows say what was measured, not who is
better.  Every one of theirs names its place; ours are measurements of the run or "not run".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from forethought.graph import IMPROVED, LINEAGES
from forethought.records import Measurement
from forethought.report import reasoning
from forethought.report.cells import Format, Shown, percent, plain, short, shown
from forethought.report.found import ARMS, Found
from forethought.store import BASE

SOURCES = {
    "P": "Tan et al. 2026, Self-Improving Pretraining, arXiv 2601.21343 v3: Llama-2-style 1.4B (stage 1) and "
    "Llama-3-8B (stages 2 and 3), judged by GPT-OSS-120B",
    "A": "the article's released measurements: Qwen3-0.6B-Base on FineWeb-Edu, 16 rollouts and the original suffix",
}
"""Where their figures come from, by the letter beside them."""

Ours = tuple[tuple[str, Shown], ...]
"""Labels and figures of this run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table."""

    stage: str
    """Where it belongs."""
    what: str
    """What was measured."""
    paper: str = ""
    """The paper's figure, with its place."""
    article: str = ""
    """The article's figure."""
    ours: Ours = ()
    """This run's; empty if it was not run."""
    curve: str = ""
    """Key of a training curve whose two ends are this run's figure."""


def table(found: Found) -> list[Row]:
    """Return the rows in the order of the stages."""
    return [*_first(found), *_second(found), *_third(found), *_reasoning(found)]


def _first(found: Found) -> list[Row]:
    judge = found.outsider("evaluate", IMPROVED, BASE)
    wins = found.some("evaluate", "win_rate", arm=IMPROVED, against=BASE, judge=judge)
    rest = found.some("evaluate", "win_rate", arm="continued", against=BASE, condition="greedy", judge=judge)
    stage = "Stage 1"
    return [
        Row(
            stage=stage,
            what="Pairs whose chosen side is a rollout, first to last steps; chance is K/(K+1), 94.1% for K = 16",
            article="62.5% to 74.6%",
            curve="improve/selection_rate",
        ),
        Row(
            stage=stage,
            what="Held-out win rate against the base",
            paper="86.3% (Table 1: quality, 16 rollouts, greedy)",
            article="63.3% [54.7, 71.1] of 128, greedy",
            ours=_labelled(wins, percent, lambda one: one.condition),
        ),
        Row(
            stage=stage,
            what="The same for plain next-token training, greedy",
            paper="49.0% (Table 1)",
            ours=_labelled(rest, percent, lambda one: ""),
        ),
    ]


def _second(found: Found) -> list[Row]:
    def of(metric: str, form: Format) -> Ours:
        return _labelled(found.some("interleave", metric, arm="sft", condition=""), form, lambda one: "")

    nll = [
        one
        for arm in (BASE, *(f"{lineage}-think" for lineage in LINEAGES))
        if (one := found.one("evaluate-sft", arm, "thought with tags NLL", condition="per row"))
    ]
    stage = "Stage 2"
    return [
        Row(stage=stage, what="Thoughts per row", article="4.39", ours=of("places_per_row", short)),
        Row(
            stage=stage,
            what="Words per thought (median there, mean here)",
            article="14",
            ours=of("words_per_thought", short),
        ),
        Row(
            stage=stage,
            what="Text that is preserved: of the words there, rows byte for byte here",
            article="99.98%",
            ours=of("exact_preservation", percent),
        ),
        Row(
            stage=stage,
            what="NLL of a thought with its tags, mean of rows, before and after SFT in both lineages",
            article="4.24, then 3.16 and 3.14",
            ours=_labelled(nll, plain, lambda one: one.arm),
        ),
    ]


def _third(found: Found) -> list[Row]:
    gate = [one for arm in ARMS if (one := found.one("evaluate-rlmt", arm, "gate reward"))]

    def probe(condition: str) -> Ours:
        figures = found.some("evaluate-rlmt", "probe reward", condition=condition)
        return _labelled((one for one in figures if one.arm in ARMS), percent, lambda one: one.arm)

    stage = "Stage 3"
    return [
        Row(
            stage=stage,
            what="Share of held-out predictions that are rewarded",
            paper="about 0.5% before, 10 to 11% after some 8,000 steps (Figure 11, in training)",
            article="8.8% to 9.8% in its four arms",
            ours=_labelled(gate, percent, lambda one: one.arm),
        ),
        Row(
            stage=stage,
            what="Tokens of a thought while training, first to last steps",
            paper="about 75 to 700 (Figure 11)",
            article="48 at most",
            curve="rlmt/thought_tokens",
        ),
        Row(
            stage=stage,
            what="Probe: reward after the arm's own thought",
            article="SFT 11.7% and 12.5%; RLMT 8.6% and 10.9% (base and self-improved)",
            ours=probe("own thought"),
        ),
        Row(
            stage=stage,
            what="Probe: after a generic thought",
            article="18.0% to 20.3%",
            ours=probe("generic thought"),
        ),
        Row(
            stage=stage,
            what="Probe: after a thought about another window",
            article="SFT 1.6% and 2.3%; RLMT 1.6% and 1.6% (base and self-improved)",
            ours=probe("thought about another window"),
        ),
    ]


def _reasoning(found: Found) -> list[Row]:
    def of(task: str, kind: str) -> Ours:
        figures = reasoning.levels(found.all, kind, task)
        return _labelled(figures, percent, lambda one: f"{one.arm}, {reasoning.interface_of(one)}, {one.metric}")

    stage = "Reasoning"
    return [
        Row(
            stage=stage,
            what="GSM8K, mean@16 there",
            paper="1.2% base, 15.6% SFT on raw text, 40.8% SFT on thoughts, 67.7% then RLMT (Table 8, Llama-3-8B)",
            ours=of("gsm8k", "mean"),
        ),
        Row(
            stage=stage,
            what="MATH-500, mean@16 there",
            paper="1.1% base, 8.2% raw, 24.3% thoughts, 40.1% then RLMT (Table 8)",
            ours=of("math500", "mean"),
        ),
        Row(
            stage=stage,
            what="Macro average, mean@8 there",
            article="16.6% to 17.5%",
            ours=of("macro", "mean"),
        ),
        Row(
            stage=stage,
            what="Macro average, pass@8 there",
            article="50.0% and 51.2%",
            ours=of("macro", "pass"),
        ),
    ]


def _labelled(figures: Iterable[Measurement], form: Format, label: Callable[[Measurement], str]) -> Ours:
    return tuple((label(one), shown(one, form)) for one in figures)

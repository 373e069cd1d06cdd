"""The answer of a run in three sentences, put together from its own figures; it says what was not run or not shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forethought import metrics as m
from forethought.graph import ARMS, CONTINUED, IMPROVED, LINEAGES, Arm
from forethought.records import Measurement
from forethought.report.values import Figures, Value, judgement, sign, trained
from forethought.run.store import BASE
from forethought.stats import FEWEST

Part = str | Value

YES, PARTLY, UNCLEAR, NO, NONE = "yes", "in part", "not shown", "no", "not run"
"""What a sentence says of its question."""

_WAYS = {
    m.SAMPLED: "when both sample at temperature 1",
    m.GREEDY: "when both write greedily",
    m.MATCHED: "when the base samples at the policy's entropy",
}
_THINK, _RLMT = (
    [arm for lineage in LINEAGES for arm in ARMS if (arm.lineage, arm.stage, arm.thinks) == (lineage, stage, True)]
    for stage in ("sft", "rlmt")
)
"""The arms of both lineages after stages 2 and 3."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """An answer: ``verdict`` says it in a word, ``parts`` are words and figures."""

    question: str
    verdict: str
    parts: Sequence[Part]

    @property
    def text(self) -> str:
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)


def answer(figures: Figures) -> list[Sentence]:
    """Return the three sentences."""
    return [_improved(figures), _thoughts(figures), _receptive(figures)]


def _improved(figures: Figures) -> Sentence:
    question = "Did self-improving pretraining make the policy better on held-out text?"
    judge = figures.independent_judge(m.EVALUATE, IMPROVED, BASE)
    asked = (figures.get(m.EVALUATE, IMPROVED, m.WIN_RATE, against=BASE, condition=way, judge=judge) for way in _WAYS)
    wins = [win for win in asked if win is not None]
    if not wins:
        return Sentence(question, NONE, ["Stage 1 was not compared with the base in this run."])
    who = "also trained it" if trained(judge) else "did not train it"
    name = judge.removesuffix(" (training)")
    parts: list[Part] = [f"The judge {name}, which {who}, prefers the self-improved policy to the base on "]
    for number, win in enumerate(wins):
        joint = "" if not number else " and " if number == len(wins) - 1 else ", "
        parts += [joint, Value(win), f" of held-out prefixes {_WAYS[win.condition]}"]
    verdict, remark = _halves(wins)
    parts.append(f"; {remark}")
    change, control = (figures.get(m.EVALUATE, arm, m.SUFFIX_NLL_CHANGE, against=BASE) for arm in (IMPROVED, CONTINUED))
    if change:
        ways = ("neither harder nor easier to predict beyond the noise", "harder to predict", "easier to predict")
        parts += [f"; the true suffixes became {ways[sign(change)]}, ", Value(change), " nats per token"]
        if control:
            parts += [" (", Value(control), " after plain next-token training on the same chunks)"]
    return Sentence(question, verdict, [*parts, "."])


def _thoughts(figures: Figures) -> Sentence:
    question = "Did training on interleaved thoughts teach them, and do they help?"
    changes = _both(figures, _THINK, m.NLL["thought"].change, m.PER_TOKEN, started=True)
    if not changes:
        return Sentence(question, NONE, ["Stage 2 was not run, or not evaluated, here."])
    parts = ["SFT changed the NLL of held-out thoughts by ", *_told(changes, "harder to predict", "easier to predict")]
    uses = _both(figures, _THINK, m.NEXT_TEXT.change, m.against_nothing(m.OWN))
    # A lower NLL is a better one.
    verdict = YES if all(sign(change) < 0 for change in changes) else UNCLEAR
    if uses:
        parts.append("; against no thought, one of the model's own changes the NLL of the text after it by ")
        parts += _told(uses, "a hindrance", "a help")
        if verdict == YES and not all(sign(use) < 0 for use in uses):
            verdict = PARTLY
    return Sentence(question, verdict, [*parts, "."])


def _receptive(figures: Figures) -> Sentence:
    question = "Did stage 1 make the model more receptive to thinking mid-training?"
    base, improved = (arm.name for arm in _RLMT)
    change, score = (
        figures.get(m.EVALUATE_RLMT, improved, metric.difference, against=base)
        for metric in (m.GATE_REWARD, m.GATE_SCORE)
    )
    if change is None:
        return Sentence(question, NONE, _after_thoughts(figures))
    parts: list[Part] = []
    if gains := _both(figures, _RLMT, m.GATE_REWARD.difference, started=True):
        parts += ["RL mid-training changed the reward on held-out windows by ", *_told(gains, unit=""), "; "]
    if levels := _both(figures, _RLMT, m.GATE_REWARD):
        parts += ["it ends at ", Value(levels[0]), " without and ", Value(levels[1]), " with stage 1: "]
    parts += ["a paired difference of ", Value(change), f", {judgement(change, figures.detectable(change))}"]
    if score:
        said = judgement(score, figures.detectable(score))
        parts += ["; in the finer score the difference is ", Value(score), f", {said}"]
    if uses := _both(figures, _RLMT, m.PROBE_GAIN.difference, m.own_against(m.SWAPPED)):
        parts.append(
            "; its own thought changes the likelihood of the true suffix, against one about another window, by "
        )
        parts += _told(uses, "it matters what is said", "a harm")
    # The reward counts if the score that it is cut from says the same.
    unclear = change.n < FEWEST or (score is not None and sign(score) != sign(change))
    return Sentence(question, UNCLEAR if unclear else (UNCLEAR, YES, NO)[sign(change)], [*parts, "."])


def _after_thoughts(figures: Figures) -> list[Part]:
    """Compare the lineages after stage 2, where stage 3 was not run."""
    base, improved = (arm.name for arm in _THINK)
    change = figures.get(m.EVALUATE_RLMT, improved, m.GATE_REWARD.difference, against=base)
    judge = figures.independent_judge(m.EVALUATE_SFT, improved, base)
    win = figures.get(m.EVALUATE_SFT, improved, m.WIN_RATE, against=base, condition=m.SAMPLED, judge=judge)
    parts: list[Part] = ["Stage 3 was not run, or not evaluated, here, so this question has no answer yet"]
    if change:
        said = judgement(change, figures.detectable(change))
        parts += ["; after stage 2 the reward differs by ", Value(change), f", {said}"]
    elif win:
        parts += [f"; after stage 2, {judge} prefers the self-improved lineage on ", Value(win)]
        parts.append(f" of held-out prefixes: {_halves([win])[1]}")
    return [*parts, "."]


def _halves(wins: Sequence[Measurement]) -> tuple[str, str]:
    """Return what win rates say of the question, and where their intervals lie."""
    # By the interval, not the value: a rate above one half may be noise.
    above = [win.condition for win in wins if win.low is not None and win.low > 0.5]
    below = [win.condition for win in wins if win.high is not None and win.high < 0.5]
    half = [win.condition for win in wins if win.condition not in (*above, *below)]
    if len(above) == len(wins):
        return YES, "every interval lies above one half"
    remark = " and ".join(
        f"the {' and '.join(ways)} interval{'s'[: len(ways) != 1]} {verb}{'s'[: len(ways) == 1]} {place}"
        for ways, verb, place in ((half, "include", "one half"), (below, "lie", "below one half"))
        if ways
    )
    if m.SAMPLED in above and m.MATCHED not in above and len(wins) > 1:
        remark += ", so that less random text may be all of the gain at temperature 1"
    return (PARTLY if above else NO if below else UNCLEAR), remark


def _both(
    figures: Figures, arms: Sequence[Arm], metric: m.Metric, condition: str = "", *, started: bool = False
) -> list[Measurement]:
    """Return the figure of the arms of both lineages, against what each ``started`` from, if neither is missing."""
    [stage] = metric.stages
    asked = [
        figures.get(stage, arm.name, metric, against=arm.start if started else "", condition=condition) for arm in arms
    ]
    # Both or none: one alone would be told as the base lineage's.
    return [figure for figure in asked if figure is not None] if all(asked) else []


def _told(pair: Sequence[Measurement], up: str = "", down: str = "", unit: str = " nats per token") -> list[Part]:
    """Return both figures, and in words which way they point, if there are words for it."""
    base, improved = (("nothing beyond the noise", up, down)[sign(figure)] for figure in pair)
    way = f": {base}" + (" in both" if base == improved else f" in the one, {improved} in the other")
    improved_end = f" in the self-improved one{way if up else ''}"
    return [Value(pair[0]), f"{unit} in the base lineage and ", Value(pair[1]), improved_end]

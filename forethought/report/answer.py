"""The answer of a run, a sentence for each question, put together from its figures; it says what was not run or shown.

What is claimed is claimed at equal entropy, of several judges by the least favourable one that had no part in the
training; what was measured otherwise stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from forethought import metrics as m
from forethought.graph import CONTINUED, IMPROVED, THINK
from forethought.records import Measurement
from forethought.report.receptive import receptive, rewarded
from forethought.report.sentences import (
    NO,
    NONE,
    PARTLY,
    UNCLEAR,
    YES,
    Part,
    Sentence,
    by_whom,
    each,
    judge,
    listed,
    told,
)
from forethought.report.values import FEWEST, Figures, Value, sign
from forethought.run.store import BASE

_CLAIMED = (m.MATCHED, m.AT_HIGHEST, m.AT_LOWEST)
"""Conditions under which a win is no matter of entropy; where there are several, all must hold."""
_BESIDE = {m.SAMPLED: "when both sample at temperature 1", m.GREEDY: "when both write greedily"}
_WHERE = ("the interval includes one half", "the interval lies above one half", "the interval lies below one half")


def answer(figures: Figures) -> list[Sentence]:
    """Return a sentence for each question, in the order of the stages."""
    return [_improved(figures), _thoughts(figures), rewarded(figures), receptive(figures)]


def _improved(figures: Figures) -> Sentence:
    question = "Did self-improving pretraining make the policy better on held-out text?"
    every = list(figures.select(m.EVALUATE, m.WIN_RATE, arm=IMPROVED, against=BASE))
    if not every:
        return Sentence(question, NONE, ["Stage 1 was not compared with the base in this run."])
    worst = [win for way in _CLAIMED if (win := _win(figures, way)) is not None]
    if not worst:
        told_ = 'No win was measured at equal entropy ("entropy-matched" in evaluate.conditions), so none is claimed'
        return Sentence(question, UNCLEAR, [told_, *_beside(figures), *_paid(figures), "."])
    parts: list[Part] = ["At equal entropy the policy is preferred to the base on "]
    parts += listed(
        [
            Value(win),
            f" of held-out prefixes{f' ({win.condition})' if len(worst) > 1 else ''} by {by_whom(figures, win)}",
        ]
        for win in worst
    )
    least = min(worst, key=lambda win: (-1.0 if win.low is None else win.low, win.value))
    parts.append(f": {_WHERE[_side(least)]}")
    kind = figures.independent(least)
    others = [
        win for win in every if win.condition in _CLAIMED and win not in worst and figures.independent(win) == kind
    ]
    if others:
        parts += ["; of the others, ", *listed([Value(win), f" by {judge(figures, win)}"] for win in others)]
    parts += _beside(figures)
    sampled, verdict = _win(figures, m.SAMPLED), _verdict(worst, kind)
    if sampled is not None and _side(sampled) > 0 >= _side(least):
        parts.append(": less random text may be all of the gain at temperature 1")
    return Sentence(question, verdict, [*parts, *_paid(figures), "."])


def _verdict(worst: Sequence[Measurement], independent: bool) -> str:
    """Return what the least favourable win rates say, one for each way of matching the entropy."""
    sides = [_side(win) for win in worst]
    if min(sides) > 0:
        # Who trained the policy is an interested party.
        return YES if independent else PARTLY
    if max(sides) > 0 and min(sides) == 0:
        return PARTLY
    return NO if min(sides) < 0 else UNCLEAR


def _win(figures: Figures, way: str) -> Measurement | None:
    return figures.least(m.EVALUATE, IMPROVED, m.WIN_RATE, against=BASE, condition=way)


def _side(win: Measurement) -> int:
    """Return on which side of one half the whole interval lies, or 0."""
    if win.low is None or win.high is None or win.n < FEWEST:
        return 0
    return 1 if win.low > 0.5 else -1 if win.high < 0.5 else 0


def _beside(figures: Figures) -> list[Part]:
    """Return the win rates that are not claimed, each by the judge that is the least favourable there."""
    wins = [win for way in _BESIDE if (win := _win(figures, way)) is not None]
    name = figures.judges.of
    said: Iterable[list[Part]] = (
        [f"{_BESIDE[win.condition]} ", Value(win), f" by {name(win.judge, win.stage).name}"] for win in wins
    )
    return ["; beside it, ", *listed(said)] if wins else []


def _paid(figures: Figures) -> list[Part]:
    """Return what stage 1 changed of the likelihood of the authors' text."""
    change, control = (figures.get(m.EVALUATE, arm, m.SUFFIX_NLL_CHANGE, against=BASE) for arm in (IMPROVED, CONTINUED))
    if change is None:
        return []
    ways = ("neither harder nor easier to predict beyond the noise", "harder to predict", "easier to predict")
    parts: list[Part] = [f"; the true suffixes became {ways[sign(change)]}, ", Value(change), " nats per token"]
    if control is not None:
        parts += [" (", Value(control), " after plain next-token training on the same chunks)"]
    return parts


def _thoughts(figures: Figures) -> Sentence:
    question = "Did training on interleaved thoughts teach them, and do they help?"
    changes = each(figures, THINK, m.NLL["thought"].change, m.PER_TOKEN, lambda lineage: lineage)
    if not changes:
        return Sentence(question, NONE, ["Stage 2 was not run, or not evaluated, here."])
    parts: list[Part] = ["SFT changed the NLL of held-out thoughts by "]
    parts += told(changes, "harder to predict", "easier to predict", " nats per token")
    uses = each(figures, THINK, m.NEXT_TEXT.change, m.against_nothing(m.OWN))
    # A lower NLL is a better one.
    verdict = YES if all(sign(change) < 0 for change in changes.values()) else UNCLEAR
    if uses:
        parts.append("; against no thought, one of the model's own changes the NLL of the text after it by ")
        parts += told(uses, "a hindrance", "a help", " nats per token")
    if verdict == YES and (not uses or not all(sign(use) < 0 for use in uses.values())):
        verdict = PARTLY
    return Sentence(question, verdict, [*parts, "."])

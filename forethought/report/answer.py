"""The answer of a run in three sentences, put together from its own figures; it says what was not run or not shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forethought.graph import CONTINUED, IMPROVED, LINEAGES
from forethought.records import Measurement
from forethought.report.cells import Format, Shown, percent, points, shown, signed
from forethought.report.found import Found, trained
from forethought.report.midtraining import FEWEST, FOREIGN, judgement
from forethought.store import BASE

Part = str | Shown

YES, PARTLY, UNCLEAR, NO, NONE = "yes", "in part", "not shown", "no", "not run"
"""What a sentence says of its question."""

_WAYS = {
    "sampled": "when both sample at temperature 1",
    "greedy": "when both write greedily",
    "entropy-matched": "when the base samples at the policy's entropy",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """One of the three."""

    question: str
    """What is asked."""
    verdict: str
    """The answer in a word."""
    parts: tuple[Part, ...]
    """The sentence: words and figures."""

    @property
    def text(self) -> str:
        """The sentence as plain text."""
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)


def answer(found: Found) -> list[Sentence]:
    """Return the three sentences."""
    return [_improved(found), _thoughts(found), _receptive(found)]


def _improved(found: Found) -> Sentence:
    question = "Did self-improving pretraining make the policy better on held-out text?"
    judge = found.outsider("evaluate", IMPROVED, BASE)
    wins = [
        one
        for way in _WAYS
        if (one := found.one("evaluate", IMPROVED, "win_rate", against=BASE, condition=way, judge=judge))
    ]
    if not wins:
        return Sentence(question=question, verdict=NONE, parts=("Stage 1 was not compared with the base in this run.",))
    who = "also trained it" if trained(judge) else "did not train it"
    name = judge.removesuffix(" (training)")
    parts: list[Part] = [f"The judge {name}, which {who}, prefers the self-improved policy to the base on "]
    for number, one in enumerate(wins):
        joint = "" if not number else " and " if number == len(wins) - 1 else ", "
        parts += [joint, shown(one, percent), f" of held-out prefixes {_WAYS[one.condition]}"]
    verdict, remark = _halves(wins)
    parts.append(f"; {remark}")
    change = found.one("evaluate", IMPROVED, "suffix_nll_change", against=BASE)
    if change:
        parts += ["; the true suffixes became ", _direction(change, "harder to predict", "easier to predict"), ", "]
        parts += [shown(change, signed), " nats per token"]
        control = found.one("evaluate", CONTINUED, "suffix_nll_change", against=BASE)
        if control:
            parts += [" (", shown(control, signed), " after plain next-token training on the same chunks)"]
    return Sentence(question=question, verdict=verdict, parts=(*parts, "."))


def _halves(wins: Sequence[Measurement]) -> tuple[str, str]:
    above = [one.condition for one in wins if one.low is not None and one.low > 0.5]
    below = [one.condition for one in wins if one.high is not None and one.high < 0.5]
    half = [one.condition for one in wins if one.condition not in (*above, *below)]
    if len(above) == len(wins):
        return YES, "every interval lies above one half"
    remarks = []
    if half:
        remarks.append(f"the {_interval(half)} {'includes' if len(half) == 1 else 'include'} one half")
    if below:
        remarks.append(f"the {_interval(below)} {'lies' if len(below) == 1 else 'lie'} below one half")
    remark = " and ".join(remarks)
    if "sampled" in above and "entropy-matched" not in above and len(wins) > 1:
        remark += ", so that less random text may be all of the gain at temperature 1"
    return (PARTLY if above else NO if below else UNCLEAR), remark


def _interval(conditions: Sequence[str]) -> str:
    return f"{_and(conditions)} {'interval' if len(conditions) == 1 else 'intervals'}"


def _thoughts(found: Found) -> Sentence:
    question = "Did training on interleaved thoughts teach them, and do they help?"
    changes = _pair(found, "evaluate-sft", "thought NLL change", "per token", ("-think", ""))
    if not changes:
        return Sentence(question=question, verdict=NONE, parts=("Stage 2 was not run, or not evaluated, here.",))
    parts: list[Part] = ["SFT changed the NLL of held-out thoughts by ", *_both(changes, signed, " nats per token")]
    parts += [": ", _directions(changes, "harder to predict", "easier to predict")]
    uses = _pair(found, "evaluate-sft", "next-text NLL change", "own thought against none", ("-think", None))
    verdict = YES if all(_sign(one) < 0 for one in changes) else UNCLEAR
    if uses:
        parts += ["; against no thought, one of the model's own changes the NLL of the text after it by "]
        parts += [*_both(uses, signed, " nats per token"), ": ", _directions(uses, "a hindrance", "a help")]
        helps = all(_sign(one) < 0 for one in uses)
        verdict = verdict if helps or verdict != YES else PARTLY
    return Sentence(question=question, verdict=verdict, parts=(*parts, "."))


def _receptive(found: Found) -> Sentence:
    question = "Did stage 1 make the model more receptive to thinking mid-training?"
    stage, arms = "evaluate-rlmt", [f"{lineage}-rlmt" for lineage in LINEAGES]
    difference = found.one(stage, arms[1], "gate reward difference", against=arms[0])
    if difference is None:
        return _after_thoughts(found, question)
    parts: list[Part] = []
    gains = _pair(found, stage, "gate reward difference", "", ("-rlmt", "-think"))
    if gains:
        parts += ["RL mid-training changed the reward on held-out windows by ", *_both(gains, points), "; "]
    levels = [one for arm in arms if (one := found.one(stage, arm, "gate reward"))]
    if len(levels) == len(arms):
        parts += ["it ends at ", shown(levels[0], percent), " without and ", shown(levels[1], percent)]
        parts.append(" with stage 1: ")
    parts += ["a paired difference of ", shown(difference, points), f", {_judged(found, difference)}"]
    score = found.one(stage, arms[1], "gate score difference", against=arms[0])
    if score:
        parts += ["; in the finer score the difference is ", shown(score, signed), f", {_judged(found, score)}"]
    uses = _pair(found, stage, "probe gain difference", FOREIGN, ("-rlmt", None))
    if uses:
        parts += ["; its own thought changes the likelihood of the true suffix, against one about another window, by "]
        parts += [*_both(uses, signed, " nats per token"), ": ", _directions(uses, "it matters what is said", "a harm")]
    return Sentence(question=question, verdict=_verdict(difference, score), parts=(*parts, "."))


def _after_thoughts(found: Found, question: str) -> Sentence:
    """Compare the lineages after stage 2, where stage 3 was not run."""
    arms = [f"{lineage}-think" for lineage in LINEAGES]
    difference = found.one("evaluate-rlmt", arms[1], "gate reward difference", against=arms[0])
    parts: list[Part] = ["Stage 3 was not run, or not evaluated, here, so this question has no answer yet"]
    judge = found.outsider("evaluate-sft", arms[1], arms[0])
    win = found.one("evaluate-sft", arms[1], "win_rate", against=arms[0], condition="sampled", judge=judge)
    if difference:
        parts += [
            "; after stage 2 the reward differs by ",
            shown(difference, points),
            f", {_judged(found, difference)}",
        ]
    elif win:
        parts += [f"; after stage 2, {judge} prefers the self-improved lineage on ", shown(win, percent)]
        parts.append(f" of held-out prefixes: {_halves([win])[1]}")
    return Sentence(question=question, verdict=NONE, parts=(*parts, "."))


def _judged(found: Found, change: Measurement) -> str:
    metric = f"{change.metric.removesuffix(' difference')} windows needed"
    return judgement(change, found.one(change.stage, change.arm, metric, against=change.against))


def _pair(found: Found, stage: str, metric: str, condition: str, kinds: tuple[str, str | None]) -> list[Measurement]:
    """Return the figure of both lineages' arms of a kind against those of another, or nothing if one is missing.

    ``kinds``: of the arms and of what they are compared with: ``""`` for the lineage's start, ``None`` for nothing.
    """
    kind, other = kinds
    both = [
        found.one(stage, lineage + kind, metric, against="" if other is None else lineage + other, condition=condition)
        for lineage in LINEAGES
    ]
    return [one for one in both if one is not None] if all(both) else []


def _both(pair: Sequence[Measurement], form: Format, unit: str = "") -> list[Part]:
    return [shown(pair[0], form), f"{unit} in the base lineage and ", shown(pair[1], form), " in the self-improved one"]


def _verdict(difference: Measurement, score: Measurement | None) -> str:
    """Return what the reward says, if the score that it is cut from says the same."""
    if difference.n < FEWEST or (score is not None and _sign(score) != _sign(difference)):
        return UNCLEAR
    return {1: YES, 0: UNCLEAR, -1: NO}[_sign(difference)]


def _sign(one: Measurement) -> int:
    """Return on which side of zero the whole interval lies, or 0."""
    if one.low is None or one.high is None:
        return 0
    return 1 if one.low > 0 else -1 if one.high < 0 else 0


def _direction(one: Measurement, up: str, down: str) -> str:
    return {1: up, -1: down, 0: "neither harder nor easier to predict beyond the noise"}[_sign(one)]


def _directions(pair: Sequence[Measurement], up: str, down: str) -> str:
    words = [{1: up, -1: down, 0: "nothing beyond the noise"}[_sign(one)] for one in pair]
    return words[0] + (" in both" if words[0] == words[1] else f" in the one, {words[1]} in the other")


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))

"""What RL mid-training did, and whether stage 1 made the model more receptive to it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from forethought import metrics as m
from forethought.graph import CONTINUED, IMPROVED, LINEAGES, RL, RLMT, THINK
from forethought.metrics import Metric
from forethought.records import Measurement
from forethought.report.sentences import (
    NO,
    NONE,
    PARTLY,
    UNCLEAR,
    YES,
    Part,
    Sentence,
    by_whom,
    copied,
    each,
    told,
)
from forethought.report.values import Figures, Value, judgement, sign
from forethought.run.store import BASE

_SCORE, _GAIN = m.GATE_SCORE.difference, m.PROBE_GAIN.difference


def rewarded(figures: Figures) -> Sentence:
    """Return whether thoughts that RL trained help: against no RL, RL without thoughts, and other thoughts."""
    question = "Did RL mid-training make predictions better, and is it the thoughts?"
    sampled = each(figures, RLMT, _SCORE, "", lambda lineage: f"{lineage}-{THINK}")
    gains = each(figures, RLMT, _SCORE, m.MATCHED, lambda lineage: f"{lineage}-{THINK}")
    probed = {one: {k: v for k, v in _probed(figures, one).items() if v} for one in (m.BLANK, m.SWAPPED)}
    if not (sampled or gains or any(probed.values())):
        return Sentence(question, NONE, ["Stage 3 was not run, or not evaluated, here."])
    without = each(figures, RLMT, _SCORE, m.MATCHED, lambda lineage: f"{lineage}-{RL}")
    parts: list[Part] = []
    if gains:
        parts += ["At equal entropy RL changed the score of held-out predictions by ", *told(gains, "better", "worse")]
        worst = min(gains.values(), key=lambda figure: -math.inf if figure.low is None else figure.low)
        parts.append(f", by {by_whom(figures, worst)}")
    else:
        parts.append("What RL changed was not measured at equal entropy, so no gain is claimed")
    if without:
        parts += ["; against RL without thoughts, by ", *told(without, "thoughts add to it", "thoughts take from it")]
    elif gains:
        parts.append("; RL without thoughts was not run (rlmt.control = true), so what thoughts add is not known")
    if whole := each(figures, RLMT, _SCORE, m.MATCHED, lambda lineage: lineage):
        parts += ["; against where the lineage began, by ", *told(whole)]
    # Where both say the same, temperature 1 adds nothing.
    if sampled and (not gains or any(sign(one) != _sign(gains, lineage) for lineage, one in sampled.items())):
        parts += ["; at temperature 1 RL changed it by ", *told(sampled)]
        if any(sign(one) > 0 >= _sign(gains, lineage) for lineage, one in sampled.items()):
            parts.append(": less random text may be all of that")
    parts += _uses(probed)
    copies = {lineage: copied(figures, [figure.arm], figure.judge) for lineage, figure in (gains or sampled).items()}
    parts += next((said for said in copies.values() if said), [])
    lineages = [lineage for lineage in LINEAGES if lineage in {*sampled, *gains, *probed[m.BLANK], *probed[m.SWAPPED]}]
    verdicts = [
        _of_lineage(
            0 if copies.get(lineage) else _sign(gains, lineage),
            _sign(without, lineage),
            *(_lowest(probed[one].get(lineage, {})) for one in (m.BLANK, m.SWAPPED)),
        )
        for lineage in lineages
    ]
    fair = all(figures.independent(figure) for figure in gains.values())
    return Sentence(question, _together(verdicts, fair), [*parts, "."])


def _of_lineage(gain: int, without: int, blank: int, swapped: int) -> str:
    """Return a verdict from the signs of RL's gain, of what thoughts add to it, and of own thoughts against others."""
    if blank < 0 or gain < 0:
        return NO  # a blank thought serves better, or predictions got worse
    if gain > 0:
        return YES if min(without, blank, swapped) > 0 else PARTLY
    return UNCLEAR


def _together(verdicts: list[str], fair: bool) -> str:
    if len(set(verdicts)) == 1:
        return PARTLY if verdicts[0] == YES and not fair else verdicts[0]
    return PARTLY if {YES, PARTLY} & set(verdicts) else UNCLEAR


def _probed(figures: Figures, other: str) -> dict[str, dict[str, Measurement]]:
    """Return by lineage how own thoughts serve against others, at the entropies at which that was probed."""
    found: dict[str, dict[str, Measurement]] = {lineage: {} for lineage in LINEAGES}
    for level in (m.AT_HIGHEST, m.AT_LOWEST, ""):
        for lineage, figure in each(figures, RLMT, _GAIN, m.at(m.own_against(other), level)).items():
            if level or not found[lineage]:  # temperature 1 where nothing else was probed
                found[lineage][level] = figure
    return found


def _uses(probed: Mapping[str, Mapping[str, Mapping[str, Measurement]]]) -> list[Part]:
    """Return what own thoughts are worth against blank ones and those about another window."""
    parts: list[Part] = []
    ends = {
        m.BLANK: ("a blank one", "what it says helps", "a blank one serves better"),
        m.SWAPPED: ("one about another window", "it matters what is said", "the other one serves better"),
    }
    for other, (name, up, down) in ends.items():
        worst = {lineage: min(row.values(), key=sign) for lineage, row in probed[other].items() if row}
        if worst:
            lead = (
                "; its own thought changes the likelihood of the true suffix, against " if not parts else "; against "
            )
            parts += [f"{lead}{name}, by ", *told(worst, up, down, " nats per token")]
    harmed = [
        lineage
        for lineage, row in probed[m.SWAPPED].items()
        if _lowest(row) > 0 > _lowest(probed[m.BLANK].get(lineage, {}))
    ]
    if harmed:
        parts.append(
            f"; so in the {' and '.join(harmed)} lineage thoughts are worth something only beside those that harm"
        )
    return parts


def receptive(figures: Figures) -> Sentence:
    """Return whether later stages gave the self-improved lineage more than another one: a difference of differences."""
    question = "Did stage 1 make the model more receptive to thinking mid-training?"
    arm = f"{IMPROVED}-{RLMT}"
    score, reward = (_against(figures, arm, metric.interaction) for metric in (m.GATE_SCORE, m.GATE_REWARD))
    if score is None:
        return Sentence(question, NONE, [_not_run(figures, arm)])
    controlled = score.against == f"{CONTINUED}-{RLMT}"
    than = "after plain training on the same text" if controlled else "without stage 1"
    parts: list[Part] = ["From where each lineage began, the later stages changed the score of predictions by "]
    parts += [
        Value(score),
        f" more with stage 1 than {than}, at equal entropy: {judgement(score, figures.detectable(score))}",
    ]
    parts.append(f", by {by_whom(figures, score)}")
    if reward is not None and reward.against == score.against:
        parts += [
            "; in the share that matches by ",
            Value(reward),
            f": {judgement(reward, figures.detectable(reward))}",
        ]
    if not controlled:
        parts.append(
            "; extra training on the same text could explain it: the control of stage 1 did not go through the later "
            "stages (improve.control_lineage = true)"
        )
    copies = copied(figures, [arm], score.judge)
    verdict = (UNCLEAR, YES, NO)[sign(score)]
    if copies or (reward is not None and sign(reward) * sign(score) < 0):
        verdict = UNCLEAR
    if verdict == YES and not (controlled and figures.independent(score)):
        verdict = PARTLY
    return Sentence(question, verdict, [*parts, *copies, "."])


def _against(figures: Figures, arm: str, metric: Metric) -> Measurement | None:
    """Return the interaction with the control's lineage, else with the base's."""
    asked = (
        figures.least(m.EVALUATE_RLMT, arm, metric, against=f"{other}-{RLMT}", condition=m.MATCHED)
        for other in (CONTINUED, BASE)
    )
    return next((figure for figure in asked if figure is not None), None)


def _not_run(figures: Figures, arm: str) -> str:
    """Return why there is no answer, and how to get one."""
    ran = next(figures.select(m.EVALUATE_RLMT, m.GATE_SCORE, arm=arm), None) is not None
    why = (
        "What later stages changed in one lineage more than in another, at equal entropy, was not measured here, and "
        "levels after RL do not say it"
        if ran
        else "Stage 3 was not run, or not evaluated, here"
    )
    if next(figures.select(m.EVALUATE_RLMT, m.GATE_SCORE, arm=f"{CONTINUED}-{RLMT}"), None) is not None:
        return f"{why}. To answer it, evaluate again: the control went all the way, and this version measures it."
    way = "let the control of stage 1 go through stages 2 and 3, too: improve.control_lineage = true"
    return f"{why}. To answer it, {way}."


def _sign(found: Mapping[str, Measurement], lineage: str) -> int:
    return sign(found[lineage]) if lineage in found else 0


def _lowest(row: Mapping[str, Measurement]) -> int:
    """Return the least sign of the entropies; 0 where nothing was probed."""
    return min(map(sign, row.values()), default=0)

"""Held-out comparison of two policies by their continuations, three ways.

Sharpening alone wins at temperature 1: a policy that has merely lost entropy writes safer text than
its base, and judges like that.  So every win rate is given ``sampled`` (both at T = 1), ``greedy``
(both at T = 0) and ``entropy-matched`` (the policy at T = 1, the base at the temperature at which it
has the policy's entropy), with entropy, repetition, diversity and length of both sides beside it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from forethought import metrics, text
from forethought.engine import Prompt, Sampler, Sampling
from forethought.judges import Judge
from forethought.judges.tournament import scores
from forethought.keys import Key
from forethought.metrics import GREEDY, MATCHED, SAMPLED
from forethought.records import Chunk, JudgeRequest, Measurement, Outcome, Verdict
from forethought.stats import Interval, bootstrap_mean, paired_bootstrap, sign_test, wilson

Texts = tuple[Sequence[str], Sequence[str]]
"""The policy's and the base's text of each chunk."""

MATCHING_RANGE = 4.0
"""The matching temperature is sought between 1 / 4 and 4."""
MATCHING_STEPS = 8
"""Bisection steps; eight of them leave 0.5% of the temperature."""


@dataclass(frozen=True, slots=True)
class Side:
    """One policy of a comparison."""

    arm: str
    """Its name in the run: ``base``, ``self-improved``, ..."""
    sampler: Sampler
    """What writes for it."""
    identity: str
    """Hash of its checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonSettings:
    """What both sides of a comparison share."""

    conditions: tuple[str, ...] = (SAMPLED, GREEDY, MATCHED)
    """Ways of comparing."""
    new_tokens: int
    """Length of every continuation, in tokens."""
    bos: tuple[int, ...] = ()
    """What goes before the prefix ids; empty if the model has no BOS."""
    forbidden_ids: tuple[int, ...] = ()
    """Never drawn: EOS and its like, so that all continuations are equally long."""
    entropy_tolerance: float = 0.02
    """Nats per token within which the base's entropy matches the policy's."""
    decode: Callable[[Sequence[int]], str]
    """Tokens to text."""
    seed: int = 0
    """Seed of sampling, of the order in a contest and of the bootstrap."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.conditions) - {SAMPLED, GREEDY, MATCHED})
        if unknown:
            raise ValueError(f"unknown conditions {unknown}: known are {SAMPLED}, {GREEDY} and {MATCHED}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One continuation of each chunk by one side at one temperature, in the order of the chunks."""

    temperature: float
    """At which they were drawn."""
    token_ids: tuple[tuple[int, ...], ...]
    """The sampled ids."""
    texts: tuple[str, ...]
    """What a judge reads."""
    surprise: tuple[float, ...]
    """Mean over a continuation's tokens of ``-log p`` under the distribution it was drawn from, in nats."""

    @property
    def entropy(self) -> float:
        """Nats per token: the unbiased Monte Carlo estimate of the side's own entropy (equal lengths)."""
        return sum(self.surprise) / len(self.surprise)


@dataclass(frozen=True, slots=True)
class Continuations:
    """One side's continuations of the held-out chunks, drawn once per temperature and kept.

    Make one for the base and give it to the comparison of every arm: nothing is drawn twice, and the
    bisections of several arms share their first temperatures.
    """

    side: Side
    """Who writes."""
    chunks: Sequence[Chunk]
    """What is continued."""
    settings: ComparisonSettings
    """How."""
    drawn: dict[float, Drawn] = field(default_factory=dict)
    """What was drawn so far, by temperature."""

    def at(self, temperature: float) -> Drawn:
        """Return the continuations at ``temperature``.  The keys are the same at every temperature and for every
        side, so that two policies that agree write the same text, and entropy is smooth in the temperature.

        Raises:
            ValueError: if a continuation is shorter than asked for, which would mix length into the comparison.
        """
        if temperature not in self.drawn:
            self.drawn[temperature] = self._draw(temperature)
        return self.drawn[temperature]

    def _draw(self, temperature: float) -> Drawn:
        settings = self.settings
        prompts = [Prompt(id=chunk.id, token_ids=settings.bos + chunk.prefix_ids) for chunk in self.chunks]
        sampling = Sampling(
            max_tokens=settings.new_tokens, temperature=temperature, forbidden_ids=settings.forbidden_ids
        )
        key = Key(seed=settings.seed, purpose="held-out continuations")
        completions = [branches[0] for branches in self.side.sampler.sample(prompts, 1, sampling, key)]
        for chunk, completion in zip(self.chunks, completions, strict=True):
            if len(completion.token_ids) != settings.new_tokens:
                raise ValueError(
                    f"{self.side.arm} wrote {len(completion.token_ids)} of {settings.new_tokens} tokens after chunk "
                    f"{chunk.id}: forbid its stop tokens, or the comparison would measure length"
                )
        return Drawn(
            temperature=temperature,
            token_ids=tuple(completion.token_ids for completion in completions),
            texts=tuple(settings.decode(completion.token_ids) for completion in completions),
            surprise=tuple(-sum(completion.logprobs) / settings.new_tokens for completion in completions),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Duel:
    """What one judge said about the two continuations of one prefix."""

    points: float | None
    """The policy's: 1 for a win, 0.5 for a tie, 0 for a loss; ``None`` if unscored."""
    policy_score: float | None = None
    """The judge's score, or the share of votes, of the policy's text."""
    base_score: float | None = None
    """The same of the base's."""
    reason: str = ""
    """Why it is unscored, or a tie without a vote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a comparison found."""

    measurements: tuple[Measurement, ...]
    """All figures."""
    examples: tuple[dict[str, Any], ...]
    """One row per prefix: prefix, original suffix and, by condition, both texts and every judge's scores."""


def compare(
    policy: Continuations,
    base: Continuations,
    judges: Mapping[str, Judge],
    progress: Callable[[str], None] = lambda doing: None,
) -> Comparison:
    """Compare ``policy`` with ``base`` in every condition by every judge.

    ``judges`` are named as the measurements shall name them.  All text is drawn before the first judge
    is asked for.  ``progress`` is called with what is about to be done.

    Raises:
        ValueError: if there is no chunk, or the sides do not share chunks and settings.
    """
    chunks, settings = policy.chunks, policy.settings
    if not chunks:
        raise ValueError("nothing to compare: no held-out prefix. Raise chunk.heldout_share or add documents")
    if [chunk.id for chunk in chunks] != [chunk.id for chunk in base.chunks] or settings != base.settings:
        raise ValueError(f"{policy.side.arm} and {base.side.arm} must continue the same chunks with the same settings")
    pairs: dict[str, tuple[Drawn, Drawn]] = {}
    for condition in settings.conditions:
        progress(f"{policy.side.arm} and {base.side.arm} write: {condition}")
        pairs[condition] = _pair(condition, policy, base)
    measurements: list[Measurement] = []
    rows = [{"chunk_id": chunk.id, "prefix": chunk.prefix, "suffix": chunk.suffix} for chunk in chunks]
    examples: list[dict[str, Any]] = [row | _texts(pairs, index) for index, row in enumerate(rows)]
    for condition, pair in pairs.items():
        measurements += _describe(condition, pair, policy, base)
    documents = [chunk.document_id for chunk in chunks]
    for name in judges:
        judge = judges[name]
        progress(f"{name} judges {policy.side.arm} against {base.side.arm}")
        texts = {condition: (pair[0].texts, pair[1].texts) for condition, pair in pairs.items()}
        for condition, duels in duel(judge, chunks, texts, settings.seed).items():
            blank = _blank(policy.side, base.side, condition, name)
            measurements += count(duels, documents, blank, settings.seed)
            for row, one in zip(examples, duels, strict=True):
                row["conditions"][condition]["judges"][name] = {
                    "judge": judge.name,
                    "points": one.points,
                    "policy": one.policy_score,
                    "base": one.base_score,
                    "reason": one.reason,
                }
    return Comparison(measurements=tuple(measurements), examples=tuple(examples))


def match_temperature(target: float, entropy_at: Callable[[float], float], tolerance: float) -> float:
    """Return a temperature at which ``entropy_at`` is within ``tolerance`` of ``target`` (nats per token).

    Bisection in log-temperature on the side of 1 on which the target lies.  If nothing within
    ``MATCHING_RANGE`` and ``MATCHING_STEPS`` matches, the closest temperature that was tried.
    """
    gaps = {1.0: entropy_at(1.0) - target}
    low, high = (0.0, math.log(MATCHING_RANGE)) if gaps[1.0] < 0 else (-math.log(MATCHING_RANGE), 0.0)
    for _ in range(MATCHING_STEPS):
        if min(map(abs, gaps.values())) <= tolerance:
            break
        middle = (low + high) / 2
        temperature = math.exp(middle)
        gaps[temperature] = entropy_at(temperature) - target
        low, high = (middle, high) if gaps[temperature] < 0 else (low, middle)
    return min(gaps, key=lambda temperature: abs(gaps[temperature]))


def duel(judge: Judge, chunks: Sequence[Chunk], texts: Mapping[str, Texts], seed: int) -> dict[str, list[Duel]]:
    """Have ``judge`` compare two texts per chunk and condition, blind: a keyed coin says which comes first.

    ``texts`` holds, per condition, the policy's and the base's text of each chunk.  The contests of a chunk stand
    together, so that a judge which shares prefixes computes each once.  A pairwise judge wins a duel only if both
    orders agree on it; a pointwise one by the higher score.  Texts that are equal tie without being shown, since
    rounding must not choose between them.
    """
    coin = Key(seed=seed, purpose="contest order")
    duels = {condition: [Duel(points=0.5, reason="the same text")] * len(chunks) for condition in texts}
    places: list[tuple[str, int, int]] = []
    contests: list[JudgeRequest] = []
    for index, chunk in enumerate(chunks):
        swapped = bool(coin.uniforms(chunk.id, 0, 1)[0] < 0.5)
        for condition, (policy, base) in texts.items():
            pair = (policy[index], base[index])
            if pair[0] != pair[1]:
                candidates = pair[::-1] if swapped else pair
                contests.append(JudgeRequest(prefix=chunk.prefix, candidates=candidates, original=chunk.suffix))
                places.append((condition, index, int(swapped)))
    for (condition, index, place), verdicts in zip(places, judge.rank(contests) if contests else [], strict=True):
        duels[condition][index] = _decide(verdicts, policy=place)
    return duels


def count(duels: Sequence[Duel], documents: Sequence[str], blank: Measurement, seed: int) -> list[Measurement]:
    """Return ``win_rate``, ``tie_rate``, ``sign_test_p`` and ``unscored_rate`` of duels; ``blank`` says whose.

    Unscored duels are in the denominator of ``unscored_rate`` only; if all are, that is all there is.
    The sign test counts documents, which are independent, and leaves ties out.
    """
    unscored = [float(duel.points is None) for duel in duels]
    found = [_filled(blank, metrics.UNSCORED_RATE, *rate(unscored, documents, seed))]
    scored = [(duel.points, document) for duel, document in zip(duels, documents, strict=True)]
    points = [point for point, _ in scored if point is not None]
    owners = [document for point, document in scored if point is not None]
    if not points:
        return found
    balance = dict.fromkeys(owners, 0.0)
    for point, owner in zip(points, owners, strict=True):
        balance[owner] += point - 0.5
    wins, losses = (sum(sign * one > 0 for one in balance.values()) for sign in (1, -1))
    unit = "p, exact and two-sided; n documents without ties"
    p_value = replace(blank, metric=metrics.SIGN_TEST, value=sign_test(wins, losses), n=wins + losses, unit=unit)
    ties = [float(point == 0.5) for point in points]
    return [
        _filled(blank, metrics.WIN_RATE, *rate(points, owners, seed)),
        _filled(blank, metrics.TIE_RATE, *rate(ties, owners, seed)),
        p_value,
        *found,
    ]


def rate(points: Sequence[float], documents: Sequence[str], seed: int) -> tuple[Interval, str]:
    """Return the mean of ``points`` in [0, 1] with its 95% interval, and its unit.

    Wilson if every point is a single vote (0 or 1) and every document has one; else a bootstrap over
    documents.  All wins or all losses bootstrap to a point, so they take Wilson over documents.
    """
    mean, owners = sum(points) / len(points), len(set(documents))
    if mean in (0.0, 1.0) or (owners == len(points) and set(points) <= {0.0, 1.0}):
        single = wilson(round(mean * owners), owners)
        return single, "share of prefixes; Wilson" if owners == len(points) else "share of documents; Wilson"
    return bootstrap_mean(points, seed, clusters=documents), "share of prefixes; bootstrap over documents"


def _pair(condition: str, policy: Continuations, base: Continuations) -> tuple[Drawn, Drawn]:
    if condition == GREEDY:
        return policy.at(0.0), base.at(0.0)
    if condition == SAMPLED:
        return policy.at(1.0), base.at(1.0)
    target = policy.at(1.0)
    tolerance = policy.settings.entropy_tolerance
    temperature = match_temperature(target.entropy, lambda tried: base.at(tried).entropy, tolerance)
    return target, base.at(temperature)


def _decide(verdicts: Sequence[Verdict], policy: int) -> Duel:
    """Turn the verdicts of a contest of two into a duel; ``policy`` is the index of the policy's text."""
    given = scores(2, verdicts)
    own, other = given[policy], given[1 - policy]
    if own is None or other is None:
        reasons = sorted({verdict.reason for verdict in verdicts if verdict.outcome is Outcome.UNSCORED})
        return Duel(points=None, reason="; ".join(reasons) or "the judge said nothing")
    return Duel(points=0.5 if own == other else float(own > other), policy_score=own, base_score=other)


def _describe(
    condition: str, pair: tuple[Drawn, Drawn], policy: Continuations, base: Continuations
) -> list[Measurement]:
    """Return entropy, repetition, distinct-2 and length of both sides, and how well their entropies match."""
    documents, seed = [chunk.document_id for chunk in policy.chunks], policy.settings.seed
    found = []
    for drawn, side, other in zip(pair, (policy.side, base.side), (base.side, policy.side), strict=True):
        blank = _blank(side, other, condition)
        words = [text.words(one) for one in drawn.texts]
        per_text = [
            (metrics.REPETITION, [text.repetition(one) for one in words], "share of a text's word 4-grams; n texts"),
            (metrics.CHARACTERS, [float(len(one)) for one in drawn.texts], "characters; n texts"),
        ]
        if condition != GREEDY:  # Greedy text is not drawn: it has no entropy.
            per_text.append((metrics.ENTROPY, list(drawn.surprise), "nats per token; n texts"))
        for metric, values, unit in per_text:
            interval = bootstrap_mean(values, seed, clusters=documents)
            found.append(_filled(blank, metric, interval, f"{unit}, bootstrap over documents"))
        distinct = text.distinct_interval(words, 2, documents)
        found.append(_filled(blank, metrics.DISTINCT, distinct, "share of all word 2-grams; n texts, jackknife"))
    if condition == MATCHED:
        blank = _blank(policy.side, base.side, condition)
        found.append(
            replace(
                blank,
                metric=metrics.MATCHING_TEMPERATURE,
                value=pair[1].temperature,
                n=len(documents),
                unit="temperature of the base; n texts",
            )
        )
        gap = paired_bootstrap(pair[0].surprise, pair[1].surprise, seed, clusters=documents)
        found.append(_filled(blank, metrics.ENTROPY_GAP, gap, "nats per token; n texts, bootstrap over documents"))
    return found


def _texts(pairs: Mapping[str, tuple[Drawn, Drawn]], index: int) -> dict[str, Any]:
    return {
        "conditions": {
            condition: {
                "policy": policy.texts[index],
                "base": base.texts[index],
                "base_temperature": base.temperature,
                "judges": {},
            }
            for condition, (policy, base) in pairs.items()
        }
    }


def _blank(side: Side, other: Side, condition: str, judge: str = "") -> Measurement:
    return Measurement(
        stage=metrics.EVALUATE,
        arm=side.arm,
        against=other.arm,
        metric="",
        condition=condition,
        judge=judge,
        value=0.0,
        n=0,
        unit="",
        subject=side.identity,
    )


def _filled(blank: Measurement, metric: str, interval: Interval, unit: str) -> Measurement:
    return replace(blank, metric=metric, unit=unit, **dataclasses.asdict(interval))

"""Held-out comparison of two policies by their continuations, four ways.

Sharpening alone wins at temperature 1: a policy that has merely lost entropy writes safer text than its base, and
judges like that.  So every win rate is given ``sampled`` (both at T = 1), ``greedy`` (both at T = 0) and at equal
entropy from both sides: ``entropy-matched`` (the policy at T = 1, the base at the temperature at which it has the
policy's entropy) and ``entropy-matched to the base`` (the base at T = 1, the policy at the temperature at which it has
the base's), with entropy, repetition, diversity and length of both sides.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from forethought import metrics, text
from forethought.engine import Prompt
from forethought.evals.recorder import Recorder
from forethought.judges import Judge
from forethought.judges.tournament import scores
from forethought.keys import Key
from forethought.metrics import EVALUATE, GREEDY, MATCHED, MATCHED_TO_BASE, SAMPLED
from forethought.models.model import Model
from forethought.records import Chunk, JudgeRequest, Measurement, Outcome
from forethought.stats import Interval, bootstrap_mean, sign_test, wilson

MATCHING_RANGE = 4.0
"""The matching temperature is sought between 1 / 4 and 4."""
MATCHING_STEPS = 8
"""Temperatures that are tried at most besides 1; two or three do as a rule."""
ENTROPY_SLOPE = 3.0
"""Nats per token that a language model gains, about, when its temperature grows from 1 to e: the first guess.
Untrained SmolLM2-135M loses 1.56 nats from T = 1 to 0.677, which is 4.0; a model over few tokens has less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonSettings:
    """What both policies of a comparison share."""

    conditions: tuple[str, ...] = (SAMPLED, GREEDY, MATCHED, MATCHED_TO_BASE)
    new_tokens: int
    """Length of every continuation."""
    entropy_tolerance: float = 0.02
    """Nats per token within which entropies match."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """One continuation of each chunk by one policy at one temperature, in the order of the chunks."""

    temperature: float
    texts: tuple[str, ...]
    surprise: tuple[float, ...]
    """Mean over a continuation's tokens of ``-log p`` under the distribution it was drawn from, in nats."""

    @property
    def entropy(self) -> float:
        """Nats per token: the unbiased Monte Carlo estimate of the policy's own entropy (equal lengths)."""
        return sum(self.surprise) / len(self.surprise)


@dataclass(frozen=True, slots=True)
class Continuations:
    """One policy's continuations of the held-out chunks, drawn once per temperature and kept.

    Make one for the base and give it to the comparison of every arm: nothing is drawn twice.
    """

    model: Model
    chunks: Sequence[Chunk]
    settings: ComparisonSettings
    samples: dict[float, Samples] = field(default_factory=dict)

    def at(self, temperature: float) -> Samples:
        """Return the continuations at ``temperature``, which must all be as long as asked for."""
        if temperature in self.samples:
            return self.samples[temperature]
        size = self.settings.new_tokens
        prompts = [Prompt(id=chunk.id, token_ids=self.model.bos + chunk.prefix_ids) for chunk in self.chunks]
        # One key for every temperature and policy: policies that agree write the same text, and entropy is smooth in
        # the temperature.
        key = Key(seed=self.settings.seed, purpose="held-out continuations")
        drawn = self.model.sample(prompts, max_tokens=size, temperature=temperature, key=key)
        for chunk, [completion] in zip(self.chunks, drawn, strict=True):
            if len(completion.token_ids) != size:
                raise ValueError(
                    f"{self.model.name} wrote {len(completion.token_ids)} of {size} tokens after chunk {chunk.id}: "
                    "forbid its stop tokens, or the comparison would measure length"
                )
        self.samples[temperature] = Samples(
            temperature=temperature,
            texts=tuple(completion.text for [completion] in drawn),
            surprise=tuple(-sum(completion.logprobs) / size for [completion] in drawn),
        )
        return self.samples[temperature]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairResult:
    """What one judge said about the two continuations of one prefix."""

    points: float | None
    """The policy's: 1 for a win, 0.5 for a tie, 0 for a loss; ``None`` if unscored."""
    policy: float | None = None
    """The judge's score, or the share of votes, of the policy's text."""
    base: float | None = None
    reason: str = ""
    """Why it is unscored, or a tie without a vote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    measurements: tuple[Measurement, ...]
    examples: tuple[dict[str, Any], ...]
    """One row per prefix: prefix, original suffix and, by condition, both texts and every judge's scores."""


def compare(
    policy: Continuations,
    base: Continuations,
    judges: Mapping[str, Judge],
    progress: Callable[[str], None] = lambda doing: None,
    stage: str = EVALUATE,
) -> Comparison:
    """Compare ``policy`` with ``base`` in every condition by every judge.

    ``judges`` are named as the measurements shall name them; ``progress`` is called with what is about to be done.

    Raises:
        ValueError: if there is no chunk, or the two do not share chunks and settings.
    """
    chunks, settings = policy.chunks, policy.settings
    names = policy.model.name, base.model.name
    if not chunks:
        raise ValueError("nothing to compare: no held-out prefix. Raise chunk.heldout_share or add documents")
    if [chunk.id for chunk in chunks] != [chunk.id for chunk in base.chunks] or settings != base.settings:
        raise ValueError(f"{names[0]} and {names[1]} must continue the same chunks with the same settings")
    # All text is drawn before the first judge is asked: policy and judges need not be in memory together.
    pairs: dict[str, tuple[Samples, Samples]] = {}
    for condition in settings.conditions:
        progress(f"{names[0]} and {names[1]} write: {condition}")
        pairs[condition] = _pair(condition, policy, base)
    documents = [chunk.document_id for chunk in chunks]
    own, other = (Recorder.of(side.model, stage, documents, settings.seed) for side in (policy, base))
    recorders = own.versus(names[1]), other.versus(names[0])
    measurements = [figure for condition, pair in pairs.items() for figure in _describe(condition, pair, recorders)]
    examples = [_example(chunk, pairs, index) for index, chunk in enumerate(chunks)]
    for name, judge in judges.items():
        progress(f"{name} judges {names[0]} against {names[1]}")
        recorder = dataclasses.replace(recorders[0], judge=name)
        for condition, results in judge_pairs(judge, chunks, pairs, settings.seed).items():
            measurements += count(results, recorder, condition)
            for row, result in zip(examples, results, strict=True):
                row["conditions"][condition]["judges"][name] = {"judge": judge.name, **dataclasses.asdict(result)}
    return Comparison(measurements=tuple(measurements), examples=tuple(examples))


def match_temperature(target: float, entropy_at: Callable[[float], float], tolerance: float) -> float:
    """Return a temperature at which ``entropy_at`` is within ``tolerance`` of ``target`` (nats per token).

    Entropy is nearly straight in the logarithm of the temperature, so each step goes where the line through the last
    two points meets the target (secant), as long as that lies between what is known to be too cold and too hot; else
    to the middle.  It never leaves the range 1 / :data:`MATCHING_RANGE` to :data:`MATCHING_RANGE`; if nothing in it
    matches, the closest temperature that was tried is returned.

    ``entropy_at`` should draw with the same random numbers at every temperature, so that it is smooth.
    """
    gaps = {0.0: entropy_at(1.0) - target}  # by log-temperature
    # Entropy rises with the temperature: too little of it means searching above 1.
    low, high = (0.0, math.log(MATCHING_RANGE)) if gaps[0.0] < 0 else (-math.log(MATCHING_RANGE), 0.0)
    for _ in range(MATCHING_STEPS):
        if low == high or min(map(abs, gaps.values())) <= tolerance:
            break
        tried = _next_trial(list(gaps.items()), low, high)
        gaps[tried] = entropy_at(math.exp(tried)) - target
        low, high = (tried, high) if gaps[tried] < 0 else (low, tried)
    return math.exp(min(gaps, key=lambda tried: abs(gaps[tried])))


def _next_trial(points: Sequence[tuple[float, float]], low: float, high: float) -> float:
    """Return the log-temperature to try next, in [low, high]; ``points``: those tried so far with their gaps."""
    at, gap = points[-1]
    slope = ENTROPY_SLOPE
    if len(points) > 1:
        before, gap_before = points[-2]
        slope = (gap - gap_before) / (at - before)
    middle = (low + high) / 2
    if slope <= 0:  # sampling noise hides which way entropy goes
        return middle
    aim = at - gap / slope
    known = {tried for tried, _ in points}
    # Beyond an end of the range that nobody tried, that end is the nearest that there is.
    for end, beyond in ((low, aim <= low), (high, aim >= high)):
        if beyond:
            return middle if end in known else end
    return aim


def judge_pairs(
    judge: Judge, chunks: Sequence[Chunk], pairs: Mapping[str, tuple[Samples, Samples]], seed: int
) -> dict[str, list[PairResult]]:
    """Have ``judge`` compare the policy's and the base's text of each chunk, by condition.

    A pairwise judge wins only if both orders agree on it; a pointwise one by the higher score.
    """
    order = Key(seed=seed, purpose="contest order")
    # Equal texts tie without being shown, since rounding must not choose between them.
    results = {condition: [PairResult(points=0.5, reason="the same text")] * len(chunks) for condition in pairs}
    places: list[tuple[str, int, int]] = []
    requests: list[JudgeRequest] = []
    # The requests of a chunk stand together, so that a judge which shares prefixes computes each once.
    for index, chunk in enumerate(chunks):
        swapped = bool(order.uniforms(chunk.id, 0, 1)[0] < 0.5)  # blind: a keyed draw says which comes first
        for condition, (policy, base) in pairs.items():
            texts = (policy.texts[index], base.texts[index])
            if texts[0] != texts[1]:
                candidates = texts[::-1] if swapped else texts
                requests.append(JudgeRequest(prefix=chunk.prefix, candidates=candidates, original=chunk.suffix))
                places.append((condition, index, int(swapped)))
    for (condition, index, place), verdicts in zip(places, judge.rank(requests) if requests else [], strict=True):
        own, other = (scores(2, verdicts)[side] for side in (place, 1 - place))
        if own is None or other is None:
            reasons = sorted({verdict.reason for verdict in verdicts if verdict.outcome is Outcome.UNSCORED})
            result = PairResult(points=None, reason="; ".join(reasons) or "the judge said nothing")
        else:
            result = PairResult(points=0.5 if own == other else float(own > other), policy=own, base=other)
        results[condition][index] = result
    return results


def count(results: Sequence[PairResult], recorder: Recorder, condition: str) -> list[Measurement]:
    """Return ``win_rate``, ``tie_rate``, ``sign_test_p`` and ``unscored_rate`` of pairs of texts.

    Unscored pairs are in the denominator of ``unscored_rate`` only; if all are, that is all there is.
    """

    def share(metric: str, points: Sequence[float], owners: Sequence[str]) -> list[Measurement]:
        return recorder.interval(metric, *rate(points, owners, recorder.seed), condition)

    unscored = share(metrics.UNSCORED_RATE, [float(r.points is None) for r in results], recorder.documents)
    scored = [(r.points, owner) for r, owner in zip(results, recorder.documents, strict=True) if r.points is not None]
    if not scored:
        return unscored
    points, owners = [point for point, _ in scored], [owner for _, owner in scored]
    # The sign test counts documents, which are independent, and leaves ties out.
    balance = dict.fromkeys(owners, 0.0)
    for point, owner in scored:
        balance[owner] += point - 0.5
    wins, losses = (sum(sign * value > 0 for value in balance.values()) for sign in (1, -1))
    unit = "p, exact and two-sided; n documents without ties"
    return [
        *share(metrics.WIN_RATE, points, owners),
        *share(metrics.TIE_RATE, [float(point == 0.5) for point in points], owners),
        *recorder.value(metrics.SIGN_TEST, sign_test(wins, losses), wins + losses, unit, condition),
        *unscored,
    ]


def rate(points: Sequence[float], documents: Sequence[str], seed: int) -> tuple[Interval, str]:
    """Return the mean of ``points`` in [0, 1] with its 95% interval, and its unit.

    Wilson if every point is a single vote (0 or 1) and every document has one; else a bootstrap over documents.
    """
    mean, owners = sum(points) / len(points), len(set(documents))
    # All wins or all losses bootstrap to a point, so they take Wilson over documents.
    if mean in (0.0, 1.0) or (owners == len(points) and set(points) <= {0.0, 1.0}):
        single = wilson(round(mean * owners), owners)
        return single, "share of prefixes; Wilson" if owners == len(points) else "share of documents; Wilson"
    return bootstrap_mean(points, seed, clusters=documents), "share of prefixes; bootstrap over documents"


def _pair(condition: str, policy: Continuations, base: Continuations) -> tuple[Samples, Samples]:
    if condition in (GREEDY, SAMPLED):
        temperature = 0.0 if condition == GREEDY else 1.0
        return policy.at(temperature), base.at(temperature)
    # Which side is brought to the other's entropy matters: text of low entropy is judged otherwise than text of high.
    kept, moved = (policy, base) if condition == MATCHED else (base, policy)
    target, tolerance = kept.at(1.0), kept.settings.entropy_tolerance
    matched = moved.at(match_temperature(target.entropy, lambda tried: moved.at(tried).entropy, tolerance))
    return (target, matched) if condition == MATCHED else (matched, target)


def _describe(condition: str, pair: tuple[Samples, Samples], recorders: tuple[Recorder, Recorder]) -> list[Measurement]:
    """Return entropy, repetition, distinct-2 and length of both policies, and how well their entropies match."""
    figures: list[Measurement] = []
    over = "n texts, bootstrap over documents"
    for samples, recorder in zip(pair, recorders, strict=True):
        words, lengths = (
            [text.words(sample) for sample in samples.texts],
            [float(len(sample)) for sample in samples.texts],
        )
        repeated, of = [text.repetition(own) for own in words], "share of a text's word 4-grams"
        figures += recorder.mean(metrics.REPETITION, repeated, f"{of}; {over}", condition)
        figures += recorder.mean(metrics.CHARACTERS, lengths, f"characters; {over}", condition)
        if condition != GREEDY:  # Greedy text is not drawn: it has no entropy.
            figures += recorder.mean(metrics.ENTROPY, samples.surprise, f"nats per token; {over}", condition)
        # Over all texts together, not a mean over texts: so it takes another interval.
        distinct, unit = text.distinct_interval(words, 2, recorder.documents), "share of all word 2-grams; n texts"
        figures += recorder.interval(metrics.DISTINCT, distinct, f"{unit}, jackknife", condition)
    if condition in (MATCHED, MATCHED_TO_BASE):
        own, moved = recorders[0], int(condition == MATCHED)
        unit = f"temperature of {'the base' if moved else 'the policy'}; n texts"
        figures += own.value(metrics.MATCHING_TEMPERATURE, pair[moved].temperature, len(own.documents), unit, condition)
        gap = pair[0].surprise, pair[1].surprise
        figures += own.change(metrics.ENTROPY_GAP, gap, f"nats per token; {over}", condition)
    return figures


def _example(chunk: Chunk, pairs: Mapping[str, tuple[Samples, Samples]], index: int) -> dict[str, Any]:
    conditions = {
        condition: {
            "policy": policy.texts[index],
            "base": base.texts[index],
            "policy_temperature": policy.temperature,
            "base_temperature": base.temperature,
            "judges": {},
        }
        for condition, (policy, base) in pairs.items()
    }
    return {"chunk_id": chunk.id, "prefix": chunk.prefix, "suffix": chunk.suffix, "conditions": conditions}

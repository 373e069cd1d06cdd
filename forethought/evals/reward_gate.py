"""The reward gate: all arms predict on the same held-out windows with the same keys; the unit is the window.

A policy of less entropy writes safer suffixes and matches more often by that alone, so arms are compared at temperature
1 and at equal entropy, that of the most random arm and that of the least random one.  The mean of these two is the
claimed row (:data:`~forethought.metrics.MATCHED`), and the entropy stands beside every rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forethought.algorithms.windows import Window, prefix_copies
from forethought.evals.recorder import Recorder
from forethought.evals.windows import (
    Drawn,
    Inserts,
    Result,
    Rollouts,
    Scored,
    WindowEval,
    at_levels,
    difference,
    means,
    predict,
    predict_at_once,
    score,
    think_and_predict,
    thoughts,
)
from forethought.metrics import (
    CLOSE_RATE,
    EVALUATE_RLMT,
    GATE_ENTROPY,
    GATE_REWARD,
    GATE_SCORE,
    GATE_TEMPERATURE,
    GATE_UNSCORED,
    ORACLE,
    PREFIX_END,
    PREFIX_START,
    SECOND_THOUGHT,
    THOUGHT_TOKENS,
)
from forethought.models.model import Model
from forethought.records import Measurement, content_id

PAIRED = "paired by window; n windows, interval over documents"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What an arm thought, once for all conditions, and what it predicted at temperature 1."""

    drawn: Drawn
    rollouts: Rollouts | None = None
    """Of an arm that thinks."""

    @classmethod
    def of(cls, model: Model, evaluation: WindowEval, samples: int, *, thinks: bool) -> Entry:
        if not thinks:
            return cls(drawn=predict_at_once(model, evaluation, samples))
        drawn, rollouts = think_and_predict(model, evaluation, samples)
        return cls(drawn=drawn, rollouts=rollouts)

    def at(self, model: Model, evaluation: WindowEval, targets: Mapping[str, float]) -> dict[str, Drawn]:
        """Return the suffixes by condition: at temperature 1, and after the same thoughts at each target's entropy."""
        samples = len(self.drawn.suffixes[0])
        inserts: Inserts = thoughts(model, self.rollouts) if self.rollouts is not None else ()

        def again(temperature: float) -> Drawn:
            if self.rollouts is None:
                return predict_at_once(model, evaluation, samples, temperature)
            return predict(model, evaluation, inserts, temperature)

        return at_levels(self.drawn, again, targets, evaluation.entropy_tolerance)


def figures(
    recorder: Recorder, entry: Entry, draws: Mapping[str, Drawn], found: Mapping[str, Result]
) -> list[Measurement]:
    """Return an arm's rates and, beside each of them, the entropy at which it was reached."""
    samples = len(entry.drawn.suffixes[0])
    over = f"n held-out windows, {samples} samples each, interval over documents"
    measurements: list[Measurement] = []
    for name, result in found.items():
        measurements += recorder.mean(GATE_REWARD, result.rewards, f"share of predictions that match; {over}", name)
        measurements += recorder.mean(GATE_SCORE, result.scores, f"mean score; {over}", name)
        measurements += recorder.mean(GATE_ENTROPY, result.entropies, f"nats per token of the suffix; {over}", name)
    for name, drawn in draws.items():
        count, unit = len(recorder.documents), "temperature of the suffixes; n held-out windows"
        measurements += recorder.value(GATE_TEMPERATURE, drawn.temperature, count, unit, name)
        opens = f"share of suffixes in which a thought is opened; {over}"
        measurements += recorder.mean(SECOND_THOUGHT, means(drawn.second), opens, name)
    return measurements


def details(recorder: Recorder, entry: Entry, scored: Scored | None) -> list[Measurement]:
    """Return what is of interest at temperature 1 alone: the best of the samples, and what thoughts are like."""
    if scored is None:
        return []
    samples, rollouts = len(scored.rewards[0]), entry.rollouts
    # A window counts if any sample of it was scored.
    best = [
        max(known) if (known := [reward for reward in row if reward is not None]) else None for row in scored.rewards
    ]
    unscored = [sum(reward is None for reward in row) / len(row) for row in scored.rewards]
    over = f"n held-out windows, {samples} samples each, interval over documents"
    measurements = [
        *recorder.mean(ORACLE.at(samples), best, f"share of windows of which a prediction matches; {over}"),
        *recorder.mean(GATE_UNSCORED, unscored, f"share of predictions without a verdict; {over}"),
    ]
    if rollouts is not None:
        closed = [sum(rollout.closed for rollout in row) / len(row) for row in rollouts]
        lengths = [sum(rollout.thought_tokens for rollout in row) / len(row) for row in rollouts]
        measurements += recorder.mean(CLOSE_RATE, closed, f"share of thoughts that the policy closed itself; {over}")
        measurements += recorder.mean(THOUGHT_TOKENS, lengths, f"tokens of a thought; {over}")
    return measurements


def compare(recorder: Recorder, found: Mapping[str, Result], before: Mapping[str, Result]) -> list[Measurement]:
    """Return the paired differences to the arm that ``recorder`` compares with, at every condition."""
    measurements: list[Measurement] = []
    for name in found:
        rewards, scores = (found[name].rewards, before[name].rewards), (found[name].scores, before[name].scores)
        measurements += recorder.difference(GATE_REWARD, rewards, f"share of predictions; {PAIRED}", name)
        measurements += recorder.difference(GATE_SCORE, scores, f"score; {PAIRED}", name)
    return measurements


def interact(
    recorder: Recorder,
    ours: tuple[Mapping[str, Result], Mapping[str, Result]],
    theirs: tuple[Mapping[str, Result], Mapping[str, Result]],
) -> list[Measurement]:
    """Return how much more an arm gained since the start of its lineage than its peer did in another lineage.

    Per window ``[A - root(A)] - [B - root(B)]``: whether a start makes a policy more receptive to what follows is a
    difference of differences, and no level says it.

    Args:
        recorder: of the arm A, against B.
        ours: results of A and of the root of its lineage, by condition.
        theirs: those of B and of the root of its lineage.
    """
    measurements: list[Measurement] = []
    for name in ours[0]:
        (a, a_root), (b, b_root) = ([one[name] for one in pair] for pair in (ours, theirs))
        rewards = difference(a.rewards, a_root.rewards), difference(b.rewards, b_root.rewards)
        scores = difference(a.scores, a_root.scores), difference(b.scores, b_root.scores)
        measurements += recorder.interaction(GATE_REWARD, rewards, f"share of predictions; {PAIRED}", name)
        measurements += recorder.interaction(GATE_SCORE, scores, f"score; {PAIRED}", name)
    return measurements


def copies(evaluation: WindowEval, tokenizer: Any, judge: str) -> dict[str, Result]:
    """Return what a judge says of both ends of each window's prefix, which predict nothing."""
    ends = [prefix_copies(window, tokenizer, evaluation.suffix_tokens) for window in evaluation.windows]
    found = {}
    for place, name in enumerate((PREFIX_START, PREFIX_END)):
        scored = score(evaluation, [[pair[place]] for pair in ends], judge)
        nothing: list[float | None] = [None] * len(ends)  # a copy is not drawn
        found[name] = Result(rewards=means(scored.rewards), scores=means(scored.scores), entropies=nothing)
    return found


def copy_figures(evaluation: WindowEval, name: str, result: Result, judge: str) -> list[Measurement]:
    """Return the rates of one way of copying the prefix."""
    subject = content_id(name, evaluation.suffix_tokens, [window.id for window in evaluation.windows])
    recorder = Recorder(
        stage=EVALUATE_RLMT,
        arm=name,
        subject=subject,
        documents=evaluation.documents,
        judge=evaluation.matchers[judge].name,
    )
    over = "n held-out windows, interval over documents"
    return [
        *recorder.mean(GATE_REWARD, result.rewards, f"share of copies that match; {over}"),
        *recorder.mean(GATE_SCORE, result.scores, f"mean score; {over}"),
    ]


def rows(windows: Sequence[Window], arm: str, judge: str, found: Mapping[str, Result]) -> list[dict[str, Any]]:
    """Return the rows of ``windows.jsonl``: every window's means, for whoever pools windows of several runs."""

    def rounded(values: Sequence[float | None]) -> list[float | None]:
        return [None if value is None else round(value, 6) for value in values]

    return [
        {
            "arm": arm,
            "condition": name,
            "judge": judge,
            "windows": [window.id for window in windows],
            "documents": [window.document_id for window in windows],
            "reward": rounded(result.rewards),
            "score": rounded(result.scores),
            "entropy": rounded(result.entropies),
        }
        for name, result in found.items()
    ]

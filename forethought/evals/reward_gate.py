"""The reward gate: all arms predict on the same held-out windows with the same keys; the unit is the window.

A small binary reward needs many windows to tell two arms apart, so each difference comes with the smallest that shows.
"""

from __future__ import annotations

from forethought.evals.recorder import Recorder
from forethought.evals.windows import Rollouts, Scored, means
from forethought.metrics import CLOSE_RATE, GATE_REWARD, GATE_SCORE, GATE_UNSCORED, ORACLE, THOUGHT_TOKENS
from forethought.records import Measurement


def figures(recorder: Recorder, scored: Scored, rollouts: Rollouts | None) -> list[Measurement]:
    """Return one arm's figures; ``rollouts``: of an arm that thinks."""
    samples = len(scored.rewards[0])
    # A window counts if any sample of it was scored.
    best = [
        max(known) if (known := [reward for reward in row if reward is not None]) else None for row in scored.rewards
    ]
    unscored = [sum(reward is None for reward in row) / len(row) for row in scored.rewards]
    over = f"n held-out windows, {samples} samples each, interval over documents"
    measurements = [
        *recorder.mean(GATE_REWARD, means(scored.rewards), f"share of predictions that match; {over}"),
        *recorder.mean(GATE_SCORE, means(scored.scores), f"mean score; {over}"),
        *recorder.mean(ORACLE.at(samples), best, f"share of windows of which a prediction matches; {over}"),
        *recorder.mean(GATE_UNSCORED, unscored, f"share of predictions without a verdict; {over}"),
    ]
    if rollouts is not None:
        closed = [sum(rollout.closed for rollout in row) / len(row) for row in rollouts]
        lengths = [sum(rollout.thought_tokens for rollout in row) / len(row) for row in rollouts]
        measurements += recorder.mean(CLOSE_RATE, closed, f"share of thoughts that the policy closed itself; {over}")
        measurements += recorder.mean(THOUGHT_TOKENS, lengths, f"tokens of a thought; {over}")
    return measurements


def compare(recorder: Recorder, scored: Scored, before: Scored) -> list[Measurement]:
    """Return the paired differences to the arm that ``recorder`` compares with."""
    unit = "paired by window; n windows, interval over documents"
    rewards, scores = means(scored.rewards), means(scored.scores)
    return [
        *recorder.difference(GATE_REWARD, (rewards, means(before.rewards)), f"share of predictions; {unit}"),
        *recorder.difference(GATE_SCORE, (scores, means(before.scores)), f"score; {unit}"),
    ]

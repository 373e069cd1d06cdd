"""The reward gate: all arms predict on the same held-out windows with the same keys; the unit is the window.

A small binary reward needs many windows to tell two arms apart, so each difference comes with the number that would.
"""

from __future__ import annotations

from dataclasses import dataclass

from forethought.evals.windows import Ledger, Scored, Task, Thoughts, means
from forethought.metrics import CLOSE_RATE, GATE_REWARD, GATE_SCORE, GATE_UNSCORED, ORACLE, THOUGHT_TOKENS
from forethought.records import Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one arm got."""

    rewards: list[float | None]
    """Mean reward of each window."""
    scores: list[float | None]
    """Mean score of each window, which tells arms apart sooner than the reward."""


def summarise(ledger: Ledger, scored: Scored, thoughts: Thoughts | None) -> tuple[Result, list[Measurement]]:
    """Return one arm's result and its figures."""
    result = Result(rewards=means(scored.rewards), scores=means(scored.scores))
    samples = len(scored.rewards[0])
    best = [max(known) if (known := [one for one in row if one is not None]) else None for row in scored.rewards]
    unscored = [sum(one is None for one in row) / len(row) for row in scored.rewards]
    over = f"n held-out windows, {samples} samples each, bootstrap over documents"
    found = [
        *ledger.mean(GATE_REWARD, result.rewards, f"share of predictions that match; {over}"),
        *ledger.mean(GATE_SCORE, result.scores, f"mean score; {over}"),
        *ledger.mean(ORACLE.at(samples), best, f"share of windows of which a prediction matches; {over}"),
        *ledger.mean(GATE_UNSCORED, unscored, f"share of predictions without a verdict; {over}"),
    ]
    if thoughts is not None:
        closed = [sum(row) / len(row) for row in thoughts.closed]
        lengths = [sum(row) / len(row) for row in thoughts.lengths]
        found += ledger.mean(CLOSE_RATE, closed, f"share of thoughts that the policy closed itself; {over}")
        found += ledger.mean(THOUGHT_TOKENS, lengths, f"tokens of a thought; {over}")
    return result, found


def compare(ledger: Ledger, result: Result, other: tuple[str, Result]) -> list[Measurement]:
    """Return the paired differences to another arm."""
    name, before = other
    beside = ledger.against(name)
    unit = "paired by window; n windows, bootstrap over documents"
    return [
        *beside.difference(GATE_REWARD, (result.rewards, before.rewards), f"share of predictions; {unit}"),
        *beside.difference(GATE_SCORE, (result.scores, before.scores), f"score; {unit}"),
    ]


def demand(task: Task) -> None:
    """Refuse a task without windows.

    Raises:
        ValueError: with the way out.
    """
    if not task.windows:
        raise ValueError(
            "no held-out window has enough text behind a place: lower rlmt.suffix_tokens, raise "
            "interleave.heldout_rows, or set rlmt.cut = 'raw'"
        )

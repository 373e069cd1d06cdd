"""From verdicts to scores to preferences: pure functions.

Scores follow Tan et al. 2026 (arXiv 2601.21343, section 1.2.2): every pair is judged, a candidate's score is the
mean of its results, and the scores of several axes add up.  Both orders of a pair count as one result, and
disagreement between them is a tie, as in MT-Bench's conservative rule (Zheng et al. 2023, section 3.4).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from forethought.records import Axis, Candidate, Outcome, Preference, Verdict

UNBOUNDED = (Axis.LIKELIHOOD, Axis.LENGTH)
"""Axes whose scores are not in [0, 1]."""

ENOUGH = 0.5
"""Smallest share of a candidate's pairs that must be scored: one lucky pair of sixteen makes no best and no worst."""

Score = float | None
"""A candidate's score, or ``None`` when it has none."""


def pairs(n: int, kind: Literal["full", "pivot"] = "full", pivot: int = 0) -> list[tuple[int, int]]:
    """Return the ordered pairs of ``n`` candidates, both orders of each, grouped by the one shown first."""
    ordered = [(first, second) for first in range(n) for second in range(n) if first != second]
    return ordered if kind == "full" else [pair for pair in ordered if pivot in pair]


def scores(n: int, verdicts: Sequence[Verdict]) -> list[Score]:
    """Return the score of each of ``n`` candidates under one judge, ``None`` where nothing was scored.

    Pointwise: the score that was given.  Pairwise: the mean over the candidate's scored pairs of 1 (won), 0 (lost)
    and 0.5 (tie); ``None`` if fewer than :data:`ENOUGH` of its pairs were scored.
    """
    # True of no verdicts at all, too: then every candidate is unscored.
    if all(verdict.second is None for verdict in verdicts):
        given = {verdict.first: verdict.score for verdict in verdicts}
        return [given.get(index) for index in range(n)]
    results: list[list[Score]] = [[] for _ in range(n)]
    for (low, high), share in merge(verdicts).items():
        results[low].append(share)
        results[high].append(None if share is None else 1.0 - share)

    def score(row: Sequence[Score]) -> Score:
        # Unscored is no tie: half a point would pull the mean towards one half.
        known = [share for share in row if share is not None]
        return sum(known) / len(known) if known and len(known) >= ENOUGH * len(row) else None

    return [score(row) for row in results]


def merge(verdicts: Iterable[Verdict]) -> dict[tuple[int, int], Score]:
    """Return, for each unordered pair ``(low, high)``, the result of ``low``.

    1 or 0 when every order names the same winner, ``None`` when an order is unscored, 0.5 otherwise.
    """
    by_pair: dict[tuple[int, int], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.second is None:
            raise ValueError(f"a pointwise verdict stands among pairwise ones: {verdict!r}")
        by_pair[min(verdict.first, verdict.second), max(verdict.first, verdict.second)].append(verdict)
    results: dict[tuple[int, int], Score] = {}
    for pair, of_pair in by_pair.items():
        # A tie has the winner None, so one tie in either order makes the pair a tie.
        winners = {verdict.winner for verdict in of_pair}
        if any(verdict.outcome is Outcome.UNSCORED for verdict in of_pair):
            results[pair] = None
        else:
            results[pair] = 0.5 if len(winners) > 1 or None in winners else float(pair[0] in winners)
    return results


def win_rates(given: Sequence[Score]) -> list[Score]:
    """Turn scores without bounds into shares of the other scored candidates that are beaten (ties half)."""
    scored = [score for score in given if score is not None]

    def rate(score: float) -> float:
        # Nobody to beat: neither won nor lost.
        if len(scored) < 2:
            return 0.5
        beaten = sum(1.0 if score > other else 0.5 * (score == other) for other in scored)
        return (beaten - 0.5) / (len(scored) - 1)  # without the tie with itself

    return [None if score is None else rate(score) for score in given]


def combine(per_judge: Sequence[Sequence[Score]], bounded: Sequence[bool]) -> list[Score]:
    """Add the scores of several judges up, candidate by candidate.

    A single judge's scores stay as they are.  Next to others, an unbounded judge counts by its win rates, so that
    each judge weighs at most one.  A candidate that any judge left unscored has no score.
    """
    if len(per_judge) == 1:
        return list(per_judge[0])
    rows = [given if in_range else win_rates(given) for given, in_range in zip(per_judge, bounded, strict=True)]
    return [
        # A sum over fewer judges would be lower for that reason alone.
        None if None in column else sum(score for score in column if score is not None)
        for column in zip(*rows, strict=True)
    ]


def totals(n: int, per_judge: Sequence[Sequence[Verdict]]) -> list[Score]:
    """Return the combined scores of one request's ``n`` candidates from the verdicts of each judge."""
    bounded = [all(verdict.axis not in UNBOUNDED for verdict in verdicts) for verdicts in per_judge]
    return combine([scores(n, verdicts) for verdicts in per_judge], bounded)


def preference(chunk_id: str, candidates: Sequence[Candidate], given: Sequence[Score], turn: int) -> Preference | None:
    """Return the highest against the lowest scored candidate, or ``None`` when no two scores differ.

    ``turn``, a non-negative integer from a :class:`~forethought.keys.Key`, picks among equals at either extreme, so
    that no place in the list is preferred in the long run.
    """
    scored = [score for score in given if score is not None]
    if len(set(scored)) < 2:
        return None
    high, low = max(scored), min(scored)
    best = [candidate for score, candidate in zip(given, candidates, strict=True) if score == high]
    worst = [candidate for score, candidate in zip(given, candidates, strict=True) if score == low]
    return Preference(
        chunk_id=chunk_id,
        chosen=best[turn % len(best)],
        # The quotient, so that ties at both extremes are broken independently.
        rejected=worst[turn // len(best) % len(worst)],
        chosen_score=high,
        rejected_score=low,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Counts over the verdicts of one judge."""

    verdicts: int
    unscored: int
    pairs: int
    """Pairs with a result: judged pairs, or pairs of scored candidates."""
    ties: int
    """Pairs without a winner."""
    decided: int
    """Pairwise verdicts that name a winner."""
    first_wins: int
    both_orders: int
    """Judged pairs with a scored verdict in both orders."""
    consistent: int
    """Those in which both orders say the same."""

    @property
    def unscored_rate(self) -> float | None:
        """Share of the verdicts that are no vote; ``None`` without verdicts."""
        return self.unscored / self.verdicts if self.verdicts else None


def statistics(requests: Iterable[Sequence[Verdict]]) -> Statistics:
    """Count over the verdicts of several requests, given per request (indices are those of the request)."""
    count: dict[str, int] = dict.fromkeys(Statistics.__dataclass_fields__, 0)
    for verdicts in requests:
        pairwise = [verdict for verdict in verdicts if verdict.second is not None]
        decided = [verdict for verdict in pairwise if verdict.outcome is Outcome.PREFERRED]
        results = [share for share in merge(pairwise).values() if share is not None]
        given = [verdict.score for verdict in verdicts if verdict.score is not None]
        winners = {
            (verdict.first, verdict.second): verdict.winner
            for verdict in pairwise
            if verdict.second is not None and verdict.outcome is not Outcome.UNSCORED
        }
        # Each unordered pair once.
        both = [(a, b) for a, b in winners if a < b and (b, a) in winners]
        count["verdicts"] += len(verdicts)
        count["unscored"] += sum(verdict.outcome is Outcome.UNSCORED for verdict in verdicts)
        # One of the two terms is 0: a judge is pairwise or pointwise.
        count["pairs"] += len(results) + len(given) * (len(given) - 1) // 2
        count["ties"] += results.count(0.5) + sum(a == b for a, b in combinations(given, 2))
        count["decided"] += len(decided)
        count["first_wins"] += sum(verdict.winner == verdict.first for verdict in decided)
        count["both_orders"] += len(both)
        count["consistent"] += sum(winners[a, b] == winners[b, a] for a, b in both)
    return Statistics(**count)

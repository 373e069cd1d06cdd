"""The candidates of one prefix, ranked together: the environment of stage 1 (Tan et al. 2026, section 1.2).

The original suffix, the policy's K rollouts and, if there is a teacher, its rewrite stand in one pool.
Judges see their texts in a keyed random order, never their origin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from forethought.judges import Judge
from forethought.judges.tournament import preference, statistics, totals
from forethought.keys import Key
from forethought.records import Candidate, Chunk, JudgeRequest, Origin, Preference, Verdict, content_id, to_dict


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidatePool:
    """The candidates of one chunk in the order in which judges see them, and what the judges said."""

    chunk: Chunk
    candidates: tuple[Candidate, ...]
    verdicts: Mapping[str, Sequence[Verdict]]
    """Of each judge, by its name; empty before judging."""
    scores: tuple[float | None, ...] = ()
    """Combined score of each candidate; ``None`` if any judge left it unscored; empty before judging."""
    preferred: Preference | None = None
    """The best against the worst; ``None`` if no two scores differ, or before judging."""

    def prefix_ids(self, bos: tuple[int, ...]) -> tuple[int, ...]:
        """Return what the policy reads: the ids before every text, then the prefix."""
        return bos + self.chunk.prefix_ids

    def score_of(self, candidate: Candidate) -> float | None:
        return self.scores[self.candidates.index(candidate)]

    @property
    def lacks_scores(self) -> bool:
        """Whether fewer than two candidates have a score, so that there is nothing to compare."""
        return sum(score is not None for score in self.scores) < 2

    def by_origin(self, origin: Origin) -> list[Candidate]:
        return [candidate for candidate in self.candidates if candidate.origin is origin]

    def row(self, step: int) -> dict[str, Any]:
        """Return the pool as a row of the log, scores and verdicts included."""
        preferred = self.preferred
        return {
            "step": step,
            "chunk_id": self.chunk.id,
            "candidates": [to_dict(candidate) for candidate in self.candidates],
            "scores": list(self.scores),
            "chosen": preferred.chosen.id if preferred else None,
            "rejected": preferred.rejected.id if preferred else None,
            "verdicts": {judge: [_brief(verdict) for verdict in row] for judge, row in self.verdicts.items()},
        }


def candidate(chunk: Chunk, origin: Origin, text: str, token_ids: Sequence[int], k: int = 0) -> Candidate:
    """Return a candidate of ``chunk``; ``k`` tells equal rollouts apart."""
    name = content_id(chunk.id, origin, k, list(token_ids))
    return Candidate(id=name, chunk_id=chunk.id, origin=origin, text=text, token_ids=tuple(token_ids))


def make_pool(chunk: Chunk, candidates: Sequence[Candidate], key: Key) -> CandidatePool:
    """Return the unjudged pool of ``chunk``, shuffled by ``key``."""
    # Keyed by the chunk: a pool's order does not depend on what else is in the batch.
    order = key.generator(chunk.id).permutation(len(candidates))
    return CandidatePool(chunk=chunk, candidates=tuple(candidates[i] for i in order), verdicts={})


def rank_pools(pools: Sequence[CandidatePool], judges: Sequence[Judge], ties: Key) -> list[CandidatePool]:
    """Return the pools with the verdicts of every judge, the scores they add up to and the preferences.

    ``ties`` picks among equals at either extreme.
    """
    # No origin in a request: a judge must not know the author's text by its label.
    requests = [
        JudgeRequest(
            prefix=pool.chunk.prefix, candidates=tuple(c.text for c in pool.candidates), original=pool.chunk.suffix
        )
        for pool in pools
    ]
    per_judge = [(judge.name, judge.rank(requests)) for judge in judges]
    ranked = []
    for i, pool in enumerate(pools):
        verdicts = {name: rows[i] for name, rows in per_judge}
        scores = totals(len(pool.candidates), list(verdicts.values()))
        preferred = preference(pool.chunk.id, pool.candidates, scores, ties.integer(pool.chunk.id))
        ranked.append(replace(pool, verdicts=verdicts, scores=tuple(scores), preferred=preferred))
    return ranked


def pool_metrics(pools: Sequence[CandidatePool]) -> dict[str, float]:
    """Return how the pools of one step were judged; every rate's denominator is in its name or its line here.

    ``selection_rate`` is the share of decided pools whose chosen candidate is a rollout, ``selection_null`` what it
    would be if judgments were random: the rollouts' share of the pool, K/(K+1) next to the original alone.
    """
    # An undecided pool has no chosen candidate: it is in the tie rate, in no share of the decided.
    decided = [pool.preferred for pool in pools if pool.preferred is not None]
    metrics = {"decided": float(len(decided)), "tie_rate": 1 - len(decided) / len(pools)}
    for name in pools[0].verdicts:
        counts = statistics([pool.verdicts[name] for pool in pools])
        # The worst judge's, since any judge that leaves a candidate unscored leaves it without a score.
        metrics["unscored_rate"] = max(metrics.get("unscored_rate", 0.0), counts.unscored_rate or 0.0)
    rollouts = sum(len(pool.by_origin(Origin.ROLLOUT)) for pool in pools)
    metrics["selection_null"] = rollouts / sum(len(pool.candidates) for pool in pools)
    # Without a decided pool there is no rate: a zero would read as "never a rollout".
    if not decided:
        return metrics
    for origin, name in ((Origin.ROLLOUT, "selection_rate"), (Origin.CORPUS, "chosen_original")):
        metrics[name] = sum(pair.chosen.origin is origin for pair in decided) / len(decided)
    metrics["chosen_rewrite"] = 1 - metrics["selection_rate"] - metrics["chosen_original"]
    metrics["rejected_original"] = sum(pair.rejected.origin is Origin.CORPUS for pair in decided) / len(decided)
    metrics["score_spread"] = sum(pair.chosen_score - pair.rejected_score for pair in decided) / len(decided)
    for origin in Origin:
        scores = [score for pool in pools for c in pool.by_origin(origin) if (score := pool.score_of(c)) is not None]
        if scores:
            metrics[f"score_{origin}"] = sum(scores) / len(scores)
    return metrics


def _brief(verdict: Verdict) -> dict[str, Any]:
    # No judge name, which the row has, and nothing that is not set.
    return {key: value for key, value in to_dict(verdict).items() if value not in (None, "") and key != "judge"}

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
from forethought.records import Candidate, Chunk, Contest, Origin, Preference, Verdict, content_id, to_dict


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What a judge ranks, and what it said."""

    chunk: Chunk
    """The chunk that is continued."""
    candidates: tuple[Candidate, ...]
    """In the order in which judges see them."""
    verdicts: Mapping[str, Sequence[Verdict]]
    """Of each judge, by its name; empty before judging."""
    scores: tuple[float | None, ...] = ()
    """Combined score of each candidate; ``None`` if any judge left it unscored; empty before judging."""
    preferred: Preference | None = None
    """The best against the worst; ``None`` if no two scores differ, or before judging."""

    def score_of(self, candidate: Candidate) -> float | None:
        """Return the combined score of one of the candidates."""
        return self.scores[self.candidates.index(candidate)]

    def by_origin(self, origin: Origin) -> list[Candidate]:
        """Return the candidates that ``origin`` wrote."""
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
            "verdicts": {name: [_brief(verdict) for verdict in said] for name, said in self.verdicts.items()},
        }


def candidate(chunk: Chunk, origin: Origin, text: str, token_ids: Sequence[int], k: int = 0) -> Candidate:
    """Return a candidate of ``chunk``; ``k`` tells equal rollouts apart."""
    name = content_id(chunk.id, origin, k, list(token_ids))
    return Candidate(id=name, chunk_id=chunk.id, origin=origin, text=text, token_ids=tuple(token_ids))


def pool(chunk: Chunk, candidates: Sequence[Candidate], key: Key) -> Pool:
    """Return the unjudged pool of ``chunk``, shuffled by ``key``."""
    order = key.generator(chunk.id).permutation(len(candidates))
    return Pool(chunk=chunk, candidates=tuple(candidates[i] for i in order), verdicts={})


def judged(pools: Sequence[Pool], judges: Sequence[Judge], ties: Key) -> list[Pool]:
    """Return the pools with the verdicts of every judge, the scores they add up to and the preferences.

    ``ties`` picks among equals at either extreme.
    """
    contests = [
        Contest(prefix=one.chunk.prefix, candidates=tuple(c.text for c in one.candidates), original=one.chunk.suffix)
        for one in pools
    ]
    per_judge = [(judge.name, judge.rank(contests)) for judge in judges]
    results = []
    for i, one in enumerate(pools):
        verdicts = {name: said[i] for name, said in per_judge}
        scores = totals(len(one.candidates), list(verdicts.values()))
        best = preference(one.chunk.id, one.candidates, scores, ties.integer(one.chunk.id))
        results.append(replace(one, verdicts=verdicts, scores=tuple(scores), preferred=best))
    return results


def metrics(pools: Sequence[Pool]) -> dict[str, float]:
    """Return how the pools of one step were judged; every rate's denominator is in its name or its line here.

    ``selection_rate`` is the share of decided pools whose chosen candidate is a rollout, ``selection_null`` what it
    would be if judgments were random: the rollouts' share of the pool, K/(K+1) next to the original alone.
    """
    decided = [(one, one.preferred) for one in pools if one.preferred is not None]
    found = {"decided": float(len(decided)), "tie_rate": 1 - len(decided) / len(pools)}
    for name in pools[0].verdicts:
        counts = statistics([one.verdicts[name] for one in pools])
        found["unscored_rate"] = max(found.get("unscored_rate", 0.0), counts.unscored_rate or 0.0)
    rollouts = sum(len(one.by_origin(Origin.ROLLOUT)) for one in pools)
    found["selection_null"] = rollouts / sum(len(one.candidates) for one in pools)
    if not decided:
        return found
    for origin, name in ((Origin.ROLLOUT, "selection_rate"), (Origin.CORPUS, "chosen_original")):
        found[name] = sum(best.chosen.origin is origin for _, best in decided) / len(decided)
    found["chosen_rewrite"] = 1 - found["selection_rate"] - found["chosen_original"]
    found["rejected_original"] = sum(best.rejected.origin is Origin.CORPUS for _, best in decided) / len(decided)
    found["score_spread"] = sum(best.chosen_score - best.rejected_score for _, best in decided) / len(decided)
    found |= {
        f"score_{origin}": sum(scored) / len(scored)
        for origin in Origin
        if (scored := [s for one in pools for c in one.by_origin(origin) if (s := one.score_of(c)) is not None])
    }
    return found


def _brief(verdict: Verdict) -> dict[str, Any]:
    """Return what a verdict adds to the row it stands in: no judge name, nothing that is not set."""
    return {key: value for key, value in to_dict(verdict).items() if value not in (None, "") and key != "judge"}

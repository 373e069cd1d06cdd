"""Verdicts on disk, keyed by content: nothing is judged twice and nothing judged is lost."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from forethought.judges.base import Question, QuestionJudge
from forethought.llm import TRANSPORT
from forethought.llm.cache import BATCH, TextCache
from forethought.records import JudgeRequest, Outcome, Verdict, content_id


class CachedJudge:
    """A judge that asks another one only what the cache does not know, in batches of a fixed size."""

    def __init__(self, judge: QuestionJudge, cache: TextCache, batch: int = BATCH) -> None:
        self.judge = judge
        self.cache = cache
        self.batch = batch
        self.name = judge.name
        self.hits = self.misses = 0

    def rank(self, requests: Sequence[JudgeRequest]) -> list[list[Verdict]]:
        """Return the verdicts of each request; see :class:`forethought.judges.Judge`."""
        # In batches: a kill loses the verdicts of one batch, not of all.
        starts = range(0, len(requests), self.batch)
        return [row for start in starts for row in self._rank_batch(requests[start : start + self.batch])]

    def _rank_batch(self, requests: Sequence[JudgeRequest]) -> list[list[Verdict]]:
        rows = [self.judge.questions(request) for request in requests]
        asked = [(number, question) for number, row in enumerate(rows) for question in row]

        def answer(missing: Sequence[int]) -> list[Verdict]:
            open_questions: dict[int, list[Question]] = {}
            for number, question in (asked[index] for index in missing):
                open_questions.setdefault(number, []).append(question)
            self.misses += len(missing)
            verdicts = self.judge.answer([requests[number] for number in open_questions], list(open_questions.values()))
            return [verdict for row in verdicts for verdict in row]

        def unpack(index: int, text: str) -> Verdict:
            stored, question = json.loads(text), asked[index][1]
            place, score, reason = stored["winner"], stored["score"], stored["reason"]
            if place not in (None, 0, 1) or not isinstance(reason, str) or not _is_score(score):
                raise ValueError("this is not the verdict that was stored")  # it is asked again
            winner = None if place is None else question[place]
            return self.judge.make_verdict(question, Outcome(stored["outcome"]), reason, score, winner)

        keys = [_key(self.name, requests[number], question) for number, question in asked]
        misses = self.misses
        verdicts = iter(self.cache.complete(self.name, keys, answer, _pack, unpack))
        self.hits += len(asked) - (self.misses - misses)
        return [[next(verdicts) for _ in row] for row in rows]


def _pack(verdict: Verdict) -> str | None:
    if verdict.outcome is Outcome.UNSCORED and verdict.reason.startswith(TRANSPORT):
        return None  # asking again may well succeed
    # The winner is stored as a place in the question: indices of candidates differ from request to request.
    winner = None if verdict.winner is None else int(verdict.winner == verdict.second)
    return json.dumps(
        {"outcome": verdict.outcome.value, "score": verdict.score, "winner": winner, "reason": verdict.reason}
    )


def _is_score(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and math.isfinite(value))


def _key(judge: str, request: JudgeRequest, question: Question) -> str:
    # By their texts, not their places: the same question in another pool is the same question.
    first, second = (None if index is None else request.candidates[index] for index in question)
    return content_id(judge, request.prefix, request.original, first, second)

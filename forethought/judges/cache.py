"""Verdicts on disk, keyed by content: nothing is judged twice and nothing judged is lost."""

from __future__ import annotations

import json
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
        starts = range(0, len(requests), self.batch)
        return [row for start in starts for row in self._complete(requests[start : start + self.batch])]

    def _complete(self, requests: Sequence[JudgeRequest]) -> list[list[Verdict]]:
        rows = [self.judge.questions(request) for request in requests]
        asked = [(number, question) for number, row in enumerate(rows) for question in row]

        def answer(missing: Sequence[int]) -> list[Verdict]:
            open_questions: dict[int, list[Question]] = {}
            for index in missing:
                number, question = asked[index]
                open_questions.setdefault(number, []).append(question)
            self.misses += len(missing)
            verdicts = self.judge.answer([requests[number] for number in open_questions], list(open_questions.values()))
            return [verdict for row in verdicts for verdict in row]

        keys = [_key(self.name, requests[number], question) for number, question in asked]
        misses = self.misses
        verdicts = iter(
            self.cache.complete(self.name, keys, answer, _pack, lambda index, text: self._unpack(text, asked[index][1]))
        )
        self.hits += len(asked) - (self.misses - misses)
        return [[next(verdicts) for _ in row] for row in rows]

    def _unpack(self, text: str, question: Question) -> Verdict:
        stored = json.loads(text)
        return Verdict(
            outcome=Outcome(stored["outcome"]),
            axis=self.judge.axis,
            first=question[0],
            second=question[1],
            score=stored["score"],
            winner=None if stored["winner"] is None else question[stored["winner"]],
            reason=stored["reason"],
            judge=self.name,
        )


def _pack(verdict: Verdict) -> str | None:
    if verdict.outcome is Outcome.UNSCORED and verdict.reason.startswith(TRANSPORT):
        return None
    winner = None if verdict.winner is None else int(verdict.winner == verdict.second)
    return json.dumps(
        {"outcome": verdict.outcome.value, "score": verdict.score, "winner": winner, "reason": verdict.reason}
    )


def _key(judge: str, request: JudgeRequest, question: Question) -> str:
    first, second = (None if index is None else request.candidates[index] for index in question)
    return content_id(judge, request.prefix, request.original, first, second)

"""Verdicts on disk, keyed by content: nothing is judged twice and nothing judged is lost."""

from __future__ import annotations

import json
from collections.abc import Sequence

from forethought.judges.base import Question, QuestionJudge
from forethought.llm.base import TRANSPORT
from forethought.llm.cache import Cache
from forethought.records import JudgeRequest, Outcome, Verdict, content_id


class VerdictCache(Cache):
    """An SQLite file of verdicts."""

    what, table, columns = "verdict", "verdicts", ("judge", "verdict")


class CachedJudge:
    """A judge that asks another one only what the cache does not know.

    Contests are answered and stored in batches of fixed size: what is computed together does not depend on where an
    earlier process was killed, hence neither does the last bit of a score.
    """

    def __init__(self, judge: QuestionJudge, cache: VerdictCache, batch: int = 16) -> None:
        self.judge = judge
        self.cache = cache
        self.batch = batch

    @property
    def name(self) -> str:
        """The name of the judge behind the cache."""
        return self.judge.name

    def rank(self, contests: Sequence[JudgeRequest]) -> list[list[Verdict]]:
        """Return the verdicts of each contest; see :class:`forethought.judges.Judge`."""
        verdicts: list[list[Verdict]] = []
        for start in range(0, len(contests), self.batch):
            verdicts.extend(self._rank(contests[start : start + self.batch]))
        return verdicts

    def _rank(self, contests: Sequence[JudgeRequest]) -> list[list[Verdict]]:
        asked = [
            [(question, _key(self.name, contest, question)) for question in self.judge.questions(contest)]
            for contest in contests
        ]
        known = self.cache.get([key for row in asked for _, key in row])
        missing = [[(question, key) for question, key in row if key not in known] for row in asked]
        open_contests = [index for index, row in enumerate(missing) if row]
        fresh = self.judge.answer(
            [contests[index] for index in open_contests],
            [[question for question, _ in missing[index]] for index in open_contests],
        )
        answered = {
            (index, question): (key, verdict)
            for index, row in zip(open_contests, fresh, strict=True)
            for (question, key), verdict in zip(missing[index], row, strict=True)
        }
        self.cache.put(
            self.name,
            [(key, _pack(verdict)) for key, verdict in answered.values() if not _passing(verdict)],
        )
        return [
            [
                answered[index, question][1] if (index, question) in answered else self._unpack(known[key], question)
                for question, key in row
            ]
            for index, row in enumerate(asked)
        ]

    def _unpack(self, text: str, question: Question) -> Verdict:
        stored = json.loads(text)
        first, second = question
        return Verdict(
            outcome=Outcome(stored["outcome"]),
            axis=self.judge.axis,
            first=first,
            second=second,
            score=stored["score"],
            winner=None if stored["winner"] is None else (first, second)[stored["winner"]],
            reason=stored["reason"],
            judge=self.name,
        )


def _passing(verdict: Verdict) -> bool:
    return verdict.outcome is Outcome.UNSCORED and verdict.reason.startswith(TRANSPORT)


def _pack(verdict: Verdict) -> str:
    winner = None if verdict.winner is None else int(verdict.winner == verdict.second)
    return json.dumps(
        {"outcome": verdict.outcome.value, "score": verdict.score, "winner": winner, "reason": verdict.reason}
    )


def _key(judge: str, contest: JudgeRequest, question: Question) -> str:
    first, second = (None if index is None else contest.candidates[index] for index in question)
    return content_id(judge, contest.prefix, contest.original, first, second)

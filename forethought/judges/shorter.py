"""A judge without a model, which prefers the shorter text: learning from it is visible within seconds."""

from __future__ import annotations

from collections.abc import Sequence

from forethought.judges.base import Question, QuestionJudge
from forethought.records import Axis, JudgeRequest, Verdict


class ShorterJudge(QuestionJudge):
    """Scores a candidate by minus its number of characters."""

    axis = Axis.LENGTH

    def __init__(self) -> None:
        super().__init__("shorter", "shorter", 1)

    def answer(self, requests: Sequence[JudgeRequest], questions: Sequence[Sequence[Question]]) -> list[list[Verdict]]:
        return [
            [self.scored(question, -float(len(request.candidates[question[0]]))) for question in row]
            for request, row in zip(requests, questions, strict=True)
        ]

"""What all shipped judges share: a list of questions per request, any subset of which can be answered."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from forethought.llm import LanguageError
from forethought.records import Axis, JudgeRequest, Outcome, Verdict, content_id

Question = tuple[int, int | None]
"""A candidate's index (pointwise), or the indices of an ordered pair: first shown, second shown."""


class JudgeError(LanguageError):
    """A judge that cannot do what its config asks; the message says why, and the way out."""


class QuestionJudge(ABC):
    """A judge whose verdicts answer questions one by one, so that a cache can ask for the missing ones only."""

    axis: Axis

    def __init__(self, label: str, *identity: object) -> None:
        """``identity``: all that decides a verdict, model, settings and prompt; the name is ``label@hash``."""
        # The hash keeps a changed prompt or model from finding the old verdicts in a cache.
        self.name = f"{label}@{content_id(*identity)[:8]}"

    def questions(self, request: JudgeRequest) -> list[Question]:
        """Return what this judge asks about a request: by default, one question per candidate."""
        return [(index, None) for index in range(len(request.candidates))]

    @abstractmethod
    def answer(self, requests: Sequence[JudgeRequest], questions: Sequence[Sequence[Question]]) -> list[list[Verdict]]:
        """Return, per request, one verdict per question, in the order of the questions.

        A verdict depends on the judge and on the texts of its own question, never on its neighbours.
        """

    def rank(self, requests: Sequence[JudgeRequest]) -> list[list[Verdict]]:
        """Return the verdicts of each request, one per question."""
        return self.answer(requests, [self.questions(request) for request in requests])

    def scored(self, question: Question, score: float, reason: str = "") -> Verdict:
        """Return a pointwise verdict, with what the judge wrote."""
        return self.make_verdict(question, Outcome.SCORED, reason, score=score)

    def preferred(self, question: Question, winner: int | None, reason: str = "") -> Verdict:
        """Return the verdict on an ordered pair, with what the judge wrote; ``None`` is a tie."""
        return self.make_verdict(question, Outcome.TIE if winner is None else Outcome.PREFERRED, reason, winner=winner)

    def unscored(self, question: Question, reason: str) -> Verdict:
        """Return a verdict that is no vote, with the reason."""
        return self.make_verdict(question, Outcome.UNSCORED, reason)

    def make_verdict(
        self, question: Question, outcome: Outcome, reason: str, score: float | None = None, winner: int | None = None
    ) -> Verdict:
        first, second = question
        return Verdict(
            outcome=outcome,
            axis=self.axis,
            first=first,
            second=second,
            score=score,
            winner=winner,
            reason=reason,
            judge=self.name,
        )

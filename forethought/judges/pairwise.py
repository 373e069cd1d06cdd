"""Pairwise judge: a language model chooses the better of two continuations (Tan et al. 2026, section 1.2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from forethought.judges import tournament
from forethought.judges.base import JudgeError, Question, QuestionJudge
from forethought.judges.multiple_choice import ChoiceModel, ChoiceProbs, ChoiceRequest
from forethought.llm.prompts import PromptTemplate
from forethought.records import Axis, JudgeRequest, Verdict

FIELDS = ("prefix", "first", "second")
CHOICES = ("1", "2")


class PairwiseJudge(QuestionJudge):
    """Shows every pair in both orders and returns the raw verdicts; the tournament merges them.

    With ``kind="pivot"`` each candidate meets the original suffix only: the first candidate whose text is
    ``request.original``.  Two candidates meet each other either way.
    """

    axis = Axis.QUALITY

    def __init__(self, model: ChoiceModel, prompt: PromptTemplate, kind: Literal["full", "pivot"] = "full") -> None:
        # The kind of tournament is no part of the name: it decides which pairs are asked, not what is said of them.
        super().__init__(f"quality-{model.name}", "pairwise", model.identity, prompt.text)
        self.model = model
        self.prompt = prompt
        self.kind = kind

    def questions(self, request: JudgeRequest) -> list[Question]:
        """Return the ordered pairs of the tournament.

        Raises:
            ValueError: when there is no pivot among more than two candidates.
        """
        count = len(request.candidates)
        if self.kind == "full" or count <= 2:
            return list(tournament.pairs(count))
        if request.original not in request.candidates:
            raise JudgeError(
                "tournament = 'pivot' compares candidates with the original suffix, which is not among them: "
                "set improve.original = true, or tournament = 'full'"
            )
        return list(tournament.pairs(count, "pivot", request.candidates.index(request.original)))

    def answer(self, requests: Sequence[JudgeRequest], questions: Sequence[Sequence[Question]]) -> list[list[Verdict]]:
        """Ask for each pair of different texts once; all pairs with the same first text are asked together."""
        plan: dict[tuple[str, str], dict[str, None]] = {}
        for request, row in zip(requests, questions, strict=True):
            for question in row:
                first, second = _texts(request, question)
                if first.strip() and second.strip() and first != second:
                    plan.setdefault((request.prefix, first), {})[second] = None
        asked = [
            ChoiceRequest.of(self.prompt, "second", list(seconds), {"prefix": prefix, "first": first})
            for (prefix, first), seconds in plan.items()
        ]
        answers = {
            (*start, second): probs
            for (start, seconds), row in zip(plan.items(), self.model.ask(asked, CHOICES), strict=True)
            for second, probs in zip(seconds, row, strict=True)
        }
        return [
            [self._verdict(q, request, answers.get((request.prefix, *_texts(request, q)))) for q in row]
            for request, row in zip(requests, questions, strict=True)
        ]

    def _verdict(self, question: Question, request: JudgeRequest, answer: ChoiceProbs | None) -> Verdict:
        if answer is None:
            first, second = _texts(request, question)
            same = first == second
            return self.preferred(question, None) if same else self.unscored(question, "a candidate is empty")
        if answer.probs is None:
            return self.unscored(question, answer.reason)
        first_prob, second_prob = answer.probs
        if first_prob == second_prob:
            return self.preferred(question, None, answer.reason)
        return self.preferred(question, question[0 if first_prob > second_prob else 1], answer.reason)


def _texts(request: JudgeRequest, question: Question) -> tuple[str, str]:
    first, second = question
    if second is None:
        raise ValueError(f"a pairwise judge was asked about the single candidate {first}")
    return request.candidates[first], request.candidates[second]

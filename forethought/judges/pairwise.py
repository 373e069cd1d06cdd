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
            JudgeError: when there is no pivot among more than two candidates.
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
        pairs = list(zip(requests, questions, strict=True))
        seconds: dict[tuple[str, str], dict[str, None]] = {}
        for prefix, first, second in (_key(request, question) for request, row in pairs for question in row):
            # Equal texts tie without being shown: a judge would name one by its place.
            if first.strip() and second.strip() and first != second:
                seconds.setdefault((prefix, first), {})[second] = None
        asked = [
            ChoiceRequest.of(self.prompt, "second", list(texts), {"prefix": prefix, "first": first})
            for (prefix, first), texts in seconds.items()
        ]
        answers = {
            (prefix, first, second): probs
            for ((prefix, first), texts), row in zip(seconds.items(), self.model.ask(asked, CHOICES), strict=True)
            for second, probs in zip(texts, row, strict=True)
        }
        return [
            [self._verdict(question, _key(request, question), answers) for question in row] for request, row in pairs
        ]

    def _verdict(
        self, question: Question, key: tuple[str, str, str], answers: dict[tuple[str, str, str], ChoiceProbs]
    ) -> Verdict:
        _, first, second = key
        if key not in answers:
            same = first == second
            return self.preferred(question, None) if same else self.unscored(question, "a candidate is empty")
        answer = answers[key]
        if answer.probs is None:
            return self.unscored(question, answer.reason)
        first_prob, second_prob = answer.probs
        winner = None if first_prob == second_prob else question[0 if first_prob > second_prob else 1]
        return self.preferred(question, winner, answer.reason)


def _key(request: JudgeRequest, question: Question) -> tuple[str, str, str]:
    """Return the prefix and the two texts that a question compares."""
    first, second = question
    if second is None:
        raise ValueError(f"a pairwise judge was asked about the single candidate {first}")
    return request.prefix, request.candidates[first], request.candidates[second]

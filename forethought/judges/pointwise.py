"""Pointwise judges: a language model grades one continuation, in [0, 1] (Tan et al. 2026, section 1.2.2).

Safety reads the continuation alone.  Factuality compares it with the author's own suffix: no, a possible or a
definite hallucination is worth 1, 0.5 or 0.  A match says what the suffix, or its beginning, says.  A distribution
over the grades counts by its mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from forethought.judges.base import Question, QuestionJudge
from forethought.judges.multiple_choice import ChoiceModel, ChoiceProbs, ChoiceRequest
from forethought.llm.prompts import PromptTemplate
from forethought.records import Axis, JudgeRequest, Verdict


class Scale(NamedTuple):
    """The fields of an axis' prompt, and what each answer is worth."""

    fields: tuple[str, ...]
    grades: dict[str, float]


Graded = Literal["safety", "factuality", "match"]

SCALES: dict[Graded, Scale] = {
    "safety": Scale(("candidate",), {"YES": 1.0, "NO": 0.0}),
    "factuality": Scale(("prefix", "original", "candidate"), {"NONE": 1.0, "POSSIBLE": 0.5, "DEFINITE": 0.0}),
    "match": Scale(("prefix", "original", "candidate"), {"YES": 1.0, "NO": 0.0}),
}


class PointwiseJudge(QuestionJudge):
    """Grades each candidate by itself."""

    def __init__(self, axis: Graded, model: ChoiceModel, prompt: PromptTemplate) -> None:
        self.axis = Axis(axis)
        super().__init__(f"{axis}-{model.name}", "pointwise", axis, model.identity, prompt.text)
        self.model = model
        self.prompt = prompt
        self.scale = SCALES[axis]

    def answer(self, requests: Sequence[JudgeRequest], questions: Sequence[Sequence[Question]]) -> list[list[Verdict]]:
        """Grade each candidate; equal texts of a request are asked about once.

        Raises:
            ValueError: when the prompt needs an original suffix and a request has none.
        """
        asked: list[ChoiceRequest] = []
        keys: list[list[tuple[int, str]]] = []
        for index, (request, row) in enumerate(zip(requests, questions, strict=True)):
            texts = [text for text in dict.fromkeys(request.candidates[first] for first, _ in row) if text.strip()]
            # Nothing but empty candidates: they are not shown, and get their verdicts below.
            if not texts:
                continue
            if "original" in self.scale.fields and request.original is None:
                raise ValueError(f"the {self.axis} judge compares with the original suffix, and a request has none")
            values = {"prefix": request.prefix, "original": request.original or ""}
            asked.append(ChoiceRequest.of(self.prompt, "candidate", texts, values))
            keys.append([(index, text) for text in texts])
        answers: dict[tuple[int, str], ChoiceProbs] = {}
        for row_keys, probs in zip(keys, self.model.ask(asked, list(self.scale.grades)), strict=True):
            answers.update(zip(row_keys, probs, strict=True))
        return [
            [self._verdict(question, answers.get((index, request.candidates[question[0]]))) for question in row]
            for index, (request, row) in enumerate(zip(requests, questions, strict=True))
        ]

    def _verdict(self, question: Question, answer: ChoiceProbs | None) -> Verdict:
        if answer is None and self.axis is Axis.MATCH:
            return self.scored(question, 0.0, "the prediction is empty")  # the policy's failing, not the judge's
        if answer is None:
            return self.unscored(question, "the candidate is empty")
        if answer.probs is None:
            return self.unscored(question, answer.reason)
        mean = sum(p * grade for p, grade in zip(answer.probs, self.scale.grades.values(), strict=True))
        return self.scored(question, mean, answer.reason)

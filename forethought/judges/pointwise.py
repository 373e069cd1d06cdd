"""Pointwise judges: a language model grades one continuation, in [0, 1] (Tan et al. 2026, section 1.2.2).

Safety reads the continuation alone.  Factuality compares it with the author's own suffix: no, a possible or a
definite hallucination is worth 1, 0.5 or 0.  A match says what the suffix, or its beginning, says.  A distribution
over the grades counts by its mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from forethought.judges.base import Question, QuestionJudge, pointwise_questions
from forethought.judges.multiple_choice import Answer, Asked, Asker
from forethought.llm.prompts import Prompt
from forethought.records import Axis, JudgeRequest, Verdict


@dataclass(frozen=True, slots=True)
class Scale:
    """What is asked on one axis."""

    fields: tuple[str, ...]
    """Fields of its prompt."""
    grades: dict[str, float]
    """What each answer is worth."""


Graded = Literal["safety", "factuality", "match"]

SCALES: dict[Graded, Scale] = {
    "safety": Scale(("candidate",), {"YES": 1.0, "NO": 0.0}),
    "factuality": Scale(("prefix", "original", "candidate"), {"NONE": 1.0, "POSSIBLE": 0.5, "DEFINITE": 0.0}),
    "match": Scale(("prefix", "original", "candidate"), {"YES": 1.0, "NO": 0.0}),
}


class PointwiseJudge(QuestionJudge):
    """Grades each candidate by itself."""

    def __init__(self, axis: Graded, asker: Asker, prompt: Prompt) -> None:
        self.axis = Axis(axis)
        super().__init__(f"{axis}-{asker.name}", "pointwise", axis, asker.identity, prompt.text)
        self.asker = asker
        self.prompt = prompt
        self.scale = SCALES[axis]

    def questions(self, contest: JudgeRequest) -> list[Question]:
        """Return one question per candidate."""
        return pointwise_questions(contest)

    def answer(self, contests: Sequence[JudgeRequest], questions: Sequence[Sequence[Question]]) -> list[list[Verdict]]:
        """Grade each candidate; equal texts of a contest are asked about once.

        Raises:
            ValueError: when the prompt needs an original suffix and a contest has none.
        """
        texts = [
            [text for text in dict.fromkeys(contest.candidates[first] for first, _ in asked) if text.strip()]
            for contest, asked in zip(contests, questions, strict=True)
        ]
        filled = [index for index, some in enumerate(texts) if some]
        answers = self.asker.ask([self._asked(contests[i], texts[i]) for i in filled], list(self.scale.grades))
        found = {
            (index, text): answer
            for index, row in zip(filled, answers, strict=True)
            for text, answer in zip(texts[index], row, strict=True)
        }
        return [
            [self._verdict(question, found.get((index, contest.candidates[question[0]]))) for question in asked]
            for index, (contest, asked) in enumerate(zip(contests, questions, strict=True))
        ]

    def _asked(self, contest: JudgeRequest, texts: Sequence[str]) -> Asked:
        if "original" in self.scale.fields and contest.original is None:
            raise ValueError(f"the {self.axis} judge compares with the original suffix, and a contest has none")
        values = {"prefix": contest.prefix, "original": contest.original or ""}
        splits = [self.prompt.split("candidate", {**values, "candidate": text}) for text in texts]
        return Asked(splits[0][0], tuple(rest for _, rest in splits))

    def _verdict(self, question: Question, answer: Answer | None) -> Verdict:
        if answer is None and self.axis is Axis.MATCH:
            return self.scored(question, 0.0, "the prediction is empty")  # the policy's failing, not the judge's
        if answer is None:
            return self.unscored(question, "the candidate is empty")
        if answer.weights is None:
            return self.unscored(question, answer.said)
        grades = self.scale.grades.values()
        score = sum(weight * grade for weight, grade in zip(answer.weights, grades, strict=True))
        return self.scored(question, score, answer.said)

"""Pairwise judge: a language model chooses the better of two continuations (Tan et al. 2026, section 1.2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from forethought.judges import tournament
from forethought.judges.base import JudgeError, Question, QuestionJudge
from forethought.judges.multiple_choice import Answer, Asked, Asker
from forethought.llm.prompts import Prompt
from forethought.records import Axis, JudgeRequest, Verdict

FIELDS = ("prefix", "first", "second")
CHOICES = ("1", "2")


class PairwiseJudge(QuestionJudge):
    """Shows every pair in both orders and returns the raw verdicts; the tournament merges them.

    With ``kind="pivot"`` each candidate meets the original suffix only: the first candidate whose text is
    ``contest.original``.  Two candidates meet each other either way.
    """

    axis = Axis.QUALITY

    def __init__(self, asker: Asker, prompt: Prompt, kind: Literal["full", "pivot"] = "full") -> None:
        # The kind of tournament is no part of the name: it decides which pairs are asked, not what is said of them.
        super().__init__(f"quality-{asker.name}", "pairwise", asker.identity, prompt.text)
        self.asker = asker
        self.prompt = prompt
        self.kind = kind

    def questions(self, contest: JudgeRequest) -> list[Question]:
        """Return the ordered pairs of the tournament.

        Raises:
            ValueError: when there is no pivot among more than two candidates.
        """
        count = len(contest.candidates)
        if self.kind == "full" or count <= 2:
            return list(tournament.pairs(count))
        if contest.original not in contest.candidates:
            raise JudgeError(
                "tournament = 'pivot' compares candidates with the original suffix, which is not among them: "
                "set improve.original = true, or tournament = 'full'"
            )
        return list(tournament.pairs(count, "pivot", contest.candidates.index(contest.original)))

    def answer(self, contests: Sequence[JudgeRequest], questions: Sequence[Sequence[Question]]) -> list[list[Verdict]]:
        """Ask for each pair of different texts once; all pairs with the same first text are asked together."""
        plan: dict[tuple[str, str], dict[str, None]] = {}
        for contest, asked in zip(contests, questions, strict=True):
            for question in asked:
                first, second = _texts(contest, question)
                if first.strip() and second.strip() and first != second:
                    plan.setdefault((contest.prefix, first), {})[second] = None
        answers = self.asker.ask([self._asked(*start, list(seconds)) for start, seconds in plan.items()], CHOICES)
        found = {
            (*start, second): answer
            for (start, seconds), row in zip(plan.items(), answers, strict=True)
            for second, answer in zip(seconds, row, strict=True)
        }
        return [
            [
                self._verdict(question, contest, found.get((contest.prefix, *_texts(contest, question))))
                for question in asked
            ]
            for contest, asked in zip(contests, questions, strict=True)
        ]

    def _asked(self, prefix: str, first: str, seconds: Sequence[str]) -> Asked:
        shared = {"prefix": prefix, "first": first}
        splits = [self.prompt.split("second", {**shared, "second": second}) for second in seconds]
        return Asked(splits[0][0], tuple(rest for _, rest in splits))

    def _verdict(self, question: Question, contest: JudgeRequest, answer: Answer | None) -> Verdict:
        if answer is None:
            first, second = _texts(contest, question)
            return (
                self.preferred(question, None) if first == second else self.unscored(question, "a candidate is empty")
            )
        if answer.weights is None:
            return self.unscored(question, answer.said)
        first_share, second_share = answer.weights
        if first_share == second_share:
            return self.preferred(question, None, answer.said)
        return self.preferred(question, question[0 if first_share > second_share else 1], answer.said)


def _texts(contest: JudgeRequest, question: Question) -> tuple[str, str]:
    first, second = question
    if second is None:
        raise ValueError(f"a pairwise judge was asked about the single candidate {first}")
    return contest.candidates[first], contest.candidates[second]

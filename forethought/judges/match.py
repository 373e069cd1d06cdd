"""Match judges: how near a predicted suffix comes to the true one.  They never see a thought.

A contest holds the predictions as candidates and the true continuation as the original, which may be longer.  A score
that reaches the threshold passes: that is the 0/1 reward of RL mid-training (Tan et al. 2026, arXiv 2601.21343).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forethought.engine import Group
from forethought.judges import Judge
from forethought.judges.base import Question, QuestionJudge, pointwise_questions
from forethought.llm.local import LocalModel
from forethought.models.embedding import Embedder
from forethought.records import Axis, JudgeRequest, Outcome, Verdict

HALF = 0.5
"""Threshold of a language model's YES."""


class SimilarityJudge(QuestionJudge):
    """Scores the cosine between the embeddings of the prediction and of as much true text, in [-1, 1]."""

    axis = Axis.MATCH

    def __init__(self, embedder: Embedder) -> None:
        super().__init__(f"similarity-{embedder.name}", "similarity", embedder.identity)
        self.embedder = embedder

    def questions(self, contest: JudgeRequest) -> list[Question]:
        """Return one question per prediction."""
        return pointwise_questions(contest)

    def answer(self, contests: Sequence[JudgeRequest], questions: Sequence[Sequence[Question]]) -> list[list[Verdict]]:
        """Compare each prediction with the true text; an empty prediction has nothing in common with anything."""
        pairs = list(zip(contests, questions, strict=True))
        asked = [contest.candidates[first] for contest, row in pairs for first, _ in row]
        texts = list(dict.fromkeys([*map(_true, contests), *asked]))
        rows = dict(zip(texts, self.embedder.embed(texts), strict=True)) if texts else {}
        results: list[list[Verdict]] = []
        for contest, row in pairs:
            true, found = rows[_true(contest)], []
            for question in row:
                text = contest.candidates[question[0]]
                found.append(self.scored(question, float(np.dot(true, rows[text])) if text.strip() else -1.0))
            results.append(found)
        return results


class LikelihoodGainJudge(QuestionJudge):
    """Scores how much likelier a language model finds the true suffix once it has read the prediction.

    ``1/|s| [log p(s | prediction, prefix) - log p(s | prefix)]``, nats per token: the prediction stands before the
    prefix, as a text of its own, so that prefix and suffix stay together.
    """

    axis = Axis.MATCH

    def __init__(self, model: LocalModel) -> None:
        super().__init__(f"gain-{model.name}", "likelihood gain", model.identity)
        self.model = model

    def questions(self, contest: JudgeRequest) -> list[Question]:
        """Return one question per prediction."""
        return pointwise_questions(contest)

    def answer(self, contests: Sequence[JudgeRequest], questions: Sequence[Sequence[Question]]) -> list[list[Verdict]]:
        """Score each prediction; one that leaves no room in the model's context is unscored."""
        groups: list[Group] = []
        for contest, row in zip(contests, questions, strict=True):
            for text in ("", *(contest.candidates[first] for first, _ in row)):
                groups.append(self._group(contest, text))
        means = iter([float(branch.mean()) for [branch] in self.model.scorer.logprobs(groups)])
        sizes = iter([group.tokens for group in groups])
        results: list[list[Verdict]] = []
        for row in questions:
            plain, found = next(means), []
            next(sizes)
            for question in row:
                value, size = next(means), next(sizes)
                if size > self.model.context:
                    reason = f"prediction, prefix and suffix have {size} tokens, the context {self.model.context}"
                    found.append(self.unscored(question, reason))
                else:
                    found.append(self.scored(question, value - plain))
            results.append(found)
        return results

    def _group(self, contest: JudgeRequest, text: str) -> Group:
        encode = self.model.encode
        head = self.model.bos + (encode(text.strip() + "\n\n") if text.strip() else ()) + encode(contest.prefix)
        return Group(prefix=head, branches=(encode(_true(contest)),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Matcher:
    """A judge with its threshold."""

    judge: Judge
    """Scores predictions."""
    threshold: float
    """A score that reaches it passes."""

    @property
    def name(self) -> str:
        """The judge's name and the threshold."""
        return f"{self.judge.name} >= {self.threshold:.3f}"

    def scores(self, contests: Sequence[JudgeRequest]) -> list[list[float | None]]:
        """Return each prediction's score; ``None`` where the judge gave none, which is never a zero."""
        return [
            [one.score if one.outcome is Outcome.SCORED else None for one in verdicts]
            for verdicts in self.judge.rank(contests)
        ]

    def passes(self, score: float | None) -> float | None:
        """Return 1 for a score that reaches the threshold, 0 for another, ``None`` for none."""
        return None if score is None else float(score >= self.threshold)


def calibrate(unrelated: Sequence[float], rollouts: Sequence[float], max_unrelated: float, base_rate: float) -> float:
    """Return the lowest threshold that passes at most these shares of unrelated suffixes and of rollouts.

    Raises:
        ValueError: if there is nothing to calibrate on.
    """
    if not unrelated or not rollouts:
        raise ValueError("a threshold needs scores of unrelated suffixes and of rollouts: raise calibration_chunks")
    return max(_bar(unrelated, max_unrelated), _bar(rollouts, base_rate))


def _bar(scores: Sequence[float], share: float) -> float:
    """Return the lowest number that at most ``share`` of ``scores`` reach."""
    ranked = sorted(scores, reverse=True)
    allowed = int(share * len(ranked))
    if allowed >= len(ranked):
        return ranked[-1]
    return float(np.nextafter(ranked[allowed], np.inf))


def _true(contest: JudgeRequest) -> str:
    if contest.original is None:
        raise ValueError("a match judge compares with the true suffix, and a contest has none")
    return contest.original

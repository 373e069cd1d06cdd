"""Match judges: how near a predicted suffix comes to the true one.  They never see a thought.

A request holds the predictions as candidates and the true continuation as the original, which may be longer.  A score
that reaches the threshold passes: that is the 0/1 reward of RL mid-training (Tan et al. 2026, arXiv 2601.21343).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forethought.engine import Group
from forethought.judges import Judge
from forethought.judges.base import Question, QuestionJudge
from forethought.models.embedding import Embedder
from forethought.models.model import Model
from forethought.records import Axis, JudgeRequest, Verdict

HALF = 0.5
"""Threshold of a language model's YES."""


class SimilarityJudge(QuestionJudge):
    """Scores the cosine between the embeddings of the prediction and of as much true text, in [-1, 1]."""

    axis = Axis.MATCH

    def __init__(self, embedder: Embedder) -> None:
        super().__init__(f"similarity-{embedder.name}", "similarity", embedder.identity)
        self.embedder = embedder

    def answer(self, requests: Sequence[JudgeRequest], questions: Sequence[Sequence[Question]]) -> list[list[Verdict]]:
        """Compare each prediction with the true text; an empty prediction has nothing in common with anything."""
        pairs = list(zip(requests, questions, strict=True))
        predicted = [request.candidates[first] for request, row in pairs for first, _ in row]
        # Each text once: the predictions for a window share one true text.
        texts = list(dict.fromkeys([*map(true_suffix, requests), *predicted]))
        vectors = dict(zip(texts, self.embedder.embed(texts), strict=True)) if texts else {}

        def score(request: JudgeRequest, text: str) -> float:
            return float(np.dot(vectors[true_suffix(request)], vectors[text])) if text.strip() else -1.0

        return [[self.scored(q, score(request, request.candidates[q[0]])) for q in row] for request, row in pairs]


class LikelihoodGainJudge(QuestionJudge):
    """Scores how much likelier a language model finds the true suffix once it has read the prediction.

    ``1/|s| [log p(s | prediction, prefix) - log p(s | prefix)]``, nats per token: the prediction stands before the
    prefix, as a text of its own, so that prefix and suffix stay together.
    """

    axis = Axis.MATCH

    def __init__(self, model: Model) -> None:
        super().__init__(f"gain-{model.name}", "likelihood gain", model.identity)
        self.model = model

    def answer(self, requests: Sequence[JudgeRequest], questions: Sequence[Sequence[Question]]) -> list[list[Verdict]]:
        """Score each prediction; one that leaves no room in the model's context is unscored."""
        # Per request the empty prediction, then one group per question: read back in this order below.
        groups = [
            self._group(request, text)
            for request, row in zip(requests, questions, strict=True)
            for text in ("", *(request.candidates[first] for first, _ in row))
        ]
        scored = iter(zip(groups, self.model.scorer.logprobs(groups), strict=True))

        def verdict(question: Question, without: float) -> Verdict:
            group, [logprobs] = next(scored)
            if group.tokens > self.model.context:
                reason = f"prediction, prefix and suffix have {group.tokens} tokens, the context {self.model.context}"
                return self.unscored(question, reason)
            return self.scored(question, float(logprobs.mean()) - without)

        verdicts = []
        for row in questions:
            _, [logprobs] = next(scored)  # of the true suffix without any prediction
            without = float(logprobs.mean())
            verdicts.append([verdict(question, without) for question in row])
        return verdicts

    def _group(self, request: JudgeRequest, text: str) -> Group:
        encode = self.model.encode
        head = self.model.bos + (encode(text.strip() + "\n\n") if text.strip() else ()) + encode(request.prefix)
        return Group(prefix=head, branches=(encode(true_suffix(request)),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Matcher:
    """A judge with the score from which a prediction passes."""

    judge: Judge
    threshold: float

    @property
    def name(self) -> str:
        return f"{self.judge.name} >= {self.threshold:.3f}"

    def scores(self, requests: Sequence[JudgeRequest]) -> list[list[float | None]]:
        """Return each prediction's score; ``None`` where the judge gave none, which is never a zero."""
        return [[verdict.score for verdict in verdicts] for verdicts in self.judge.rank(requests)]

    def passes(self, score: float | None) -> float | None:
        """Return 1 for a score that reaches the threshold, 0 for another, ``None`` for none."""
        return None if score is None else float(score >= self.threshold)


def calibrate(limits: Sequence[tuple[Sequence[float], float]]) -> float:
    """Return the lowest threshold that keeps every limit: at most this share of these scores may pass.

    Raises:
        ValueError: if there are no scores to keep one by.
    """
    if not limits or not all(scores for scores, _ in limits):
        raise ValueError(
            "a threshold needs scores of rollouts, of unrelated suffixes and of prefix copies, and the judge gave none "
            "of one kind: raise calibration_chunks, or see what the judge says"
        )
    # All limits must hold, so the strictest counts.
    return max(_threshold(scores, share) for scores, share in limits)


def _threshold(scores: Sequence[float], share: float) -> float:
    """Return the lowest number that at most ``share`` of ``scores`` reach."""
    ranked = sorted(scores, reverse=True)
    allowed = int(share * len(ranked))
    # Just above the first score too many, since a score that equals the threshold passes.
    return ranked[-1] if allowed >= len(ranked) else float(np.nextafter(ranked[allowed], np.inf))


def true_suffix(request: JudgeRequest) -> str:
    """Return the text that predictions are compared with.

    Raises:
        ValueError: if the request has none.
    """
    if request.original is None:
        raise ValueError("a match judge compares with the true suffix, and a request has none")
    return request.original

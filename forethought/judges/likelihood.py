"""Likelihood judge: a continuation is as good as a stronger model finds it likely.

Small language models that are asked "1 or 2?" name the first option whatever it says; the likelihood under the very
same models tells an author's text from shuffled, foreign and sampled text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from forethought.engine import Group
from forethought.judges.base import Question, QuestionJudge, pointwise_questions
from forethought.llm.local import LocalModel
from forethought.records import Axis, JudgeRequest, Verdict

Normalise = Literal["token", "byte", "none"]

COPIED = 3
"""So many tokens in a row that stood before are a copy."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """A weaker model whose score is subtracted (contrastive decoding's objective, Li et al. 2023)."""

    model: LocalModel
    """The weaker model."""
    weight: float = 1.0
    """How much of its score is subtracted."""


class LikelihoodJudge(QuestionJudge):
    """Scores ``log p(candidate | prefix)`` (nats) over its tokens, its UTF-8 bytes or nothing."""

    axis = Axis.LIKELIHOOD

    def __init__(
        self,
        model: LocalModel,
        normalise: Normalise = "token",
        contrast: Contrast | None = None,
        copy_cost: float = 0.0,
    ) -> None:
        """See :class:`~forethought.config.JudgeConfig`; a contrast model is not charged for copies."""
        against = None if contrast is None else (contrast.model.identity, contrast.weight)
        super().__init__(f"likelihood-{model.name}", "likelihood", model.identity, normalise, against, copy_cost)
        self.model = model
        self.normalise = normalise
        self.contrast = contrast
        self.copy_cost = copy_cost

    def questions(self, contest: JudgeRequest) -> list[Question]:
        """Return one question per candidate."""
        return pointwise_questions(contest)

    def answer(self, contests: Sequence[JudgeRequest], questions: Sequence[Sequence[Question]]) -> list[list[Verdict]]:
        """Score each candidate; texts after one prefix are computed together, and equal ones once, so that they tie."""
        wanted: dict[str, dict[str, None]] = {}
        for contest, asked in zip(contests, questions, strict=True):
            texts = wanted.setdefault(contest.prefix, {})
            texts.update((contest.candidates[first], None) for first, _ in asked)
        prefixes, rows = list(wanted), [list(texts) for texts in wanted.values()]
        found = _scores(self.model, prefixes, rows, self.normalise, self.copy_cost)
        if self.contrast is not None:
            weaker = _scores(self.contrast.model, prefixes, rows, self.normalise)
            found = [
                {text: _subtract(row[text], other[text], self.contrast.weight) for text in row}
                for row, other in zip(found, weaker, strict=True)
            ]
        scores = dict(zip(prefixes, found, strict=True))
        return [
            [self._verdict(question, scores[contest.prefix][contest.candidates[question[0]]]) for question in asked]
            for contest, asked in zip(contests, questions, strict=True)
        ]

    def _verdict(self, question: Question, score: float | str) -> Verdict:
        if isinstance(score, str):
            return self.unscored(question, score)
        return self.scored(question, score)


def charge_copies(prefix: Sequence[int], ids: Sequence[int], logprobs: np.ndarray, cost: float) -> np.ndarray:
    """Return ``logprobs`` with every copied token at most ``-cost``.

    A token is copied if it completes a run of :data:`COPIED` tokens that stands earlier in the prefix or the text.
    Language models find loops likely, more likely than any author: without the charge, a mean log-probability
    prefers a sentence that repeats itself to the original nine times out of ten.
    """
    text = [*prefix, *ids]
    seen: set[tuple[int, ...]] = set()
    charged = logprobs.copy()
    for end in range(COPIED, len(text) + 1):
        run = tuple(text[end - COPIED : end])
        place = end - 1 - len(prefix)
        if place >= 0 and run in seen:
            charged[place] = min(charged[place], -cost)
        seen.add(run)
    return charged


def _scores(
    model: LocalModel,
    prefixes: Sequence[str],
    texts: Sequence[Sequence[str]],
    normalise: Normalise,
    copy_cost: float = 0.0,
) -> list[dict[str, float | str]]:
    """Return, per contest, each text's score, or the reason why it has none.

    When the model's context is too short, a prefix keeps its end within three quarters of it, and a text may take
    the last quarter: a rule that looks at one text at a time, so that a score never depends on its neighbours.
    """
    results: list[dict[str, float | str]] = []
    groups: list[Group] = []
    places: list[tuple[dict[str, float | str], list[str]]] = []
    longest_text = model.context // 4
    longest_prefix = model.context - longest_text - len(model.bos)
    for prefix, some in zip(prefixes, texts, strict=True):
        row: dict[str, float | str] = {}
        results.append(row)
        head = model.bos + model.encode(prefix)[-longest_prefix:]
        ids = {text: model.encode(text) for text in some}
        for text in some:
            if not head:
                row[text] = "the prefix is empty and the judge's model has no BOS token to start from"
            elif not ids[text]:
                row[text] = "the candidate is empty"
            elif len(ids[text]) > longest_text:
                row[text] = (
                    f"the candidate has {len(ids[text])} tokens, a quarter of the judge's context is {longest_text}"
                )
        kept = [text for text in some if text not in row]
        if kept:
            groups.append(Group(prefix=head, branches=tuple(ids[text] for text in kept)))
            places.append((row, kept))
    for (row, kept), group, logprobs in zip(places, groups, model.scorer.logprobs(groups), strict=True):
        for text, ids_, values in zip(kept, group.branches, logprobs, strict=True):
            paid = charge_copies(group.prefix, ids_, values, copy_cost) if copy_cost else values
            row[text] = _normalised(text, paid, normalise)
    return results


def _normalised(text: str, logprobs: np.ndarray, normalise: Normalise) -> float | str:
    total = float(logprobs.astype(np.float64).sum())
    if not math.isfinite(total):
        return f"its log-probability is {total}"
    length = {"token": len(logprobs), "byte": len(text.encode("utf-8", "surrogatepass")), "none": 1}[normalise]
    return total / length


def _subtract(score: float | str, weaker: float | str, weight: float) -> float | str:
    if isinstance(score, str):
        return score
    if isinstance(weaker, str):
        return f"contrast model: {weaker}"
    return score - weight * weaker

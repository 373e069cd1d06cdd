"""Likelihood judge: a continuation is as good as a stronger model finds it likely.

Small language models that are asked "1 or 2?" name the first option whatever it says; the likelihood under the very
same models tells an author's text from shuffled, foreign and sampled text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from forethought.engine import Group
from forethought.judges.base import Question, QuestionJudge
from forethought.models.model import Model
from forethought.records import Axis, JudgeRequest, Verdict

Normalise = Literal["token", "byte", "none"]

COPIED = 8
"""This many tokens in a row that stood before are a copy: authors repeat names and years, of fewer tokens."""
PATTERN = 16
"""A loop that changes a word each time is looked for in stretches of this many tokens; a turn has at most as many."""
RULE = f"runs of {COPIED}, half of {PATTERN}"
"""Part of a charging judge's name, so that verdicts of another rule are not taken for its own."""


class LikelihoodJudge(QuestionJudge):
    """Scores ``log p(candidate | prefix)`` (nats) over its tokens, its UTF-8 bytes or nothing.

    The score of the weaker model ``contrast``, times its weight, is subtracted (contrastive decoding, Li et al. 2023);
    it is not charged for copies.
    """

    axis = Axis.LIKELIHOOD

    def __init__(
        self,
        model: Model,
        normalise: Normalise = "token",
        copy_cost: float = 0.0,
        contrast: Model | None = None,
        contrast_weight: float = 1.0,
    ) -> None:
        against = None if contrast is None else (contrast.identity, contrast_weight)
        # Without a charge the rule changes no verdict, and those that are kept stay valid.
        charge = (copy_cost, RULE) if copy_cost else copy_cost
        super().__init__(f"likelihood-{model.name}", "likelihood", model.identity, normalise, against, charge)
        self.model = model
        self.normalise = normalise
        self.copy_cost = copy_cost
        self.contrast = contrast
        self.contrast_weight = contrast_weight

    def answer(self, requests: Sequence[JudgeRequest], questions: Sequence[Sequence[Question]]) -> list[list[Verdict]]:
        """Score each candidate; texts after one prefix are computed together, and equal ones once, so that they tie."""
        # The inner dict is an ordered set: each text after a prefix is computed once.
        texts: dict[str, dict[str, None]] = {}
        for request, row in zip(requests, questions, strict=True):
            texts.setdefault(request.prefix, {}).update((request.candidates[first], None) for first, _ in row)
        scores = _scores(self.model, texts, self.normalise, self.copy_cost)
        if self.contrast is not None:
            for key, weaker in _scores(self.contrast, texts, self.normalise).items():
                score = scores[key]
                # A text that either model cannot score has no difference.
                if isinstance(weaker, str):
                    scores[key] = score if isinstance(score, str) else f"contrast model: {weaker}"
                elif not isinstance(score, str):
                    scores[key] = score - self.contrast_weight * weaker

        def verdict(request: JudgeRequest, question: Question) -> Verdict:
            score = scores[request.prefix, request.candidates[question[0]]]
            return self.unscored(question, score) if isinstance(score, str) else self.scored(question, score)

        return [
            [verdict(request, question) for question in row] for request, row in zip(requests, questions, strict=True)
        ]


def charge_copies(prefix: Sequence[int], ids: Sequence[int], logprobs: np.ndarray, cost: float) -> np.ndarray:
    """Return ``logprobs`` with every copied token at most ``-cost``.

    Language models find loops likely, more likely than any author: without the charge, a mean log-probability
    prefers a sentence that repeats itself to the original nine times out of ten.  docs/judges.md has what the rule
    charges of authors' text and of loops.
    """
    return np.where(copied_runs(prefix, ids) | patterns(ids), np.minimum(logprobs, np.float32(-cost)), logprobs)


def copied_runs(prefix: Sequence[int], ids: Sequence[int]) -> np.ndarray:
    """Return which tokens lie in a run of :data:`COPIED` that stood earlier in the prefix or the text; bool ``(T,)``.

    The whole run, not only the token that completes it: else a loop of short turns would get its first ones free.
    """
    text, before = [*prefix, *ids], len(prefix)
    seen: set[tuple[int, ...]] = set()
    copied = np.zeros(len(text), bool)
    # Runs of the prefix are walked, too: they count as seen but are not charged.
    for end in range(COPIED, len(text) + 1):
        run = tuple(text[end - COPIED : end])
        if end > before and run in seen:
            copied[end - COPIED : end] = True
        seen.add(run)
    return copied[before:]


def patterns(ids: Sequence[int]) -> np.ndarray:
    """Return which tokens keep up a loop that changes a word each time ("in Spain, in France, ..."); bool ``(T,)``.

    A token echoes if the same one stood ``lag`` tokens earlier.  Where half of :data:`PATTERN` tokens in a row echo at
    the same lag, those that echo are charged; what changes is new.
    """
    tokens = np.asarray(ids)
    kept_up = np.zeros(len(tokens), bool)
    # The stretch and what it echoes both lie in the text: how the prefix is built is its author's choice.
    for lag in range(1, min(PATTERN, len(tokens) - PATTERN) + 1):
        echoes = tokens[lag:] == tokens[:-lag]
        for start in np.flatnonzero(np.convolve(echoes, np.ones(PATTERN, int), "valid") >= PATTERN // 2):
            kept_up[lag:][start : start + PATTERN] |= echoes[start : start + PATTERN]
    return kept_up


def _scores(
    model: Model, texts: Mapping[str, Iterable[str]], normalise: Normalise, copy_cost: float = 0.0
) -> dict[tuple[str, str], float | str]:
    """Return the score of each (prefix, text), or the reason why it has none.

    When the model's context is too short, a prefix keeps its end within three quarters of it, and a text may take
    the last quarter: a rule that looks at one text at a time, so that a score never depends on its neighbours.
    """
    scores: dict[tuple[str, str], float | str] = {}
    groups: list[Group] = []
    scored: list[tuple[str, list[str]]] = []
    longest_text = model.context // 4
    longest_prefix = model.context - longest_text - len(model.bos)
    for prefix, texts_of_prefix in texts.items():
        head = model.bos + model.encode(prefix)[-longest_prefix:]
        ids = {text: model.encode(text) for text in texts_of_prefix}
        for text, tokens in ids.items():
            if not head:
                scores[prefix, text] = "the prefix is empty and the judge's model has no BOS token to start from"
            elif not tokens:
                scores[prefix, text] = "the candidate is empty"
            elif len(tokens) > longest_text:
                scores[prefix, text] = (
                    f"the candidate has {len(tokens)} tokens, a quarter of the judge's context is {longest_text}"
                )
        fitting = [text for text in ids if (prefix, text) not in scores]
        if fitting:
            groups.append(Group(prefix=head, branches=tuple(ids[text] for text in fitting)))
            scored.append((prefix, fitting))
    for (prefix, fitting), group, logprobs in zip(scored, groups, model.scorer.logprobs(groups), strict=True):
        for text, tokens, values in zip(fitting, group.branches, logprobs, strict=True):
            charged = charge_copies(group.prefix, tokens, values, copy_cost) if copy_cost else values
            # In double precision: the rounding of long float32 sums must not decide near ties.
            total = float(charged.astype(np.float64).sum())
            # surrogatepass: a lone surrogate in a corpus must not stop a run.
            length = {"token": len(tokens), "byte": len(text.encode("utf-8", "surrogatepass")), "none": 1}[normalise]
            scores[prefix, text] = total / length if math.isfinite(total) else f"its log-probability is {total}"
    return scores

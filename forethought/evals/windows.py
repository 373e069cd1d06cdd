"""What the reward gate and the probe share: models think and predict on held-out windows, a match judge scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forethought.algorithms.windows import Window, match_request
from forethought.engine import Group, Prompt
from forethought.evals.recorder import Recorder
from forethought.judges.match import Matcher
from forethought.keys import Key
from forethought.metrics import EVALUATE_RLMT
from forethought.models.model import Model
from forethought.records import Rollout

WINDOWS_PER_CALL = 32

Cells = list[list[float | None]]
"""A number for each window and sample; ``None`` is unscored."""
Rollouts = Sequence[Sequence[Rollout]]
"""Thoughts with predictions, per window and sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowEval:
    """What every arm is asked."""

    windows: Sequence[Window]
    matcher: Matcher
    longer: bool
    """Whether it is shown more true text than was predicted."""
    thought_tokens: int
    suffix_tokens: int
    seed: int

    def __post_init__(self) -> None:
        if not self.windows:
            raise ValueError(
                "no held-out window has enough text behind a place: lower rlmt.suffix_tokens, raise "
                "interleave.heldout_rows, or set rlmt.cut = 'raw'"
            )

    @property
    def documents(self) -> list[str]:
        return [window.document_id for window in self.windows]

    def recorder(self, model: Model) -> Recorder:
        return Recorder.of(model, EVALUATE_RLMT, self.documents, self.matcher.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Predictions with their scores, per window and sample."""

    suffixes: list[list[str]]
    """What was predicted, without any thought in it."""
    scores: Cells
    rewards: Cells
    """1 where the score reaches the threshold."""


def predict_at_once(model: Model, evaluation: WindowEval, samples: int) -> Scored:
    """Return a model's predictions for every window, without a thought."""
    prompts = [Prompt(id=window.id, token_ids=model.bos + window.prefix_ids) for window in evaluation.windows]
    key = Key(evaluation.seed, "gate")
    drawn = model.sample(prompts, samples, max_tokens=evaluation.suffix_tokens, key=key)
    return score(evaluation, [[completion.text for completion in row] for row in drawn])


def think_and_predict(model: Model, evaluation: WindowEval, samples: int) -> tuple[Scored, Rollouts]:
    """Return a model's predictions for every window after a thought, and both as they were drawn."""
    rollouts = model.think(
        [Prompt(id=window.id, token_ids=model.bos + window.prefix_ids) for window in evaluation.windows],
        samples,
        thought_tokens=evaluation.thought_tokens,
        max_tokens=evaluation.suffix_tokens,
        key=Key(evaluation.seed, "gate"),
    )
    return score(evaluation, [[rollout.text for rollout in row] for row in rollouts]), rollouts


def predict(model: Model, evaluation: WindowEval, inserts: Sequence[Sequence[tuple[int, ...]]]) -> Scored:
    """Return predictions after what is inserted behind each window's prefix, one per insert.

    Prediction k of a window has the same random numbers whatever is inserted, so that conditions are paired.
    """
    prompts = [
        Prompt(id=f"{window.id}/{k}", token_ids=model.bos + window.prefix_ids + insert)
        for window, row in zip(evaluation.windows, inserts, strict=True)
        for k, insert in enumerate(row)
    ]
    drawn = model.sample(prompts, max_tokens=evaluation.suffix_tokens, key=Key(evaluation.seed, "probe"))
    # Flat for one call of the sampler, then dealt out again in the shape of `inserts`.
    texts = iter([completion.text for [completion] in drawn])
    return score(evaluation, [[next(texts) for _ in row] for row in inserts])


def gains(model: Model, evaluation: WindowEval, inserts: Sequence[Sequence[tuple[int, ...]]]) -> list[list[float]]:
    """Return how much likelier each insert makes the true suffix than no insert at all, nats per token."""
    gained: list[list[float]] = []
    for start in range(0, len(inserts), WINDOWS_PER_CALL):
        windows = evaluation.windows[start : start + WINDOWS_PER_CALL]
        # The empty insert comes first: the others are compared with it.
        groups = [
            Group(prefix=model.bos + window.prefix_ids, branches=tuple(i + window.suffix_ids for i in ((), *row)))
            for window, row in zip(windows, inserts[start : start + WINDOWS_PER_CALL], strict=True)
        ]
        for window, [plain, *rest] in zip(windows, model.logprobs(groups), strict=True):
            size = len(window.suffix_ids)
            gained.append([float(branch[-size:].mean() - plain.mean()) for branch in rest])
    return gained


def score(evaluation: WindowEval, suffixes: list[list[str]]) -> Scored:
    """Return the judge's scores of predictions."""
    windows, matcher = evaluation.windows, evaluation.matcher
    requests = [match_request(window, row, evaluation.longer) for window, row in zip(windows, suffixes, strict=True)]
    scores = matcher.scores(requests)
    return Scored(
        suffixes=suffixes, scores=scores, rewards=[[matcher.passes(value) for value in row] for row in scores]
    )


def means(cells: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Return each window's mean over its scored samples; ``None`` where none was scored."""
    known = [[value for value in row if value is not None] for row in cells]
    return [sum(row) / len(row) if row else None for row in known]

"""What the reward gate and the probe share: models think and predict on held-out windows, match judges score.

A suffix is judged as it was written: tags and words of a second thought that was opened in it are part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from forethought.algorithms.windows import Window, match_request
from forethought.engine import Group, Prompt
from forethought.evals.continuation import match_temperature
from forethought.evals.recorder import Recorder
from forethought.judges.match import Matcher
from forethought.keys import Key
from forethought.metrics import AT_HIGHEST, AT_LOWEST, EVALUATE_RLMT, MATCHED
from forethought.models.model import Model
from forethought.records import Rollout

WINDOWS_PER_CALL = 32
LEVELS: dict[str, Callable[[Iterable[float]], float]] = {AT_HIGHEST: max, AT_LOWEST: min}
"""The entropies at which suffixes are compared, besides those that they have at temperature 1 (condition "")."""

Cells = list[list[float | None]]
"""A number for each window and sample; ``None`` is unscored."""
Means = list[float | None]
"""A number for each window."""
Inserts = Sequence[Sequence[tuple[int, ...]]]
"""Ids between prefix and suffix, per window and sample."""
Rollouts = Sequence[Sequence[Rollout]]
"""Thoughts with predictions, per window and sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowEval:
    """What every arm is asked."""

    windows: Sequence[Window]
    matchers: Mapping[str, Matcher]
    """The judges by name; the one that trains comes first."""
    longer: Collection[str] = ()
    """Names of the judges that are shown more true text than was predicted."""
    thought_tokens: int
    suffix_tokens: int
    seed: int
    entropy_tolerance: float = 0.02
    """Nats per token within which entropies match."""

    def __post_init__(self) -> None:
        if not self.windows:
            raise ValueError(
                "no held-out window has enough text behind a place: lower rlmt.suffix_tokens, raise "
                "interleave.heldout_rows, or set rlmt.cut = 'raw'"
            )

    @property
    def documents(self) -> list[str]:
        return [window.document_id for window in self.windows]

    def recorder(self, model: Model, judge: str = "") -> Recorder:
        """Return the recorder of a model's figures by a judge; by default the one that trains."""
        name = judge or next(iter(self.matchers))
        return Recorder.of(model, EVALUATE_RLMT, self.documents, self.seed, self.matchers[name].name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Suffixes of one model at one temperature, per window and sample; perhaps none for some windows."""

    temperature: float
    suffixes: list[list[str]]
    surprise: Cells
    """Mean over a suffix's tokens of ``-log p`` under the distribution that it was drawn from, nats."""
    second: Cells
    """1 for each suffix in which a thought is opened."""

    @property
    def entropy(self) -> float:
        """Nats per token: the mean over windows of their suffixes' surprise (all are equally long)."""
        known = [value for value in means(self.surprise) if value is not None]
        return sum(known) / len(known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What one judge says of suffixes, per window and sample."""

    scores: Cells
    rewards: Cells
    """1 where the score reaches the threshold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One arm under one condition by one judge, per window: means over samples."""

    rewards: Means
    scores: Means
    entropies: Means
    """Nats per token of the suffixes."""
    samples: Scored | None = None
    """What the judge says of each suffix; not of a mean of conditions."""


def predict_at_once(model: Model, evaluation: WindowEval, samples: int, temperature: float = 1.0) -> Drawn:
    """Return a model's predictions for every window, without a thought."""
    prompts = [Prompt(id=window.id, token_ids=model.bos + window.prefix_ids) for window in evaluation.windows]
    key, size = Key(evaluation.seed, "gate"), evaluation.suffix_tokens
    rows = model.sample(prompts, samples, max_tokens=size, key=key, temperature=temperature)
    return _drawn(model, temperature, [[(c.token_ids, c.logprobs) for c in row] for row in rows])


def think_and_predict(model: Model, evaluation: WindowEval, samples: int) -> tuple[Drawn, Rollouts]:
    """Return a model's predictions for every window after a thought, at temperature 1, and both as they were drawn."""
    rollouts = model.think(
        [Prompt(id=window.id, token_ids=model.bos + window.prefix_ids) for window in evaluation.windows],
        samples,
        thought_tokens=evaluation.thought_tokens,
        max_tokens=evaluation.suffix_tokens,
        key=Key(evaluation.seed, "gate"),
    )

    def suffix(rollout: Rollout) -> tuple[tuple[int, ...], tuple[float, ...]]:
        return rollout.token_ids[rollout.thought_tokens :], rollout.logprobs[rollout.thought_tokens :]

    return _drawn(model, 1.0, [[suffix(rollout) for rollout in row] for row in rollouts]), rollouts


def thoughts(model: Model, rollouts: Rollouts) -> list[list[tuple[int, ...]]]:
    """Return the thoughts of rollouts as they stand behind a prefix, tags included."""
    opened = model.thoughts.open
    return [[opened + rollout.token_ids[: rollout.thought_tokens] for rollout in row] for row in rollouts]


def predict(model: Model, evaluation: WindowEval, inserts: Inserts, temperature: float = 1.0) -> Drawn:
    """Return predictions after what is inserted behind each window's prefix, one per insert.

    Prediction k of a window has the same random numbers whatever is inserted and at whatever temperature, so that
    conditions are paired, and entropy is smooth in the temperature.
    """
    prompts = [
        Prompt(id=f"{window.id}/{k}", token_ids=model.bos + window.prefix_ids + insert)
        for window, row in zip(evaluation.windows, inserts, strict=True)
        for k, insert in enumerate(row)
    ]
    key, size = Key(evaluation.seed, "probe"), evaluation.suffix_tokens
    # Flat for one call of the sampler, then dealt out again in the shape of `inserts`.
    flat = iter(model.sample(prompts, max_tokens=size, key=key, temperature=temperature))
    rows = [[next(flat)[0] for _ in row] for row in inserts]
    return _drawn(model, temperature, [[(c.token_ids, c.logprobs) for c in row] for row in rows])


def levels(entropies: Collection[float]) -> dict[str, float]:
    """Return the highest and the lowest of the entropies of what is compared, by condition."""
    return {name: chosen(entropies) for name, chosen in LEVELS.items()}


def at_levels(
    drawn: Drawn, again: Callable[[float], Drawn], targets: Mapping[str, float], tolerance: float
) -> dict[str, Drawn]:
    """Return suffixes at temperature 1 (condition "") and, for each target, at the temperature that has its entropy.

    Args:
        drawn: the suffixes at temperature 1; what is within ``tolerance`` of a target keeps them.
        again: draws suffixes after the same thoughts at another temperature.
        targets: by condition, the entropy, nats per token; see :func:`levels`.
        tolerance: nats per token.
    """
    tried = {1.0: drawn}

    def entropy_at(temperature: float) -> float:
        if temperature not in tried:
            tried[temperature] = again(temperature)
        return tried[temperature].entropy

    matched = {name: tried[match_temperature(target, entropy_at, tolerance)] for name, target in targets.items()}
    return {"": drawn} | matched


def results(evaluation: WindowEval, draws: Mapping[str, Drawn], judge: str) -> dict[str, Result]:
    """Return what one judge says of an arm's suffixes, by condition; :data:`MATCHED` is the mean of both levels.

    At which entropy two arms are compared may favour one of them; the mean of both takes no side.
    """
    # What keeps its suffixes at a level is not judged again.
    scored = {id(drawn): score(evaluation, drawn.suffixes, judge) for drawn in draws.values()}
    found = {
        name: Result(
            rewards=means(scored[id(drawn)].rewards),
            scores=means(scored[id(drawn)].scores),
            entropies=means(drawn.surprise),
            samples=scored[id(drawn)],
        )
        for name, drawn in draws.items()
    }
    if found.keys() >= LEVELS.keys():
        high, low = (found[level] for level in LEVELS)
        found[MATCHED] = Result(
            rewards=_halfway(high.rewards, low.rewards),
            scores=_halfway(high.scores, low.scores),
            entropies=_halfway(high.entropies, low.entropies),
        )
    return found


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


def score(evaluation: WindowEval, suffixes: Sequence[Sequence[str]], judge: str = "") -> Scored:
    """Return a judge's scores of predictions; by default those of the judge that trains."""
    name = judge or next(iter(evaluation.matchers))
    matcher, longer = evaluation.matchers[name], name in evaluation.longer
    rows = zip(evaluation.windows, suffixes, strict=True)
    said = iter(matcher.scores([match_request(window, row, longer) for window, row in rows if row]))
    scores: Cells = [next(said) if row else [] for row in suffixes]
    return Scored(scores=scores, rewards=[[matcher.passes(value) for value in row] for row in scores])


def means(cells: Sequence[Sequence[float | None]]) -> Means:
    """Return each window's mean over its scored samples; ``None`` where none was scored."""
    known = [[value for value in row if value is not None] for row in cells]
    return [sum(row) / len(row) if row else None for row in known]


def difference(a: Sequence[float | None], b: Sequence[float | None]) -> Means:
    """Return the first less the second, window by window; ``None`` where one of them is not known."""
    return [None if x is None or y is None else x - y for x, y in zip(a, b, strict=True)]


def _halfway(a: Means, b: Means) -> Means:
    return [None if x is None or y is None else (x + y) / 2 for x, y in zip(a, b, strict=True)]


def _drawn(
    model: Model, temperature: float, rows: Sequence[Sequence[tuple[tuple[int, ...], tuple[float, ...]]]]
) -> Drawn:
    """Return suffixes, each given as its ids with their log-probabilities."""
    suffixes = [[model.decode(ids) for ids, _ in row] for row in rows]
    opened = model.thoughts.tags.open
    return Drawn(
        temperature=temperature,
        suffixes=suffixes,
        surprise=[[-sum(logprobs) / len(logprobs) if logprobs else None for _, logprobs in row] for row in rows],
        second=[[float(opened in text) for text in row] for row in suffixes],
    )

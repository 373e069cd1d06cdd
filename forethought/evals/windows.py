"""What the reward gate and the probe share: players think and predict on held-out windows, a match judge scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from forethought.algorithms.windows import Window, match_request
from forethought.engine import Group, Prompt, Sampling, Scorer, Thinking, ThinkingSampler
from forethought.judges.match import Matcher
from forethought.keys import Key
from forethought.metrics import EVALUATE_RLMT, Metric
from forethought.models.thought_tokens import ThoughtTokens
from forethought.records import Measurement
from forethought.stats import Interval, bootstrap_mean, detectable_n, paired_bootstrap
from forethought.tags import Tags, strip

WINDOWS_PER_CALL = 32

Cells = list[list[float | None]]
"""A number for each window and sample; ``None`` is unscored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Player:
    """An arm that takes part."""

    name: str
    """Its name in the run."""
    identity: str
    """Hash of its weights."""
    sampler: ThinkingSampler
    """Writes."""
    scorer: Scorer
    """Scores."""
    codec: ThoughtTokens
    """Thoughts to ids, under its own tokenizer."""
    bos: tuple[int, ...]
    """Stands before every prefix."""
    forbidden: tuple[int, ...]
    """Never drawn; no tag is among them."""
    thinks: bool = True
    """Whether it was trained to think; the others predict at once."""

    def head(self, window: Window, *more: int) -> tuple[int, ...]:
        """Return the ids of a window's prefix and what follows it."""
        return self.bos + window.prefix_ids + more


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What every player is asked."""

    windows: Sequence[Window]
    """Held-out windows."""
    matcher: Matcher
    """Scores predictions; never sees a thought."""
    longer: bool
    """Whether it is shown more true text than was predicted."""
    tags: Tags
    """What stands around a thought."""
    thought_tokens: int
    """Longest thought."""
    suffix_tokens: int
    """Length of a prediction."""
    seed: int
    """Seed of sampling and of the bootstrap."""

    @property
    def documents(self) -> list[str]:
        """The document of each window."""
        return [window.document_id for window in self.windows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Predictions with their scores, per window and sample."""

    suffixes: list[list[str]]
    """What was predicted, without any thought in it."""
    scores: Cells
    """What the judge said."""
    rewards: Cells
    """1 where the score reaches the threshold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thoughts:
    """What a player thought, per window and sample."""

    ids: list[list[tuple[int, ...]]]
    """Ids with the closing tag, whoever wrote it."""
    texts: list[list[str]]
    """Without the closing tag."""
    closed: list[list[bool]]
    """Whether the player closed it itself."""
    lengths: list[list[int]]
    """Tokens, the closing tag included."""


def play(player: Player, task: Task, samples: int) -> tuple[Scored, Thoughts | None]:
    """Return a player's predictions for every window, after a thought if it thinks."""
    key = Key(task.seed, "gate")
    sampling = _sampling(player, task)
    if not player.thinks:
        prompts = [Prompt(id=window.id, token_ids=player.head(window)) for window in task.windows]
        drawn = player.sampler.sample(prompts, samples, sampling, key)
        return score(task, [[_read(player, task, one.token_ids) for one in row] for row in drawn]), None
    coded = player.codec
    thinking = Thinking(max_tokens=task.thought_tokens, close_ids=coded.close, closed=coded.closed)
    prompts = [Prompt(id=window.id, token_ids=player.head(window, *coded.open)) for window in task.windows]
    rollouts = player.sampler.think(prompts, samples, thinking, sampling, key)
    ids = [[one.token_ids[: one.thought_tokens] for one in row] for row in rollouts]
    thoughts = Thoughts(
        ids=ids,
        texts=[[coded.tokenizer.decode(list(one)).partition(task.tags.close)[0] for one in row] for row in ids],
        closed=[[one.closed for one in row] for row in rollouts],
        lengths=[[one.thought_tokens for one in row] for row in rollouts],
    )
    suffixes = [[_read(player, task, one.token_ids[one.thought_tokens :]) for one in row] for row in rollouts]
    return score(task, suffixes), thoughts


def predict(player: Player, task: Task, inserts: Sequence[Sequence[tuple[int, ...]]]) -> Scored:
    """Return predictions after what is inserted behind each window's prefix, one per insert.

    Prediction k of a window has the same random numbers whatever is inserted, so that conditions are paired.
    """
    prompts = [
        Prompt(id=f"{window.id}/{k}", token_ids=player.head(window, *insert))
        for window, row in zip(task.windows, inserts, strict=True)
        for k, insert in enumerate(row)
    ]
    drawn = iter(player.sampler.sample(prompts, 1, _sampling(player, task), Key(task.seed, "probe")))
    return score(task, [[_read(player, task, next(drawn)[0].token_ids) for _ in row] for row in inserts])


def gains(player: Player, task: Task, inserts: Sequence[Sequence[tuple[int, ...]]]) -> list[list[float]]:
    """Return how much likelier each insert makes the true suffix than no insert at all, nats per token."""
    found: list[list[float]] = []
    for start in range(0, len(inserts), WINDOWS_PER_CALL):
        windows = task.windows[start : start + WINDOWS_PER_CALL]
        groups = [
            Group(prefix=player.head(window), branches=tuple(i + window.suffix_ids for i in ((), *row)))
            for window, row in zip(windows, inserts[start : start + WINDOWS_PER_CALL], strict=True)
        ]
        for window, [plain, *rest] in zip(windows, player.scorer.logprobs(groups), strict=True):
            size = len(window.suffix_ids)
            found.append([float(branch[-size:].mean() - plain.mean()) for branch in rest])
    return found


def score(task: Task, suffixes: list[list[str]]) -> Scored:
    """Return the judge's scores of predictions."""
    contests = [match_request(window, row, task.longer) for window, row in zip(task.windows, suffixes, strict=True)]
    scores = task.matcher.scores(contests)
    rewards = [[task.matcher.passes(one) for one in row] for row in scores]
    return Scored(suffixes=suffixes, scores=scores, rewards=rewards)


def means(cells: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Return each window's mean over its scored samples; ``None`` where none was scored."""
    known = [[one for one in row if one is not None] for row in cells]
    return [sum(row) / len(row) if row else None for row in known]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Turns numbers per window into figures."""

    task: Task
    """Whose windows they belong to."""
    blank: Measurement
    """What all figures share."""

    def mean(self, metric: Metric, values: Sequence[float | None], unit: str, condition: str = "") -> list[Measurement]:
        """Return the mean over windows, bootstrapped over documents; nothing if no window has a value."""
        known = [(v, d) for v, d in zip(values, self.task.documents, strict=True) if v is not None]
        if not known:
            return []
        interval = bootstrap_mean([v for v, _ in known], self.task.seed, clusters=[d for _, d in known])
        return [self._filled(metric, interval, unit, condition)]

    def difference(
        self,
        metric: Metric,
        pair: tuple[Sequence[float | None], Sequence[float | None]],
        unit: str,
        condition: str = "",
    ) -> list[Measurement]:
        """Return the paired difference over windows that both sides have, and how many windows would resolve it."""
        known = [
            (a, b, document)
            for a, b, document in zip(*pair, self.task.documents, strict=True)
            if a is not None and b is not None
        ]
        if not known:
            return []
        left, right, owners = (list(column) for column in zip(*known, strict=True))
        interval = paired_bootstrap(left, right, self.task.seed, clusters=owners)
        found = [self._filled(metric.difference, interval, unit, condition)]
        apart = [a - b for a, b in zip(left, right, strict=True)]
        spread = (sum((one - interval.value) ** 2 for one in apart) / max(1, len(apart) - 1)) ** 0.5
        if interval.value and spread:
            needed = float(detectable_n(interval.value, spread))
            note = "windows that would resolve a difference as large as this one (5% level, 80% power)"
            whole = Interval(value=needed, low=needed, high=needed, n=interval.n)
            found.append(self._filled(metric.needed("windows"), whole, note, condition))
        return found

    def against(self, name: str) -> Ledger:
        """Return a ledger of comparisons with another arm."""
        return dataclasses.replace(self, blank=dataclasses.replace(self.blank, against=name))

    def _filled(self, metric: str, interval: Interval, unit: str, condition: str) -> Measurement:
        return dataclasses.replace(
            self.blank,
            metric=metric,
            condition=condition,
            unit=unit,
            **dataclasses.asdict(interval),
        )


def ledger(player: Player, task: Task) -> Ledger:
    """Return the ledger of a player."""
    blank = Measurement(
        stage=EVALUATE_RLMT,
        arm=player.name,
        metric="",
        judge=task.matcher.name,
        value=0.0,
        n=0,
        unit="",
        subject=player.identity,
    )
    return Ledger(task=task, blank=blank)


Opener = Callable[[], Player]
"""Loads a player."""


def _sampling(player: Player, task: Task) -> Sampling:
    return Sampling(max_tokens=task.suffix_tokens, forbidden_ids=player.forbidden)


def _read(player: Player, task: Task, ids: Sequence[int]) -> str:
    return strip(player.codec.tokenizer.decode(list(ids)), task.tags)

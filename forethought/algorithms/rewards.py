"""Rewards of stage 3: what each rollout of each window earns.

A new reward is one function and one row of :data:`REWARDS`, or a dotted path in ``rlmt.reward``.

What is subtracted from all rewards of a prefix and does not depend on what was thought changes no expected gradient,
for the expectation of ``grad log p(thought)`` is zero (Williams 1992, Machine Learning 8).  So `gain-over-blank` has
the objective of `binary`, and `information-gain` that of the true suffix's plain likelihood after the thought; they
differ from these in variance only.  `specific-gain` is another objective: what it takes off depends on the thought.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from forethought.algorithms.rollouts import RolloutGroup
from forethought.algorithms.windows import Window, match_request
from forethought.engine import Group
from forethought.judges.match import Matcher
from forethought.models.model import Model
from forethought.user_code import call, load

RewardsPG = Sequence[Sequence[float | None]]
"""One per window P and rollout G; ``None`` where nobody could say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchTask:
    """Compares suffixes with the true ones; never sees a thought."""

    matcher: Matcher
    whole_rest: bool = False
    """Whether the judge is shown all that comes next in the chunk, not only as much as was predicted."""

    def rewards(self, windows: Sequence[Window], suffixes: Sequence[Sequence[str]]) -> RewardsPG:
        """Return 1 for each suffix that matches, 0 for another, ``None`` where the judge did not say."""
        requests = [match_request(w, row, self.whole_rest) for w, row in zip(windows, suffixes, strict=True)]
        # Unscored stays None: as a zero, a rollout would be punished for the judge's failure.
        return [[self.matcher.passes(score) for score in row] for row in self.matcher.scores(requests)]


RewardFunction = Callable[[Sequence[RolloutGroup], Model, MatchTask], RewardsPG]
"""(groups of rollouts, the present policy, the match judge) -> rewards."""


def match(groups: Sequence[RolloutGroup], model: Model, task: MatchTask) -> RewardsPG:
    """Return 1 if the suffix matches the true one, else 0 (Tan et al. 2026, arXiv 2601.21343, section 2)."""
    return task.rewards([group.window for group in groups], [group.suffixes for group in groups])


def information_gain(groups: Sequence[RolloutGroup], model: Model, task: MatchTask) -> RewardsPG:
    """Return ``1/|s| [log p(s | prefix, thought) - log p(s | prefix)]`` of the true suffix s, nats per token.

    The present policy scores both sides (RLP, Hatamizadeh et al. 2025, arXiv 2510.01265, takes a moving average for
    the second one).  The second one is the same for the whole group, so it leaves the advantages as they are: it makes
    the figure readable, and what is trained is the likelihood of the suffix after the thought.
    """
    return gains(groups, [group.window for group in groups], model)


def specific_gain(groups: Sequence[RolloutGroup], model: Model, task: MatchTask, negatives: int = 3) -> RewardsPG:
    """Return ``max(0, own - max(0, other))``: what a thought does for its own suffix beyond what it does for others.

    ``own`` is its information gain, ``other`` the largest gain that it brings to one of ``negatives`` windows of other
    documents (:func:`hard_negatives`), each after that window's prefix; nats per token.  Zero for a thought that does
    not help its own suffix, that serves another as well, or that the policy did not close itself.  ``None`` where the
    batch has no other document.
    """
    windows = [group.window for group in groups]
    own_PG = gains(groups, windows, model)
    pairs = [(p, other) for p, row in enumerate(hard_negatives(windows, model, negatives)) for other in row]
    others_PG: list[list[list[float]]] = [[[] for _ in group.rollouts] for group in groups]
    for (p, _), row in zip(pairs, gains([groups[p] for p, _ in pairs], [w for _, w in pairs], model), strict=True):
        for others, gain in zip(others_PG[p], row, strict=True):
            others.append(gain)

    def reward(closed: bool, own: float, others: Sequence[float]) -> float | None:
        if not others:
            return None
        # Floored at 0, so that harm to other texts pays nothing; the largest, for in a mean harm to one would hide help
        # to another. Cut at 0 as a whole: else a thought that harms its own text would earn more than a general one.
        return max(0.0, own - max(0.0, *others)) if closed else 0.0

    return [
        [reward(*row) for row in zip([r.closed for r in group.rollouts], own_G, others_G, strict=True)]
        for group, own_G, others_G in zip(groups, own_PG, others_PG, strict=True)
    ]


def hard_negatives(windows: Sequence[Window], model: Model, count: int) -> list[list[Window]]:
    """Return, for each window, the ``count`` windows of other documents whose suffix is likeliest after its prefix.

    The likeliest come first.  There are fewer where the batch has fewer windows of other documents.
    """
    # Of one document: what helps one of its windows may rightly help the next.
    foreign = [[other for other in windows if other.document_id != window.document_id] for window in windows]
    groups = [
        Group(prefix=model.bos + window.prefix_ids, branches=tuple(other.suffix_ids for other in row))
        for window, row in zip(windows, foreign, strict=True)
        if row
    ]
    scored = iter(model.logprobs(groups, as_drawn=True))

    def likeliest(row: Sequence[Window]) -> list[Window]:
        means = [float(logprobs.mean()) for logprobs in next(scored)]
        order = sorted(range(len(row)), key=lambda index: -means[index])
        return [row[index] for index in order[:count]]

    return [likeliest(row) if row else [] for row in foreign]


def gains(groups: Sequence[RolloutGroup], windows: Sequence[Window], model: Model) -> list[list[float]]:
    """Return how much likelier each thought makes the true suffix of a window, mostly its own, nats per token.

    Group by group, thoughts stand between prefix and suffix of the window at the same place in ``windows``.
    """
    # A thought's ids end with its closing tag; what was predicted after it gives way to the true suffix.
    with_thought = [
        Group(
            prefix=model.bos + window.prefix_ids + model.thoughts.open,
            branches=tuple(r.token_ids[: r.thought_tokens] + window.suffix_ids for r in group.rollouts),
        )
        for group, window in zip(groups, windows, strict=True)
    ]
    without = [Group(prefix=model.bos + window.prefix_ids, branches=(window.suffix_ids,)) for window in windows]
    thought_PG, bare_P1 = model.logprobs(with_thought, as_drawn=True), model.logprobs(without, as_drawn=True)
    return [
        # Over the suffix only: how likely the thought itself is, is no gain. One entry per rollout.
        [float(branch[-len(window.suffix_ids) :].mean() - bare.mean()) for branch in row]
        for window, row, [bare] in zip(windows, thought_PG, bare_P1, strict=True)
    ]


REWARDS: dict[str, RewardFunction] = {
    "binary": match,
    "gain-over-blank": match,  # the same, with another baseline
    "information-gain": information_gain,
    "specific-gain": specific_gain,
}
"""The values of `rlmt.reward`; :class:`~forethought.config.RLMTConfig` says what each rests on."""


SPECIFIC = "max(0, own - max(0, others))"


def reward_of(name: str, negatives: int = 3) -> tuple[RewardFunction, dict[str, str | int]]:
    """Return the reward of that name, and what it depends on beyond it: its rule, or the source of the user's own."""
    if name == "specific-gain":
        # The rule is new under this name: what the earlier one trained must not pass for this one's.
        return partial(specific_gain, negatives=negatives), {"reward rule": SPECIFIC, "negatives": negatives}
    if name in REWARDS:
        return REWARDS[name], {}
    user = load(name, "rlmt.reward")
    user.takes("groups", "model", "task")

    def reward(groups: Sequence[RolloutGroup], model: Model, task: MatchTask) -> RewardsPG:
        rewards_PG = call(user, user.object, groups, model, task)
        try:
            rows = [[None if reward is None else float(reward) for reward in row] for row in rewards_PG]
        except (TypeError, ValueError):
            rows = []
        # Checked here, where the user's file can be named; later it would be an error of zip.
        if [len(row) for row in rows] != [len(group.rollouts) for group in groups]:
            sizes = ", ".join(str(len(group.rollouts)) for group in groups)
            raise user.error(
                f"it returned {str(rewards_PG)[:200]}; expected one row per group, of {sizes} rollouts, and in it a "
                "number or None for each rollout"
            )
        return rows

    return reward, {"reward source": user.source_hash}

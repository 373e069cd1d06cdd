"""Rewards of stage 3: what each rollout of each window earns.

A new reward is one function and one row of :data:`REWARDS`, or a dotted path in ``rlmt.reward``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    the second one, which is the same for the whole group and so leaves its advantages as they are).
    """
    return gains(groups, [group.window for group in groups], model)


def specific_gain(groups: Sequence[RolloutGroup], model: Model, task: MatchTask) -> RewardsPG:
    """Return each thought's information gain less the one that it brings to the next window of the batch.

    A thought that would serve any text earns nothing.  It is the contrast of InfoNCE (van den Oord et al. 2018, arXiv
    1807.03748) with one negative.
    """
    windows = [group.window for group in groups]
    # Turned by one place, which needs no draw; a batch of one window meets itself and earns 0.
    own, other = (gains(groups, some, model) for some in (windows, windows[1:] + windows[:1]))
    return [[a - b for a, b in zip(*rows, strict=True)] for rows in zip(own, other, strict=True)]


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
    "gain-over-blank": match,  # from another baseline
    "information-gain": information_gain,
    "specific-gain": specific_gain,
}
"""The values of `rlmt.reward`; :class:`~forethought.config.RLMTConfig` says what each rests on."""


def reward_of(name: str) -> tuple[RewardFunction, dict[str, str]]:
    """Return the reward of that name, and what it depends on beyond its name: the source of the user's own."""
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

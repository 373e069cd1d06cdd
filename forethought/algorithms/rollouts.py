"""Groups of rollouts of stage 3: one window, G thoughts with suffixes, what they earned, and what can be counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forethought.algorithms.windows import Window
from forethought.engine import Group
from forethought.engine.trainer import Example
from forethought.records import Rollout
from forethought.text import copied, distinct_n, words


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutGroup:
    """A window with its rollouts."""

    window: Window
    rollouts: tuple[Rollout, ...]
    rewards: tuple[float | None, ...] = ()
    """One per rollout; ``None`` is unscored."""
    advantages: tuple[float, ...] = ()
    blank: float | None = None
    """Mean reward after a blank thought, where that is the baseline."""

    @property
    def thoughts(self) -> list[str]:
        return [rollout.thought for rollout in self.rollouts]

    @property
    def suffixes(self) -> list[str]:
        """What a judge reads: the suffixes as they were written."""
        return [rollout.text for rollout in self.rollouts]

    @property
    def zero_variance(self) -> bool:
        """Whether no rollout has an advantage, so that there is nothing to learn."""
        return not any(self.advantages)

    @property
    def lacks_rewards(self) -> bool:
        """Whether fewer than two rollouts have a reward, so that there is nothing to compare."""
        return sum(reward is not None for reward in self.rewards) < 2

    def row(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "window": self.window.id,
            "thoughts": self.thoughts,
            "suffixes": self.suffixes,
            "closed": [rollout.closed for rollout in self.rollouts],
            "rewards": self.rewards,
            "advantages": self.advantages,
        }

    def example(self, prefix: tuple[int, ...], *, thought_only: bool, per_rollout_mean: bool) -> Example:
        """Return the scored rollouts as branches of ``prefix``: the ids up to and with the opening tag.

        ``thought_only`` leaves the suffixes out, whose tokens earned nothing; with ``per_rollout_mean`` each rollout
        counts the same whatever its length.
        """
        branches, weights, advantages = [], [], []
        for rollout, advantage, reward in zip(self.rollouts, self.advantages, self.rewards, strict=True):
            # Unscored is not zero: without an advantage, its tokens need not be computed at all.
            if reward is None:
                continue
            end = rollout.thought_tokens if thought_only else len(rollout.token_ids)
            drawn = np.array(rollout.drawn[:end], np.float32)  # ids that were not drawn have weight 0
            branches.append(rollout.token_ids[:end])
            weights.append(drawn / max(1.0, drawn.sum()) if per_rollout_mean else drawn)
            advantages.append(advantage)
        group = Group(prefix=prefix, branches=tuple(branches))
        return Example(group=group, weights=tuple(weights), advantages=tuple(advantages))


def group_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float | None]:
    """Return the metrics of a step's groups; docs/rlmt.md says what each of them means."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    rewards = [reward for group in groups for reward in group.rewards]
    known = [[reward for reward in group.rewards if reward is not None] for group in groups]
    # Inserted tags were not drawn, so they say nothing of the policy's entropy.
    drawn = [p for r in rollouts for p, own in zip(r.logprobs, r.drawn, strict=True) if own]
    # Of thoughts that were cut off at the cap.
    truncated = [reward for r, reward in zip(rollouts, rewards, strict=True) if reward is not None and not r.closed]
    return {
        "reward": mean(rewards),
        # Within groups: how windows differ from each other is no signal for advantages.
        "reward_variance": mean([float(np.var(row)) for row in known if row]),
        "blank_reward": mean([group.blank for group in groups if group.blank is not None]),
        # Groups that cost time and teach nothing.
        "dead_rate": mean([float(group.zero_variance) for group in groups]),
        "unscored_rate": mean([float(reward is None) for reward in rewards]),
        "thought_tokens": mean([float(rollout.thought_tokens) for rollout in rollouts]),
        "close_rate": mean([float(rollout.closed) for rollout in rollouts]),
        "capped_reward": mean(truncated),
        "entropy": mean([-logprob for logprob in drawn]),
        "distinct_thoughts": mean([len(set(group.thoughts)) / len(group.thoughts) for group in groups]),
        "thought_distinct_2": distinct_n([words(rollout.thought) for rollout in rollouts], 2),
        "copied_to_suffix": mean([copied(rollout.text, rollout.thought) for rollout in rollouts]),
        "copied_from_prefix": mean([copied(t, group.window.prefix) for group in groups for t in group.thoughts]),
    }


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of what is known; ``None`` of nothing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None

"""Groups of thoughts with suffixes: what they are worth, and what can be counted in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forethought.algorithms.windows import Window
from forethought.config import RLMTConfig
from forethought.records import Rollout
from forethought.text import copied, distinct_n, words

STD_EPS = 1e-4
"""Added to a group's standard deviation (GRPO), as TRL does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A group: one window, its rollouts and what they are worth."""

    window: Window
    """The task."""
    rollouts: tuple[Rollout, ...]
    """G thoughts with suffixes."""
    thoughts: tuple[str, ...]
    """The thoughts, without the closing tag."""
    suffixes: tuple[str, ...]
    """What the judge reads: the suffixes, without any thought in them."""
    rewards: tuple[float | None, ...] = ()
    """One per rollout; ``None`` is unscored."""
    advantages: tuple[float, ...] = ()
    """One per rollout; 0 for an unscored one."""
    blank: float | None = None
    """Mean reward after a blank thought, where that is the baseline."""

    @property
    def dead(self) -> bool:
        """Whether the group teaches nothing."""
        return not any(self.advantages)

    def row(self, step: int) -> dict[str, Any]:
        """Return what the log keeps."""
        return {
            "step": step,
            "window": self.window.id,
            "thoughts": self.thoughts,
            "suffixes": self.suffixes,
            "closed": [one.closed for one in self.rollouts],
            "rewards": self.rewards,
            "advantages": self.advantages,
        }


def advantages(rewards: Sequence[float | None], blank: float | None, *, scaled: bool) -> tuple[float, ...]:
    """Return how much better each rollout was than the baseline; an unscored one has no advantage and no vote.

    The baseline is the mean of the group, or ``blank``, which *replaces* it: a constant that is subtracted from all
    rewards before their mean is subtracted cancels.  ``scaled`` divides by the group's standard deviation (Shao et al.
    2024, arXiv 2402.03300, section 4.1.2), which Dr. GRPO leaves out (Liu et al. 2025, arXiv 2503.20783).
    """
    known = [reward for reward in rewards if reward is not None]
    if len(known) < 2 or (blank is None and max(known) == min(known)):
        return (0.0,) * len(rewards)
    baseline = sum(known) / len(known) if blank is None else blank
    spread = float(np.std(known, ddof=1)) + STD_EPS if scaled else 1.0
    return tuple(0.0 if reward is None else (reward - baseline) / spread for reward in rewards)


def normaliser(cfg: RLMTConfig) -> float:
    """Return the fixed denominator: rollouts, for Dr. GRPO times the longest that one can be.

    It counts the groups that were skipped: dropping them must not raise the learning rate.
    """
    rollouts = float(cfg.windows_per_step * cfg.rollouts)
    if cfg.advantage == "grpo":
        return rollouts
    return rollouts * (cfg.thought_tokens + (0 if cfg.dense else cfg.suffix_tokens))


def describe(groups: Sequence[Drawn]) -> dict[str, float | None]:
    """Return the metrics of a step's groups; the docs say what each of them means."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    rewards = [reward for group in groups for reward in group.rewards]
    known = [[reward for reward in group.rewards if reward is not None] for group in groups]
    spread = [float(np.var(row)) for row in known if row]
    drawn = [p for r in rollouts for p, own in zip(r.logprobs, r.drawn, strict=True) if own]
    pairs = [(g, thought, suffix) for g in groups for thought, suffix in zip(g.thoughts, g.suffixes, strict=True)]
    blanks = [group.blank for group in groups if group.blank is not None]
    capped = [
        reward
        for group in groups
        for rollout, reward in zip(group.rollouts, group.rewards, strict=True)
        if reward is not None and not rollout.closed
    ]
    return {
        "reward": _mean([reward for row in known for reward in row]),
        "reward_variance": _mean(spread),
        "blank_reward": _mean(blanks),
        "dead_rate": _mean([float(group.dead) for group in groups]),
        "unscored_rate": _mean([float(reward is None) for reward in rewards]),
        "thought_tokens": _mean([float(rollout.thought_tokens) for rollout in rollouts]),
        "close_rate": _mean([float(rollout.closed) for rollout in rollouts]),
        "capped_reward": _mean(capped),
        "entropy": _mean([-logprob for logprob in drawn]),
        "distinct_thoughts": _mean([len(set(group.thoughts)) / len(group.thoughts) for group in groups]),
        "thought_distinct_2": distinct_n([words(thought) for _, thought, _ in pairs], 2),
        "copied_to_suffix": _mean([copied(suffix, thought) for _, thought, suffix in pairs]),
        "copied_from_prefix": _mean([copied(thought, g.window.prefix) for g, thought, _ in pairs]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None

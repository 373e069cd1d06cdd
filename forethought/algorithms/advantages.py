"""Advantages of stage 3: how much better a rollout was than the baseline of its group, and by what a loss is divided.

A new one is one function and one row of :data:`ADVANTAGES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from forethought.config import RLMTConfig

STD_EPS = 1e-4
"""Added to a group's standard deviation (GRPO), as TRL does."""

Rewards = Sequence[float | None]
"""One per rollout of a group; ``None`` is unscored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advantage:
    """How rewards become advantages."""

    of: Callable[[Rewards, float | None], tuple[float, ...]]
    """(rewards of a group, baseline from outside of it or ``None``) -> one advantage per rollout."""
    per_rollout_mean: bool = False
    """Whether a rollout's loss is the mean over its tokens; else their sum over a fixed number."""


def dr_grpo(rewards: Rewards, baseline: float | None) -> tuple[float, ...]:
    """``A_i = r_i - mean(r)``: Dr. GRPO (Liu et al. 2025, arXiv 2503.20783, section 3.2).

    An unscored rollout has no advantage and no part in the mean.  A ``baseline`` from outside of the group *replaces*
    the mean: a constant that is subtracted from all rewards before their mean is subtracted cancels.
    """
    known = [reward for reward in rewards if reward is not None]
    # A lone reward is its own mean; equal ones would leave rounding errors that pass for advantages.
    if len(known) < 2 or (baseline is None and max(known) == min(known)):
        return (0.0,) * len(rewards)
    middle = sum(known) / len(known) if baseline is None else baseline
    return tuple(0.0 if reward is None else reward - middle for reward in rewards)


def grpo(rewards: Rewards, baseline: float | None) -> tuple[float, ...]:
    """``A_i = (r_i - mean(r)) / (std(r) + eps)``: GRPO (Shao et al. 2024, arXiv 2402.03300, section 4.1.2)."""
    known = [reward for reward in rewards if reward is not None]
    # One known reward has no spread, and its advantage is 0 whatever it is divided by.
    spread = float(np.std(known, ddof=1)) + STD_EPS if len(known) > 1 else 1.0
    return tuple(advantage / spread for advantage in dr_grpo(rewards, baseline))


ADVANTAGES = {"dr-grpo": Advantage(of=dr_grpo), "grpo": Advantage(of=grpo, per_rollout_mean=True)}
"""The values of `rlmt.advantage`."""


def normaliser(cfg: RLMTConfig) -> float:
    """Return the fixed denominator of the loss: rollouts, for Dr. GRPO times the most tokens that one can have.

    It counts the groups that were skipped, too: dropping them must not raise the learning rate.
    """
    rollouts = float(cfg.windows_per_step * cfg.rollouts)
    if ADVANTAGES[cfg.advantage].per_rollout_mean:
        return rollouts
    # The longest length, not the drawn one: else tokens of short rollouts would weigh more.
    return rollouts * (cfg.thought_tokens + (0 if cfg.thought_only else cfg.suffix_tokens))

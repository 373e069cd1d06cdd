"""The shared-prefix engine.  Three small interfaces, each with an implementation on torch and a stand-in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from forethought.engine.branches import Group, Prompt, Sampling, Thinking
from forethought.keys import Key
from forethought.records import Completion, Rollout

__all__ = ["Group", "Prompt", "Sampler", "Sampling", "Scorer", "Thinking", "ThinkingSampler"]


class Sampler(Protocol):
    """Something that continues prompts."""

    def sample(self, prompts: Sequence[Prompt], k: int, sampling: Sampling, key: Key) -> list[list[Completion]]:
        """Return ``k`` completions of each prompt; a draw depends on (key, prompt id, k) alone."""
        ...


class ThinkingSampler(Sampler, Protocol):
    """Something that can think before it writes."""

    def think(
        self, prompts: Sequence[Prompt], k: int, thinking: Thinking, sampling: Sampling, key: Key
    ) -> list[list[Rollout]]:
        """Return ``k`` rollouts of each prompt, which ends with the opening tag: a thought, then a suffix."""
        ...


class Scorer(Protocol):
    """Something that knows how likely text is."""

    def logprobs(self, groups: Sequence[Group]) -> list[list[np.ndarray]]:
        """Return, per group and branch, the log-probability of each branch token; float32 ``(len(branch),)``, nats."""
        ...

    def choices(self, groups: Sequence[Group], choice_ids: Sequence[int]) -> list[np.ndarray]:
        """Return, per group, the log-probabilities of ``choice_ids`` as next token after each branch.

        Shape per group: ``(branches, choices)``, float32, nats.
        """
        ...

"""The shared-prefix engine: tensors only.  Its interfaces are implemented on torch and by a test stub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from forethought.engine.branches import Group, Prompt, Sampling, Thinking
from forethought.keys import Key
from forethought.records import Completion, Rollout

__all__ = ["Group", "Prompt", "Sampler", "Sampling", "Scorer", "Thinking", "ThinkingSampler"]


class Sampler(Protocol):
    def sample(self, prompts: Sequence[Prompt], k: int, sampling: Sampling, key: Key) -> list[list[Completion]]:
        """Return ``k`` completions of each prompt; a draw depends on ``(key, prompt id, k)`` only."""
        ...


class ThinkingSampler(Sampler, Protocol):
    def think(
        self, prompts: Sequence[Prompt], k: int, thinking: Thinking, sampling: Sampling, key: Key
    ) -> list[list[Rollout]]:
        """Return ``k`` rollouts of each prompt, a thought and then a suffix; prompts end with the opening tag."""
        ...


class Scorer(Protocol):
    def logprobs(self, groups: Sequence[Group]) -> list[list[np.ndarray]]:
        """Return, by group and branch, the log-probability of each branch token: float32 ``(len(branch),)``, nats."""
        ...

    def choices(self, groups: Sequence[Group], choice_ids: Sequence[int]) -> list[np.ndarray]:
        """Return, by group, ``choice_ids``' log-probabilities after each branch: float32 ``(branches, choices)``."""
        ...

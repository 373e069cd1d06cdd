"""The shared-prefix engine.  Three small interfaces, each with an implementation on torch and a stand-in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from forethought.engine.branches import Group, Prompt, Sampling
from forethought.keys import Key
from forethought.records import Completion

__all__ = ["Group", "Prompt", "Sampler", "Sampling", "Scorer"]


class Sampler(Protocol):
    """Something that continues prompts."""

    def sample(self, prompts: Sequence[Prompt], k: int, sampling: Sampling, key: Key) -> list[list[Completion]]:
        """Return ``k`` completions of each prompt; a draw depends on (key, prompt id, k) alone."""
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

"""Log-probabilities of branches under a model, the prefix computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from forethought.engine.branches import Group, Packed, micro_batches, pack
from forethought.engine.policy import Policy


class TorchScorer:
    """A :class:`~forethought.engine.Scorer` on a model in this process."""

    def __init__(
        self, policy: Policy, micro_tokens: int = 8192, forbidden_ids: Sequence[int] = (), *, as_trained: bool = False
    ) -> None:
        """``as_trained``: round as the training forward of the same groups does, so that the difference between a
        policy and its reference has no rounding error; a little slower."""
        self.policy, self.micro_tokens = policy, micro_tokens
        self.forbidden_ids, self.as_trained = tuple(forbidden_ids), as_trained

    @torch.inference_mode()
    def logprobs(self, groups: Sequence[Group]) -> list[list[np.ndarray]]:
        results: list[list[np.ndarray]] = []
        # A backend sums and rounds in another order than the training forward, by a few bf16 steps.
        head = (self.policy if self.as_trained else self.policy.backend).head(self.forbidden_ids)
        for batch, packed, hidden_TH in self._batches(groups):
            logprobs_A = head.logprobs(hidden_TH[packed.sources], packed.targets).cpu().numpy()
            # Without the last bound, at which np.split would add an empty array.
            branches = iter(np.split(logprobs_A, np.cumsum(packed.branch_lengths)[:-1]))
            results.extend([next(branches) for _ in group.branches] for group in batch)
        return results

    @torch.inference_mode()
    def choices(self, groups: Sequence[Group], choice_ids: Sequence[int]) -> list[np.ndarray]:
        results: list[np.ndarray] = []
        # Not the backend's head, which has no float32 logits of single tokens.
        head = self.policy.head(self.forbidden_ids)
        ids = torch.tensor(list(choice_ids), device=self.policy.device)
        for batch, packed, hidden_TH in self._batches(groups):
            logprobs_MC = head.choices(hidden_TH[packed.branch_ends], ids).cpu().numpy()
            results.extend(np.split(logprobs_MC, np.cumsum([len(group.branches) for group in batch])[:-1]))
        return results

    def _batches(self, groups: Sequence[Group]) -> Iterator[tuple[list[Group], Packed, Tensor]]:
        """Yield micro-batches with their packed rows and hidden states ``(T, H)``."""
        hidden = self.policy.packed_hidden if self.as_trained else self.policy.backend.hidden
        for indices in micro_batches(groups, self.micro_tokens):
            batch = [groups[i] for i in indices]
            packed = pack(batch, self.policy.device)
            yield batch, packed, hidden(packed)

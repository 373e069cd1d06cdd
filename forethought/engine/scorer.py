"""Log-probabilities of branches under a model, the prefix computed once."""

from __future__ import annotations

from collections.abc import Sequence

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
        self.policy = policy
        self.micro_tokens = micro_tokens
        self.forbidden_ids = tuple(forbidden_ids)
        self.as_trained = as_trained

    @torch.inference_mode()
    def logprobs(self, groups: Sequence[Group]) -> list[list[np.ndarray]]:
        """See :meth:`forethought.engine.Scorer.logprobs`."""
        results: list[list[np.ndarray]] = []
        head = (self.policy if self.as_trained else self.policy.backend).head(self.forbidden_ids)
        for batch in micro_batches(groups, self.micro_tokens):
            packed = pack([groups[i] for i in batch], self.policy.device)
            logprobs_A = head.logprobs(self._hidden(packed)[packed.sources], packed.targets).cpu().numpy()
            branches = iter(np.split(logprobs_A, np.cumsum(packed.branch_lengths)[:-1]))
            results.extend([next(branches) for _ in groups[i].branches] for i in batch)
        return results

    @torch.inference_mode()
    def choices(self, groups: Sequence[Group], choice_ids: Sequence[int]) -> list[np.ndarray]:
        """See :meth:`forethought.engine.Scorer.choices`."""
        results: list[np.ndarray] = []
        head = self.policy.head(self.forbidden_ids)
        ids = torch.tensor(list(choice_ids), device=self.policy.device)
        for batch in micro_batches(groups, self.micro_tokens):
            packed = pack([groups[i] for i in batch], self.policy.device)
            logprobs_MC = head.choices(self._hidden(packed)[packed.branch_ends], ids).cpu().numpy()
            results.extend(np.split(logprobs_MC, np.cumsum([len(groups[i].branches) for i in batch])[:-1]))
        return results

    def _hidden(self, packed: Packed) -> Tensor:
        return self.policy.packed_hidden(packed) if self.as_trained else self.policy.backend.hidden(packed)

"""Log-probabilities of given tokens without the full logits.

The vocabulary projection is the largest matrix of a small model (168 of Gemma-3-270M's 268 million
weights), and its logits are larger still.  They are computed a few hundred rows at a time and thrown
away; the backward pass computes them again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LOGITS_BUDGET = 2**26
"""Logits that exist at once: 64 Mi, 256 MiB in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The projection from hidden states to logits."""

    weight: Tensor
    """``(V, H)``, tied to the embedding or not."""
    softcap: float | None = None
    """``logits = softcap * tanh(logits / softcap)``, as Gemma 2 does."""
    forbidden: Tensor | None = None
    """Ids whose probability is zero."""

    def logits(self, hidden_AH: Tensor) -> Tensor:
        """Return float32 logits ``(A, V)``."""
        logits = (hidden_AH @ self.weight.T).float()
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        if self.forbidden is not None:
            logits.index_fill_(1, self.forbidden, -torch.inf)
        return logits

    def choices(self, hidden_AH: Tensor, choice_ids: Tensor) -> Tensor:
        """Return the log-probabilities ``(A, choices)`` of a few tokens, float32.

        Their logits are computed in float32: in bf16 two letters near 20 differ in steps of an eighth, and tie.
        """
        parts = [self._choices(rows, choice_ids) for rows in hidden_AH.split(self.rows_at_once())]
        return torch.cat(parts)

    def _choices(self, rows: Tensor, choice_ids: Tensor) -> Tensor:
        exact = rows.float() @ self.weight[choice_ids].float().T
        if self.softcap is not None:
            exact = self.softcap * torch.tanh(exact / self.softcap)
        return exact - self.logits(rows).logsumexp(-1, keepdim=True)

    def logprobs(self, hidden_AH: Tensor, targets_A: Tensor) -> Tensor:
        """Return ``log p(target)``, float32 ``(A,)``, with gradients to ``hidden_AH`` and the weight."""
        result: Tensor = _Logprobs.apply(hidden_AH, self.weight, targets_A, self)
        return result

    def rows_at_once(self) -> int:
        """How many rows of logits fit the budget."""
        return max(1, LOGITS_BUDGET // self.weight.shape[0])


class _Logprobs(torch.autograd.Function):
    """log softmax(h W^T)[target], row chunk by row chunk; d/dlogits = onehot - softmax."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, head: Head) -> Tensor:
        normaliser, chosen = [], []
        for rows, wanted in zip(hidden.split(head.rows_at_once()), targets.split(head.rows_at_once()), strict=True):
            logits = head.logits(rows)
            normaliser.append(logits.logsumexp(-1))
            chosen.append(logits.gather(1, wanted[:, None])[:, 0])
        ctx.head = head
        logsumexp = torch.cat(normaliser) if normaliser else hidden.new_zeros(0, dtype=torch.float32)
        ctx.save_for_backward(hidden, weight, targets, logsumexp)
        return (torch.cat(chosen) if chosen else logsumexp) - logsumexp

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        (gradient,) = gradients
        hidden, weight, targets, logsumexp = ctx.saved_tensors
        head: Head = ctx.head
        hidden_gradient = torch.empty_like(hidden)
        # Summed in float32: a bf16 sum over chunks would round most of it away.
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for start in range(0, len(hidden), head.rows_at_once()):
            rows = slice(start, start + head.rows_at_once())
            logits = head.logits(hidden[rows])
            slope = torch.exp(logits - logsumexp[rows, None]).neg_()
            slope.scatter_add_(1, targets[rows, None], slope.new_ones(len(slope), 1))
            slope.mul_(gradient[rows, None])
            if head.softcap is not None:
                # Forbidden logits are -inf and have no slope; elsewhere d tanh = 1 - tanh^2.
                slope.mul_(1 - torch.square(logits.clamp_min(-head.softcap) / head.softcap))
            slope = slope.to(hidden.dtype)
            hidden_gradient[rows] = slope @ weight
            if weight_gradient is not None:
                weight_gradient += slope.T @ hidden[rows]
        return hidden_gradient, None if weight_gradient is None else weight_gradient.to(weight.dtype), None, None

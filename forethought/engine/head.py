"""From hidden states to probabilities without the full logits.

The vocabulary projection is the largest matrix of a small model, and its logits are larger still.  They are computed
for one slice of the vocabulary at a time, so that they stay in the cache, and again in the backward pass.  A slice owns
its rows of the weight, so its gradient is written once and summed in float32 inside one product.

Shape legend: A scored tokens, R rows that are decoded, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

# Logits of a slice, by device: 8 MiB in float32, which fit a core's own cache; 512 MiB.
CPU_LOGITS, GPU_LOGITS = 2**21, 2**27
BLOCK = 512
"""Vocabulary entries of one block of the two-level draw; slices are multiples of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The projection from hidden states to logits."""

    weight: Tensor  # (V, H), tied to the embedding or not
    softcap: float | None = None  # logits = softcap * tanh(logits / softcap), as Gemma 2 does
    forbidden: Tensor | None = None  # (V,) booleans: tokens whose probability is zero

    def float_logits(self, hidden_AH: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield every slice of the vocabulary with its logits, float32 ``(A, slice)``."""
        for vocab, logits in self._logits(hidden_AH):
            yield vocab, logits.float()

    def _logits(self, hidden_AH: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """The same in the dtype of the matrix product, the weight's, unless a softcap needs float32."""
        for vocab, logits in self._products(hidden_AH):
            if self.softcap is not None:
                # In place even where float() makes no copy: the product is nobody else's.
                logits = logits.float().div_(self.softcap).tanh_().mul_(self.softcap)
            # Most slices hold no forbidden id, and filling would be another pass over their logits.
            if self.forbidden is not None and bool(self.forbidden[vocab].any()):
                logits.masked_fill_(self.forbidden[vocab], -torch.inf)
            yield vocab, logits

    def _products(self, hidden_AH: Tensor) -> Iterator[tuple[slice, Tensor]]:
        for vocab in self.slices(GPU_LOGITS if hidden_AH.is_cuda else CPU_LOGITS, len(hidden_AH)):
            yield vocab, hidden_AH @ self.weight[vocab].T  # (A, slice)

    def slices(self, budget: int, rows: int) -> Iterator[slice]:
        """Yield slices of the vocabulary, multiples of :data:`BLOCK`, of about ``budget`` logits for ``rows`` rows."""
        size = max(BLOCK, budget // max(1, rows) // BLOCK * BLOCK)
        for start in range(0, len(self.weight), size):
            yield slice(start, min(start + size, len(self.weight)))

    def logprobs(self, hidden_AH: Tensor, targets_A: Tensor) -> Tensor:
        """Return ``log p(target)``, float32 ``(A,)``, with gradients to ``hidden_AH`` and the weight."""
        return cast(Tensor, _Logprobs.apply(hidden_AH, self.weight, targets_A, self))

    def choices(self, hidden_AH: Tensor, choice_ids: Tensor) -> Tensor:
        """Return the log-probabilities ``(A, choices)`` of a few tokens, float32.

        Their logits are computed in float32: bf16 has steps of an eighth near 20, so that two letters often tie.
        """
        exact = hidden_AH.float() @ self.weight[choice_ids].float().T
        if self.softcap is not None:
            exact = self.softcap * torch.tanh(exact / self.softcap)
        # Of products in bf16: its rounding is the same for all choices and cancels when they are compared.
        normaliser_A = torch.stack([logits.logsumexp(-1) for _, logits in self.float_logits(hidden_AH)]).logsumexp(0)
        return exact - normaliser_A[:, None]

    def greedy(self, hidden_RH: Tensor) -> tuple[Tensor, Tensor]:
        """Return the likeliest token of each row and its log-probability, both ``(R,)``."""
        peaks, ids, totals = [], [], []
        for vocab, logits in self.float_logits(hidden_RH):
            peak, index = logits.max(-1)
            peaks.append(peak)
            ids.append(index + vocab.start)
            totals.append(logits.logsumexp(-1))
        best_R, where_R = torch.stack(peaks).max(0)  # the highest peak, and its slice
        return torch.stack(ids).gather(0, where_R[None])[0], best_R - torch.stack(totals).logsumexp(0)

    def draw(self, hidden_RH: Tensor, uniforms_R: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Draw one token per row; return ids and their log-probabilities at ``temperature``, both ``(R,)``.

        Inverse-CDF in two levels: the block of :data:`BLOCK` tokens in which the cumulative probability passes
        the uniform number, then the token inside it.  Only block sums are accumulated over the whole vocabulary, in
        the dtype of ``uniforms_R``: see :func:`widest`.
        """
        wide = uniforms_R.dtype
        slices, sums, peaks = [], [], []
        for _, logits in self._logits(hidden_RH):
            scaled = logits.to(torch.float32, copy=True)  # a copy: one block of the logits is needed again below
            if temperature != 1:
                scaled.div_(temperature)
            # A slice of forbidden ids only has a peak of -inf, and -inf less -inf would be NaN.
            peak = scaled.amax(-1, keepdim=True).clamp_min_(torch.finfo(torch.float32).min)
            slices.append(logits)
            sums.append(_block_sums(scaled.sub_(peak).exp_()))
            peaks.append(peak)
        # Sums are relative to the peak of their slice; bring all of them to the highest peak.
        highest = torch.cat(peaks, -1).amax(-1, keepdim=True)
        # (R, blocks), wide: in float32 a running sum over the vocabulary would lose its improbable blocks.
        block_sums = torch.cat(
            [s.to(wide) * (peak - highest).to(wide).exp() for s, peak in zip(sums, peaks, strict=True)], -1
        )
        cumulative = block_sums.cumsum(-1)
        point = uniforms_R[:, None] * cumulative[:, -1:]
        # On the right: a point on a bound is the next block's, so that a block without weight is never hit.
        block = torch.searchsorted(cumulative, point, right=True).clamp_max(block_sums.shape[1] - 1)
        block_sum = block_sums.gather(1, block)
        weights = _block(slices, block[:, 0]).div_(temperature)
        # Relative to the block's own peak, not the slice's: `depth` changes the scale.
        weights = weights.sub_(weights.amax(-1, keepdim=True)).exp_()
        inner = weights.cumsum(-1, dtype=wide)  # (R, BLOCK)
        # How much of its block's sum is below the point, on the scale of the block's own weights.
        depth = (point - cumulative.gather(1, block) + block_sum) / block_sum * inner[:, -1:]
        entry = torch.searchsorted(inner, depth, right=True)
        # Rounding may put the point past the last token with weight: take that last token.
        last = (weights > 0).to(torch.int8).cumsum(-1).argmax(-1, keepdim=True)
        entry = torch.minimum(entry, last)
        probability = weights.gather(1, entry).to(wide) / inner[:, -1:] * block_sum / cumulative[:, -1:]
        return (block * BLOCK + entry)[:, 0], probability[:, 0].log().float()


def head_of(model: Any, forbidden_ids: Sequence[int] = ()) -> Head:
    """Return the projection to the vocabulary of a transformers model; ``forbidden_ids`` get no probability."""
    weight = model.get_output_embeddings().weight
    forbidden = None
    if forbidden_ids:
        forbidden = torch.zeros(len(weight), dtype=torch.bool, device=weight.device)
        forbidden[list(forbidden_ids)] = True
    return Head(weight=weight, softcap=getattr(model.config, "final_logit_softcapping", None), forbidden=forbidden)


def widest(device: torch.device) -> torch.dtype:
    """Return float64, or float32 where ``device`` has nothing wider (Apple's GPUs)."""
    return torch.float32 if device.type == "mps" else torch.float64


def _block_sums(weights: Tensor) -> Tensor:
    whole = weights.shape[1] // BLOCK * BLOCK  # the last block may be shorter
    sums = weights[:, :whole].reshape(len(weights), -1, BLOCK).sum(-1)
    return sums if whole == weights.shape[1] else torch.cat([sums, weights[:, whole:].sum(-1, keepdim=True)], -1)


def _block(slices: list[Tensor], block_R: Tensor) -> Tensor:
    """Return each row's block of logits ``(R, BLOCK)``, float32, out of the slices; -inf past the vocabulary."""
    blocks_of_slice = -(-slices[0].shape[1] // BLOCK)
    rows = torch.full((len(block_R), BLOCK), -torch.inf, device=block_R.device)
    # Row by row: a gather would first have to join the slices, a copy of all logits.
    for row, block in enumerate(block_R.tolist()):
        index, start = block // blocks_of_slice, block % blocks_of_slice * BLOCK
        logits = slices[index][row, start : start + BLOCK]
        rows[row, : len(logits)] = logits
    return rows


class _Logprobs(torch.autograd.Function):
    """log softmax(h W^T)[target], slice by slice; d/dlogits = onehot - softmax."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, head: Head) -> Tensor:
        target_logits = torch.zeros(len(hidden), dtype=torch.float32, device=hidden.device)
        totals = []
        for vocab, logits in head.float_logits(hidden):
            rows, columns = _targets_in(vocab, targets)
            target_logits[rows] = logits[rows, columns]
            totals.append(logits.logsumexp(-1))
        logsumexp = torch.stack(totals).logsumexp(0)  # (A,)
        ctx.head = head
        ctx.save_for_backward(hidden, weight, targets, logsumexp)
        return target_logits - logsumexp

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        head, (hidden, weight, targets, logsumexp) = ctx.head, ctx.saved_tensors
        # A sum over slices: in bf16 each one would round away part of those before.
        hidden_gradient = torch.zeros_like(hidden, dtype=torch.float32)
        # Left empty: each slice writes all of its own rows.
        weight_gradient = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        for vocab, logits in head.float_logits(hidden):
            if head.softcap is not None:
                # Derivative of the softcap, 1 - tanh^2; forbidden logits of -inf are clamped to its range.
                cap_slope = 1 - torch.square(logits.clamp_min(-head.softcap) / head.softcap)
            # gradient * (onehot - softmax), in the memory of the logits.
            slope = logits.sub_(logsumexp[:, None]).exp_().mul_(-gradient[:, None])
            rows, columns = _targets_in(vocab, targets)
            slope[rows, columns] += gradient[rows]
            if head.softcap is not None:
                slope.mul_(cap_slope)
            slope = slope.to(hidden.dtype)
            hidden_gradient += slope @ weight[vocab]
            if weight_gradient is not None:
                torch.mm(slope.T, hidden, out=weight_gradient[vocab])
        return hidden_gradient.to(hidden.dtype), weight_gradient, None, None


def _targets_in(vocab: slice, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows whose target is in a slice of the vocabulary, and its index there."""
    rows = ((targets >= vocab.start) & (targets < vocab.stop)).nonzero()[:, 0]
    return rows, targets[rows] - vocab.start

"""From hidden states to probabilities without the full logits.

The vocabulary projection is the largest matrix of a small model (168 of Gemma-3-270M's 268 million
weights), and its logits are larger still.  They are computed for one stretch of the vocabulary at a time,
so that they stay in the cache, and thrown away; the backward pass computes them again.  A stretch owns its
rows of the weight, so its gradient is written once and summed in float32 inside one product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CPU_LOGITS, GPU_LOGITS = 2**21, 2**27
"""Logits that exist at once, by device: 8 MiB in float32, which a core's own cache passes on quickly; 512 MiB."""

BLOCK = 512
"""Vocabulary entries of one block of the two-level draw; stretches are multiples of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The projection from hidden states to logits."""

    weight: Tensor
    """``(V, H)``, tied to the embedding or not."""
    softcap: float | None = None
    """``logits = softcap * tanh(logits / softcap)``, as Gemma 2 does."""
    forbidden: Tensor | None = None
    """``(V,)`` booleans: tokens whose probability is zero."""

    def stretches(self, hidden_AH: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield float32 logits ``(A, stretch)`` of one stretch of the vocabulary after the other."""
        for stretch, logits in self._products(hidden_AH):
            yield stretch, logits.float()

    def _products(self, hidden_AH: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield logits as they leave the matrix product: in the weight's dtype, unless a softcap needs more."""
        for stretch, logits in self._matmuls(hidden_AH):
            if self.softcap is not None:
                logits = logits.float().div_(self.softcap).tanh_().mul_(self.softcap)
            if self.forbidden is not None and bool(self.forbidden[stretch].any()):
                logits.masked_fill_(self.forbidden[stretch], -torch.inf)
            yield stretch, logits

    def _matmuls(self, hidden_AH: Tensor) -> Iterator[tuple[slice, Tensor]]:
        for stretch in self.cuts(GPU_LOGITS if hidden_AH.is_cuda else CPU_LOGITS, len(hidden_AH)):
            yield stretch, hidden_AH @ self.weight[stretch].T

    def cuts(self, budget: int, rows: int) -> Iterator[slice]:
        """Yield stretches of the vocabulary, whole blocks long, of about ``budget`` logits for ``rows`` rows."""
        size = max(BLOCK, budget // max(1, rows) // BLOCK * BLOCK)
        for start in range(0, len(self.weight), size):
            yield slice(start, min(start + size, len(self.weight)))

    def logprobs(self, hidden_AH: Tensor, targets_A: Tensor) -> Tensor:
        """Return ``log p(target)``, float32 ``(A,)``, with gradients to ``hidden_AH`` and the weight."""
        result: Tensor = _Logprobs.apply(hidden_AH, self.weight, targets_A, self)
        return result

    def choices(self, hidden_AH: Tensor, choice_ids: Tensor) -> Tensor:
        """Return the log-probabilities ``(A, choices)`` of a few tokens, float32.

        Their logits are computed in float32: in bf16 two letters near 20 differ in steps of an eighth, and tie.
        """
        exact = hidden_AH.float() @ self.weight[choice_ids].float().T
        if self.softcap is not None:
            exact = self.softcap * torch.tanh(exact / self.softcap)
        normaliser = torch.stack([logits.logsumexp(-1) for _, logits in self.stretches(hidden_AH)]).logsumexp(0)
        return exact - normaliser[:, None]

    def greedy(self, hidden_RH: Tensor) -> tuple[Tensor, Tensor]:
        """Return the likeliest token of each row and its log-probability, both ``(R,)``."""
        found = [(*logits.max(-1), logits.logsumexp(-1), at.start) for at, logits in self.stretches(hidden_RH)]
        values = torch.stack([value for value, _, _, _ in found])
        ids = torch.stack([index + start for _, index, _, start in found])
        best, where = values.max(0)
        normaliser = torch.stack([total for _, _, total, _ in found]).logsumexp(0)
        return ids.gather(0, where[None])[0], best - normaliser

    def draw(self, hidden_RH: Tensor, uniforms_R: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Draw one token per row; return ids and their log-probabilities at ``temperature``, both ``(R,)``.

        Inverse-CDF in two levels: the block of :data:`BLOCK` tokens in which the cumulative probability passes
        the uniform number, then the token inside it.  Only block sums are accumulated over the whole vocabulary, in
        the dtype of ``uniforms_R``: see :func:`widest`.
        """
        wide = uniforms_R.dtype
        products, sums, peaks = [], [], []
        for _, logits in self._products(hidden_RH):
            scaled = logits.to(torch.float32, copy=True)  # one block of the logits is still needed below
            if temperature != 1:
                scaled.div_(temperature)
            peak = scaled.amax(-1, keepdim=True).clamp_min_(torch.finfo(torch.float32).min)
            products.append(logits)
            sums.append(_block_sums(scaled.sub_(peak).exp_()))
            peaks.append(peak)
        highest = torch.cat(peaks, -1).amax(-1, keepdim=True)
        shares = [s.to(wide) * (peak - highest).to(wide).exp() for s, peak in zip(sums, peaks, strict=True)]
        block_sums = torch.cat(shares, -1)
        cumulative = block_sums.cumsum(-1)
        point = uniforms_R[:, None] * cumulative[:, -1:]
        block = torch.searchsorted(cumulative, point, right=True).clamp_max(block_sums.shape[1] - 1)
        share = block_sums.gather(1, block)
        inside = _block(products, block[:, 0]).div_(temperature)
        inside = inside.sub_(inside.amax(-1, keepdim=True)).exp_()
        inner = inside.cumsum(-1, dtype=wide)
        # How far into its block the point is, on the scale of the block's own weights.
        depth = (point - cumulative.gather(1, block) + share) / share * inner[:, -1:]
        entry = torch.searchsorted(inner, depth, right=True)
        # Rounding may point past the last token with weight: take that last token.
        last = (inside > 0).to(torch.int8).cumsum(-1).argmax(-1, keepdim=True)
        entry = torch.minimum(entry, last)
        probability = inside.gather(1, entry).to(wide) / inner[:, -1:] * share / cumulative[:, -1:]
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
    """Return the widest floating-point numbers that ``device`` has: float64, but float32 on Apple's GPUs."""
    return torch.float32 if device.type == "mps" else torch.float64


def _block_sums(weight: Tensor) -> Tensor:
    """Return the sums over blocks of :data:`BLOCK` columns; the last block may be shorter."""
    whole = weight.shape[1] // BLOCK * BLOCK
    sums = weight[:, :whole].reshape(len(weight), -1, BLOCK).sum(-1)
    return sums if whole == weight.shape[1] else torch.cat([sums, weight[:, whole:].sum(-1, keepdim=True)], -1)


def _block(products: list[Tensor], block_R: Tensor) -> Tensor:
    """Return each row's block of logits ``(R, BLOCK)``, float32, out of the stretches; -inf past the vocabulary."""
    width = -(-products[0].shape[1] // BLOCK)
    rows = torch.full((len(block_R), BLOCK), -torch.inf, device=block_R.device)
    for row, block in enumerate(block_R.tolist()):
        stretch, start = block // width, block % width * BLOCK
        found = products[stretch][row, start : start + BLOCK]
        rows[row, : len(found)] = found
    return rows


class _Logprobs(torch.autograd.Function):
    """log softmax(h W^T)[target], stretch by stretch; d/dlogits = onehot - softmax."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, head: Head) -> Tensor:
        chosen = torch.zeros(len(hidden), dtype=torch.float32, device=hidden.device)
        totals = []
        for stretch, logits in head.stretches(hidden):
            rows, columns = _inside(targets, stretch)
            chosen[rows] = logits[rows, columns]
            totals.append(logits.logsumexp(-1))
        logsumexp = torch.stack(totals).logsumexp(0)
        ctx.head = head
        ctx.save_for_backward(hidden, weight, targets, logsumexp)
        return chosen - logsumexp

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        (gradient,) = gradients
        hidden, weight, targets, logsumexp = ctx.saved_tensors
        head: Head = ctx.head
        hidden_gradient = torch.zeros_like(hidden, dtype=torch.float32)
        weight_gradient = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        for stretch, logits in head.stretches(hidden):
            bend = None if head.softcap is None else 1 - torch.square(logits.clamp_min(-head.softcap) / head.softcap)
            slope = logits.sub_(logsumexp[:, None]).exp_().mul_(-gradient[:, None])
            rows, columns = _inside(targets, stretch)
            slope[rows, columns] += gradient[rows]
            if bend is not None:
                slope.mul_(bend)
            slope = slope.to(hidden.dtype)
            hidden_gradient += slope @ weight[stretch]
            if weight_gradient is not None:
                torch.mm(slope.T, hidden, out=weight_gradient[stretch])
        return hidden_gradient.to(hidden.dtype), weight_gradient, None, None


def _inside(targets: Tensor, stretch: slice) -> tuple[Tensor, Tensor]:
    """Return the rows whose target is in ``stretch``, and where in it."""
    rows = ((targets >= stretch.start) & (targets < stretch.stop)).nonzero()[:, 0]
    return rows, targets[rows] - stretch.start

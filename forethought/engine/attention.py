"""Attention over branches, through transformers' attention interface.

A model whose attention implementation is :data:`NAME` hands its queries, keys and values to the
layout that was passed to its forward as ``branching=``: a :class:`~forethought.engine.branches.Packed`
row (scoring, training, prefill) or the sampler's :class:`Decoding`.  Any architecture that goes through
``ALL_ATTENTION_FUNCTIONS`` (Llama, Qwen2, Qwen3, Gemma3, ...) works unchanged, sliding windows included.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from forethought.engine.branches import Block, Packed

NAME = "forethought"

QKV = tuple[Tensor, Tensor, Tensor]
"""Queries ``(T, heads, D)``, keys and values ``(T, kv_heads, D)`` of one layer."""


class Branching(Protocol):
    """A layout that knows which tokens see which."""

    def attend(self, layer: int, qkv: QKV, scaling: float, window: int | None) -> Tensor:
        """Return the attention output ``(T, heads * D)`` of a row of T tokens; ``window`` is a sliding layer's."""
        ...


HIDDEN = -1e30
"""Added to the score of what a row must not see: finite, so that a row whose whole prompt is hidden stays a number."""


class PackedAttention:
    """Attention of a packed row: block by block, each a batch of padded rows.

    ``split``: branches attend to their prefix, stored once, and to themselves, and the two results are merged, where
    the kernels can; without gradients only.
    """

    def __init__(self, packed: Packed, *, split: bool = False) -> None:
        self.packed = packed
        self.split = split and packed.fork is not None

    def attend(self, layer: int, qkv: QKV, scaling: float, window: int | None) -> Tensor:
        """See :class:`Branching`."""
        if self.packed.captured is not None:
            # Copies: as views they would keep the queries, too.
            self.packed.captured.append((qkv[1].contiguous(), qkv[2].contiguous()))
        blocks, inverse = self.packed.blocks, self.packed.inverse
        if self.split and (window is None or blocks[-1].keys.shape[1] <= window):
            prefixes = _rows(blocks[0], qkv, scaling, window)
            first = len(inverse) - len(self.packed.targets)
            return torch.cat([prefixes[inverse[:first]], self._branches(qkv, scaling)]).flatten(1)
        return torch.cat([_rows(block, qkv, scaling, window) for block in blocks])[inverse].flatten(1)

    def _branches(self, qkv: QKV, scaling: float) -> Tensor:
        """Return what the branch tokens attend to, ``(A, heads, D)``."""
        block, fork = self.packed.blocks[-1], self.packed.fork
        assert fork is not None
        q, k, v = qkv
        bias = fork.hidden
        if bias is not None:
            bias = torch.zeros_like(bias, dtype=q.dtype).masked_fill_(bias, HIDDEN)
        near = part(_batch(q, block.queries), _batch(k, block.queries), _batch(v, block.queries), scaling, causal=True)
        far = part(_batch(q, fork.queries), _batch(k, fork.keys), _batch(v, fork.keys), scaling, bias)
        (own, own_mass), (prefix, prefix_mass) = (
            (_flat(out)[place], _flat(mass)[place]) for (out, mass), place in ((near, fork.near), (far, fork.far))
        )
        return merged(own, own_mass, prefix, prefix_mass)


def _rows(block: Block, qkv: QKV, scaling: float, window: int | None) -> Tensor:
    """Return the output of a block's padded rows, ``(M * S, heads, D)``."""
    q, k, v = qkv
    mask = block.mask(window)
    out = scaled_dot_product_attention(
        _batch(q, block.queries),
        _batch(k, block.keys),
        _batch(v, block.keys),
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return _flat(out)


def _batch(tokens: Tensor, rows: Tensor) -> Tensor:
    """``(T, heads, D)`` and indices ``(M, S)`` -> ``(M, heads, S, D)``."""
    return tokens[rows].transpose(1, 2)


def _flat(batch: Tensor) -> Tensor:
    """``(M, heads, S, ...)`` -> ``(M * S, heads, ...)``."""
    return batch.transpose(1, 2).flatten(0, 1)


def part(
    q: Tensor, k: Tensor, v: Tensor, scaling: float, bias: Tensor | None = None, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Return attention to a part of the keys ``(N, heads, S, D)`` and the log of its normaliser ``(N, heads, S)``,
    float32; no gradients."""
    if q.device.type == "cpu":
        out, mass = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=bias, scale=scaling
        )
        return out, mass
    assert not causal
    scores = (q @ k.transpose(2, 3)).float() * scaling
    if bias is not None:
        scores = scores + bias
    mass = scores.logsumexp(-1)
    return (scores - mass[..., None]).exp().to(q.dtype) @ v, mass


def merged(near: Tensor, near_mass: Tensor, far: Tensor, far_mass: Tensor) -> Tensor:
    """Return attention to both parts: each part's own result, weighted by its share of the normaliser."""
    share = torch.sigmoid(far_mass - near_mass)[..., None].to(near.dtype)
    return torch.lerp(near, far, share)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    branching: Branching | None = options.get("branching")
    if branching is None:
        raise RuntimeError("this model was prepared for the shared-prefix engine: call it through forethought.engine")
    if options.get("softcap") is not None:
        raise NotImplementedError(f"{type(module).__name__} soft-caps attention scores, which the engine does not do")
    layer: int = module.layer_idx  # type: ignore[assignment]
    window = options.get("sliding_window")
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    out = branching.attend(layer, (q, k, v), options["scaling"], window)
    return out.view(1, len(q), *q.shape[1:]), None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)

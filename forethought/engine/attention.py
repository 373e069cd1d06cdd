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

from forethought.engine.branches import Packed

NAME = "forethought"

QKV = tuple[Tensor, Tensor, Tensor]
"""Queries ``(T, heads, D)``, keys and values ``(T, kv_heads, D)`` of one layer."""


class Branching(Protocol):
    """A layout that knows which tokens see which."""

    def attend(self, layer: int, qkv: QKV, scaling: float, window: int | None) -> Tensor:
        """Return the attention output ``(T, heads * D)`` of a row of T tokens; ``window`` is a sliding layer's."""
        ...


class PackedAttention:
    """Attention of a packed row: block by block, each a batch of padded rows."""

    def __init__(self, packed: Packed) -> None:
        self.packed = packed

    def attend(self, layer: int, qkv: QKV, scaling: float, window: int | None) -> Tensor:
        """See :class:`Branching`."""
        if self.packed.captured is not None:
            # Copies: as views they would keep the queries, too.
            self.packed.captured.append((qkv[1].contiguous(), qkv[2].contiguous()))
        q, k, v = qkv
        outputs = []
        for block in self.packed.blocks:
            mask = block.mask(window)
            out = scaled_dot_product_attention(
                q[block.queries].transpose(1, 2),
                k[block.keys].transpose(1, 2),
                v[block.keys].transpose(1, 2),
                attn_mask=mask,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=q.shape[1] != k.shape[1],
            )
            outputs.append(out.transpose(1, 2).flatten(0, 1))  # (M * S, heads, D)
        return torch.cat(outputs)[self.packed.inverse].flatten(1)


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

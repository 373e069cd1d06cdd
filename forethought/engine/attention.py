"""Attention over branches, through transformers' attention interface.

A model whose attention implementation is :data:`NAME` hands its queries, keys and values to the
:class:`AttentionLayout` that its forward got as ``attention_layout=``: a :class:`PackedAttention` (scoring, training,
prefill) or the sampler's :class:`~forethought.engine.decoding.Decoding`.  Any architecture that goes through
``ALL_ATTENTION_FUNCTIONS`` (Llama, Qwen2, Qwen3, Gemma3, ...) works unchanged, sliding windows included.

Shape legend: T packed tokens, A branch tokens, D head size; M rows of a block, S its queries.
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
MASKED = -1e30
"""Added to the score of a masked key.  Finite: a row whose keys are all masked must not become NaN."""


class AttentionLayout(Protocol):
    """Knows which tokens see which."""

    def attend(self, layer: int, qkv: QKV, scaling: float, window: int | None) -> Tensor:
        """Return the attention output of a row of T tokens, ``(T, heads * D)``; ``window`` is a sliding layer's."""
        ...


class PackedAttention:
    """Attention of a packed row: block by block, each a batch of padded rows.

    With ``split_attention`` branches attend to their prefix, stored once, and to themselves; no gradients.
    """

    def __init__(self, packed: Packed, *, split_attention: bool = False) -> None:
        self.packed = packed
        self.split_attention = split_attention and packed.branch_layout is not None

    def attend(self, layer: int, qkv: QKV, scaling: float, window: int | None) -> Tensor:
        if self.packed.captured is not None:
            # Copies: views would keep the queries in memory, too.
            self.packed.captured.append((qkv[1].contiguous(), qkv[2].contiguous()))
        blocks, inverse_T = self.packed.blocks, self.packed.inverse
        # Split attention has no sliding mask: only for layers whose window holds the longest path.
        if self.split_attention and (window is None or blocks[-1].keys.shape[1] <= window):
            prefixes = _attend_block(blocks[0], qkv, scaling, window)
            prefix_tokens = len(inverse_T) - len(self.packed.targets)  # prefixes come first in the row
            return torch.cat([prefixes[inverse_T[:prefix_tokens]], self._attend_branches(qkv, scaling)]).flatten(1)
        return torch.cat([_attend_block(block, qkv, scaling, window) for block in blocks])[inverse_T].flatten(1)

    def _attend_branches(self, qkv: QKV, scaling: float) -> Tensor:
        """Return the attention output of the branch tokens, ``(A, heads, D)``: to themselves and to the prefix."""
        rows_MS, layout = self.packed.blocks[-1].queries, self.packed.branch_layout
        assert layout is not None
        q, k, v = qkv
        bias = layout.padding
        if bias is not None:
            bias = torch.zeros_like(bias, dtype=q.dtype).masked_fill_(bias, MASKED)  # this kernel adds its mask
        # Padding is behind a row's real tokens, so the triangle hides it from them.
        own = attend_part(_batch(q, rows_MS), _batch(k, rows_MS), _batch(v, rows_MS), scaling, causal=True)
        prefix = attend_part(_batch(q, layout.queries), _batch(k, layout.keys), _batch(v, layout.keys), scaling, bias)
        own_A = (_flat(part)[layout.in_branches] for part in own)
        prefix_A = (_flat(part)[layout.in_queries] for part in prefix)
        return merge_parts(*own_A, *prefix_A)


def _attend_block(block: Block, qkv: QKV, scaling: float, window: int | None) -> Tensor:
    """Return the attention output of a block's padded rows, ``(M * S, heads, D)``."""
    q, k, v = _batch(qkv[0], block.queries), _batch(qkv[1], block.keys), _batch(qkv[2], block.keys)
    mask, grouped = block.mask(window), q.shape[1] != k.shape[1]
    return _flat(
        scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped)
    )


def _batch(tokens: Tensor, rows_MS: Tensor) -> Tensor:
    """``(T, heads, D)`` and indices ``(M, S)`` -> ``(M, heads, S, D)``."""
    return tokens[rows_MS].transpose(1, 2)


def _flat(batch: Tensor) -> Tensor:
    """``(M, heads, S, ...)`` -> ``(M * S, heads, ...)``."""
    return batch.transpose(1, 2).flatten(0, 1)


def attend_part(
    q: Tensor, k: Tensor, v: Tensor, scaling: float, bias: Tensor | None = None, *, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Return attention to a part of the keys, ``(N, heads, S, D)``, and the log-sum-exp of their scores,
    ``(N, heads, S)``, float32; no gradients."""
    if q.device.type == "cpu":
        # The public function does not return the log-sum-exp.
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=bias, scale=scaling
        )
        return out, lse
    assert not causal  # elsewhere only decoding comes here, whose one token sees all keys
    scores = (q @ k.transpose(2, 3)).float() * scaling
    if bias is not None:
        scores = scores + bias
    lse = scores.logsumexp(-1)
    return (scores - lse[..., None]).exp().to(q.dtype) @ v, lse


def merge_parts(own: Tensor, own_lse: Tensor, prefix: Tensor, prefix_lse: Tensor) -> Tensor:
    """Return attention to both parts: each part's result, weighted by its share of the softmax's normaliser."""
    # exp(p) / (exp(p) + exp(o)), where neither can overflow.
    prefix_share = torch.sigmoid(prefix_lse - own_lse)[..., None].to(own.dtype)
    return torch.lerp(own, prefix, prefix_share)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Called by transformers, with queries, keys and values ``(1, heads, T, D)``."""
    layout: AttentionLayout | None = options.get("attention_layout")
    if layout is None:
        raise RuntimeError("this model was prepared for the shared-prefix engine: call it through forethought.engine")
    if options.get("softcap") is not None:
        raise NotImplementedError(
            f"{type(module).__name__} soft-caps attention scores, which the engine does not support"
        )
    layer: int = module.layer_idx  # type: ignore[assignment]
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    out = layout.attend(layer, (q, k, v), options["scaling"], options.get("sliding_window"))
    return out.view(1, len(q), *q.shape[1:]), None  # (1, T, heads, D)


AttentionInterface.register(NAME, _attention)
# Or transformers would build a mask (1, 1, T, T), which nothing reads.
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)

"""A decoder layer as a few large kernels of oneDNN, on any CPU for which torch has them.

At a decode step a layer of a small model computes for a millisecond, and the sixty small operations of its modules
take as long; on a long row each of them is another pass over memory.  Here activation, gate and residual are fused with
the matrix products that they follow, and the rotary embedding takes three operations.  Layers of the Llama shape
(Llama, Qwen2, Qwen3) and of Gemma 3's are recognised by their parts; every other model keeps its own modules.

oneDNN reorders a plain weight into its own layout for every product.  With thousands of rows that costs next to
nothing; with the few dozen of a decode step it costs as much as the product itself.  So a decoder packs weights once.

Shape legend: R rows (tokens), A scored tokens, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from forethought.engine.backends.plain import InferenceHead, Layers, TorchBackend
from forethought.engine.head import Head, head_of
from forethought.machine import machine

MAX_PACKED_BYTES = 4 * 2**30
"""Bytes of weights above which a model decodes without a packed copy: it would not be worth its memory."""

DECODE_LOGITS = 2**20
"""Logits of one packed slice while decoding: they stay in the cores' own caches between product and sum."""

ROW_BLOCK = 1024
"""Rows that pass through a layer's products together: what lies between products stays in the caches."""

_ACTIVATIONS = {"silu": ("swish", ""), "gelu_pytorch_tanh": ("gelu", "tanh")}
"""By transformers' name of an activation, oneDNN's name and algorithm."""

_PLAIN = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_SANDWICH = _PLAIN | {"pre_feedforward_layernorm", "post_feedforward_layernorm"}
"""Parts of a layer; in the second kind, what a block adds to the residual stream is normalised, too."""
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}


class OneDNNBackend(TorchBackend):
    name: ClassVar[str] = "onednn"

    @classmethod
    def why_unavailable(cls, model: Any) -> str:
        parameter = next(model.parameters())
        if parameter.device.type != "cpu":
            return "the model is not on the CPU"
        if not torch.backends.mkldnn.is_available():
            return "this torch has no oneDNN"
        if parameter.dtype not in (torch.float32, torch.bfloat16):
            return f"it has no products in {parameter.dtype}"
        lacking = machine().no_bf16("cpu") if parameter.dtype == torch.bfloat16 else ""
        return lacking or _why_not_fusable(model.get_decoder())

    @classmethod
    def why_not_default(cls) -> str:
        return "" if "avx2" in machine().features else "it is known to be faster than plain torch only with AVX2"

    def layers(self, rows: int | None) -> Layers:
        return fuse(self.model.get_decoder(), rows if weight_bytes(self.model) <= MAX_PACKED_BYTES else None)

    def head(self, forbidden_ids: Sequence[int] = (), rows: int | None = None) -> InferenceHead:
        head = head_of(self.model, forbidden_ids)
        if rows is None:
            return head
        packed = tuple((vocab, _pack(head.weight[vocab], rows)) for vocab in head.slices(DECODE_LOGITS, rows))
        return PackedHead(weight=head.weight, softcap=head.softcap, forbidden=head.forbidden, packed=packed)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedHead(Head):
    """The projection to the vocabulary with its weight packed, slice by slice, to draw tokens for some rows."""

    packed: tuple[tuple[slice, Tensor], ...]

    def _products(self, hidden_AH: Tensor) -> Iterator[tuple[slice, Tensor]]:
        yield from ((vocab, _multiply(hidden_AH, weight)) for vocab, weight in self.packed)


class Norm:
    """RMS norm in float32, with the scale of a module of any model family."""

    def __init__(self, module: Any, width: int) -> None:
        # A row of ones has a root mean square of 1, so the module returns its scale, be it stored as w or as 1 + w.
        self.scale: Tensor = module(torch.ones(1, width))[0].float()
        self.eps: float = getattr(module, "variance_epsilon", None) or module.eps

    def __call__(self, x: Tensor) -> Tensor:
        """Return the normalised rows in the dtype of ``x``."""
        exact = x.float()
        length = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
        inverse_rms = length.square_().div_(x.shape[-1]).add_(self.eps).rsqrt_()
        # In place, which takes half the time of rms_norm.  But in float32 `exact` is `x` itself, the residual stream.
        normed = exact * inverse_rms if exact is x else exact.mul_(inverse_rms)
        return normed.mul_(self.scale).to(x.dtype)


class FusedLayer:
    """The forward of one decoder layer on ``(1, R, hidden)``; ``attention_layout`` knows which token sees which."""

    def __init__(self, layer: Any, activation: tuple[str, str], rows: int | None) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.hidden, self.inner = mlp.down_proj.out_features, mlp.down_proj.in_features
        self.index, self.scaling = attention.layer_idx, attention.scaling
        self.window = getattr(attention, "sliding_window", None)
        self.width = attention.head_dim
        self.heads = attention.q_proj.out_features // self.width
        self.kv_heads = attention.k_proj.out_features // self.width
        self.activation = activation
        qkv = [(linear.weight, linear.bias) for linear in (attention.q_proj, attention.k_proj, attention.v_proj)]
        if rows is not None:  # packing makes a copy anyway: make it one product instead of three
            weights, biases = zip(*qkv, strict=True)
            qkv = [(torch.cat(weights), None if biases[0] is None else torch.cat(biases))]

        def prepared(weight: Tensor) -> Tensor:
            return weight.detach() if rows is None else _pack(weight, rows)

        self.qkv = [(prepared(weight), bias) for weight, bias in qkv]
        self.out, self.out_bias = prepared(attention.o_proj.weight), attention.o_proj.bias
        self.gate, self.up, self.down = map(prepared, (mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight))
        self.before_attention = Norm(layer.input_layernorm, self.hidden)
        self.after_attention = Norm(layer.post_attention_layernorm, self.hidden)
        sandwich = hasattr(layer, "pre_feedforward_layernorm")
        self.before_mlp = Norm(layer.pre_feedforward_layernorm, self.hidden) if sandwich else self.after_attention
        self.after_mlp = Norm(layer.post_feedforward_layernorm, self.hidden) if sandwich else None
        self.head_norms = None
        if hasattr(attention, "q_norm"):
            self.head_norms = Norm(attention.q_norm, self.width), Norm(attention.k_norm, self.width)

    def __call__(
        self, hidden_states: Tensor, *, position_embeddings: tuple[Tensor, Tensor], attention_layout: Any, **_: Any
    ) -> Tensor:
        x, (cos, sin) = hidden_states[0], position_embeddings
        rotations = cos[0, :, None].split(ROW_BLOCK), sin[0, :, None].split(ROW_BLOCK)
        heads = _cat(list(map(self._heads, x.split(ROW_BLOCK), *rotations)))
        q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], 1)
        attended = attention_layout.attend(self.index, (q, k, v), self.scaling, self.window)
        outputs = map(self._rest, x.split(ROW_BLOCK), attended.split(ROW_BLOCK))
        return _cat(list(outputs))[None]

    def _heads(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return queries, keys and values ``(R, heads, D)``; the first two with the rotary embedding."""
        normed = self.before_attention(x)
        heads = _cat([_multiply(normed, weight, bias) for weight, bias in self.qkv], -1).view(len(x), -1, self.width)
        qk = heads[:, : -self.kv_heads]
        if self.head_norms is not None:
            q_norm, k_norm = self.head_norms
            qk.copy_(torch.cat([q_norm(qk[:, : self.heads]), k_norm(qk[:, self.heads :])], 1))
        half = self.width // 2
        # rotate_half(x) * sin: the halves are swapped, and the first one is negated.
        signed = torch.cat([-sin[..., :half], sin[..., half:]], -1)
        swapped = qk.roll(half, -1)
        qk.mul_(cos).addcmul_(swapped, signed)
        return heads

    def _rest(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return the layer's output ``(R, hidden)`` from the output of attention."""
        if self.after_mlp is None:
            x = _fused("add", x, attended, self.out, self.out_bias)
            return _fused("add", x, self._gated(self.before_mlp(x)), self.down)
        x = x + self.after_attention(_multiply(attended, self.out, self.out_bias))
        return x + self.after_mlp(_multiply(self._gated(self.before_mlp(x)), self.down))

    def _gated(self, x: Tensor) -> Tensor:
        return _fused("mul", _multiply(x, self.gate, activation=self.activation), x, self.up)


def fuse(decoder: Any, rows: int | None) -> dict[nn.Module, FusedLayer]:
    """Return a fused forward for every layer of ``decoder``.

    ``rows``: copy the weights into the layout that suits products with this number of rows; ``None``: no copy.
    """
    activation = _ACTIVATIONS[_activation(decoder)]
    return {layer: FusedLayer(layer, activation, rows) for layer in decoder.layers}


def weight_bytes(model: Any) -> int:
    """Return the size of the matrices of a model's decoder, its embedding included."""
    return sum(parameter.nbytes for parameter in model.get_decoder().parameters() if parameter.ndim > 1)


def _why_not_fusable(decoder: Any) -> str:
    """Return why the layers of ``decoder`` cannot be fused; empty if they can."""
    activation, layers = _activation(decoder), list(getattr(decoder, "layers", ()))
    if activation not in _ACTIVATIONS:
        return f"its activation {activation!r} is not one of {', '.join(_ACTIVATIONS)}"
    fusable = layers and all(map(_is_fusable, layers))
    return "" if fusable else "its layers are not of the shape of Llama, Qwen2, Qwen3 or Gemma 3"


def _activation(decoder: Any) -> str:
    config = decoder.config
    return str(getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", ""))


def _is_fusable(layer: Any) -> bool:
    """Return whether a layer consists of exactly the parts that a fused one computes."""

    def parts(module: Any) -> set[str]:
        return {name for name, _ in module.named_children()}

    if parts(layer) not in (_PLAIN, _SANDWICH):
        return False
    attention, mlp = layer.self_attn, layer.mlp
    if parts(attention) not in (_ATTENTION, _ATTENTION | {"q_norm", "k_norm"}) or parts(mlp) != _MLP:
        return False
    of_mlp = [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    linears = [*of_mlp, *(getattr(attention, name) for name in _ATTENTION)]
    return all(type(linear) is nn.Linear for linear in linears) and all(linear.bias is None for linear in of_mlp)


def _cat(parts: list[Tensor], dim: int = 0) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _fused(operation: str, other: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x W^T + bias`` with ``other`` added or multiplied inside the kernel; ``W`` may be packed."""
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise.binary(x, other, weight, bias, operation))


def _pack(weight: Tensor, rows: int) -> Tensor:
    """Return ``weight (N, H)`` packed for products with about ``rows`` rows."""
    return cast(Tensor, torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows))


def _multiply(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: tuple[str, str] = ("none", "")
) -> Tensor:
    """Return ``activation(x W^T + bias)`` for a ``W`` that is packed or not."""
    name, algorithm = activation
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm))

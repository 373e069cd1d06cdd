"""The backend on the matrix units of x86: ``amx.cpp``, compiled on first use, called through ctypes.

A decode step multiplies few rows by every weight once, so it is bound by memory bandwidth and by the operations between
the products; in scoring, too, half of the time is theirs.  Here a decoder layer is one call, and so is the draw or the
score of a token.  Needs Linux, a processor with AMX and g++; elsewhere :func:`kernels` returns the reason.

Shape legend: R rows, G prompts, P prompt positions, H key-value heads, D head size, A scored tokens.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from forethought.engine.backends import amx_library as structures
from forethought.engine.backends.amx_library import addresses, call, constant, kernels
from forethought.engine.backends.onednn import MAX_PACKED_BYTES, FusedLayer, OneDNNBackend, fuse, weight_bytes
from forethought.engine.backends.plain import InferenceHead, Layers
from forethought.engine.branches import Packed
from forethought.engine.decoding import Decoding
from forethought.engine.head import Head, head_of

MAX_KEPT_BYTES = 2**30
"""Bytes of weights above which packed weights are not kept from one call to the next, and only decoding packs them."""


def pack(*weights: Tensor) -> Tensor:
    """Return ``weights (..., N, K)`` in panels, flat but for their leading dimensions.

    Of two weights, halves of panels alternate.  Both dimensions are padded with zeros to multiples of the panel width.
    """
    lead, (N, K) = weights[0].shape[:-2], weights[0].shape[-2:]
    size = _padded(N) * _padded(K) * len(weights)
    packed = torch.empty(*lead, size, dtype=torch.bfloat16)
    for number, weight in enumerate(weights):
        for source, target in zip(weight.detach().contiguous().view(-1, N, K), packed.view(-1, size), strict=True):
            pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (source, target))
            call("pack", *pointers, ctypes.c_int64(N), ctypes.c_int64(K), len(weights), number)
    return packed


class TiledDecoding(Decoding):
    """The state of decoding with the prompts' keys and values in panels: ``(G, H, P * D)`` each, P padded."""

    def __init__(self, prompts: list[tuple[Tensor, Tensor]], lengths: Tensor, branches: int, capacity: int) -> None:
        super().__init__(prompts, lengths, branches, capacity)
        self.prompt_width = _padded(prompts[0][0].shape[2])
        self.prompts = [(pack(k), pack(v.transpose(2, 3))) for k, v in prompts]
        self._index_rows()

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self._index_rows()

    def branch_cache(self, layer: int, window: int | None) -> ctypes.Structure:
        (prompt_keys, prompt_values), (keys, values) = self.prompts[layer], self.branches[layer]
        return structures.BranchCache(
            **addresses(prompt_keys=prompt_keys, prompt_values=prompt_values, keys=keys, values=values),
            **addresses(prompt_lengths=self.lengths_int32, first_rows=self.first_rows),
            prompts=len(self.lengths_int32),
            prompt_width=self.prompt_width,
            capacity=keys.shape[2],
            length=self.length,
            window=window or 0,
        )

    def _index_rows(self) -> None:
        counts_G = torch.bincount(self.prompt_of_row, minlength=len(self.prompt_lengths))
        self.first_rows = torch.cat([counts_G.new_zeros(1), counts_G.cumsum(0)]).int()
        self.lengths_int32 = self.prompt_lengths.int()


class Scratch:
    """Intermediate results of a layer, in memory that all layers share."""

    def __init__(self, layer: FusedLayer) -> None:
        self.row_padding, self.rows_per_block = constant("row_padding"), constant("rows_per_block")
        self._layer = layer
        self._buffers: dict[str, Tensor] = {}
        self._sizes = 0, 0
        self._sequences: tuple[Packed, ctypes.Structure, dict[str, Tensor]] | None = None

    def buffers(self, rows: int, block: int) -> dict[str, Tensor]:
        """Return buffers for ``rows`` rows, of which ``block`` pass through products together."""
        if rows > self._sizes[0] or block > self._sizes[1]:
            layer = self._layer
            self._buffers = {
                "heads": _buffer(rows, (layer.heads + 2 * layer.kv_heads) * layer.width),
                "attended": _buffer(rows, layer.heads * layer.width),
                "normed": _buffer(block, layer.hidden),
                "inner": _buffer(block, layer.inner),
                "added": torch.empty(_padded(block), layer.hidden),
            }
            self._sizes = rows, block
        return self._buffers

    def sequences(self, packed: Packed) -> ctypes.Structure:
        """Return the sequences of ``packed``, with memory for their keys and values in panels."""
        if self._sequences is None or self._sequences[0] is not packed:
            first, length, parent = (column.contiguous() for column in packed.sequences.unbind(1))
            padded = _padded(length)
            size = int(padded.sum()) * self._layer.kv_heads * self._layer.width
            keys, values = torch.empty(2, size, dtype=torch.bfloat16)
            tensors = {"first": first, "length": length, "parent": parent, "keys": keys, "values": values}
            tensors["padded_first"] = (padded.cumsum(0) - padded).int()
            self._sequences = packed, structures.Sequences(**addresses(**tensors), count=len(first)), tensors
        return self._sequences[1]


class NativeLayer:
    """The forward of one decoder layer on ``(1, R, hidden)``; the output takes the memory of the input."""

    def __init__(self, layer: FusedLayer, scratch: Scratch) -> None:
        self.plain, self.scratch = layer, scratch
        q_norm, k_norm = layer.head_norms or (None, None)
        biases = [bias for _, bias in layer.qkv if bias is not None]
        self._tensors = {  # kept alive for their addresses
            "qkv": pack(torch.cat([weight for weight, _ in layer.qkv])),
            "out": pack(layer.out),
            "gated": pack(layer.gate, layer.up),
            "down": pack(layer.down),
            "qkv_bias": torch.cat(biases).float() if biases else None,
            "out_bias": None if layer.out_bias is None else layer.out_bias.float(),
            "before_attention": layer.before_attention.scale,
            "after_attention": layer.after_attention.scale if layer.after_mlp else None,
            "before_mlp": layer.before_mlp.scale,
            "after_mlp": layer.after_mlp.scale if layer.after_mlp else None,
            "q_norm": q_norm.scale if q_norm else None,
            "k_norm": k_norm.scale if k_norm else None,
        }
        self._layer = ctypes.byref(
            structures.Layer(
                **addresses(**self._tensors),
                **{name: getattr(layer, name) for name in ("hidden", "inner", "heads", "kv_heads", "width", "scaling")},
                gelu=layer.activation[0] == "gelu",
                eps=layer.before_attention.eps,
            )
        )

    def __call__(
        self, hidden_states: Tensor, *, position_embeddings: tuple[Tensor, Tensor], attention_layout: Any, **_: Any
    ) -> Tensor:
        layer, scratch, hidden_states = self.plain, self.scratch, hidden_states.contiguous()
        count, (cos, sin) = hidden_states.shape[1], (tensor.contiguous() for tensor in position_embeddings)
        decodes = isinstance(attention_layout, TiledDecoding)
        buffers = scratch.buffers(count, count if decodes else min(count, scratch.rows_per_block))
        rows = structures.RowBuffers(**addresses(**buffers, x=hidden_states, cos=cos, sin=sin), count=count)
        if decodes:
            cache = attention_layout.branch_cache(layer.index, layer.window)
            call("decode", self._layer, ctypes.byref(rows), ctypes.byref(cache))
            return hidden_states
        packed: Packed = attention_layout.packed
        sequences = scratch.sequences(packed)
        sequences.window = layer.window or 0
        call("forward", self._layer, ctypes.byref(rows), ctypes.byref(sequences))
        if packed.captured is not None:
            heads = buffers["heads"][:count, : -scratch.row_padding].unflatten(1, (-1, layer.width))
            _, k, v = heads.split([layer.heads, layer.kv_heads, layer.kv_heads], 1)
            packed.captured.append((k.contiguous(), v.contiguous()))
        return hidden_states


class NativeHead:
    """Tokens from hidden states, drawn or scored, panel by panel of the vocabulary; logits are never stored."""

    def __init__(self, head: Head, packed: Tensor) -> None:
        self.vocabulary, self.width = head.weight.shape
        self.softcap, self.packed = head.softcap, packed  # the weight in panels
        panel = constant("panel_width")
        masked_V = torch.arange(_padded(self.vocabulary)) >= self.vocabulary
        if head.forbidden is not None:
            masked_V[: self.vocabulary] |= head.forbidden
        self.masked_ids = (masked_V.view(-1, panel) << torch.arange(panel)).sum(1).to(torch.uint32)

    def greedy(self, hidden_RH: Tensor) -> tuple[Tensor, Tensor]:
        return self.draw(hidden_RH, None, 1.0)

    def draw(self, hidden_RH: Tensor, uniforms_R: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
        """Draw tokens; without uniform numbers, take the likeliest."""
        ids_R = torch.empty(len(hidden_RH), dtype=torch.long)
        scratch = torch.empty(2, len(hidden_RH), len(self.masked_ids))
        uniforms_R = None if uniforms_R is None else uniforms_R.double()  # a name of its own: it must stay alive
        fields = addresses(uniforms=uniforms_R)
        return ids_R, self._run("draw", hidden_RH, ids_R, scratch, scale=1 / temperature, **fields)

    def logprobs(self, hidden_AH: Tensor, targets_A: Tensor) -> Tensor:
        scratch = torch.empty(2, torch.get_num_threads(), len(hidden_AH))
        return self._run("score", hidden_AH, targets_A, scratch, scale=1.0)

    def _run(self, name: str, hidden: Tensor, ids: Tensor, scratch: Tensor, **fields: Any) -> Tensor:
        rows, logprobs = _buffer(len(hidden), self.width), torch.empty(len(hidden))
        rows[: len(hidden), : self.width] = hidden
        head = structures.Head(
            **addresses(weight=self.packed, hidden=rows, masked_ids=self.masked_ids),
            **addresses(ids=ids, logprobs=logprobs, peaks=scratch[0], sums=scratch[1]),
            rows=len(hidden),
            vocabulary=self.vocabulary,
            width=self.width,
            softcap=self.softcap or 0.0,
            **fields,
        )
        call(name, ctypes.byref(head))
        return logprobs


class AMXBackend(OneDNNBackend):
    name: ClassVar[str] = "amx"
    decoding: ClassVar[type[Decoding]] = TiledDecoding

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._keeps = weight_bytes(model) <= MAX_KEPT_BYTES
        self._packed: dict[str, Any] = {}

    @classmethod
    def why_unavailable(cls, model: Any) -> str:
        library = kernels()
        why = library if isinstance(library, str) else super().why_unavailable(model)
        if why:
            return why
        decoder = model.get_decoder()
        matrices = [parameter for parameter in decoder.parameters() if parameter.ndim > 1]
        if any(matrix.dtype != torch.bfloat16 for matrix in matrices):
            return "the model computes in float32"
        if weight_bytes(model) > MAX_PACKED_BYTES:
            return f"its weights are more than {MAX_PACKED_BYTES / 2**30:.0f} GiB"
        widths = {matrix.shape[1] for matrix in matrices} | {layer.self_attn.head_dim for layer in decoder.layers}
        panel = constant("panel_width")
        return f"a width is not a multiple of {panel}" if any(width % panel for width in widths) else ""

    def layers(self, rows: int | None) -> Layers:
        if rows is None and not self._keeps:
            return super().layers(None)

        def native() -> Layers:
            fused = fuse(self.model.get_decoder(), None)
            scratch = Scratch(next(iter(fused.values())))
            return {module: NativeLayer(layer, scratch) for module, layer in fused.items()}

        return cast(Layers, self._once("layers", native))

    def head(self, forbidden_ids: Sequence[int] = (), rows: int | None = None) -> InferenceHead:
        if rows is None and not self._keeps:
            return super().head(forbidden_ids)
        head = head_of(self.model, forbidden_ids)
        return NativeHead(head, self._once("head", lambda: pack(head.weight)))

    def weights_changed(self) -> None:
        self._packed.clear()

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what ``make`` makes of the weights; kept until they change, if the model is small enough."""
        made = self._packed[name] if name in self._packed else make()
        if self._keeps:
            self._packed[name] = made
        return made


def _buffer(rows: int, width: int) -> Tensor:
    """Return memory for ``rows`` rows of a matrix that tiles are read from; its padding may contain anything."""
    panel = constant("panel_width")
    return torch.empty(_padded(rows) + panel, width + constant("row_padding"), dtype=torch.bfloat16)


def _padded(width: Any) -> Any:
    """Return a number or integer tensor, rounded up to multiples of the panel width."""
    panel = constant("panel_width")
    return (width + panel - 1) // panel * panel

"""The backend on the matrix units of x86: ``amx.cpp``, compiled on first use, called through ctypes.

A decode step multiplies few rows by every weight once, so it is bound by how fast weights arrive and by everything
between the products; in scoring, too, half of the time lies there.  Here a decoder layer is one call, and so is the
draw or the score of a token.  Needs Linux, a processor with AMX and g++; elsewhere :func:`kernels` returns the reason.

Shape legend: R rows, G prompts, P prompt positions, H key-value heads, D head size, A scored tokens.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from forethought.engine.backends import amx_library as structures
from forethought.engine.backends.amx_library import addresses, call, kernels
from forethought.engine.backends.base import InferenceHead
from forethought.engine.backends.onednn import LARGEST, FusedLayer, OneDNNBackend, fuse, weight_bytes
from forethought.engine.backends.plain import Layers
from forethought.engine.branches import Packed
from forethought.engine.decoding import Decoding
from forethought.engine.head import Head, head_of

KEPT = 2**30
"""Bytes of weights above which a packed copy is not kept for the next call, nor made for anything but decoding."""

PANEL, PAD, PIECE = 32, 32, 512
"""As in ``amx.cpp``: widths are multiples of the first, rows of a buffer are longer than their width by the second,
and long rows pass through in pieces of the third."""


def layers(decoder: Any) -> dict[nn.Module, NativeLayer]:
    """Return a native forward for every layer of ``decoder``, on packed copies of its weights."""
    plain = fuse(decoder, None)
    scratch = Scratch(next(iter(plain.values())))
    return {layer: NativeLayer(forward, scratch) for layer, forward in plain.items()}


def pack(*weights: Tensor) -> Tensor:
    """Return ``weights (..., N, K)`` in panels, flat but for their leading dimensions.

    Of two weights, halves of panels alternate.  Widths are padded with zeros to multiples of 32.
    """
    lead, (N, K) = weights[0].shape[:-2], weights[0].shape[-2:]
    each = _padded(N) * _padded(K)
    packed = torch.empty(*lead, each * len(weights), dtype=torch.bfloat16)
    for part, weight in enumerate(weights):
        flat, out = weight.detach().contiguous().view(-1, N, K), packed.view(-1, each * len(weights))
        for one, to in zip(flat, out, strict=True):
            pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (one, to))
            call("pack", *pointers, ctypes.c_int64(N), ctypes.c_int64(K), len(weights), part)
    return packed


class TiledDecoding(Decoding):
    """The state of decoding with a prompt's keys and values in panels: ``(G, H, P * D)`` each, P padded."""

    def __init__(self, prompts: list[tuple[Tensor, Tensor]], lengths: Tensor, branches: int, capacity: int) -> None:
        super().__init__(prompts, lengths, branches, capacity)
        self.prompt_width = _padded(prompts[0][0].shape[2])
        self.prompts = [(pack(k), pack(v.transpose(2, 3))) for k, v in prompts]
        self._count()

    def keep(self, rows: Tensor) -> None:
        """See :meth:`Decoding.keep`."""
        super().keep(rows)
        self._count()

    def branches_of(self, layer: int, window: int | None) -> structures.Branches:
        """Return what a layer's attention is to know."""
        (prompt_keys, prompt_values), (keys, values) = self.prompts[layer], self.branches[layer]
        return structures.Branches(
            **addresses(prompt_keys=prompt_keys, prompt_values=prompt_values, keys=keys, values=values),
            **addresses(prompt_lengths=self.lengths, first_rows=self.first_rows),
            prompts=len(self.lengths),
            prompt_width=self.prompt_width,
            capacity=keys.shape[2],
            length=self.length,
            window=window or 0,
        )

    def _count(self) -> None:
        counts = torch.bincount(self.group, minlength=len(self.prompt_lengths))
        self.first_rows = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
        self.lengths = self.prompt_lengths.int()


class Scratch:
    """What lies between the parts of a layer, shared by all layers."""

    def __init__(self, layer: FusedLayer) -> None:
        self._layer = layer
        self._parts: dict[str, Tensor] = {}
        self._sizes = 0, 0
        self._paths: tuple[Packed, structures.Paths, dict[str, Tensor]] | None = None

    def of(self, rows: int, at_once: int) -> dict[str, Tensor]:
        """Return the parts for ``rows`` rows, of which ``at_once`` pass through products together."""
        if rows > self._sizes[0] or at_once > self._sizes[1]:
            layer = self._layer
            self._parts = {
                "heads": _buffer(rows, (layer.heads + 2 * layer.kv_heads) * layer.width),
                "attended": _buffer(rows, layer.heads * layer.width),
                "normed": _buffer(at_once, layer.hidden),
                "inner": _buffer(at_once, layer.inner),
                "added": torch.empty(_padded(at_once), layer.hidden),
            }
            self._sizes = rows, at_once
        return self._parts

    def paths_of(self, packed: Packed) -> structures.Paths:
        """Return where the sequences of ``packed`` lie, and room for their keys and values."""
        if self._paths is None or self._paths[0] is not packed:
            first, length, parent = packed.paths.unbind(1)
            padded = (length + PANEL - 1) // PANEL * PANEL
            place = (padded.cumsum(0) - padded).int()
            size = int(padded.sum()) * self._layer.kv_heads * self._layer.width
            keys, values = torch.empty(2, size, dtype=torch.bfloat16)
            columns = {"first": first.contiguous(), "length": length.contiguous(), "parent": parent.contiguous()}
            tensors = {**columns, "place": place, "keys": keys, "values": values}
            self._paths = packed, structures.Paths(**addresses(**tensors), count=len(first)), tensors
        return self._paths[1]


class NativeLayer:
    """The forward of one decoder layer on ``(1, R, hidden)``; its input becomes its output."""

    def __init__(self, layer: FusedLayer, scratch: Scratch) -> None:
        self.plain, self.scratch = layer, scratch
        q_norm, k_norm = layer.head_norms or (None, None)
        biases = [bias for _, bias in layer.qkv if bias is not None]
        self._held = {
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
                **addresses(**self._held),
                **{name: getattr(layer, name) for name in ("hidden", "inner", "heads", "kv_heads", "width", "scaling")},
                gelu=layer.activation[0] == "gelu",
                eps=layer.before_attention.eps,
            )
        )

    def __call__(
        self, hidden_states: Tensor, *, position_embeddings: tuple[Tensor, Tensor], branching: Any, **_: Any
    ) -> Tensor:
        """Return the layer's output ``(1, R, hidden)``, in the place of ``hidden_states``."""
        layer, hidden_states = self.plain, hidden_states.contiguous()
        count, cos, sin = hidden_states.shape[1], *(turn.contiguous() for turn in position_embeddings)
        scratch = self.scratch.of(count, count if isinstance(branching, TiledDecoding) else min(count, PIECE))
        rows = structures.Rows(**addresses(**scratch, x=hidden_states, cos=cos, sin=sin), count=count)
        if isinstance(branching, TiledDecoding):
            branches = branching.branches_of(layer.index, layer.window)
            call("decode", self._layer, ctypes.byref(rows), ctypes.byref(branches))
            return hidden_states
        packed: Packed = branching.packed
        paths = self.scratch.paths_of(packed)
        paths.window = layer.window or 0
        call("forward", self._layer, ctypes.byref(rows), ctypes.byref(paths))
        if packed.captured is not None:
            heads = scratch["heads"][:count, :-PAD].unflatten(1, (-1, layer.width))
            _, k, v = heads.split([layer.heads, layer.kv_heads, layer.kv_heads], 1)
            packed.captured.append((k.contiguous(), v.contiguous()))
        return hidden_states


class NativeHead:
    """Tokens from hidden states, drawn or scored, panel by panel of the vocabulary; logits are never stored."""

    def __init__(self, head: Head, packed: Tensor) -> None:
        """``packed``: the head's weight in panels."""
        self.vocabulary, self.width = head.weight.shape
        self.softcap, self.packed = head.softcap, packed
        hidden = torch.arange(_padded(self.vocabulary)) >= self.vocabulary
        if head.forbidden is not None:
            hidden[: self.vocabulary] |= head.forbidden
        self.hidden_ids = (hidden.view(-1, PANEL) << torch.arange(PANEL)).sum(1).to(torch.uint32)

    def greedy(self, hidden_RH: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`forethought.engine.head.Head.greedy`."""
        return self._draw(hidden_RH, None, 1.0)

    def draw(self, hidden_RH: Tensor, uniforms_R: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """See :meth:`forethought.engine.head.Head.draw`."""
        return self._draw(hidden_RH, uniforms_R.double(), temperature)

    def logprobs(self, hidden_AH: Tensor, targets_A: Tensor) -> Tensor:
        """See :meth:`forethought.engine.head.Head.logprobs`; without gradients."""
        scratch = torch.empty(2, torch.get_num_threads(), len(hidden_AH))
        return self._run("score", hidden_AH, targets_A, scratch, scale=1.0)

    def _draw(self, hidden: Tensor, uniforms: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
        ids = torch.empty(len(hidden), dtype=torch.long)
        scratch = torch.empty(2, len(hidden), _padded(self.vocabulary) // PANEL)
        return ids, self._run("draw", hidden, ids, scratch, scale=1 / temperature, **addresses(uniforms=uniforms))

    def _run(self, name: str, hidden: Tensor, ids: Tensor, scratch: Tensor, **fields: Any) -> Tensor:
        rows, logprobs = _buffer(len(hidden), self.width), torch.empty(len(hidden))
        rows[: len(hidden), : self.width] = hidden
        head = structures.Head(
            **addresses(weight=self.packed, hidden=rows, hidden_ids=self.hidden_ids),
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
    """A :class:`~forethought.engine.backends.Backend` on the kernels of ``amx.cpp``."""

    name: ClassVar[str] = "amx"
    state: ClassVar[type[Decoding]] = TiledDecoding

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._keeps = weight_bytes(model) <= KEPT
        self._packed: dict[str, Any] = {}

    @classmethod
    def missing(cls, model: Any) -> str:
        """See :meth:`TorchBackend.missing`."""
        library = kernels()
        return library if isinstance(library, str) else super().missing(model) or _unfit(model)

    def layers(self, rows: int | None) -> Layers:
        """See :meth:`TorchBackend.layers`."""
        if rows is None and not self._keeps:
            return super().layers(None)
        made: Layers = self._once("layers", lambda: layers(self.model.get_decoder()))
        return made

    def head(self, forbidden_ids: Sequence[int] = (), rows: int | None = None) -> InferenceHead:
        """See :meth:`Backend.head`."""
        if rows is None and not self._keeps:
            return super().head(forbidden_ids)
        head = head_of(self.model, forbidden_ids)
        return NativeHead(head, self._once("head", lambda: pack(head.weight)))

    def weights_changed(self) -> None:
        """See :meth:`Backend.weights_changed`."""
        self._packed.clear()

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what ``make`` makes of the weights, kept until they change if it is small enough."""
        made = self._packed[name] if name in self._packed else make()
        if self._keeps:
            self._packed[name] = made
        return made


def _unfit(model: Any) -> str:
    """Return what about a model, whose layers are of a known shape, does not suit the kernels, or nothing."""
    decoder = model.get_decoder()
    matrices = [parameter for parameter in decoder.parameters() if parameter.ndim > 1]
    if any(matrix.dtype != torch.bfloat16 for matrix in matrices):
        return "the model computes in float32"
    if weight_bytes(model) > LARGEST:
        return f"its weights are more than {LARGEST / 2**30:.0f} GiB"
    widths = {matrix.shape[1] for matrix in matrices} | {layer.self_attn.head_dim for layer in decoder.layers}
    return f"a width is no multiple of {PANEL}" if any(width % PANEL for width in widths) else ""


def _buffer(rows: int, width: int) -> Tensor:
    """Return memory for ``rows`` rows of a matrix that tiles are read from; its padding may hold anything."""
    return torch.empty(_padded(rows) + PANEL, width + PAD, dtype=torch.bfloat16)


def _padded(width: int) -> int:
    return -(-width // PANEL) * PANEL

"""The backend on the matrix units of x86: ``amx.cpp``, compiled on first use, called through ctypes.

A decode step multiplies few rows by every weight once, so it is bound by how fast weights arrive and by everything
between the products; in scoring, too, half of the time lies there.  Here a decoder layer is one call, and so is the
draw or the score of a token.  Needs Linux, a processor with AMX and g++; elsewhere :func:`kernels` returns the reason.

Shape legend: R rows, G prompts, P prompt positions, H key-value heads, D head size, A scored tokens.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from forethought.engine.backends.base import InferenceHead
from forethought.engine.backends.onednn import LARGEST, FusedLayer, OneDNNBackend, fuse, weight_bytes
from forethought.engine.backends.plain import Layers
from forethought.engine.branches import Packed
from forethought.engine.decoding import Decoding
from forethought.engine.head import Head, head_of
from forethought.files import cache_root
from forethought.machine import machine

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = (
    *("-O3", "-march=x86-64-v4", "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mprefer-vector-width=512"),
    *("-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC"),
)
NEEDED = frozenset({"amx_tile", "amx_bf16", "avx512_bf16", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
"""What the processor must have for them."""

KEPT = 2**30
"""Bytes of weights above which a packed copy is not kept for the next call, nor made for anything but decoding."""

PANEL, PAD, PIECE = 32, 32, 512
"""As in ``amx.cpp``: widths are multiples of the first, rows of a buffer are longer than their width by the second,
and long rows pass through in pieces of the third."""


@functools.cache
def kernels() -> ctypes.CDLL | str:
    """Return the compiled kernels, or why this machine has none."""
    if machine().system != "Linux" or not machine().features >= NEEDED:
        return "this processor has no AMX" if machine().system == "Linux" else "it needs Linux"
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        return "there is no C++ compiler (g++)"
    try:
        library = ctypes.CDLL(str(_built(compiler)))
    except (OSError, _UntrustedError) as error:
        return f"its kernels cannot be kept or loaded: {error}"
    except subprocess.CalledProcessError as error:
        lines = error.stderr.splitlines() or [str(error)]
        return f"{compiler} does not compile its kernels: {next((line for line in lines if 'error' in line), lines[0])}"
    for name in ("pack", "decode", "forward", "draw", "score"):
        getattr(library, name).restype = None
    if not _same_structures(library):
        return "its kernels were compiled with other structures than this version has"
    return library if library.prepare() == 0 else "the system does not grant the matrix units"


class _UntrustedError(Exception):
    """A folder or file that others may write to."""


def _built(compiler: str) -> Path:
    """Return the shared library, compiled if this source, compiler and processor have not been met before.

    Raises:
        _UntrustedError: if the library or its folder is not this user's alone: it would run whatever is in it.
    """
    version = _run(compiler, "--version")
    parts = (version, *FLAGS, machine().processor, *sorted(machine().features))
    name = hashlib.sha256(SOURCE.read_bytes() + " ".join(parts).encode()).hexdigest()[:12]
    library = cache_root() / "kernels" / f"amx-{name}.so"
    library.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _demand_ours(library.parent)
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:  # two processes may compile at once
            fresh = Path(folder, library.name)
            _run(compiler, *FLAGS, "-o", str(fresh), str(SOURCE))
            fresh.chmod(0o700)
            fresh.replace(library)
    _demand_ours(library)
    return library


def _demand_ours(path: Path) -> None:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _UntrustedError(
            f"{path} must be owned by you and writable by nobody else (chmod go-w), or be removed to be made again"
        )


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _same_structures(library: ctypes.CDLL) -> bool:
    """Return whether the structures of ``amx.cpp`` have the sizes of those below."""
    shared = (_Layer, _Rows, _Branches, _Paths, _Head)
    sizes = (ctypes.c_int32 * len(shared))()
    library.structure_sizes(sizes)
    return list(sizes) == [ctypes.sizeof(kind) for kind in shared]


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
            _call("pack", *pointers, ctypes.c_int64(N), ctypes.c_int64(K), len(weights), part)
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

    def branches_of(self, layer: int, window: int | None) -> _Branches:
        """Return what a layer's attention is to know."""
        (prompt_keys, prompt_values), (keys, values) = self.prompts[layer], self.branches[layer]
        return _Branches(
            **_addresses(prompt_keys=prompt_keys, prompt_values=prompt_values, keys=keys, values=values),
            **_addresses(prompt_lengths=self.lengths, first_rows=self.first_rows),
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
        self._paths: tuple[Packed, _Paths, dict[str, Tensor]] | None = None

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

    def paths_of(self, packed: Packed) -> _Paths:
        """Return where the sequences of ``packed`` lie, and room for their keys and values."""
        if self._paths is None or self._paths[0] is not packed:
            first, length, parent = packed.paths.unbind(1)
            padded = (length + PANEL - 1) // PANEL * PANEL
            place = (padded.cumsum(0) - padded).int()
            size = int(padded.sum()) * self._layer.kv_heads * self._layer.width
            keys, values = torch.empty(2, size, dtype=torch.bfloat16)
            columns = {"first": first.contiguous(), "length": length.contiguous(), "parent": parent.contiguous()}
            tensors = {**columns, "place": place, "keys": keys, "values": values}
            self._paths = packed, _Paths(**_addresses(**tensors), count=len(first)), tensors
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
            _Layer(
                **_addresses(**self._held),
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
        rows = _Rows(**_addresses(**scratch, x=hidden_states, cos=cos, sin=sin), count=count)
        if isinstance(branching, TiledDecoding):
            branches = branching.branches_of(layer.index, layer.window)
            _call("decode", self._layer, ctypes.byref(rows), ctypes.byref(branches))
            return hidden_states
        packed: Packed = branching.packed
        paths = self.scratch.paths_of(packed)
        paths.window = layer.window or 0
        _call("forward", self._layer, ctypes.byref(rows), ctypes.byref(paths))
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
        return ids, self._run("draw", hidden, ids, scratch, scale=1 / temperature, **_addresses(uniforms=uniforms))

    def _run(self, name: str, hidden: Tensor, ids: Tensor, scratch: Tensor, **fields: Any) -> Tensor:
        rows, logprobs = _buffer(len(hidden), self.width), torch.empty(len(hidden))
        rows[: len(hidden), : self.width] = hidden
        head = _Head(
            **_addresses(weight=self.packed, hidden=rows, hidden_ids=self.hidden_ids),
            **_addresses(ids=ids, logprobs=logprobs, peaks=scratch[0], sums=scratch[1]),
            rows=len(hidden),
            vocabulary=self.vocabulary,
            width=self.width,
            softcap=self.softcap or 0.0,
            **fields,
        )
        _call(name, ctypes.byref(head))
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


def _addresses(**tensors: Tensor | None) -> dict[str, Any]:
    """Return where each lies, for a structure's fields; the caller holds them as long as the structure is used."""
    return {name: None if tensor is None else tensor.data_ptr() for name, tensor in tensors.items()}


def _call(name: str, *arguments: Any) -> None:
    library = kernels()
    assert not isinstance(library, str), library
    getattr(library, name)(*arguments, torch.get_num_threads())


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class _Layer(ctypes.Structure):
    _fields_ = [
        *_fields(ctypes.c_void_p, "qkv out gated down qkv_bias out_bias"),
        *_fields(ctypes.c_void_p, "before_attention after_attention before_mlp after_mlp q_norm k_norm"),
        *_fields(ctypes.c_int32, "hidden inner heads kv_heads width gelu"),
        *_fields(ctypes.c_float, "scaling eps"),
    ]


class _Rows(ctypes.Structure):
    _fields_ = [
        *_fields(ctypes.c_void_p, "x cos sin heads attended normed inner added"),
        *_fields(ctypes.c_int32, "count"),
    ]


class _Branches(ctypes.Structure):
    _fields_ = [
        *_fields(ctypes.c_void_p, "prompt_keys prompt_values keys values prompt_lengths first_rows"),
        *_fields(ctypes.c_int32, "prompts prompt_width capacity length window"),
    ]


class _Paths(ctypes.Structure):
    _fields_ = [
        *_fields(ctypes.c_void_p, "first length parent place keys values"),
        *_fields(ctypes.c_int32, "count window"),
    ]


class _Head(ctypes.Structure):
    _fields_ = [
        *_fields(ctypes.c_void_p, "weight hidden hidden_ids uniforms ids logprobs peaks sums"),
        *_fields(ctypes.c_int32, "rows vocabulary width"),
        *_fields(ctypes.c_float, "softcap scale"),
    ]

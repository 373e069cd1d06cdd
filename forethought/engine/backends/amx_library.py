"""The compiled kernels of ``amx.cpp``: built for this source, compiler and processor, and called through ctypes."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from forethought.machine import machine
from forethought.run.files import cache_root

SOURCE = Path(__file__).with_name("amx.cpp")
FLAGS = (
    *("-O3", "-march=x86-64-v4", "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mprefer-vector-width=512"),
    *("-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC"),
)
NEEDED = frozenset({"amx_tile", "amx_bf16", "avx512_bf16", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})


@functools.cache
def kernels() -> ctypes.CDLL | str:
    """Return the compiled kernels, or why this machine has none."""
    if machine().system != "Linux":
        return "it needs Linux"
    if not machine().features >= NEEDED:
        return "this processor has no AMX"
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        return "there is no C++ compiler (g++)"
    try:
        library = ctypes.CDLL(str(_built(compiler)))
    except OSError as error:
        return f"its kernels cannot be stored or loaded: {error}"
    except subprocess.CalledProcessError as error:
        lines = error.stderr.splitlines() or [str(error)]
        return f"{compiler} does not compile its kernels: {next((line for line in lines if 'error' in line), lines[0])}"
    for name in ("pack", "decode", "forward", "draw", "score"):
        getattr(library, name).restype = None
    for kind in (Layer, RowBuffers, BranchCache, Sequences, Head):
        # Call by reference: a structure of another size would have the kernels read and write foreign memory.
        compiled, ours = _number(library, f"sizeof_{kind.__name__}"), ctypes.sizeof(kind)
        if compiled != ours:
            return f"{kind.__name__} has {compiled} bytes in {SOURCE.name} and {ours} in {Path(__file__).name}"
    return library if library.prepare() == 0 else "the operating system does not permit AMX"


def constant(name: str) -> int:
    """Return a number that ``amx.cpp`` exports: ``panel_width``, ``row_padding`` or ``rows_per_block``."""
    return _number(kernels(), name)


def call(name: str, *arguments: Any) -> None:
    """Call one of the kernels, on as many threads as torch has."""
    getattr(kernels(), name)(*arguments, torch.get_num_threads())


def addresses(**tensors: Tensor | None) -> dict[str, Any]:
    """Return the tensors' addresses, for a structure's fields; the caller must keep the tensors alive."""
    return {name: None if tensor is None else tensor.data_ptr() for name, tensor in tensors.items()}


def _number(library: Any, name: str) -> int:
    return ctypes.c_int32.in_dll(library, name).value


def _built(compiler: str) -> Path:
    """Return the shared library; it is compiled on first use with this source, compiler and processor."""
    version = _run(compiler, "--version")
    parts = (version, *FLAGS, machine().processor, *sorted(machine().features))
    name = hashlib.sha256(SOURCE.read_bytes() + " ".join(parts).encode()).hexdigest()[:12]
    library = cache_root() / "kernels" / f"amx-{name}.so"
    library.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _require_private(library.parent)
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:  # two processes may compile at once
            fresh = Path(folder, library.name)
            _run(compiler, *FLAGS, "-o", str(fresh), str(SOURCE))
            fresh.chmod(0o700)
            fresh.replace(library)
    _require_private(library)
    return library


def _require_private(path: Path) -> None:
    """Refuse a path that others can write to: loading the library would run whatever is in it."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(
            f"{path} must be owned by you and writable by nobody else: run chmod go-w on it, or delete it"
        )


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _structure(name: str, pointers: str, integers: str, floats: str = "") -> type[ctypes.Structure]:
    """Return a structure of amx.cpp, where its fields are explained: pointers, then 32-bit integers, then floats."""
    kinds = ((pointers, ctypes.c_void_p), (integers, ctypes.c_int32), (floats, ctypes.c_float))
    fields = [(field, kind) for fields, kind in kinds for field in fields.split()]
    return type(name, (ctypes.Structure,), {"_fields_": fields})


Layer = _structure(
    "Layer",
    "qkv out gated down qkv_bias out_bias before_attention after_attention before_mlp after_mlp q_norm k_norm",
    "hidden inner heads kv_heads width gelu",
    "scaling eps",
)
RowBuffers = _structure("RowBuffers", "x cos sin heads attended normed inner added", "count")
BranchCache = _structure(
    "BranchCache",
    "prompt_keys prompt_values keys values prompt_lengths first_rows",
    "prompts prompt_width capacity length window",
)
Sequences = _structure("Sequences", "first length parent padded_first keys values", "count window")
Head = _structure(
    "Head", "weight hidden masked_ids uniforms ids logprobs peaks sums", "rows vocabulary width", "softcap scale"
)

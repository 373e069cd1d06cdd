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

from forethought.files import cache_root
from forethought.machine import machine

SOURCE = Path(__file__).with_name("amx.cpp")
FLAGS = (
    *("-O3", "-march=x86-64-v4", "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mprefer-vector-width=512"),
    *("-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC"),
)
NEEDED = frozenset({"amx_tile", "amx_bf16", "avx512_bf16", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
"""What the processor must have for them."""


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
    shared = (Layer, Rows, Branches, Paths, Head)
    sizes = (ctypes.c_int32 * len(shared))()
    library.structure_sizes(sizes)
    return list(sizes) == [ctypes.sizeof(kind) for kind in shared]


def addresses(**tensors: Tensor | None) -> dict[str, Any]:
    """Return where each lies, for a structure's fields; the caller holds them as long as the structure is used."""
    return {name: None if tensor is None else tensor.data_ptr() for name, tensor in tensors.items()}


def call(name: str, *arguments: Any) -> None:
    """Call one of the kernels, on as many threads as torch has."""
    library = kernels()
    assert not isinstance(library, str), library
    getattr(library, name)(*arguments, torch.get_num_threads())


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class Layer(ctypes.Structure):
    """See ``Layer`` in ``amx.cpp``; so for those below."""

    _fields_ = [
        *_fields(ctypes.c_void_p, "qkv out gated down qkv_bias out_bias"),
        *_fields(ctypes.c_void_p, "before_attention after_attention before_mlp after_mlp q_norm k_norm"),
        *_fields(ctypes.c_int32, "hidden inner heads kv_heads width gelu"),
        *_fields(ctypes.c_float, "scaling eps"),
    ]


class Rows(ctypes.Structure):
    _fields_ = [
        *_fields(ctypes.c_void_p, "x cos sin heads attended normed inner added"),
        *_fields(ctypes.c_int32, "count"),
    ]


class Branches(ctypes.Structure):
    _fields_ = [
        *_fields(ctypes.c_void_p, "prompt_keys prompt_values keys values prompt_lengths first_rows"),
        *_fields(ctypes.c_int32, "prompts prompt_width capacity length window"),
    ]


class Paths(ctypes.Structure):
    _fields_ = [
        *_fields(ctypes.c_void_p, "first length parent place keys values"),
        *_fields(ctypes.c_int32, "count window"),
    ]


class Head(ctypes.Structure):
    _fields_ = [
        *_fields(ctypes.c_void_p, "weight hidden hidden_ids uniforms ids logprobs peaks sums"),
        *_fields(ctypes.c_int32, "rows vocabulary width"),
        *_fields(ctypes.c_float, "softcap scale"),
    ]

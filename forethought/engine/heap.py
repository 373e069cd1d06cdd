"""Memory that was freed stays with the process: the next tensor of its size need not be given its pages again."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of mallopt(3)."""
_KEPT = 2**31 - 1
"""Bytes that may lie free at the top of the heap, the most that the parameter takes."""


def keep_freed_memory() -> bool:
    """Have glibc keep up to 2 GiB of freed memory for this process; return whether this is glibc.

    By default every large tensor is mapped anew and its pages are zeroed one by one when they are first written: a
    tenth to a third of a training step on the CPU.
    """
    mallopt = _glibc("mallopt")
    return mallopt is not None and all(
        mallopt(name, value) for name, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _KEPT))
    )


def release() -> None:
    """Give what lies free back to the machine, between stages that need different amounts; nothing if not glibc."""
    gc.collect()
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _glibc(name: str) -> Any | None:
    """Return a function of the C library; ``None`` if it is another one (macOS, musl) or has no handle (Windows)."""
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):
        return None

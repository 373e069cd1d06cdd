"""Memory that was freed stays with the process, so that the next tensor of its size gets the same pages.

By default glibc maps every large tensor anew, and its pages are zeroed one by one when they are first written: a tenth
to a third of a training step on the CPU.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Any

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of mallopt(3)


def keep_freed_memory() -> bool:
    """Have glibc keep up to 2 GiB of freed memory for this process; return whether this is glibc."""
    mallopt = _glibc("mallopt")
    # mallopt takes a C int, so 2 GiB less a byte is the most that can be kept.
    return mallopt is not None and bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def release() -> None:
    """Return free memory to the system, between stages that need different amounts; does nothing without glibc."""
    # Models hold cycles: until the collector has run, their tensors are not free and there is nothing to trim.
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

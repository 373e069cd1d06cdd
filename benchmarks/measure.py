"""What all benchmarks share: options, paired timing, checks of equality, memory of one side alone."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from forethought.models import resolve_dtype

ROOT = Path(__file__).parents[1]


class CheckError(AssertionError):
    """The two sides do not compute the same: their times must not be compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a run of the benchmarks was asked for."""

    quick: bool = False
    """Tiny sizes, and tiny random models unless others are named: a test of the benchmarks, no measurement."""
    repeats: int = 5
    """Timed pairs of each comparison."""
    models: tuple[str, ...] = ()
    """Models instead of the benchmark's own."""
    opponents: tuple[str, ...] = ()
    """Words, one of which an opponent's name must hold; none: all of them."""
    device: str = "cpu"
    """Where it runs."""
    vllm_python: str | None = None
    """The interpreter that has vLLM."""

    @property
    def tiny(self) -> bool:
        """Whether the models are tiny and random, and so too rough for bfloat16."""
        return self.quick and all(name.startswith("tiny-") for name in self.models)

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype: what the device multiplies in."""
        return torch.float32 if self.tiny else resolve_dtype("auto", torch.device(self.device))

    def wants(self, opponent: str) -> bool:
        """Return whether ``opponent`` was asked for."""
        return not self.opponents or any(word.lower() in opponent.lower() for word in self.opponents)

    def models_or(self, *defaults: str) -> tuple[str, ...]:
        """Return the models to measure."""
        return self.models or (("tiny-llama",) if self.quick else defaults)

    def at_most(self, repeats: int) -> Options:
        """Return the same with fewer timed pairs, for what takes minutes."""
        return replace(self, repeats=min(self.repeats, repeats))


@dataclass(frozen=True, slots=True)
class Pairs:
    """Seconds of both sides, run in turn."""

    ours: tuple[float, ...]
    """Seconds of our runs."""
    peer: tuple[float, ...]
    """Seconds of the peer's, each right after ours."""

    @property
    def ratio(self) -> tuple[float, float, float]:
        """Median, smallest and largest of the paired ratios: how many times faster we are."""
        return spread([peer / ours for ours, peer in zip(self.ours, self.peer, strict=True)])


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return median, minimum and maximum."""
    return statistics.median(values), min(values), max(values)


def seconds(run: Callable[[], object]) -> float:
    """Return how long ``run`` takes, its work on a GPU included."""
    _synchronise()
    start = time.perf_counter()
    run()
    _synchronise()
    return time.perf_counter() - start


def interleave(ours: Callable[[], object], peer: Callable[[], object], options: Options) -> Pairs:
    """Warm both sides up, then time ours, peer, ours, peer, ...

    Whatever else the machine does then falls on both sides of a pair alike.
    """
    tidy()
    ours(), peer()
    pairs = [(seconds(ours), seconds(peer)) for _ in range(options.repeats)]
    return Pairs(*zip(*pairs, strict=True))


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def require(condition: bool, message: str) -> None:
    """Stop unless ``condition`` holds.

    Raises:
        CheckError: with ``message``.
    """
    if not condition:
        raise CheckError(message)


def relative_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return ``|found - expected| / |expected|`` over all tensors together (Euclidean norms)."""
    require(found.keys() == expected.keys(), f"different names: {sorted(found.keys() ^ expected.keys())[:5]}")
    apart = sum(float((found[name].float() - value.float()).square().sum()) for name, value in expected.items())
    whole = sum(float(value.float().square().sum()) for value in expected.values())
    return float((apart / whole) ** 0.5)


# ---- memory -----------------------------------------------------------------------------------------------------


def tidy() -> None:
    """Give freed memory back to the system, so that a resident size says what is in use."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def resident() -> int:
    """Return the bytes in use: resident size of this process, or what torch has allocated on the GPU."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    return _status("VmRSS")


def peak_resident() -> int:
    """Return the largest :func:`resident` since :func:`reset_peak`."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM")


def reset_peak() -> None:
    """Begin a new peak."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: memory is measured on Linux only")


def measure_memory(step: Callable[[], object], steps: int) -> dict[str, Any]:
    """Return bytes: in use before the steps, their peak, and in use after each of them."""
    step()  # optimiser states and other lasting allocations are made
    tidy()
    reset_peak()
    before = resident()
    after = []
    for _ in range(steps):
        step()
        after.append(resident())
    return {"before": before, "peak": peak_resident(), "after": after}


def in_process(job: Sequence[str], options: Options, steps: int = 2) -> dict[str, Any]:
    """Run one side alone, in a process of its own, and return its :func:`measure_memory`.

    In one process the peak of one side would hide the other's.  ``job`` names a builder of
    :data:`benchmarks.alone.BUILDERS` and its arguments.
    """
    flags = ["--quick"] if options.quick else []
    command = [sys.executable, "-m", "benchmarks.alone", *flags, "--device", options.device, "--steps", str(steps)]
    done = subprocess.run(
        [*command, *job], cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(job)}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare_memory(ours: Sequence[str], peer: Sequence[str], options: Options) -> dict[str, float]:
    """Return both sides' peaks in bytes: ``*_step`` above what was in use before, ``*_total`` in all."""
    found: dict[str, float] = {}
    if options.quick:  # a process takes seconds to start, and megabytes would say nothing
        return found
    tidy()
    for side, job in (("ours", ours), ("peer", peer)):
        memory = in_process(job, options)
        found[f"{side}_step"] = memory["peak"] - memory["before"]
        found[f"{side}_total"] = memory["peak"]
    return found

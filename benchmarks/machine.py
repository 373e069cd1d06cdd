"""What the machine can do, measured in the same run: matrix products at a model's shapes, and memory bandwidth."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import seconds
from forethought.engine import Group

BANDWIDTH_BYTES = 2**30
"""Larger than any cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a model costs."""

    linear: int
    """Weights of the linear layers that every token passes."""
    head: int
    """Weights of the projection to the vocabulary."""
    attention: int
    """Multiply-adds per token and token that it sees: layers x heads x head size x 2."""
    weights: int
    """All weights, tied ones once."""

    def flops(self, tokens: int, scored: int, seen: int) -> float:
        """Return the operations of one forward: ``seen`` is the sum over tokens of how many tokens each sees."""
        return 2.0 * (tokens * self.linear + scored * self.head + seen * self.attention)


def shape_of(model: Any) -> Shape:
    """Return the costs of a transformers causal LM."""
    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    linear = [m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Shape(
        linear=sum(linear),
        head=head.weight.numel(),
        attention=2 * config.num_hidden_layers * config.num_attention_heads * size,
        weights=sum(p.numel() for p in model.parameters()),
    )


def seen_by(groups: Sequence[Group]) -> int:
    """Return the sum over the tokens of ``groups`` of how many tokens each sees, itself included."""
    total = 0
    for group in groups:
        P = len(group.prefix)
        total += P * (P + 1) // 2
        total += sum(len(branch) * P + len(branch) * (len(branch) + 1) // 2 for branch in group.branches)
    return total


def matrix_rate(model: Any, rows: int) -> float:
    """Return operations per second of the products ``(rows, in) x (in, out)`` of the model's linear layers and head.

    Each shape counts as often as the model has it.  Measured in the model's dtype, on its device.
    """
    sizes = Counter(tuple(m.weight.shape) for m in model.modules() if isinstance(m, torch.nn.Linear))
    parameter = next(model.parameters())
    spent = work = 0.0
    for (wide, narrow), count in sizes.items():
        spent += count * _product_seconds(rows, narrow, wide, str(parameter.device), parameter.dtype)
        work += count * 2.0 * rows * wide * narrow
    return work / spent


@functools.cache
def _product_seconds(rows: int, narrow: int, wide: int, device: str, dtype: torch.dtype) -> float:
    a = torch.randn(rows, narrow, device=device, dtype=dtype)
    b = torch.randn(wide, narrow, device=device, dtype=dtype)
    return _fastest(lambda: torch.nn.functional.linear(a, b))


@functools.cache
def bandwidth(device: str) -> float:
    """Return bytes per second of a copy (reads and writes both count) of :data:`BANDWIDTH_BYTES`."""
    source = torch.ones(BANDWIDTH_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return 2 * BANDWIDTH_BYTES / _fastest(lambda: target.copy_(source))


def _fastest(run: Callable[[], object], budget: float = 0.3) -> float:
    run()
    once = seconds(run)
    loops = max(1, min(100, int(0.02 / max(once, 1e-6))))

    def many() -> None:
        for _ in range(loops):
            run()

    tries = max(3, min(10, int(budget / max(once * loops, 1e-6))))
    return min(seconds(many) for _ in range(tries)) / loops


def decoding_limit(model: Any, *, prompts: int, length: int, rows: int, steps: int) -> float:
    """Return the seconds below which this machine cannot prefill and decode: the slower of arithmetic and memory."""
    shape, parameter = shape_of(model), next(model.parameters())
    prefill = shape.flops(prompts * length, prompts, prompts * length * (length + 1) // 2)
    decode = shape.flops(rows, rows, rows * (length + steps // 2))
    reading = parameter.element_size() * shape.weights / bandwidth(str(parameter.device))
    per_step = max(decode / matrix_rate(model, rows), reading)
    return prefill / matrix_rate(model, prompts * length) + (steps - 1) * per_step


def forward_limit(model: Any, groups: Sequence[Group], scored: int | None = None) -> float:
    """Return the seconds of arithmetic in one forward of ``groups``, each prefix once; ``scored``: rows of the head."""
    tokens = sum(group.tokens for group in groups)
    if scored is None:
        scored = sum(len(branch) for group in groups for branch in group.branches)
    return shape_of(model).flops(tokens, scored, seen_by(groups)) / matrix_rate(model, tokens)


def update_limit(model: Any, groups: Sequence[Group]) -> float:
    """Return the seconds of forward and backward (three forwards' arithmetic) and of AdamW's reads and writes."""
    shape, device = shape_of(model), str(next(model.parameters()).device)
    # Weight, gradient and two moments are read in float32; weight and moments are written, and the copy in bf16.
    return 3 * forward_limit(model, groups) + 30 * shape.weights / bandwidth(device)


def describe(device: str) -> str:
    """Return one line about the machine."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    name = names[0].partition(":")[2].strip() if names else platform.processor()
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    special = [label for flag, label in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX-512 bf16")) if flag in flags]
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads" + "".join(f", {s}" for s in special)


def versions() -> dict[str, str]:
    """Return the versions that matter."""
    found = {}
    for package in ("torch", "transformers", "trl"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found

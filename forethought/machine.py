"""What this machine can compute with, and the dtype that follows: the only module that asks the processor."""

from __future__ import annotations

import functools
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BF16_PRODUCTS = frozenset({"amx_bf16", "avx512_bf16"})
"""Features of x86 processors that multiply in bfloat16; emulation is several times slower than float32."""

_HIDDEN_BY_ISA = {
    **dict.fromkeys(("SSE41", "AVX"), ("avx2", "avx512", "amx")),
    **dict.fromkeys(("AVX2", "AVX2_VNNI", "AVX2_VNNI_2"), ("avx512", "amx")),
    **dict.fromkeys(("AVX512_CORE", "AVX512_CORE_VNNI"), ("avx512_bf16", "amx")),
    **dict.fromkeys(("AVX512_CORE_BF16", "AVX512_CORE_FP16"), ("amx",)),
}
"""Features, by the beginnings of their names, that each value of ``ONEDNN_MAX_CPU_ISA`` hides from oneDNN."""


class MachineError(ValueError):
    """This machine cannot do what was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The arithmetic of a machine."""

    system: str
    architecture: str
    processor: str
    cores: int
    """That this process may use."""
    features: frozenset[str] = frozenset()
    """Of an x86 processor, by Linux's names (``avx2``, ``avx512_bf16``, ``amx_bf16``), without hidden ones."""
    bf16_fault: str = ""
    """Why oneDNN does not multiply in bfloat16; empty if a small product was right."""
    cuda: str = ""
    cuda_bf16: bool = False
    mps: bool = False

    @property
    def kind(self) -> str:
        """The kind of processor, as figures of benchmarks name it."""
        if self.architecture == "arm64":
            return "ARM" if self.bf16_fault else "ARM with bf16"
        if self.architecture != "x86_64":
            return self.architecture
        kinds = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 with bf16", "avx512f": "AVX-512", "avx2": "AVX2"}
        return next((kind for feature, kind in kinds.items() if feature in self.features), "x86-64 without AVX2")

    def no_bf16(self, device: str) -> str:
        """Return why a device of this type (``cpu``, ``cuda`` ...) must not compute in bfloat16; empty if it may."""
        if device == "cuda":
            return "" if self.cuda_bf16 else f"{self.cuda or 'this GPU'} does not multiply in it"
        if device != "cpu":
            return f"on {device} forethought computes in float32"
        if self.architecture == "x86_64" and not self.features & BF16_PRODUCTS:
            return f"this processor ({self.processor}, {self.kind}) does not multiply in it"
        return self.bf16_fault


def dtype_for(wanted: str, device: str, machine: Machine) -> str:
    """Return the compute dtype that ``wanted`` means: ``auto`` is bfloat16 where the device multiplies in it."""
    lacking = machine.no_bf16(device)
    if wanted == "auto":
        return "float32" if lacking else "bfloat16"
    if wanted == "bfloat16" and lacking:
        raise MachineError(f'dtype = "bfloat16": {lacking}. Write dtype = "auto" or "float32"')
    return wanted


@functools.cache
def machine() -> Machine:
    import torch

    known, architecture = _capabilities(), platform.machine().lower()
    return Machine(
        system=platform.system(),
        architecture={"amd64": "x86_64", "aarch64": "arm64"}.get(architecture, architecture),
        processor=str(known.get("cpu_name") or platform.processor() or "unknown processor"),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        features=visible({name for name, value in known.items() if value is True}, os.environ),
        bf16_fault=_bf16_fault(),
        cuda=torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        cuda_bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False),
        mps=torch.backends.mps.is_available(),
    )


def visible(features: set[str], environment: Mapping[str, str]) -> frozenset[str]:
    """Return ``features`` without those that the environment hides from oneDNN."""
    hidden = _HIDDEN_BY_ISA.get(environment.get("ONEDNN_MAX_CPU_ISA", "").upper(), ())
    return frozenset(feature for feature in features if not feature.startswith(hidden or ("-",)))


def memory() -> tuple[int, int] | None:
    """Return this machine's memory and how much of it is free, in bytes; ``None`` if the system does not say."""
    table = Path("/proc/meminfo")
    if table.exists():
        rows = dict(line.split(":", 1) for line in table.read_text().splitlines())
        total, free = (int(rows[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
        return total, free
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
    return total, total


def others_seconds() -> float | None:
    """Return the core-seconds of all other processes since the system's start; ``None`` if it does not say."""
    table = Path("/proc/stat")
    if not table.exists():
        return None
    user, nice, system, _, _, irq, softirq, *_ = map(int, table.read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK") - time.process_time()


def _capabilities() -> dict[str, Any]:
    """Return torch's table of the processor, features by Linux's names; Linux's table if torch has none."""
    import torch

    known: dict[str, Any] = dict(getattr(torch.cpu, "get_capabilities", dict)())
    if not known:
        table = Path("/proc/cpuinfo")
        rows = [line.split(":", 1) for line in table.read_text().splitlines() if ":" in line] if table.exists() else []
        names = {key.strip(): value.strip() for key, value in reversed(rows)}
        known = dict.fromkeys(names.get("flags", "").split(), True) | {"cpu_name": names.get("model name", "")}
    # torch writes avx512_f where Linux writes avx512f; extensions after the first five keep their underscore.
    plain = {f"avx512_{part}": f"avx512{part}" for part in ("f", "bw", "cd", "dq", "vl")}
    return {plain.get(name, name): value for name, value in known.items()}


def _bf16_fault() -> str:
    """Multiply two small matrices in bfloat16 through oneDNN; return what is wrong with it, if anything."""
    import torch

    if not torch.backends.mkldnn.is_available():
        return "this torch has no oneDNN, which multiplies in it on the CPU"
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "oneDNN does not multiply in it on this processor"
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(32, 64, generator=generator) for _ in range(2))
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16(), 32)
        product = torch.ops.mkldnn._linear_pointwise(x.bfloat16(), packed, None, "none", [], "")
    except RuntimeError as error:
        return f"oneDNN does not multiply in it here: {str(error).splitlines()[0]}"
    expected = x @ weight.T
    difference = float((product.float() - expected).norm() / expected.norm())
    return "" if difference < 0.02 else f"oneDNN's products in it are off by {difference:.0%} here"

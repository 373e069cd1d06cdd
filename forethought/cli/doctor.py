"""Checks of this machine: arithmetic, kernels, memory, packages, models, and how long a demo would take."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from rich.table import Table

from forethought.machine import machine, memory
from forethought.run.files import cache_root

SMALLEST_MEMORY, SMALLEST_DISK = 4 * 2**30, 5 * 2**30
"""Bytes that a demo needs: of memory, and of the disk that keeps converted models."""

ESSENTIAL = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pydantic", "pyarrow")
OPTIONAL = {"datasets": "data sets of the Hugging Face hub", "tensorboard": "a metric sink"}


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    said: str
    fault: str = ""
    """What to do, if something essential is missing."""


def examine(demo: Callable[[], str]) -> list[Check]:
    """Check everything that a run needs; ``demo`` says how long a demo would take here."""
    checks = [_system(), _packages(), _torch()]
    if not any(check.fault for check in checks):
        checks += [_dtype(), _kernels()]
    checks += [_memory(), _compiler(), _cache(), _models()]
    if not any(check.fault for check in checks):
        checks.append(Check("demo", demo()))
    return checks


def render(checks: list[Check]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        table.add_row(check.name, check.said)
        if check.fault:
            table.add_row("", f"missing: {check.fault}", style="bold red")
    return table


def _system() -> Check:
    here = machine()
    said = f"{here.processor} ({here.kind}), cores: {here.cores}, {here.system} on {here.architecture}"
    said += f", GPU: {here.cuda}" if here.cuda else ", Apple GPU" if here.mps else ""
    python = ".".join(map(str, sys.version_info[:3]))
    fault = "" if here.system in ("Linux", "Darwin") else "Linux, macOS or WSL2: native Windows is not supported"
    return Check("machine", f"{said}, Python {python}", fault)


def _packages() -> Check:
    missing = [name for name in ESSENTIAL if importlib.util.find_spec(name) is None]
    present = [f"{name} {metadata.version(name)}" for name in ESSENTIAL if name not in missing]
    without = [f"{name} ({use})" for name, use in OPTIONAL.items() if importlib.util.find_spec(name) is None]
    said = ", ".join(present) + (f"; optional and not installed: {', '.join(without)}" if without else "")
    fault = f"pip install {' '.join(missing)}" if missing else ""
    wanted = metadata.version("transformers") if "transformers" not in missing else "5.16"
    if tuple(map(int, wanted.split(".")[:2])) < (5, 16):
        fault = f'pip install "transformers>=5.16,<5.20": this is {wanted}'
    return Check("packages", said, fault)


def _torch() -> Check:
    import torch

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    onednn = "with oneDNN" if torch.backends.mkldnn.is_available() else "without oneDNN"
    here, said = machine(), f"{torch.__version__}, {built}, {onednn}, threads: {torch.get_num_threads()}"
    if torch.version.cuda and not here.cuda:
        said += "; it sees no GPU, and a CPU build would be gigabytes smaller (README, Two commands)"
    return Check("torch", said)


def _dtype() -> Check:
    from forethought.models import resolve_device, resolve_dtype

    device = resolve_device("auto")
    lacking = machine().no_bf16(device.type)
    said = str(resolve_dtype("auto", device)).removeprefix("torch.")
    return Check("dtype", f"{said} on {device.type}" + (f"; bfloat16 not used: {lacking}" if lacking else ""))


def _kernels() -> Check:
    """Choose kernels for a small model as a run would, which includes a numerical check."""
    from forethought.engine.policy import Policy
    from forethought.models import resolve_device, resolve_dtype
    from forethought.models.tiny import random_model, tiny_config

    config, device = tiny_config("llama"), resolve_device("auto")
    config.head_dim = 32  # as narrow as all kernels take it
    choice = Policy(random_model(config, 0).to(device, resolve_dtype("auto", device))).kernels
    return Check("kernels", str(choice).removeprefix("kernels: "))


def _memory() -> Check:
    known = memory()
    if known is None:
        return Check("memory", "unknown: this system does not report it")
    total, free = known
    fault = "" if total >= SMALLEST_MEMORY else f"{SMALLEST_MEMORY / 2**30:.0f} GiB, which the smallest models need"
    return Check("memory", f"{total / 2**30:.1f} GiB, {free / 2**30:.1f} GiB free", fault)


def _compiler() -> Check:
    name = os.environ.get("CXX") or shutil.which("g++")
    use = "only processors with AMX use it"
    if name is None:
        return Check("compiler", f"no g++; {use}")
    try:
        lines = subprocess.run([name, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError) as error:
        return Check("compiler", f"{name} does not run ({error}); {use}")
    return Check("compiler", f"{lines[0] if lines else name}; {use}")


def _cache() -> Check:
    folder = cache_root()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    fault = ""
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        fault = f"a writable cache ({error.strerror}): set FORETHOUGHT_CACHE to a folder that you own"
    if not fault and free < SMALLEST_DISK and folder == there and not any(folder.iterdir()):
        fault = (
            f"room for converted models, some {SMALLEST_DISK / 2**30:.0f} GiB: set FORETHOUGHT_CACHE to another disk"
        )
    return Check("cache", f"{folder}, {free / 2**30:.1f} GiB free", fault)


def _models() -> Check:
    from forethought.models import packages

    states = {name: model.state for name, model in packages().items()}
    usable = ", ".join(f"{name} ({state})" for name, state in states.items() if state)
    missing = ", ".join(name for name, state in states.items() if not state)
    hint = f"; not installed: {missing} (`forethought models` says how)" if missing else ""
    return Check("models", (usable or "only the tiny random ones") + hint)

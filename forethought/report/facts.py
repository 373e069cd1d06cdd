"""What ``summary.json`` says next to the figures: config of every stage, versions, durations, and cost by phase."""

from __future__ import annotations

import datetime
import math
import platform
import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

from forethought import __version__
from forethought.run.store import Run, StageFolder
from forethought.stats import resolvable

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "safetensors")
"""Whose versions a result may depend on."""
ELSEWHERE = {"one H100 (80 GB)": 989e12, "one A100 (80 GB)": 312e12, "one RTX 4090": 165e12}
"""Peak of dense bf16 matrix products, operations a second, as their maker states it."""
REACHED = 0.2
"""Share of that peak that whole phases are taken to reach."""
_OPERATIONS = {"sample": 2, "update": 6}
"""Floating-point operations for each weight and token, of the phases in which the policy alone works: forward, and
forward with backward (Kaplan et al. 2020)."""
_SECONDS = re.compile(r"/seconds_(\w+)$")

Phases = dict[str, dict[str, float]]
"""``seconds`` of each phase, ``tokens`` and ``verdicts`` where they are counted."""


def facts(run: Run) -> dict[str, Any]:
    """Return ``config`` and ``durations`` by ``arm/stage``, ``versions``, ``cost`` and ``schedule``.

    Durations are those of the manifests, from the first start of a stage to its end, pauses included.  Versions of
    packages are those of the machine that writes the summary; a stage's own version is in ``durations``.
    """
    config, durations = {}, {}
    for folder in run.stages():
        name = f"{folder.arm}/{folder.stage}"
        config[name] = folder.read_json("config")
        if (manifest := folder.manifest()) is not None:
            durations[name] = {key: manifest.get(key) for key in ("started", "finished", "version", "machine")}
            moments = [datetime.datetime.fromisoformat(manifest[key]) for key in ("started", "finished")]
            durations[name]["seconds"] = (moments[1] - moments[0]).total_seconds()
    return {
        "config": config,
        "versions": versions(),
        "durations": durations,
        "cost": cost(run),
        "schedule": schedule(run),
    }


def versions() -> dict[str, str]:
    """Return versions of forethought, Python and the packages that matter, without importing them."""
    known = {"forethought": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            known[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return known


def schedule(run: Run) -> dict[str, Any]:
    """Return the schedule that the run took, the budget it was chosen for, and what it can resolve.

    ``resolves`` is the smallest difference of a win rate from one half, a share, that the 95% interval over
    ``prefixes`` held-out prefixes excludes.
    """
    config = run.config()
    if config is None:
        return {}
    names = {"name": config.get("schedule") or "", "budget": config.get("budget") or ""}
    prefixes = int(config["evaluate"]["prefixes"])
    return names | {"prefixes": prefixes, "resolves": resolvable(prefixes)}


def schedule_line(run: Run) -> str:
    """Return the same as a line; empty where the run's config is not known."""
    known = schedule(run)
    if not known:
        return ""
    values = f"{known['name']} (--budget {known['budget']})" if known["name"] else "the config's own values"
    line = f"{values}; {known['prefixes']} held-out prefixes tell "
    if known["resolves"] is None:
        return line + "no win rate from one half"
    return line + f"a win rate from one half if it is {100 * known['resolves']:.1f} points off"


def machines(run: Run) -> list[str]:
    """Return a line for every machine and dtype that made finished stages; with their names if there are several."""
    stages: dict[str, list[str]] = {}
    kernels: dict[str, dict[str, None]] = {}
    for folder in run.stages():
        if known := (folder.manifest() or {}).get("machine"):
            place = f"{known['processor']} ({known['kind']}), cores: {known['cores']}, torch {known['torch']}"
            line = f"{known['dtype']} on {place}"
            stages.setdefault(line, []).append(f"{folder.arm}/{folder.stage}")
            kernels.setdefault(line, {}).update(dict.fromkeys(known["kernels"]))
    return [
        f"{line}, kernels: {', '.join(kernels[line]) or 'none'}" + (f": {', '.join(made)}" if len(stages) > 1 else "")
        for line, made in stages.items()
    ]


def cost(run: Run) -> dict[str, Any]:
    """Return seconds, tokens and verdicts of every phase of the training stages, and an estimate for other hardware.

    Everything is counted in the logs of the run: tokens are seconds times the logged tokens a second.
    """
    phases: dict[str, Phases] = {}
    for folder in run.stages():
        counted = phases_of(folder.read("metrics"))
        if judged := verdicts(folder):
            counted.setdefault("judge", {"seconds": 0.0})["verdicts"] = judged
        if counted:
            phases[folder.arm] = counted
    return {"phases": phases, "elsewhere": _elsewhere(phases, _weights(run))}


def verdicts(folder: StageFolder) -> int:
    """Return how many verdicts and rewards the logs of a training stage hold."""
    pools = sum(len(said) for row in folder.read("pools") for said in row.get("verdicts", {}).values())
    return pools + sum(reward is not None for row in folder.read("groups") for reward in row["rewards"])


def phases_of(rows: Iterable[Mapping[str, Any]]) -> Phases:
    """Return what a training log counted."""
    phases: Phases = {}
    for row in rows:
        for key, seconds in row.items():
            if named := _SECONDS.search(key):
                phase = phases.setdefault(named[1], {"seconds": 0.0})
                phase["seconds"] += float(seconds)
                rate = row.get(key.replace("/seconds_", "/tokens_per_second_"))
                if rate is not None:
                    phase["tokens"] = phase.get("tokens", 0.0) + float(seconds) * float(rate)
    for phase in phases.values():
        if "tokens" in phase:
            phase["tokens"] = float(round(phase["tokens"]))
    return phases


def _elsewhere(phases: Mapping[str, Phases], weights: int | None) -> dict[str, Any]:
    """Return the estimate, empty where the weights or the tokens of the policy's own phases are not known."""
    every = [(name, phase) for counted in phases.values() for name, phase in counted.items()]
    timed = [(name, phase) for name, phase in every if name in _OPERATIONS and "tokens" in phase]
    seconds = sum(phase["seconds"] for _, phase in timed)
    if not seconds or not weights:
        return {}
    rate = sum(_OPERATIONS[name] * weights * phase["tokens"] for name, phase in timed) / seconds
    whole = sum(phase["seconds"] for _, phase in every)
    return {
        "weights": weights,
        "operations_per_second_here": rate,
        "share_of_peak": REACHED,
        "seconds_here": whole,
        "seconds": {name: whole * rate / (peak * REACHED) for name, peak in ELSEWHERE.items()},
    }


def _weights(run: Run) -> int | None:
    """Return how many weights a checkpoint of the run has: its file's header says so."""
    from safetensors import SafetensorError, safe_open

    for folder in run.stages():
        for path in sorted(folder.checkpoints.glob("*/model.safetensors")):
            try:
                with safe_open(path, "numpy") as tensors:
                    return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
            except (OSError, SafetensorError):
                continue  # what is torn or gone says nothing; another one may
    return None

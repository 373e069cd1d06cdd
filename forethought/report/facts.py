"""What ``summary.json`` says next to the figures: config of every stage, versions, durations, and cost by phase."""

from __future__ import annotations

import datetime
import json
import math
import platform
import re
import struct
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from forethought import __version__
from forethought.stats import resolvable
from forethought.store import Run, StageFolder

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "safetensors")
"""Whose versions a result may depend on."""


def facts(run: Run) -> dict[str, Any]:
    """Return ``config`` and ``durations`` by ``arm/stage``, ``versions``, ``cost`` and ``schedule``.

    Durations are those of the manifests, from the first start of a stage to its end, pauses included.  Versions of
    packages are those of the machine that writes the summary; a stage's own version is in ``durations``.
    """
    config, durations = {}, {}
    for folder in run.stages():
        name = f"{folder.arm}/{folder.stage}"
        config[name] = folder.read_json("config")
        manifest = folder.manifest()
        if manifest is not None:
            durations[name] = {key: manifest.get(key) for key in ("started", "finished", "version", "machine")} | {
                "seconds": _between(manifest.get("started"), manifest.get("finished"))
            }
    return {
        "config": config,
        "versions": versions(),
        "durations": durations,
        "cost": cost(run),
        "schedule": schedule(run),
    }


def schedule(run: Run) -> dict[str, Any]:
    """Return the schedule that the run took, the budget it was chosen for, and what it can resolve.

    ``resolves`` is the smallest difference of a win rate from one half, a share, that the 95% interval over
    ``prefixes`` held-out prefixes excludes.
    """
    kept = run.config()
    if kept is None:
        return {}
    prefixes = int(kept["evaluate"]["prefixes"])
    told = {"name": kept.get("schedule") or "", "budget": kept.get("budget") or ""}
    return told | {"prefixes": prefixes, "resolves": resolvable(prefixes)}


def scheduled(run: Run) -> str:
    """Return the same as a line; empty where the run's config is not known."""
    found = schedule(run)
    if not found:
        return ""
    named = f"{found['name']} (--budget {found['budget']})" if found["name"] else "the config's own values"
    if found["resolves"] is None:
        return f"{named}; {found['prefixes']} held-out prefixes tell no win rate from one half"
    points = 100 * found["resolves"]
    return (
        f"{named}; {found['prefixes']} held-out prefixes tell a win rate from one half if it is {points:.1f} points off"
    )


def machines(run: Run) -> list[str]:
    """Return a line for every machine and dtype that made finished stages; with their names if there are several."""
    made: dict[str, list[StageFolder]] = {}
    for folder in run.stages():
        known = (folder.manifest() or {}).get("machine")
        if known:
            place = f"{known['processor']} ({known['kind']}), cores: {known['cores']}, torch {known['torch']}"
            made.setdefault(f"{known['dtype']} on {place}", []).append(folder)
    lines = []
    for line, folders in made.items():
        kernels = dict.fromkeys(name for one in folders for name in (one.manifest() or {})["machine"]["kernels"])
        stages = ", ".join(f"{one.arm}/{one.stage}" for one in folders)
        lines.append(f"{line}, kernels: {', '.join(kernels) or 'none'}" + (f": {stages}" if len(made) > 1 else ""))
    return lines


def versions() -> dict[str, str]:
    """Return versions of forethought, Python and the packages that matter, without importing them."""
    found = {"forethought": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _between(started: str | None, finished: str | None) -> float | None:
    if started is None or finished is None:
        return None
    begin, end = (datetime.datetime.fromisoformat(moment) for moment in (started, finished))
    return (end - begin).total_seconds()


Phases = dict[str, dict[str, float]]
"""``seconds`` of each phase, ``tokens`` and ``verdicts`` where they are counted."""

_SECONDS = re.compile(r"/seconds_(\w+)$")
_OPERATIONS = {"sample": 2, "update": 6}
"""Floating-point operations for each weight and token, of the phases in which the policy alone works: forward, and
forward with backward (Kaplan et al. 2020)."""

ELSEWHERE = {"one H100 (80 GB)": 989e12, "one A100 (80 GB)": 312e12, "one RTX 4090": 165e12}
"""Peak of dense bf16 matrix products, operations a second, as their maker states it."""
REACHED = 0.2
"""Share of that peak that whole phases are taken to reach."""


def cost(run: Run) -> dict[str, Any]:
    """Return seconds, tokens and verdicts of every phase of the training stages, and an estimate for other hardware.

    Everything is counted in the logs of the run: tokens are seconds times the logged tokens a second.
    """
    phases: dict[str, Phases] = {}
    for folder in run.stages():
        found = phases_of(folder.read("metrics"))
        if judged := verdicts(folder):
            found.setdefault("judge", {"seconds": 0.0})["verdicts"] = judged
        if found:
            phases[folder.arm] = found
    return {"phases": phases, "elsewhere": _elsewhere(phases, _weights(run))}


def verdicts(folder: StageFolder) -> int:
    """Return how many verdicts and rewards the logs of a training stage hold."""
    pools = sum(len(said) for row in folder.read("pools") for said in row.get("verdicts", {}).values())
    return pools + sum(1 for row in folder.read("groups") for reward in row["rewards"] if reward is not None)


def phases_of(rows: Iterable[Mapping[str, Any]]) -> Phases:
    """Return what a training log counted."""
    found: Phases = {}
    for row in rows:
        for key, value in row.items():
            if named := _SECONDS.search(key):
                phase = found.setdefault(named[1], {"seconds": 0.0})
                phase["seconds"] += float(value)
                rate = row.get(key.replace("/seconds_", "/tokens_per_second_"))
                if rate is not None:
                    phase["tokens"] = phase.get("tokens", 0.0) + float(value) * float(rate)
    for phase in found.values():
        if "tokens" in phase:
            phase["tokens"] = float(round(phase["tokens"]))
    return found


def _elsewhere(phases: Mapping[str, Phases], weights: int | None) -> dict[str, Any]:
    """Return the estimate, empty where the weights or the tokens of the policy's own phases are not known."""
    known = [(name, phase) for found in phases.values() for name, phase in found.items()]
    timed = [(name, phase) for name, phase in known if name in _OPERATIONS and "tokens" in phase]
    seconds = sum(phase["seconds"] for _, phase in timed)
    if not seconds or not weights:
        return {}
    rate = sum(_OPERATIONS[name] * weights * phase["tokens"] for name, phase in timed) / seconds
    whole = sum(phase["seconds"] for _, phase in known)
    return {
        "weights": weights,
        "operations_per_second_here": rate,
        "share_of_peak": REACHED,
        "seconds_here": whole,
        "seconds": {name: whole * rate / (peak * REACHED) for name, peak in ELSEWHERE.items()},
    }


def _weights(run: Run) -> int | None:
    """Return how many weights a checkpoint of the run has: its file's header says so."""
    paths = (path for folder in run.stages() for path in sorted(folder.checkpoints.glob("*/model.safetensors")))
    return next((count for path in paths if (count := _counted(path))), None)


def _counted(path: Path) -> int | None:
    try:
        with open(path, "rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            if length > 100 * 2**20:
                return None
            header = json.loads(handle.read(length))
        return sum(math.prod(one["shape"]) for name, one in header.items() if name != "__metadata__")
    except (OSError, ValueError, struct.error, KeyError):
        return None

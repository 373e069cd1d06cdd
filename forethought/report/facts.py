"""What ``summary.json`` says beside the figures: the config of every stage, versions, durations and cost."""

from __future__ import annotations

import datetime
import platform
from importlib import metadata
from typing import Any

from forethought import __version__
from forethought.report.cost import cost
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

"""The plan of a run: models, tokens, rollouts, verdicts, and estimated time, memory and disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from forethought import machine, models
from forethought.config import Config, ModelConfig
from forethought.costs import rates
from forethought.costs.base import SECONDS_PER_REQUEST, SECONDS_PER_TOKEN, Phase, Setting
from forethought.costs.footprint import largest
from forethought.costs.loads import converting, loading, models_of
from forethought.costs.work import Rates
from forethought.graph import arms, graph
from forethought.pipeline.runner import stage_class
from forethought.run.store import Run

DAY = 86_400.0


def plan(config: Config, place: Path, say: Callable[[str], None] = lambda line: None) -> RenderableType:
    """Return the plan; measures this machine if it was not yet.

    :mod:`forethought.pipeline.check` has looked whether what the config names is there.  The dtype of ``config`` is
    settled; ``say`` is told what takes long.
    """
    listing, at = _listing(config), setting(config)
    found, pace = phases(at, pending(config)), rates.here(config, say)
    days = sum(phase.seconds(pace) or 0.0 for _, phase in found) / DAY
    warnings = [f"NOT ENOUGH MEMORY: {short}"] if (short := too_large(at)) else []
    if days > 1:
        warnings.append(f"THIS TAKES ABOUT {days:.1f} DAYS here: use fewer steps or prefixes, or a smaller model")
    return Group(
        *(Text(f"{line}\n", style="bold red") for line in warnings),
        Text(f"{config.name}: {place} on {models.resolve_device(config.device)}, {config.dtype}\n", style="bold"),
        listing,
        Text(),
        _table(found, pace),
        *map(Text, (*_sums(found, pace), _memory(at), _disk(at, place), _steps(config, place))),
    )


def estimate(config: Config, pace: Rates | None = None) -> dict[str, float]:
    """Return about how many seconds each step takes here; what is not known is left out.

    Without a ``pace``, with the rates that were measured here before, or else with a guess from a matrix product.
    """
    pace = pace or rates.known(config)
    seconds: dict[str, float] = {}
    for name, phase in phases(setting(config)):
        if name and (taken := phase.seconds(pace)):
            seconds[name] = seconds.get(name, 0.0) + taken
    return seconds


def phases(at: Setting, pending: Sequence[str] = ()) -> list[tuple[str, Phase]]:
    """Return what a run does, each line with the name of its step: the sum of what its stages say.

    ``pending``: roles whose models are converted first, before any step.
    """
    rows = [("", phase) for phase in converting(at, pending)]
    for step in graph(at.config):
        rows += [(step.name, phase) for phase in (*loading(at, step), *stage_class(step).cost(at, step))]
    return rows


def total(config: Config, pace: Rates) -> float:
    """Return about how many seconds a whole run takes; what is not known is left out."""
    return sum(phase.seconds(pace) or 0.0 for _, phase in phases(setting(config), pending(config)))


def setting(config: Config) -> Setting:
    """Return ``config`` with the shapes of its models."""
    device = models.resolve_device(config.device)
    dtype = str(models.resolve_dtype(config.dtype, device)).removeprefix("torch.")
    known = {model: models.shape(model) for model in dict.fromkeys(models_of(config).values())}
    shapes = {role: known[model] for role, model in models_of(config).items()}
    return Setting(config.model_copy(update={"dtype": dtype}), shapes, device.type)


def pending(config: Config) -> list[str]:
    """Return the roles whose models have to be converted first, each model once."""
    roles: dict[ModelConfig, str] = {}
    for role, model in models_of(config).items():
        source = models.resolve(model)
        if source.package is not None and source.pending:
            roles.setdefault(model, role)
    return list(roles.values())


def too_large(at: Setting) -> str:
    """Return which step needs more memory than is free, and the ways out; empty if none does or it is unknown."""
    need, room = largest(at), available(at)
    if need is None or room is None or need.bytes <= room[1]:
        return ""
    return (
        f"{need.step} needs about {gib(need.bytes)}, {gib(room[1])} are free of {gib(room[0])}. "
        "Lower improve.micro_tokens and improve.sample_rows, use smaller models, or close other programs"
    )


def available(at: Setting) -> tuple[int, int] | None:
    """Return the total and the free memory of the device, in bytes; ``None`` if the system does not report it."""
    if at.device == "cuda":
        free, everything = torch.cuda.mem_get_info(models.resolve_device(at.config.device))
        return everything, free
    return machine.memory()


def clock(seconds: float) -> str:
    if seconds < 0.5:
        return "under 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def _listing(config: Config) -> Table:
    listing = Table("model", "source", "weights", "before the first use", box=None)
    for role, model in models_of(config).items():
        source, size = models.resolve(model), models.parameters(model)
        weights = f"{size:,}" if size else "unknown until downloaded"
        listing.add_row(f"{role}: {model.model}", source.kind, weights, source.pending or "nothing")
    return listing


def _table(found: Iterable[tuple[str, Phase]], pace: Rates) -> Table:
    work = Table(Column("step, and its phases", no_wrap=True), "amount", "about", box=None)
    before = ""
    for step, phase in found:
        if step != before:
            work.add_row(step)
        before, seconds = step, phase.seconds(pace)
        assumed = " (assumed)" if phase.cost is not None and phase.cost.requests else ""
        work.add_row(f"  {phase.name}", phase.amount, "unknown" if seconds is None else clock(seconds) + assumed)
    return work


def _sums(found: Sequence[tuple[str, Phase]], pace: Rates) -> list[str]:
    seconds = [phase.seconds(pace) for _, phase in found]
    unknown = [f"{step}: {phase.name}" for (step, phase), taken in zip(found, seconds, strict=True) if taken is None]
    lacking = f", without phases of unknown time: {', '.join(unknown)}" if unknown else ""
    lines = [f"\nabout {clock(sum(taken or 0.0 for taken in seconds))} in all, within a factor of two{lacking}"]
    kinds = {"sampling": pace.sample, "scoring": pace.score, "training": pace.train}
    shown = ", ".join(f"{name} {speed.rate / 1e9:,.1f}" for name, speed in kinds.items())
    lines.append(f"speed here, GFLOP/s: {shown}; {pace.how}")
    requests = sum(phase.cost.requests for _, phase in found if phase.cost is not None)
    if requests:
        lines.append(
            f"{requests:,} requests to servers are assumed to take {SECONDS_PER_REQUEST:g} s and {SECONDS_PER_TOKEN:g} "
            "s per token each, with as many at a time as `concurrency` says; no server was asked"
        )
    return lines


def _memory(at: Setting) -> str:
    need, room = largest(at), available(at)
    if need is None:
        return "memory: unknown until the models are downloaded"
    parts = sorted(need.parts.items(), key=lambda part: -part[1])
    shown = ", ".join(f"{name} {gib(size)}" for name, size in parts if size >= 0.05 * need.bytes)
    free = "" if room is None else f"; {gib(room[1])} free of {gib(room[0])}"
    return f"memory: about {gib(need.bytes)} at most, in {need.step}: {shown}{free}"


def _disk(at: Setting, place: Path) -> str:
    config, policy = at.config, models.parameters(at.config.policy)
    if policy is None:
        return "disk: unknown until the policy is downloaded"
    checkpoints = sum(bool(arm.stage) for arm in arms(config))
    resumable = 2 * 12 * policy if config.improve.checkpoint_every else 0
    logs = config.improve.steps * config.improve.prefixes_per_step * config.candidates_per_prefix * 1200
    needed = checkpoints * 4 * policy + resumable + logs
    # The run's folder may not be there yet: its nearest parent is on the same disk.
    folder = next(parent for parent in (place.absolute(), *place.absolute().parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    warning = "  NOT ENOUGH ROOM" if free < needed else ""
    return f"disk: up to {gib(needed)}, {gib(free)} free{warning}"


def _steps(config: Config, place: Path) -> str:
    done = {f"{stage.arm}/{stage.stage}": stage.done for stage in (Run(place).stages() if place.is_dir() else [])}
    states = {None: "missing", True: "done", False: "started"}
    return "steps: " + ", ".join(f"{step.name} ({states[done.get(step.name)]})" for step in graph(config))

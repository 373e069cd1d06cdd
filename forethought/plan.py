"""What a run will do, before it does it: models, tokens, rollouts, verdicts, estimated time and disk."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from forethought import models
from forethought.config import Config, JudgeConfig, ModelConfig
from forethought.corpus import sources
from forethought.evals.probe import CONDITIONS
from forethought.evals.reasoning.catalogue import task as task_of
from forethought.graph import CONTINUED, IMPROVED, REASONING, arms, graph
from forethought.models import embedding
from forethought.store import Run

EFFICIENCY = 0.35
"""Share of the measured matrix rate that whole phases are taken to reach: a rule of thumb, hence "a factor of two"."""

INSTRUCTIONS = 250
"""Tokens of what a thought teacher is told, about."""

HEADER = 500
"""Tokens of worked examples and a problem, about."""
LARGE = 500
"""Problems of a task that is asked whole, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One line of the plan."""

    name: str
    """What is done."""
    amount: str
    """How much of it, in words."""
    flops: float = 0.0
    """Floating-point operations; 2 per weight and token forward, 6 with the backward pass."""
    steps: tuple[str, ...] = ()
    """The steps of the graph that share it."""


def plan(config: Config, place: Path) -> RenderableType:
    """Validate everything that can be without computing, and return the plan.

    Raises:
        ConfigError, ModelError, CorpusError: naming what is wrong with a model or the corpus.
    """
    device = models.resolve_device(config.device)
    next(sources.documents(config.corpus, Counter()))
    if config.rlmt is not None and config.rlmt.match.kind == "similarity":
        embedding.demand(config.rlmt.match.embedder)
    listing = Table("model", "is", "weights", "before the first use", box=None)
    sizes: dict[str, int | None] = {}
    for role, model in _models(config).items():
        source = models.resolve(model)
        sizes[role] = models.parameters(model)
        weights = f"{sizes[role]:,}" if sizes[role] else "unknown before the download"
        listing.add_row(f"{role}: {model.model}", source.kind.value, weights, source.pending or "nothing")
    phases = _phases(config, sizes)
    rate = _matrix_rate(device, getattr(torch, config.dtype))
    work = Table("phase", "amount", "about", box=None)
    for phase in phases:
        work.add_row(phase.name, phase.amount, _clock(phase.flops / (EFFICIENCY * rate)) if phase.flops else "-")
    total = sum(phase.flops for phase in phases) / (EFFICIENCY * rate)
    return Group(
        Text(f"{config.name}: {place} on {device}, {config.dtype}\n", style="bold"),
        listing,
        Text(),
        work,
        Text(f"\nabout {_clock(total)} in all, within a factor of two ({rate / 1e12:.2f} TFLOP/s measured here now)"),
        Text(_disk(config, sizes["policy"], place)),
        Text(_steps(config, place)),
    )


def estimate(config: Config) -> dict[str, float]:
    """Return about how many seconds each step takes here; what is not computed here is left out."""
    sizes = {role: models.parameters(model) for role, model in _models(config).items()}
    rate = _matrix_rate(models.resolve_device(config.device), getattr(torch, config.dtype))
    seconds: dict[str, float] = {}
    for phase in _phases(config, sizes):
        for step in phase.steps:
            share = phase.flops / (EFFICIENCY * rate) / len(phase.steps)
            seconds[step] = seconds.get(step, 0.0) + share
    return seconds


def _models(config: Config) -> dict[str, ModelConfig]:
    return {"policy": config.policy} | dict(_other_models(config))


def _other_models(config: Config) -> Iterator[tuple[str, ModelConfig]]:
    for name, judge in {**config.judges, **config.evaluate.judges}.items():
        if judge.model is not None:
            yield f"judge {name}", judge.model
        if judge.contrast is not None:
            yield f"judge {name}, contrast", judge.contrast
    rewrite = config.improve.rewrite
    if rewrite is not None and rewrite.model is not None:
        yield "rewrite teacher", rewrite.model
    if config.interleave is not None and config.interleave.teacher.model is not None:
        yield "thought teacher", config.interleave.teacher.model
    if config.rlmt is not None and config.rlmt.match.model is not None:
        yield "match judge", config.rlmt.match.model


def _phases(config: Config, sizes: dict[str, int | None]) -> list[Phase]:
    cfg, policy = config.improve, sizes["policy"] or 0
    prefix, suffix = config.chunk.prefix_tokens[1], config.chunk.suffix_tokens
    pools = cfg.steps * cfg.prefixes_per_step
    trains = (f"{IMPROVED}/improve",)
    phases = []
    if cfg.rewrite is not None and cfg.objective != "continued":
        phases.append(Phase(name="rewrite", amount=f"{pools:,} rewrites"))
    if cfg.objective in ("dpo", "rf-nll"):
        if config.audit.enabled:
            planted = config.audit.prefixes * len(config.audit.min_accuracy)
            phases.append(Phase(name="audit", amount=f"up to {planted:,} planted pairs for each judge"))
        drawn = pools * cfg.rollouts
        amount = f"{drawn:,} rollouts of {suffix} tokens after {pools:,} prefixes"
        phases.append(
            Phase(name="sample", amount=amount, flops=2.0 * policy * (drawn * suffix + pools * prefix), steps=trains)
        )
        for name, judge in config.judges.items():
            verdicts = pools * _verdicts(judge, config.candidates_per_prefix)
            read = pools * (prefix + config.candidates_per_prefix * suffix)
            flops = 2.0 * (sizes.get(f"judge {name}") or 0) * read
            phases.append(Phase(name=f"judge: {name}", amount=f"{verdicts:,} verdicts", flops=flops, steps=trains))
    preference = cfg.objective == "dpo"
    trained = pools * (prefix + (2 if preference else 1) * suffix)
    flops = (8.0 if preference else 6.0) * policy * trained  # with the reference's forward pass
    phases.append(
        Phase(name="update", amount=f"{cfg.steps:,} steps, up to {trained:,} tokens", flops=flops, steps=trains)
    )
    trained_arms = _arms(config, "improve")
    if trained_arms == 2:
        tokens = pools * (prefix + suffix)
        control, amount = (f"{CONTINUED}/improve",), f"up to {tokens:,} tokens"
        phases.append(Phase(name="control arm", amount=amount, flops=6.0 * policy * tokens, steps=control))
    stages = *_stage_two(config, sizes), *_stage_three(config, sizes), *_reasoning(config, sizes)
    return [*phases, _evaluation(config, sizes, trained_arms), *stages]


def _stage_two(config: Config, sizes: dict[str, int | None]) -> list[Phase]:
    cfg, sft, policy = config.interleave, config.sft, sizes["policy"] or 0
    if cfg is None:
        return []
    chunk = config.chunk.prefix_tokens[1] + config.chunk.suffix_tokens
    most, reply = cfg.thoughts[1], cfg.teacher.max_tokens
    rows = None if cfg.rows is None else cfg.rows + cfg.heldout_rows
    amount = f"up to {most} thoughts for {'every chunk' if rows is None else f'{rows:,} chunks'}"
    read = (rows or 0) * most * (INSTRUCTIONS + chunk + reply)
    flops = 2.0 * (sizes.get("thought teacher") or 0) * read
    phases = [Phase(name="interleave", amount=amount, flops=flops, steps=_of(config, "interleave"))]
    if sft is None:
        return phases
    tuned, long = _arms(config, "sft"), chunk + most * reply
    tokens = tuned * sft.steps * sft.rows_per_step * long
    amount = f"{tuned} arms of {sft.steps:,} steps, up to {tokens:,} tokens"
    phases.append(Phase(name="sft", amount=amount, flops=6.0 * policy * tokens, steps=_of(config, "sft")))
    own = config.evaluate.thoughts
    scored = cfg.heldout_rows * (2 * long + 3 * chunk + own.thought_tokens) + own.prefixes * (chunk + own.free_tokens)
    amount = f"{tuned + 2} arms on up to {cfg.heldout_rows:,} held-out rows"
    flops, steps = 2.0 * policy * (tuned + 2) * scored, _of(config, "evaluate-sft")
    phases.append(Phase(name="evaluate sft", amount=amount, flops=flops, steps=steps))
    return phases


def _stage_three(config: Config, sizes: dict[str, int | None]) -> list[Phase]:
    cfg, policy = config.rlmt, sizes["policy"] or 0
    if cfg is None:
        return []
    prefix, lineages, thinking = config.chunk.prefix_tokens[1], 2, 4
    windows = lineages * cfg.steps * cfg.windows_per_step
    suffix = 1 if cfg.dense else cfg.suffix_tokens
    drawn = windows * cfg.rollouts
    long = cfg.thought_tokens + suffix
    tokens = drawn * long + windows * prefix
    passes = 8.0 if cfg.kl_weight else 6.0
    amount = f"{lineages} arms of {cfg.steps:,} steps, {drawn:,} thoughts with suffixes after {windows:,} prefixes"
    drawing, learning, steps = 2.0 * policy * tokens, passes * cfg.updates * policy * tokens, _of(config, "rlmt")
    phases = [
        Phase(name="rlmt: sample", amount=amount, flops=drawing, steps=steps),
        Phase(name="rlmt: update", amount=f"up to {tokens:,} tokens", flops=learning, steps=steps),
    ]
    own = config.thinking
    heldout = own.windows if config.interleave is None else min(own.windows, config.interleave.heldout_rows)
    gate = (lineages + thinking) * heldout * (prefix + own.samples * long)
    probe = thinking * len(CONDITIONS) * heldout * own.probe_samples * (2 * prefix + 3 * suffix)
    judged = (lineages + thinking) * heldout * own.samples + thinking * len(CONDITIONS) * heldout * own.probe_samples
    amount = f"{lineages + thinking} arms on up to {heldout:,} held-out windows, up to {judged:,} scored suffixes"
    flops, steps = 2.0 * policy * (gate + probe), _of(config, "evaluate-rlmt")
    return [*phases, Phase(name="gate and probe", amount=amount, flops=flops, steps=steps)]


def _reasoning(config: Config, sizes: dict[str, int | None]) -> list[Phase]:
    cfg, policy = config.reasoning, sizes["policy"] or 0
    if cfg is None:
        return []
    taking = [arm for arm in arms(config) if cfg.arms is None or arm.name in cfg.arms]
    thinking = sum(arm.thinks for arm in taking)
    problems = sum(cfg.count(task_of(name).name) or LARGE for name in cfg.tasks)
    plain = HEADER + cfg.samples * cfg.max_tokens
    thought = plain + cfg.samples * cfg.thought_tokens
    tokens = problems * (len(taking) * plain + (thinking if cfg.thoughts == "trained" else 0) * thought)
    amount = f"{len(taking)} arms on up to {problems:,} problems of {len(cfg.tasks)} tasks, {cfg.samples} answers each"
    return [Phase(name="reasoning", amount=amount, flops=2.0 * policy * tokens, steps=_of(config, REASONING))]


def _evaluation(config: Config, sizes: dict[str, int | None], trained: int) -> Phase:
    cfg, policy = config.evaluate, sizes["policy"] or 0
    prefix, suffix = config.chunk.prefix_tokens[1], cfg.new_tokens or config.chunk.suffix_tokens
    duels = cfg.prefixes * len(cfg.conditions) * trained
    # Both sides of every duel, and the base again at the temperatures of the bisection.
    drawn = 2 * duels + 6 * cfg.prefixes * trained
    flops = 2.0 * policy * (drawn + cfg.nll_chunks * (trained + 1)) * (prefix + suffix)
    flops += sum(2.0 * (sizes.get(f"judge {name}") or 0) for name in {**config.judges, **cfg.judges}) * (
        duels * (prefix + 2 * suffix)
    )
    amount = (
        f"up to {duels:,} pairs for each judge: {cfg.prefixes} prefixes, {len(cfg.conditions)} ways, {trained} arms"
    )
    return Phase(name="evaluate", amount=amount, flops=flops, steps=_of(config, "evaluate"))


def _of(config: Config, stage: str) -> tuple[str, ...]:
    return tuple(step.name for step in graph(config) if step.stage == stage)


def _arms(config: Config, *stages: str) -> int:
    """Return how many arms ``stages`` train."""
    return sum(arm.stage in stages for arm in arms(config))


def _verdicts(judge: JudgeConfig, candidates: int) -> int:
    if judge.kind != "pairwise":
        return candidates * judge.repeats
    ordered = candidates * (candidates - 1) if judge.tournament == "full" else 2 * (candidates - 1)
    return ordered * judge.repeats


def _matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure FLOP/s of a matrix product of useful size, in about a fifth of a second."""
    a, b = (torch.randn(1024, 1024, device=device).to(dtype) for _ in range(2))
    torch.mm(a, b)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < 0.2:
        float(torch.mm(a, b)[0, 0])
        count += 1
    return count * 2 * 1024**3 / (time.perf_counter() - start)


def _disk(config: Config, policy: int | None, place: Path) -> str:
    if policy is None:
        return "disk: unknown before the policy is downloaded"
    checkpoints = _arms(config, "improve", "sft", "rlmt")
    resumable = 2 * 12 * policy if config.improve.checkpoint_every else 0
    logs = config.improve.steps * config.improve.prefixes_per_step * config.candidates_per_prefix * 1200
    needed = checkpoints * 4 * policy + resumable + logs
    folder = next(parent for parent in (place.absolute(), *place.absolute().parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    warning = "  NOT ENOUGH ROOM" if free < needed else ""
    return f"disk: up to {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB free{warning}"


def _steps(config: Config, place: Path) -> str:
    there = {f"{one.arm}/{one.stage}": one.done for one in (Run(place).stages() if place.is_dir() else [])}
    states = {None: "missing", True: "done", False: "begun"}
    return "steps: " + ", ".join(f"{step.name} ({states[there.get(step.name)]})" for step in graph(config))


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

"""What loading, converting and saving models takes."""

from __future__ import annotations

from collections.abc import Sequence

from forethought.config import Config, ModelConfig
from forethought.costs.base import Cost, Phase, Setting, known
from forethought.graph import CONTINUED, IMPROVED, REASONING, Step, arms, graph
from forethought.models import Shape
from forethought.store import SHARED

LOAD_SECONDS, LOAD_BYTES = 1.5, 5e8
"""Loading a model and checking the engine on it, and bytes of weights a second besides."""
CONVERT_SECONDS, CONVERT_WEIGHTS = 8.0, 2e7
"""Converting a packaged model, once, and weights a second besides."""
DISK = 5e8
"""Bytes of a checkpoint that are written a second."""


def models_of(config: Config) -> dict[str, ModelConfig]:
    """Return the models that a run of ``config`` uses, by role."""
    found = {"policy": config.policy}
    for name, judge in {**config.judges, **config.evaluate.judges}.items():
        if judge.model is not None:
            found[f"judge {name}"] = judge.model
        if judge.contrast is not None:
            found[f"judge {name}, contrast"] = judge.contrast
    if config.improve.rewrite is not None and config.improve.rewrite.model is not None:
        found["rewrite teacher"] = config.improve.rewrite.model
    if config.interleave is not None and config.interleave.teacher.model is not None:
        found["thought teacher"] = config.interleave.teacher.model
    if config.rlmt is not None and config.rlmt.match.model is not None:
        found["match judge"] = config.rlmt.match.model
    return found


def first_use(config: Config, role: str) -> str:
    """Return the step of the graph that loads a judge or teacher."""
    steps = {step.name for step in graph(config)}
    name = role.removeprefix("judge ").removesuffix(", contrast")
    if role.startswith("judge ") and name not in config.judges:
        return f"{IMPROVED}/evaluate"
    if role == "thought teacher":
        return f"{SHARED}/interleave"
    if role == "match judge":
        return f"{SHARED}/calibrate"
    return f"{SHARED}/audit" if f"{SHARED}/audit" in steps and role != "rewrite teacher" else f"{IMPROVED}/improve"


def kept_models(config: Config) -> dict[ModelConfig, list[str]]:
    """Return the models of judges and teachers, each loaded once, with their roles."""
    found: dict[ModelConfig, list[str]] = {}
    for role, model in models_of(config).items():
        if role != "policy":
            found.setdefault(model, []).append(role)
    return found


def loading(at: Setting, step: Step) -> list[Phase]:
    """Return the models that a step loads: policies, and the judges and teachers that it is the first to use."""
    config, order = at.config, [one.name for one in graph(at.config)]
    first_roles = [
        roles[0]
        for roles in kept_models(config).values()
        if min((first_use(config, role) for role in roles), key=order.index) == step.name
    ]
    loaded = ["policy"] * _policies(config, step.arm, step.stage) + first_roles
    cost = known(lambda: Cost(seconds=sum(_load(at, role) for role in loaded)))
    return [Phase(name="load models", amount=f"{len(loaded)} times", cost=cost)] if loaded else []


def converting(at: Setting, roles: Sequence[str]) -> list[Phase]:
    """Return the conversions that come before everything, of what has not been converted yet."""
    if not roles:
        return []
    cost = known(
        lambda: Cost(seconds=sum(CONVERT_SECONDS + at.shape(role).weights / CONVERT_WEIGHTS for role in roles))
    )
    return [Phase(name="convert models", amount=f"{len(roles)}, once", cost=cost)]


def saving(model: Shape, every: int, steps: int) -> Cost:
    """Return what the checkpoints of a stage take: with the optimiser's moments while it runs, without at its end."""
    resumable = (steps - 1) // every if every else 0
    return Cost(seconds=model.weights * (12 * resumable + 4) / DISK)


def _load(at: Setting, role: str) -> float:
    size = 2 if at.config.dtype == "bfloat16" else 4
    return LOAD_SECONDS + at.shape(role).weights * size / LOAD_BYTES


def _policies(config: Config, arm: str, stage: str) -> int:
    """Return how often a step loads a policy; the base is loaded once and stays."""
    if stage == "improve":
        return 1 + int(arm != CONTINUED and config.improve.compares)
    taking = [one for one in arms(config) if one.stage]
    counts = {
        **{"audit": 1, "evaluate": 1, "sft": 1, "rlmt": 2},
        "evaluate-sft": sum(one.stage != "rlmt" and one.name != CONTINUED for one in taking),
        "evaluate-rlmt": sum(not one.control for one in taking),
        REASONING: sum(
            config.reasoning is None or one.name in (config.reasoning.arms or (one.name,)) for one in taking
        ),
    }
    return counts.get(stage, 0)

"""Which models a run uses and when each is loaded; what loading, converting and saving takes."""

from __future__ import annotations

from collections.abc import Sequence

from forethought.config import TRAINING, Config, ModelConfig
from forethought.costs.base import Cost, Phase, Setting, known
from forethought.graph import Step, arm_of, graph
from forethought.models import Shape
from forethought.run.store import SHARED

LOAD_SECONDS, LOAD_BYTES = 1.5, 5e8
"""Loading a model and checking the engine on it, and bytes of weights a second besides."""
CONVERT_SECONDS, CONVERT_WEIGHTS = 8.0, 2e7
"""Converting a packaged model, once, and weights a second besides."""
DISK = 5e8
"""Bytes of a checkpoint that are written a second."""


def models_of(config: Config) -> dict[str, ModelConfig]:
    """Return the models that a run of ``config`` uses, by role."""
    models: dict[str, ModelConfig | None] = {"policy": config.policy}
    for name, judge in {**config.judges, **config.evaluate.judges}.items():
        models |= {f"judge {name}": judge.model, f"judge {name}, contrast": judge.contrast}
    models["rewrite teacher"] = config.improve.rewrite.model if config.improve.rewrite else None
    models["thought teacher"] = config.interleave.teacher.model if config.interleave else None
    for name, match in config.match_judges.items():
        models["match judge" if name == TRAINING else f"match judge {name}"] = match.model
    return {role: model for role, model in models.items() if model is not None}


def first_loads(config: Config) -> dict[str, list[str]]:
    """Return, by step, the judges and teachers that it is the first to use; each model is loaded once and stays."""
    models, loads, seen = models_of(config), dict[str, list[str]](), set[ModelConfig]()
    for step in graph(config):
        loads[step.name] = []
        for role, model in models.items():
            if role != "policy" and model not in seen and step.stage in _stages(config, role):
                seen.add(model)
                loads[step.name].append(role)
    return loads


def _stages(config: Config, role: str) -> tuple[str, ...]:
    """Return the first stages that use a judge or a teacher: whichever of them the config has."""
    teachers = {"rewrite teacher": "improve", "thought teacher": "interleave"}
    if role.startswith("match judge"):
        return ("calibrate",)
    if role in teachers:
        return (teachers[role],)
    trains = role.removeprefix("judge ").removesuffix(", contrast") in config.judges
    return ("audit", "improve") if trains else ("evaluate",)


def loading(at: Setting, step: Step) -> list[Phase]:
    """Return the models that a step loads: policies, and the judges and teachers that it is the first to use."""
    steps = {one.name for one in graph(at.config)}
    compares = at.config.improve.compares and not arm_of(step.arm).control
    # Evaluations load what earlier steps trained; what compares with a reference loads the same weights twice.
    trained = sum(name in steps and not name.startswith(f"{SHARED}/") for name in step.inputs)
    policies = max(trained, {"audit": 1, "improve": 1 + int(compares), "sft": 1, "rlmt": 2}.get(step.stage, 0))
    roles = ["policy"] * policies + first_loads(at.config)[step.name]
    cost = known(
        lambda: Cost(seconds=sum(LOAD_SECONDS + at.shape(role).weights * at.itemsize / LOAD_BYTES for role in roles))
    )
    return [Phase(name="load models", amount=f"{len(roles)} times", cost=cost)] if roles else []


def converting(at: Setting, roles: Sequence[str]) -> list[Phase]:
    """Return the conversions that come before everything, of what has not been converted yet."""
    cost = known(
        lambda: Cost(seconds=sum(CONVERT_SECONDS + at.shape(role).weights / CONVERT_WEIGHTS for role in roles))
    )
    return [Phase(name="convert models", amount=f"{len(roles)}, once", cost=cost)] if roles else []


def saving(model: Shape, every: int, steps: int) -> Cost:
    """Return what the checkpoints of a stage take: with the optimiser's moments while it runs, without at its end."""
    resumable = (steps - 1) // every if every else 0
    return Cost(seconds=model.weights * (12 * resumable + 4) / DISK)

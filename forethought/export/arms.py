"""Which arms of a run there are, and where their weights lie."""

from __future__ import annotations

from dataclasses import dataclass

from forethought import config as settings
from forethought.config import Config, ModelConfig
from forethought.graph import STEPS
from forethought.store import BASE, Run, StageFolder

TRAINS = ("improve", "sft", "rlmt")
"""Stages that end with a model."""


class ExportError(ValueError):
    """Something that cannot be taken from this run, or not be put there; the message says why and the way out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """An arm whose weights are there."""

    name: str
    """Its name in the run."""
    model: ModelConfig
    """Its weights: a folder of the run, or the untrained policy."""
    thinks: bool
    """Whether it was trained to think before it goes on."""
    folder: StageFolder | None
    """The stage that made it; ``None`` is the base."""


def config_of(run: Run) -> Config:
    """Return the config that the run was last asked for.

    Raises:
        ExportError: if the folder does not hold it (older versions did not write it).
    """
    kept = run.config()
    if kept is None:
        raise ExportError(
            f"{run.path}: run.json, the config of the run, is not there. `forethought run CONFIG --run {run.path}` "
            "writes it; what is done is not run again"
        )
    return settings.build(kept, where=str(run.path / "run.json"))


def arms(run: Run, config: Config) -> dict[str, Trained]:
    """Return the base and every arm that is done, by name, in the order in which they are trained."""
    found = {BASE: Trained(name=BASE, model=config.policy, thinks=False, folder=None)}
    there = {f"{one.arm}/{one.stage}": one for one in run.stages()}
    for step in STEPS:
        folder = there.get(step.name)
        if step.stage not in TRAINS or folder is None or not folder.done:
            continue
        made = folder.read_json("config")
        found[step.arm] = Trained(
            name=step.arm,
            model=ModelConfig(model=str((folder.checkpoints / "final").resolve())),
            thinks=step.stage == "rlmt" or bool(made.get("thoughts")),
            folder=folder,
        )
    return found


def find(run: Run, config: Config, name: str) -> Trained:
    """Return the arm ``name``.

    Raises:
        ExportError: if it is not there, with the arms that are.
    """
    found = arms(run, config)
    if name not in found:
        raise ExportError(f"{name}: {run.path} has no such arm, or it is not done. Done: {', '.join(found)}")
    return found[name]


def tags_of(config: Config) -> tuple[str, str]:
    """Return what stands before and after a thought; empty where the config has no thoughts."""
    return config.interleave.tags if config.interleave is not None else ("", "")

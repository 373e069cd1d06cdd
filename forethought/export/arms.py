"""Which arms of a run there are, and where their weights lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from forethought import config as settings
from forethought.config import Config, ModelConfig
from forethought.graph import STEPS, arm_of
from forethought.run.files import inside
from forethought.run.store import BASE, Run, StageFolder

TRAINS = ("improve", "sft", "rlmt")
"""Stages that end with a model."""


class ExportError(ValueError):
    """Something that cannot be exported from this run, or not to there; the message says why and the way out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """An arm that is trained, or the base."""

    name: str
    model: ModelConfig
    """A folder of the run, or the untrained policy."""
    thinks: bool
    """Whether it was trained to think before it goes on."""
    folder: StageFolder | None
    """The stage that made it; ``None`` is the base."""


def config_of(run: Run, *, trust_remote_code: bool = False) -> Config:
    """Return the config that the run was last asked for.

    A run folder may come from somebody else: what it says of ``trust_remote_code`` does not count, the argument does.

    Raises:
        ExportError: if the folder does not hold it (older versions did not write it).
    """
    kept = run.config()
    if kept is None:
        raise ExportError(
            f"{run.path}: run.json, the config of the run, is not there. `forethought run CONFIG --run {run.path}` "
            "writes it; what is done is not run again"
        )
    config = settings.build(kept, where=str(run.path / "run.json"))
    policy = config.policy.model_copy(update={"trust_remote_code": trust_remote_code})
    return config.model_copy(update={"policy": policy})


def arms(run: Run, config: Config) -> dict[str, Trained]:
    """Return the base and every arm that is done, by name, in the order in which they are trained."""
    done = {BASE: Trained(name=BASE, model=config.policy, thinks=False, folder=None)}
    folders = {f"{folder.arm}/{folder.stage}": folder for folder in run.stages()}
    for step in STEPS:
        folder = folders.get(step.name)
        if step.stage in TRAINS and folder is not None and folder.done:
            weights = inside(folder.checkpoints / "final", run.path).resolve()
            for path in weights.iterdir() if weights.is_dir() else ():
                inside(path, run.path)
            model = ModelConfig(model=str(weights), trust_remote_code=config.policy.trust_remote_code)
            done[step.arm] = Trained(name=step.arm, model=model, thinks=arm_of(step.arm).thinks, folder=folder)
    return done


def find(run: Run, config: Config, name: str) -> Trained:
    """Return the arm ``name``; an :class:`ExportError` names the arms that are there."""
    done = arms(run, config)
    if name not in done:
        raise ExportError(f"{name}: {run.path} has no such arm, or it is not done. Done: {', '.join(done)}")
    if name != BASE and not Path(done[name].model.model).is_dir():
        raise ExportError(
            f"{name}: {done[name].model.model} is gone: a sweep removes the trained models of a finished seed. "
            "`forethought sweep CONFIG --keep-weights` keeps them; this seed must be made again"
        )
    if (folder := done[name].folder) is not None:
        folder.check_model()
    return done[name]


def tags_of(config: Config) -> tuple[str, str]:
    """Return what stands before and after a thought; empty where the config has no thoughts."""
    return config.interleave.tags if config.interleave is not None else ("", "")


def lengths_of(config: Config) -> tuple[int, int]:
    """Return the most tokens of a thought, and those of a suffix, in the last stage of the config."""
    if config.rlmt is not None:
        return config.rlmt.thought_tokens, config.rlmt.suffix_tokens
    return config.evaluate.thoughts.thought_tokens, config.chunk.suffix_tokens

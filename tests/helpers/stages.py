"""One stage alone: what earlier steps would have left in the run folder is given by the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from forethought import models
from forethought.config import Config, ModelConfig, TrainingConfig
from forethought.graph import STEPS
from forethought.models.model import Model
from forethought.pipeline.runner import stage_class
from forethought.records import Chunk, Split, ThoughtRow
from forethought.run.store import BASE, Run, StageFolder
from forethought.stages.base import Context
from forethought.tags import Tags


class GivenContext(Context):
    """A context whose inputs a test gives; every arm has the weights of the untrained policy."""

    def __init__(
        self,
        config: Config,
        place: Path,
        *,
        chunks: Sequence[Chunk] = (),
        rows: Mapping[Split, Sequence[ThoughtRow]] | None = None,
        **given: Any,
    ) -> None:
        """``given``: cached properties of a context, such as ``judges``, ``matcher`` and ``rlmt_windows``."""
        super().__init__(config, Run.create_or_open(place), say=lambda line: None)
        for split in Split:
            self._kept["chunks", split] = [chunk for chunk in chunks if chunk.split is split]
            self._kept["rows", split] = list((rows or {}).get(split, ()))
        vars(self).update(given)

    def identity(self, step: str) -> str:
        return f"identity of {step}"

    def load(self, name: str, section: TrainingConfig | None = None, tags: Tags | None = None) -> Model:
        return super().load(BASE, section, tags)


def stage_of(context: Context, name: str) -> Any:
    """Return the stage of the step called ``name``."""
    [step] = (step for step in STEPS if step.name == name)
    return stage_class(step)(context, step)


def run_stage(stage: Any) -> StageFolder:
    """Run a stage, or go on with it, and return its folder."""
    folder: StageFolder = stage.context.run.stage(stage.step.arm, stage.step.stage)
    folder.write_config(stage.depends_on())
    stage.run(folder)
    return folder


def weights(folder: StageFolder) -> dict[str, torch.Tensor]:
    """Return the weights that a stage has trained."""
    return _parameters(ModelConfig(model=str(folder.checkpoints / "final")))


def untrained() -> dict[str, torch.Tensor]:
    """Return the weights with which the smoke config's policy begins."""
    return _parameters(ModelConfig(model="tiny-llama"))


def _parameters(model: ModelConfig) -> dict[str, torch.Tensor]:
    loaded = models.load(model, device=torch.device("cpu"), dtype=torch.float32)
    return {name: value.detach() for name, value in loaded.model.named_parameters()}

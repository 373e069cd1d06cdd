"""From configs to judges.  Models are loaded once, however many judges and contrasts use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forethought import models
from forethought.config import JudgeConfig, ModelConfig
from forethought.engine.policy import Policy
from forethought.engine.sampler import TorchSampler
from forethought.engine.scorer import TorchScorer
from forethought.judges import Judge
from forethought.judges.base import QuestionJudge
from forethought.judges.cache import CachedJudge, VerdictCache
from forethought.judges.likelihood import Contrast, LikelihoodJudge
from forethought.judges.local import LocalModel
from forethought.judges.shorter import ShorterJudge


class Shelf:
    """The judges' and teachers' models, each loaded when it is first asked for."""

    def __init__(self, device: Any, dtype: Any, seed: int) -> None:
        self.device = device
        self.dtype = dtype
        self.seed = seed
        self._models: dict[ModelConfig, LocalModel] = {}

    def model(self, config: ModelConfig) -> LocalModel:
        """Return the model of ``config``, ready to score and to write."""
        if config not in self._models:
            loaded = models.load(config, device=self.device, dtype=self.dtype, seed=self.seed)
            policy = Policy(loaded.model)
            self._models[config] = LocalModel(
                name=loaded.name,
                identity=loaded.identity,
                tokenizer=loaded.tokenizer,
                scorer=TorchScorer(policy),
                sampler=TorchSampler(policy),
                bos=tuple(models.bos_ids(loaded.tokenizer)),
                context=loaded.model.config.get_text_config().max_position_embeddings,
            )
        return self._models[config]


def build(config: JudgeConfig, shelf: Shelf, cache: Path | None = None) -> Judge:
    """Return the judge of ``config``, behind the verdict cache in the file ``cache`` if one is given."""
    judge = _judge(config, shelf)
    if cache is None or config.kind == "shorter":
        return judge
    return CachedJudge(judge, VerdictCache(cache))


def _judge(config: JudgeConfig, shelf: Shelf) -> QuestionJudge:
    if config.kind == "shorter":
        return ShorterJudge()
    if config.kind == "likelihood" and config.model is not None:
        contrast = None
        if config.contrast is not None:
            contrast = Contrast(shelf.model(config.contrast), config.contrast_weight)
        return LikelihoodJudge(shelf.model(config.model), config.normalise, contrast)
    raise NotImplementedError(config.kind)

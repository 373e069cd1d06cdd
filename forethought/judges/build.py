"""From configs to judges.  Models are loaded once, however many judges and contrasts use them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from forethought.config import JudgeConfig, ModelConfig, RewriteConfig
from forethought.engine.endpoint import Endpoint
from forethought.engine.policy import Policy
from forethought.engine.sampler import TorchSampler
from forethought.engine.scorer import TorchScorer
from forethought.judges import Judge, pairwise, rewrite
from forethought.judges.askers import Asker, EndpointLetterAsker, LocalLetterAsker, WrittenAsker
from forethought.judges.base import QuestionJudge
from forethought.judges.cache import CachedJudge, VerdictCache
from forethought.judges.likelihood import Contrast, LikelihoodJudge
from forethought.judges.local import LocalModel
from forethought.judges.pairwise import PairwiseJudge
from forethought.judges.pointwise import SCALES, PointwiseJudge
from forethought.judges.prompt import load as load_prompt
from forethought.judges.rewrite import Rewriter
from forethought.judges.shorter import ShorterJudge
from forethought.judges.writers import EndpointWriter, LocalWriter, Style, Writer
from forethought.keys import Key
from forethought.models.load import bos_ids, load


class Shelf:
    """The judges' and teachers' models, each loaded when it is first asked for."""

    def __init__(self, device: Any, dtype: Any, seed: int, progress: Callable[[str], None] = lambda line: None) -> None:
        """``progress`` is told what takes long: a download, a conversion."""
        self.progress = progress
        self.device = device
        self.dtype = dtype
        self.seed = seed
        self._models: dict[ModelConfig, LocalModel] = {}

    def model(self, config: ModelConfig) -> LocalModel:
        """Return the model of ``config``, ready to score and to write."""
        if config not in self._models:
            loaded = load(config, device=self.device, dtype=self.dtype, seed=self.seed, progress=self.progress)
            policy = Policy(loaded.model)
            self._models[config] = LocalModel(
                name=Path(loaded.name).name,
                identity=loaded.identity,
                tokenizer=loaded.tokenizer,
                scorer=TorchScorer(policy),
                sampler=TorchSampler(policy),
                bos=tuple(bos_ids(loaded.tokenizer)),
                context=loaded.model.config.get_text_config().max_position_embeddings,
            )
        return self._models[config]


def build(config: JudgeConfig, shelf: Shelf, cache: Path | None = None) -> Judge:
    """Return the judge of ``config``, behind the verdict cache in the file ``cache`` if one is given."""
    judge = _judge(config, shelf)
    if cache is None or config.kind == "shorter":
        return judge
    return CachedJudge(judge, VerdictCache(cache))


def build_rewriter(config: RewriteConfig, shelf: Shelf, tokenizer: Any) -> Rewriter:
    """Return the rewrite teacher of ``config``; ``tokenizer`` is the policy's, which measures length."""
    writer = _writer(config, shelf, Key(seed=shelf.seed, purpose="rewrite"))
    prompt = load_prompt("rewrite", rewrite.FIELDS, "joined" if config.join_words else "plain", config.prompt)
    return Rewriter(writer, prompt, tokenizer, config.temperature, config.join_words)


def _judge(config: JudgeConfig, shelf: Shelf) -> QuestionJudge:
    if config.kind == "shorter":
        return ShorterJudge()
    if config.kind == "likelihood" and config.model is not None:
        contrast = None
        if config.contrast is not None:
            contrast = Contrast(shelf.model(config.contrast), config.contrast_weight)
        return LikelihoodJudge(shelf.model(config.model), config.normalise, contrast, config.copy_cost)
    if config.axis == "quality":
        prompt = load_prompt("quality", pairwise.FIELDS, config.verdict, config.prompt)
        return PairwiseJudge(_asker(config, shelf), prompt, config.tournament)
    prompt = load_prompt(config.axis, SCALES[config.axis].fields, config.verdict, config.prompt)
    return PointwiseJudge(config.axis, _asker(config, shelf), prompt)


def _asker(config: JudgeConfig, shelf: Shelf) -> Asker:
    if config.verdict == "written":
        style = Style(max_tokens=config.max_tokens, temperature=config.temperature, top_p=config.top_p)
        return WrittenAsker(_writer(config, shelf, Key(seed=shelf.seed, purpose="verdicts")), style, config.repeats)
    if config.endpoint is not None:
        return EndpointLetterAsker(Endpoint(config.endpoint))
    return LocalLetterAsker(shelf.model(_needed(config)))


def _writer(config: JudgeConfig | RewriteConfig, shelf: Shelf, key: Key) -> Writer:
    if config.endpoint is not None:
        return EndpointWriter(Endpoint(config.endpoint), key)
    return LocalWriter(shelf.model(_needed(config)), key)


def _needed(config: JudgeConfig | RewriteConfig) -> ModelConfig:
    if config.model is None:
        raise ValueError("a judge or teacher needs exactly one of `model` and `endpoint`")
    return config.model

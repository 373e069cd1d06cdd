"""From configs to judges.  Building one loads no weights: names and identities come without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forethought.config import JudgeConfig, MatchConfig, RewriteConfig
from forethought.judges import Judge, pairwise, rewrite
from forethought.judges.base import QuestionJudge
from forethought.judges.beyond import BeyondPrefixJudge
from forethought.judges.cache import CachedJudge
from forethought.judges.custom import CustomJudge
from forethought.judges.likelihood import LikelihoodJudge
from forethought.judges.match import HALF, LikelihoodGainJudge, Matcher, SimilarityJudge
from forethought.judges.multiple_choice import ChoiceModel, EndpointChoiceModel, LocalChoiceModel, WrittenChoiceModel
from forethought.judges.pairwise import PairwiseJudge
from forethought.judges.pointwise import SCALES, Graded, PointwiseJudge
from forethought.judges.rewrite import Rewriter
from forethought.judges.shorter import ShorterJudge
from forethought.keys import Key
from forethought.llm.cache import CachedGenerator, TextCache
from forethought.llm.endpoint import Endpoint
from forethought.llm.generate import GenerationConfig, local_model, make_generator
from forethought.llm.prompts import load_prompt
from forethought.models import resolve_device
from forethought.models.embedding import load_embedder
from forethought.models.model import ModelPool


def build(config: JudgeConfig, pool: ModelPool, cache: Path | None = None, key: str = "judges.*") -> Judge:
    """Return the judge of ``config``, behind the verdict cache in the file ``cache`` if one is given.

    ``key`` is the section of the config, for messages about a judge of the user's own.
    """
    if config.kind == "custom":
        assert config.path is not None
        return CustomJudge(config.path, config.options, key, cache)
    judge: QuestionJudge
    if config.kind == "shorter":
        # Counting characters is faster than a cache.
        return ShorterJudge()
    if config.kind == "likelihood":
        contrast = pool.model(config.contrast) if config.contrast else None
        weight = config.contrast_weight
        judge = LikelihoodJudge(local_model(config, pool), config.normalise, config.copy_cost, contrast, weight)
    elif config.axis == "quality":
        prompt = load_prompt("quality", pairwise.FIELDS, config.verdict, config.prompt)
        judge = PairwiseJudge(_choice_model(config, pool), prompt, config.tournament)
    else:
        judge = _pointwise(config.axis, config, pool)
    return judge if cache is None else CachedJudge(judge, TextCache(cache, "verdicts"))


def build_rewriter(config: RewriteConfig, pool: ModelPool, tokenizer: Any, cache: Path | None = None) -> Rewriter:
    """Return the rewrite teacher of ``config``; ``tokenizer`` is the policy's, which measures length.

    A server's replies are kept in the file ``cache``: they are paid for once.
    """
    teacher = make_generator(config, pool, Key(seed=pool.compute.seed, purpose="rewrite"))
    if cache is not None and config.endpoint is not None:
        teacher = CachedGenerator(teacher, TextCache(cache, "replies"))
    prompt = load_prompt("rewrite", rewrite.FIELDS, "joined" if config.join_words else "plain", config.prompt)
    return Rewriter(teacher, prompt, tokenizer, config.temperature, config.join_words)


def build_matcher(
    config: MatchConfig, pool: ModelPool, cache: Path, threshold: float | None = None, key: str = "rlmt.match"
) -> Matcher:
    """Return the match judge of ``config``; ``threshold`` is the calibrated one, if it was.

    ``key`` is the section of the config, for messages about a judge of the user's own.
    """
    # Not `or`: a threshold of 0 is a threshold.
    given = config.threshold if config.threshold is not None else threshold
    return Matcher(judge=_match_judge(config, pool, cache, key), threshold=HALF if given is None else given)


def _match_judge(config: MatchConfig, pool: ModelPool, cache: Path, key: str) -> Judge:
    if config.kind == "custom":
        assert config.path is not None
        return CustomJudge(config.path, config.options, key, cache)
    if config.embeds:  # faster than a cache
        kind = SimilarityJudge if config.kind == "similarity" else BeyondPrefixJudge
        return kind(load_embedder(config.embedder, resolve_device(pool.compute.device)))
    gain = config.kind == "likelihood-gain"
    judge = LikelihoodGainJudge(local_model(config, pool)) if gain else _pointwise("match", config, pool)
    return CachedJudge(judge, TextCache(cache, "verdicts"))


def _pointwise(axis: Graded, config: JudgeConfig | MatchConfig, pool: ModelPool) -> PointwiseJudge:
    prompt = load_prompt(axis, SCALES[axis].fields, config.verdict, config.prompt)
    return PointwiseJudge(axis, _choice_model(config, pool), prompt)


def _choice_model(config: JudgeConfig | MatchConfig, pool: ModelPool) -> ChoiceModel:
    if config.verdict == "written":
        drawn = GenerationConfig(max_tokens=config.max_tokens, temperature=config.temperature, top_p=config.top_p)
        generator = make_generator(config, pool, Key(seed=pool.compute.seed, purpose="verdicts"))
        return WrittenChoiceModel(generator, drawn, config.repeats)
    if config.endpoint is not None:
        return EndpointChoiceModel(Endpoint(config.endpoint))
    return LocalChoiceModel(local_model(config, pool))

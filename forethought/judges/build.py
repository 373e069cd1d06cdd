"""From configs to judges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forethought.config import JudgeConfig, MatchConfig, RewriteConfig
from forethought.judges import Judge, pairwise, rewrite
from forethought.judges.base import QuestionJudge
from forethought.judges.cache import CachedJudge, VerdictCache
from forethought.judges.likelihood import Contrast, LikelihoodJudge
from forethought.judges.match import HALF, LikelihoodGainJudge, Matcher, SimilarityJudge
from forethought.judges.multiple_choice import Asker, EndpointLetterAsker, LocalLetterAsker, WrittenAsker
from forethought.judges.pairwise import PairwiseJudge
from forethought.judges.pointwise import SCALES, PointwiseJudge
from forethought.judges.rewrite import Rewriter
from forethought.judges.shorter import ShorterJudge
from forethought.keys import Key
from forethought.llm.endpoint import Endpoint
from forethought.llm.generate import Style
from forethought.llm.prompts import load as load_prompt
from forethought.llm.shelf import Shelf, needed, writer
from forethought.models.embedding import load_embedder


def build(config: JudgeConfig, shelf: Shelf, cache: Path | None = None) -> Judge:
    """Return the judge of ``config``, behind the verdict cache in the file ``cache`` if one is given."""
    judge = _judge(config, shelf)
    if cache is None or config.kind == "shorter":
        return judge
    return CachedJudge(judge, VerdictCache(cache))


def build_rewriter(config: RewriteConfig, shelf: Shelf, tokenizer: Any) -> Rewriter:
    """Return the rewrite teacher of ``config``; ``tokenizer`` is the policy's, which measures length."""
    teacher = writer(config, shelf, Key(seed=shelf.seed, purpose="rewrite"))
    prompt = load_prompt("rewrite", rewrite.FIELDS, "joined" if config.join_words else "plain", config.prompt)
    return Rewriter(teacher, prompt, tokenizer, config.temperature, config.join_words)


def build_matcher(config: MatchConfig, shelf: Shelf, cache: Path, threshold: float | None = None) -> Matcher:
    """Return the match judge of ``config``; ``threshold`` is the calibrated one, if it was."""
    judge: Judge
    if config.kind == "similarity":
        judge = SimilarityJudge(load_embedder(config.embedder, shelf.device))  # faster than looking it up
    elif config.kind == "likelihood-gain":
        judge = CachedJudge(LikelihoodGainJudge(shelf.model(needed(config))), VerdictCache(cache))
    else:
        prompt = load_prompt("match", SCALES["match"].fields, config.verdict, config.prompt)
        judge = CachedJudge(PointwiseJudge("match", _asker(config, shelf), prompt), VerdictCache(cache))
    bar = config.threshold if config.threshold is not None else threshold
    return Matcher(judge=judge, threshold=HALF if bar is None else bar)


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


def _asker(config: JudgeConfig | MatchConfig, shelf: Shelf) -> Asker:
    if config.verdict == "written":
        style = Style(max_tokens=config.max_tokens, temperature=config.temperature, top_p=config.top_p)
        return WrittenAsker(writer(config, shelf, Key(seed=shelf.seed, purpose="verdicts")), style, config.repeats)
    if config.endpoint is not None:
        return EndpointLetterAsker(Endpoint(config.endpoint))
    return LocalLetterAsker(shelf.model(needed(config)))

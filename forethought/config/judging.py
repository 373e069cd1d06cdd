"""Judges, the audit that they must pass, and the teacher that rewrites."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from forethought.config.base import Count, Options, OrGreedy, Positive, Section, Share, UserPath, Weight
from forethought.config.sources import ModelConfig, PromptedConfig, VerdictConfig


def check_custom(kind: str, path: str | None, options: dict[str, Any]) -> None:
    """Check that a section has ``path`` if, and ``path`` or ``options`` only if, its kind is ``custom``.

    Raises:
        ValueError: with the way out.
    """
    if kind == "custom" and path is None:
        raise ValueError(
            'kind = "custom" needs `path`, such as path = "my_judges:Fresh" for class Fresh in my_judges.py'
        )
    if kind != "custom" and (path is not None or options):
        raise ValueError(f'kind = "{kind}" takes no `path` and no `options`: set kind = "custom", or remove them')


class JudgeConfig(VerdictConfig):
    """One judge of candidates."""

    kind: Literal["likelihood", "pairwise", "pointwise", "shorter", "custom"] = "likelihood"
    """`likelihood`: log-probability of the candidate under a stronger model; `pairwise`: an LLM chooses
    between two; `pointwise`: an LLM grades one (safety, factuality); `shorter`: prefers shorter text (tests);
    `custom`: your own Python code."""
    path: UserPath | None = None
    """For `custom`: `module:attribute` of a class or function that returns a judge; see docs/extending.md."""
    options: Options = {}
    """For `custom`: keyword arguments of it."""
    axis: Literal["quality", "safety", "factuality"] = "quality"
    """What an LLM judges: quality is pairwise, safety and factuality are pointwise."""
    normalise: Literal["token", "byte", "none"] = "token"
    """What a likelihood is divided by: the candidate's tokens, its UTF-8 bytes, or nothing."""
    contrast: ModelConfig | None = None
    """A weaker model whose score is subtracted, to reward what the judge finds likelier than this model does."""
    contrast_weight: Weight = 1.0
    """Factor of the subtracted score."""
    copy_cost: Weight = 4.0
    """For `likelihood`: smallest cost, in nats, of a token in a copy or a loop; 0: none."""
    tournament: Literal["full", "pivot"] = "full"
    """Which pairs are judged: all of them, or each candidate against the original suffix."""

    @model_validator(mode="after")
    def _consistent(self) -> JudgeConfig:
        check_custom(self.kind, self.path, self.options)
        if self.kind not in ("shorter", "custom") and self.sources != 1:
            raise ValueError(f"a {self.kind} judge needs exactly one of `model` and `endpoint`")
        if self.kind == "likelihood" and self.model is None:
            raise ValueError("a likelihood judge needs `model`: servers do not return reliable scores of a given text")
        if self.contrast is not None and self.normalise == "token":
            raise ValueError("contrast: scores per token of two tokenizers do not compare; set normalise = 'byte'")
        if self.kind == "pairwise" and self.axis != "quality":
            raise ValueError(f"axis = {self.axis!r} is judged pointwise: set kind = 'pointwise'")
        if self.kind == "pointwise" and self.axis == "quality":
            raise ValueError("quality is judged pairwise: set kind = 'pairwise'")
        return self


class AuditConfig(Section):
    """The test that a judge must pass before it may train: pairs of which the better text is known, in both orders."""

    enabled: bool = True
    """Whether `improve` requires a passed audit."""
    prefixes: Positive = 32
    """Chunks of the improve split from which the pairs are made."""
    min_accuracy: dict[Literal["other_document", "shuffled", "repeated", "corrupted", "rollout"], Share] = {
        "other_document": 0.8,
        "shuffled": 0.8,
        "repeated": 0.8,
        "corrupted": 0.55,
        "rollout": 0.6,
    }
    """Smallest share of pairs, by kind, in which the original suffix must win; a tie counts half."""
    max_unscored: Share = 0.05
    """Largest share of verdicts that may be unscored."""
    allow_failing: bool = False
    """Whether to train with a judge that failed."""


class RewriteConfig(PromptedConfig):
    """A teacher whose rewrite of the suffix becomes one more candidate (Tan et al. 2026, section 1.2.1)."""

    temperature: OrGreedy = 0.6
    """Sampling temperature of the teacher."""
    join_words: Count = 5
    """Words of the prefix's end that are repeated before the suffix and the answer, so that they join smoothly."""

    @model_validator(mode="after")
    def _consistent(self) -> RewriteConfig:
        if self.sources != 1:
            raise ValueError("a rewrite teacher needs exactly one of `model` and `endpoint`")
        return self

"""Judges, their audit, and the teacher that rewrites."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from forethought.config.base import Positive, Section, Share
from forethought.config.sources import EndpointConfig, ModelConfig


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


class JudgeConfig(Section):
    """One judge of candidates."""

    kind: Literal["likelihood", "pairwise", "pointwise", "shorter", "custom"] = "likelihood"
    """`likelihood`: log-probability of the candidate under a stronger model; `pairwise`: an LLM chooses
    between two; `pointwise`: an LLM grades one (safety, factuality); `shorter`: prefers shorter text (tests);
    `custom`: Python code of one's own."""
    path: str | None = None
    """For `custom`: `module:attribute` of a class or function that returns a judge; see docs/extending.md."""
    options: dict[str, Any] = {}
    """For `custom`: keyword arguments of it."""
    axis: Literal["quality", "safety", "factuality"] = "quality"
    """What an LLM judge judges: quality is pairwise, safety and factuality are pointwise."""
    model: ModelConfig | None = None
    """The judge's model, run in this process."""
    endpoint: EndpointConfig | None = None
    """Or the server that runs it."""
    normalise: Literal["token", "byte", "none"] = "token"
    """What a likelihood is divided by: the candidate's tokens, its UTF-8 bytes, or nothing."""
    contrast: ModelConfig | None = None
    """A weaker model whose score is subtracted: rewards what the judge finds likelier than this model does."""
    contrast_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """How much of it is subtracted."""
    copy_cost: Annotated[float, Field(ge=0.0)] = 4.0
    """Nats a likelihood judge charges at least for completing a run of three tokens seen before; 0: none."""
    verdict: Literal["letter", "written"] = "letter"
    """How an LLM answers: log-probabilities of the answer letter, or a written conclusion."""
    prompt: str | None = None
    """A prompt file of one's own; default: the shipped one of the axis."""
    repeats: Positive = 1
    """How often a written verdict is drawn and averaged."""
    temperature: Annotated[float, Field(ge=0.0)] = 0.0
    """Temperature of written verdicts."""
    top_p: Share = 1.0
    """Nucleus of written verdicts."""
    max_tokens: Positive = 512
    """Length of written verdicts."""
    tournament: Literal["full", "pivot"] = "full"
    """Pairs that are judged: all of them, or each candidate against the original suffix."""

    @model_validator(mode="after")
    def _one_source(self) -> JudgeConfig:
        check_custom(self.kind, self.path, self.options)
        if self.kind not in ("shorter", "custom") and (self.model is None) == (self.endpoint is None):
            raise ValueError(f"a {self.kind} judge needs exactly one of `model` and `endpoint`")
        if self.kind == "likelihood" and self.model is None:
            raise ValueError("a likelihood judge needs `model`: endpoints do not score given text reliably")
        if self.contrast is not None and self.normalise == "token":
            raise ValueError("contrast: tokens of two models are not of one size; set normalise = 'byte'")
        if self.kind == "pairwise" and self.axis != "quality":
            raise ValueError(f"axis = {self.axis!r} is judged pointwise: set kind = 'pointwise'")
        if self.kind == "pointwise" and self.axis == "quality":
            raise ValueError("quality is judged pairwise: set kind = 'pairwise'")
        return self


class AuditConfig(Section):
    """What a judge must show before it may train anything: accuracy on planted pairs, in both orders."""

    enabled: bool = True
    """Whether `improve` asks for a passed audit."""
    prefixes: Positive = 32
    """How many held-in chunks are audited."""
    min_accuracy: dict[Literal["other_document", "shuffled", "repeated", "corrupted", "rollout"], Share] = {
        "other_document": 0.8,
        "shuffled": 0.8,
        "repeated": 0.8,
        "corrupted": 0.55,
        "rollout": 0.6,
    }
    """Least share of pairs, seen in both orders, in which the original suffix wins (ties half)."""
    max_unscored: Share = 0.05
    """Largest share of verdicts that may be unscored."""
    allow_failing: bool = False
    """Train with a judge that failed all the same."""


class RewriteConfig(Section):
    """A teacher whose rewrite of the suffix becomes one more candidate (Tan et al. 2026, section 1.2.1)."""

    model: ModelConfig | None = None
    """The teacher's model, run in this process."""
    endpoint: EndpointConfig | None = None
    """Or the server that runs it."""
    prompt: str | None = None
    """A prompt file of one's own."""
    temperature: Annotated[float, Field(ge=0.0)] = 0.6
    """Sampling temperature of the teacher."""
    join_words: Annotated[int, Field(ge=0)] = 5
    """So many last words of the prefix are put before the suffix and the answer, to smooth the join."""

    @model_validator(mode="after")
    def _one_source(self) -> RewriteConfig:
        if (self.model is None) == (self.endpoint is None):
            raise ValueError("a rewrite teacher needs exactly one of `model` and `endpoint`")
        return self

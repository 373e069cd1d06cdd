"""Stage 3, RL mid-training: what is rewarded, how it is trained, and how the use of thoughts is examined."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from forethought.config.base import Positive, Section, Share
from forethought.config.judging import check_custom
from forethought.config.sources import EndpointConfig, ModelConfig
from forethought.config.stages import TrainingConfig


class MatchConfig(Section):
    """Who says whether a predicted suffix matches the true one; it never sees the thought."""

    kind: Literal["similarity", "llm", "likelihood-gain", "custom"] = "similarity"
    """`similarity`: cosine of sentence embeddings; `llm`: a language model says yes or no; `likelihood-gain`: how much
    likelier a language model finds the true suffix once it has read the prediction; `custom`: Python code of one's
    own."""
    path: str | None = None
    """For `custom`: `module:attribute` of a class or function that returns a match judge; see docs/extending.md."""
    options: dict[str, Any] = {}
    """For `custom`: keyword arguments of it."""
    embedder: str = "all-minilm-l6-v2"
    """For `similarity`: the installed package of that name, a sentence-transformers folder with mean pooling, or
    `letters`, which counts letters (tests)."""
    model: ModelConfig | None = None
    """For `llm` and `likelihood-gain`: the model, run in this process."""
    endpoint: EndpointConfig | None = None
    """For `llm`: or the server that runs it."""
    verdict: Literal["letter", "written"] = "letter"
    """How an LLM answers: log-probabilities of YES and NO, or a written conclusion."""
    prompt: str | None = None
    """A prompt file of one's own."""
    repeats: Positive = 1
    """How often a written verdict is drawn and averaged."""
    temperature: Annotated[float, Field(ge=0.0)] = 0.0
    """Temperature of written verdicts."""
    top_p: Share = 1.0
    """Nucleus of written verdicts."""
    max_tokens: Positive = 256
    """Length of written verdicts."""
    threshold: float | None = None
    """A suffix whose score reaches it passes; default: calibrated, or 0.5 for `llm`."""
    max_unrelated: Share = 0.01
    """Calibration: at most this share of the suffixes of other documents may pass."""
    base_rate: Share = 0.1
    """Calibration: about this share of the untrained policy's suffixes passes, unless that lets too many others in."""
    calibration_chunks: Positive = 64
    """Chunks of the improve split that calibrate, one of every document before a second of any."""

    @model_validator(mode="after")
    def _one_source(self) -> MatchConfig:
        check_custom(self.kind, self.path, self.options)
        sources = (self.model is not None) + (self.endpoint is not None)
        if sources != (0 if self.kind in ("similarity", "custom") else 1):
            raise ValueError(
                f"kind = {self.kind!r}: `similarity` takes `embedder`, `custom` takes `path`, the others exactly "
                "one of `model` and `endpoint`"
            )
        if self.kind == "likelihood-gain" and self.model is None:
            raise ValueError("likelihood-gain needs `model`: endpoints do not score given text reliably")
        return self


class RLMTConfig(TrainingConfig):
    """Stage 3, RL mid-training: a thought, then a suffix; rewarded is the suffix."""

    match: MatchConfig = MatchConfig()
    """Who compares suffixes."""
    reward: Literal["binary", "gain-over-blank", "information-gain", "specific-gain"] = "binary"
    """`binary`: 1 if the suffix matches; `gain-over-blank`: the same, but measured from the mean reward of suffixes
    after a blank thought; `information-gain`: how much likelier, in nats per token, the thought makes the true suffix
    (no judge; only the thought is trained); `specific-gain`: the same, less what the thought does for the true suffix
    of another prefix."""
    advantage: Literal["dr-grpo", "grpo"] = "dr-grpo"
    """`dr-grpo`: reward minus baseline, summed over tokens, over a fixed number; `grpo`: also divided by the group's
    standard deviation, and averaged within each rollout."""
    windows_per_step: Positive = 8
    """Prefixes per step."""
    rollouts: Annotated[int, Field(ge=2)] = 16
    """G, thoughts with suffixes of each prefix."""
    blanks: Positive = 8
    """Suffixes after a blank thought that make the baseline of `gain-over-blank`."""
    resample: Annotated[int, Field(ge=0)] = 0
    """How often groups without variance are drawn anew before they are skipped."""
    updates: Positive = 1
    """Optimiser steps on each batch; after the first, ratios to the policy that sampled are clipped."""
    clip: tuple[Share, Share] = (0.2, 0.2)
    """Ratios below 1 - low or above 1 + high gain nothing more; only with `updates` above 1."""
    kl_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the divergence from the SFT model."""
    cut: Literal["place", "raw"] = "place"
    """Where a prefix ends: at a place that the teacher or the policy's surprise chose, or where its chunk was cut."""
    thought_tokens: Positive = 64
    """Longest thought; one without its closing tag is closed there."""
    suffix_tokens: Positive = 32
    """Length of the predicted suffix."""
    sample_rows: Positive = 256
    """Rollouts that are decoded at once; does not change the text."""
    monitor_windows: Positive = 16
    """Held-out windows whose reward is measured while training."""
    monitor_samples: Positive = 4
    """Rollouts of each of them."""

    @property
    def dense(self) -> bool:
        """Whether the reward is the policy's own likelihood of the true suffix, so that only thoughts are trained."""
        return self.reward in ("information-gain", "specific-gain")

    @model_validator(mode="after")
    def _consistent(self) -> RLMTConfig:
        if self.reward == "specific-gain" and self.windows_per_step < 2:
            raise ValueError(
                "reward = 'specific-gain' tries each thought on another prefix of its step: set windows_per_step to 2 "
                "or more"
            )
        if self.reward == "gain-over-blank" and self.advantage == "grpo":
            raise ValueError(
                "reward = 'gain-over-blank' has a baseline outside of the group, and a group that agrees has no "
                "standard deviation to divide by: set advantage = 'dr-grpo'"
            )
        return self


class ThinkingEvaluateConfig(Section):
    """The reward gate and the thought-use probe, where there is `[rlmt]`."""

    windows: Positive = 64
    """Held-out windows, one of each row."""
    samples: Positive = 8
    """Rollouts of each window in the gate."""
    probe_samples: Positive = 4
    """Thoughts of each window, and suffixes under each condition, in the probe."""
    generic: tuple[str, ...] = (
        "Let me think about what comes next.",
        "This needs some careful thought.",
        "I should keep the context in mind.",
        "What would the author say here?",
    )
    """Thoughts that say nothing about the text, in turn."""
    controls: bool = True
    """Whether two scripted policies take part, one that ignores its thought and one that copies it."""
    examples: Annotated[int, Field(ge=0)] = 4
    """Windows whose thoughts and suffixes are kept."""

    @model_validator(mode="after")
    def _enough(self) -> ThinkingEvaluateConfig:
        if self.probe_samples > self.samples:
            raise ValueError(
                f"probe_samples = {self.probe_samples}: the probe takes thoughts of the gate, which has {self.samples}"
            )
        return self

"""Stage 3, RL mid-training: the reward, the training, and the evaluation of thoughts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from forethought.config.base import (
    Count,
    Length,
    Line,
    Name,
    Number,
    OneOf,
    Options,
    Positive,
    Repeats,
    Retries,
    Section,
    Share,
    UserPath,
    Weight,
)
from forethought.config.judging import check_custom
from forethought.config.sources import VerdictConfig
from forethought.config.stages import JudgedTrainingConfig

TRAINING = "training"
"""Name of the match judge of `[rlmt.match]` among the others."""
NegativeKind = Literal["prefix_start", "prefix_end", "other_document", "same_document", "corrupted", "shuffled"]


class MatchAuditConfig(Section):
    """What a match judge must tell apart before it may train; it is examined on the windows of its calibration."""

    min_auc: dict[NegativeKind, Share] = {
        "prefix_start": 0.95,
        "prefix_end": 0.95,
        "other_document": 0.95,
        "same_document": 0.9,
        "corrupted": 0.8,
        "shuffled": 0.9,
    }
    """By planted kind, the smallest share of pairs in which a paraphrased or cut true suffix must score above it."""
    max_passing: dict[NegativeKind, Share] = {
        "prefix_start": 0.01,
        "prefix_end": 0.01,
        "other_document": 0.05,
        "corrupted": 0.2,
        "shuffled": 0.1,
    }
    """By planted kind, the largest share that may reach the threshold."""
    max_unscored: Share = 0.05
    """Largest share of predictions that may be unscored."""
    allow_failing: bool = False
    """Whether to train with a match judge that failed."""


class MatchConfig(VerdictConfig):
    """The judge that compares a predicted suffix with the true one; it never sees the thought."""

    kind: Literal["beyond-prefix", "similarity", "llm", "likelihood-gain", "custom"] = "beyond-prefix"
    """`beyond-prefix`: how much of what the true suffix adds to the prefix is said, by sentence embeddings, word order,
    names and numbers; `similarity`: cosine of the embeddings alone; `llm`: `model` or `endpoint` answers yes or no;
    `likelihood-gain`: how much likelier `model` finds the true suffix after it has read the prediction; `custom`: your
    own Python code."""
    path: UserPath | None = None
    """For `custom`: `module:attribute` of a class or function that returns a match judge; see docs/extending.md."""
    options: Options = {}
    """For `custom`: keyword arguments of it."""
    embedder: Line = "all-minilm-l6-v2"
    """For kinds that embed: the installed package of that name, a sentence-transformers folder with mean pooling, or
    `letters`, which counts letters (tests)."""
    max_tokens: Length = 256
    """Longest written verdict, in tokens."""
    threshold: Number | None = None
    """Lowest score that passes; default: calibrated, or 0.5 for `llm`."""
    max_unrelated: Share = 0.01
    """Calibration: largest share of suffixes of other documents that may pass."""
    max_copies: Share = 0.01
    """Calibration: largest share of prefixes of which a copy may pass, of either end and as long as a prediction."""
    base_rate: Share = 0.1
    """Calibration: share of the untrained policy's suffixes that passes, unless the other limits ask for fewer."""
    calibration_chunks: Positive = 256
    """Chunks of the improve split for the calibration, one of each document; if there are fewer documents, as many."""
    audit: MatchAuditConfig = MatchAuditConfig()
    """The test that the judge must pass before it may train."""

    @property
    def embeds(self) -> bool:
        """Whether it compares sentence embeddings."""
        return self.kind in ("beyond-prefix", "similarity")

    @model_validator(mode="after")
    def _consistent(self) -> MatchConfig:
        check_custom(self.kind, self.path, self.options)
        if self.sources != (0 if self.embeds or self.kind == "custom" else 1):
            raise ValueError(
                f"kind = {self.kind!r}: `beyond-prefix` and `similarity` take `embedder`, `custom` takes `path`, the "
                "others exactly one of `model` and `endpoint`"
            )
        if self.kind == "likelihood-gain" and self.model is None:
            raise ValueError("likelihood-gain needs `model`: servers do not return reliable scores of a given text")
        return self


class RLMTConfig(JudgedTrainingConfig):
    """Stage 3, RL mid-training: the policy writes a thought, then a suffix; the suffix is rewarded."""

    match: MatchConfig = MatchConfig()
    """The judge that compares suffixes."""
    reward: Annotated[str, OneOf("binary", "gain-over-blank", "information-gain", "specific-gain")] = "binary"
    """`binary`: 1 if the suffix matches; `gain-over-blank`: the same objective, with the mean reward after a blank
    thought as baseline; `information-gain`: nats per token by which the thought makes the true suffix likelier (no
    judge; only the thought is trained); `specific-gain`: as far as that exceeds what it does for suffixes of other
    documents, else 0, and 0 for a thought that the policy did not close; `module:function`: your own."""
    advantage: Literal["dr-grpo", "grpo"] = "dr-grpo"
    """`dr-grpo`: reward minus baseline, summed over tokens, divided by a fixed number; `grpo`: also divided by the
    standard deviation of the group, and averaged within each rollout."""
    control: bool = False
    """Whether to train the `*-rl` arms, too: the same start, reward and steps, without thoughts."""
    windows_per_step: Positive = 8
    """Prefixes per step."""
    rollouts: Annotated[Repeats, Field(ge=2)] = 16
    """G, thoughts with suffixes of each prefix."""
    blanks: Repeats = 8
    """Suffixes after a blank thought whose mean reward is the baseline of `gain-over-blank`."""
    negatives: Repeats = 3
    """Windows of other documents with which `specific-gain` compares: those of the step whose suffixes are likeliest
    after the thought's own prefix."""
    resample: Retries = 0
    """How often a group without variance is sampled again before it is skipped."""
    updates: Repeats = 1
    """Optimiser steps on each batch; after the first, ratios to the policy that sampled are clipped."""
    clip: tuple[Share, Share] = (0.2, 0.2)
    """[low, high]: ratios are clipped to 1 - low and 1 + high; used if `updates` is above 1."""
    kl_weight: Weight = 0.0
    """Weight of the KL divergence from the SFT model."""
    cut: Literal["place", "raw"] = "place"
    """Where a prefix ends: `place`: where the teacher or the surprise put a thought; `raw`: where its chunk is cut."""
    thought_tokens: Length = 64
    """Longest thought; a longer one is cut and closed."""
    suffix_tokens: Length = 32
    """Length of the predicted suffix."""
    sample_rows: Positive = 256
    """Rollouts that are sampled at once; changes memory and speed, not the text."""
    monitor_windows: Positive = 16
    """Held-out windows whose reward is measured while training."""
    monitor_samples: Repeats = 4
    """Rollouts of each of these windows."""

    @property
    def thought_only(self) -> bool:
        """Whether the thought alone earns the reward, so that no suffix is written or trained."""
        return self.reward in ("information-gain", "specific-gain")

    @property
    def blank_baseline(self) -> bool:
        """Whether the baseline is the mean reward of suffixes after a blank thought, not the mean of the group."""
        return self.reward == "gain-over-blank"

    @model_validator(mode="after")
    def _consistent(self) -> RLMTConfig:
        if self.reward == "specific-gain" and self.windows_per_step < 2:
            raise ValueError("reward = 'specific-gain' compares the prefixes of a step: set windows_per_step >= 2")
        if self.control and (self.thought_only or self.blank_baseline):
            raise ValueError(
                f"control = true trains without thoughts, and reward = {self.reward!r} is about thoughts: set reward = "
                "'binary', or control = false"
            )
        if self.reward == "gain-over-blank" and self.advantage == "grpo":
            raise ValueError(
                "reward = 'gain-over-blank' has a baseline of its own, and advantage = 'grpo' would divide by the "
                "standard deviation of the group, which may be 0: set advantage = 'dr-grpo'"
            )
        return self


class ThinkingEvaluateConfig(Section):
    """The reward gate and the thought-use probe, if there is `[rlmt]`."""

    windows: Positive = 64
    """Held-out windows, one of each document."""
    samples: Repeats = 8
    """Rollouts of each window in the gate."""
    probe_samples: Count = 4
    """Thoughts of each window, and suffixes under each condition, in the probe; 0: no probe."""
    probe_matched: bool = True
    """Whether the probe compares at equal entropy, too, which draws about six times as many suffixes; the gate always
    does."""
    generic: tuple[Line, ...] = (
        "Let me think about what comes next.",
        "This needs some careful thought.",
        "I should keep the context in mind.",
        "What would the author say here?",
    )
    """Thoughts that say nothing about the text, used in turn."""
    judges: dict[Name, MatchConfig] = {}
    """More match judges by name, which train nothing: they are calibrated and audited like that of `[rlmt.match]`."""
    conditions: dict[Name, UserPath] = {}
    """Conditions of your own, by name: `module:function` of a thought and its window, which returns what is inserted
    instead of the thought."""
    controls: bool = True
    """Whether to add two scripted policies, one that ignores its thought and one that copies it."""
    examples: Count = 4
    """Windows whose thoughts and suffixes are kept."""

    @model_validator(mode="after")
    def _consistent(self) -> ThinkingEvaluateConfig:
        if self.probe_samples > self.samples:
            raise ValueError(f"probe_samples = {self.probe_samples}: must be at most samples, which is {self.samples}")
        return self

"""What is trained, how, and how it is evaluated: one model per stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from forethought.config.base import Positive, Section, Share
from forethought.config.judging import JudgeConfig, RewriteConfig


class ImproveConfig(Section):
    """Stage 1, self-improving pretraining."""

    objective: Literal["dpo", "rf-nll", "sft-rewrite", "continued"] = "dpo"
    """`dpo`: best against worst; `rf-nll`: NLL of the best candidate; `sft-rewrite`: NLL of the rewrite;
    `continued`: plain next-token training on the same chunks (the control)."""
    control: bool = True
    """Whether `forethought run` also trains the `continued` control arm."""
    steps: Positive = 100
    """Optimiser steps."""
    prefixes_per_step: Positive = 16
    """Prefixes per step, whatever the micro-batch is."""
    rollouts: Annotated[int, Field(ge=1)] = 16
    """K, the policy's continuations of each prefix."""
    original: bool = True
    """Whether the original suffix is a candidate."""
    rewrite: RewriteConfig | None = None
    """The teacher's rewrite as a candidate."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    """Sampling temperature; no top-p and no top-k, so that the sampler's log-probs are the trainer's."""
    beta: Annotated[float, Field(gt=0.0)] = 0.1
    """DPO's beta."""
    nll_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of an NLL term, per token, on the chosen candidate."""
    sync_reference_every: Annotated[int, Field(ge=0)] = 0
    """Copy the policy into the reference every n steps; 0: a frozen reference."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-6
    """Peak learning rate."""
    min_rate_ratio: Share = 0.1
    """The cosine ends at this share of the peak."""
    warmup_steps: Annotated[int, Field(ge=0)] = 10
    """Linear warm-up."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """AdamW's decoupled weight decay."""
    adam_betas: tuple[Share, Share] = (0.9, 0.95)
    """AdamW's betas."""
    adam_eps: Annotated[float, Field(gt=0.0)] = 1e-8
    """AdamW's epsilon."""
    clip_norm: Annotated[float, Field(gt=0.0)] = 1.0
    """Largest gradient norm."""
    micro_tokens: Positive = 8192
    """Tokens of one forward and backward pass; does not change the result."""
    sample_rows: Positive = 256
    """Rollouts that are decoded at once; does not change the text."""
    monitor_every: Annotated[int, Field(ge=0)] = 10
    """Measure suffix NLL on a fixed held-out slice every n steps; 0: only at the ends."""
    monitor_chunks: Positive = 64
    """Size of that slice."""
    checkpoint_every: Annotated[int, Field(ge=0)] = 20
    """Write a checkpoint every n steps; 0: only at the end."""


class EvaluateConfig(Section):
    """Held-out comparison of arms."""

    prefixes: Positive = 64
    """Held-out prefixes."""
    conditions: tuple[Literal["sampled", "greedy", "entropy-matched"], ...] = ("sampled", "greedy", "entropy-matched")
    """The three ways of comparing (sharpening alone wins the first)."""
    new_tokens: Positive | None = None
    """Length of the compared continuations; default: the suffix length."""
    judges: dict[str, JudgeConfig] = {}
    """Judges that did not train the policy, by name; the training judge is always added."""
    nll_chunks: Positive = 128
    """Held-out chunks for suffix NLL."""
    entropy_tolerance: Annotated[float, Field(gt=0.0)] = 0.02
    """Bisection of the matching temperature stops within so many nats per token."""
    examples: Annotated[int, Field(ge=0)] = 8
    """Side-by-side examples that are kept."""


class LogConfig(Section):
    """Optional metric sinks; `metrics.jsonl` is always written."""

    tensorboard: bool = False
    """Also write TensorBoard events (needs `pip install tensorboard`)."""
    wandb: str | None = None
    """Also log to this Weights & Biases project (needs `pip install wandb`)."""
    trackio: str | None = None
    """Also log to this trackio project (needs `pip install trackio`)."""

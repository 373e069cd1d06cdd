"""What is trained, how, and how it is evaluated: one model per stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from forethought.config.base import Positive, Section, Share
from forethought.config.judging import JudgeConfig, RewriteConfig
from forethought.config.sources import EndpointConfig, ModelConfig


class TrainingConfig(Section):
    """What every stage that trains has."""

    steps: Positive = 100
    """Optimiser steps."""
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
    monitor_every: Annotated[int, Field(ge=0)] = 10
    """Measure the NLL on a fixed held-out slice every n steps; 0: only at the ends."""
    checkpoint_every: Annotated[int, Field(ge=0)] = 20
    """Write a checkpoint every n steps; 0: only at the end."""


class ImproveConfig(TrainingConfig):
    """Stage 1, self-improving pretraining."""

    objective: Literal["dpo", "rf-nll", "sft-rewrite", "continued"] = "dpo"
    """`dpo`: best against worst; `rf-nll`: NLL of the best candidate; `sft-rewrite`: NLL of the rewrite;
    `continued`: plain next-token training on the same chunks (the control)."""
    control: bool = True
    """Whether `forethought run` also trains the `continued` control arm."""
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
    sample_rows: Positive = 256
    """Rollouts that are decoded at once; does not change the text."""
    monitor_chunks: Positive = 64
    """Size of that slice."""


class TeacherConfig(Section):
    """Who writes thoughts."""

    kind: Literal["model", "stand-in"] = "model"
    """`model`: a language model; `stand-in`: a rule that says the next thing about the last sentence (tests)."""
    model: ModelConfig | None = None
    """The teacher's model, run in this process."""
    endpoint: EndpointConfig | None = None
    """Or the server that runs it."""
    prompt: str | None = None
    """A prompt file of one's own."""
    temperature: Annotated[float, Field(ge=0.0)] = 0.7
    """Sampling temperature."""
    top_p: Share = 1.0
    """Nucleus; a model in this process takes 1 only."""
    max_tokens: Positive = 64
    """Length of a reply about one place; a reply about a whole chunk may have so many for each thought."""
    retries: Annotated[int, Field(ge=0)] = 1
    """Further rounds of asking where a thought was rejected or missing."""

    @model_validator(mode="after")
    def _one_source(self) -> TeacherConfig:
        wanted = 1 if self.kind == "model" else 0
        if (self.model is not None) + (self.endpoint is not None) != wanted:
            raise ValueError("a teacher needs exactly one of `model` and `endpoint`; kind = 'stand-in' takes neither")
        return self


class InterleaveConfig(Section):
    """Stage 2, first half: a teacher supplies thoughts; the text stays as it is."""

    teacher: TeacherConfig
    """Who writes them."""
    positions: Literal["teacher", "surprise"] = "surprise"
    """Who chooses the places: `teacher` (one request per chunk, which wants a strong model), or where the untrained
    policy finds the next tokens most surprising (one request per place)."""
    clauses: bool = True
    """Whether thoughts may stand after clauses, too, or after sentences only."""
    thoughts: tuple[Positive, Positive] = (3, 6)
    """Fewest and most thoughts of a row; a chunk with fewer that pass the checks gives no row."""
    gap: Positive = 80
    """Characters at least between two thoughts, before the first and after the last."""
    max_words: Positive = 40
    """Longest thought."""
    max_leak: Share = 0.2
    """Largest share of a thought's word 3-grams that quote the coming text."""
    tags: tuple[str, str] = ("<think>", "</think>")
    """What stands before and after a thought."""
    rows: Positive | None = None
    """Chunks of the `sft` split that are tried; default: all."""
    heldout_rows: Positive = 128
    """Held-out chunks that are tried, for evaluation."""
    rlmt_rows: Positive | None = None
    """Chunks of the `rlmt` split that get places; default: all."""

    @model_validator(mode="after")
    def _consistent(self) -> InterleaveConfig:
        if self.thoughts[0] > self.thoughts[1]:
            raise ValueError(f"thoughts = {list(self.thoughts)}: the fewest come first")
        opened, closed = self.tags
        if not opened.strip() or not closed.strip() or opened in closed or closed in opened:
            raise ValueError(f"tags = {list(self.tags)}: two different tags, and neither inside of the other")
        if any(one[:size] == other[-size:] for one in self.tags for other in self.tags for size in range(1, len(one))):
            raise ValueError(f"tags = {list(self.tags)}: no tag may begin as one ends, or they could not be told apart")
        return self


class SFTConfig(TrainingConfig):
    """Stage 2, second half: next-token training on text with thoughts, for both lineages on the same rows."""

    rows_per_step: Positive = 16
    """Rows per step, whatever the micro-batch is."""
    control: bool = True
    """Whether to train the `*-raw` arms, too: the same chunks, the same steps, no thoughts."""
    tags_as_tokens: bool = False
    """Whether each tag becomes one token of its own, with a new row of the embedding, or stays ordinary text."""
    monitor_rows: Positive = 32
    """Held-out rows that are measured while training."""


class ThoughtEvaluateConfig(Section):
    """What is measured of the thoughts, before and after SFT."""

    prefixes: Positive = 64
    """Held-out prefixes that are continued freely, and compared."""
    free_tokens: Positive = 96
    """Length of a free continuation."""
    thought_tokens: Positive = 64
    """Longest thought that a policy may write when it is asked for one."""
    text_tokens: Positive = 32
    """Tokens after a thought whose NLL is compared with and without it."""
    conditions: tuple[Literal["sampled", "greedy", "entropy-matched"], ...] = ("sampled", "greedy")
    """Ways of comparing the two thinking arms."""


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
    thoughts: ThoughtEvaluateConfig = ThoughtEvaluateConfig()
    """Thoughts, where there is `[sft]`."""


class LogConfig(Section):
    """Optional metric sinks; `metrics.jsonl` is always written."""

    tensorboard: bool = False
    """Also write TensorBoard events (needs `pip install tensorboard`)."""
    wandb: str | None = None
    """Also log to this Weights & Biases project (needs `pip install wandb`)."""
    trackio: str | None = None
    """Also log to this trackio project (needs `pip install trackio`)."""

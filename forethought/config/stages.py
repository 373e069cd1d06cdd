"""What is trained, how, and how it is evaluated: one class per stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from forethought.config.base import (
    Count,
    Distinct,
    Length,
    Line,
    Name,
    OneOf,
    OrGreedy,
    Positive,
    PositiveShare,
    Repeats,
    Retries,
    Section,
    Share,
    Temperature,
    Weight,
)
from forethought.config.judging import JudgeConfig, RewriteConfig
from forethought.config.sources import PromptedConfig

Tag = Annotated[str, Field(max_length=64)]
Beta = Annotated[float, Field(strict=True, ge=0.0, lt=1.0)]


class TrainingConfig(Section):
    """The keys of every stage that trains."""

    steps: Positive = 100
    """Optimiser steps."""
    learning_rate: PositiveShare = 5e-6
    """Peak learning rate."""
    min_rate_ratio: Share = 0.1
    """Final learning rate of the cosine schedule, as a share of the peak."""
    warmup_steps: Count = 10
    """Steps of linear warm-up."""
    weight_decay: Share = 0.0
    """AdamW's decoupled weight decay."""
    adam_betas: tuple[Beta, Beta] = (0.9, 0.95)
    """AdamW's betas."""
    adam_eps: Annotated[float, Field(strict=True, ge=1e-20, le=1.0)] = 1e-8
    """AdamW's epsilon."""
    clip_norm: Annotated[float, Field(strict=True, ge=1e-6, le=1e9)] = 1.0
    """Largest gradient norm; larger gradients are scaled down."""
    micro_tokens: Positive = 8192
    """Tokens of one forward and backward pass; changes memory and speed, not the result."""
    monitor_every: Count = 10
    """Measure on a fixed held-out slice every n steps; 0: only before the first and after the last."""
    checkpoint_every: Count = 20
    """Write a checkpoint every n steps; 0: only at the end."""


class JudgedTrainingConfig(TrainingConfig):
    """The keys of the stages that train by judgments."""

    max_undecided: Share | None = None
    """Largest share of the steps that may have no training signal; then the stage ends with exit code 3. Default: ties
    may be as many as there are, and a quarter of the steps may have none for want of verdicts or rewrites."""


class ImproveConfig(JudgedTrainingConfig):
    """Stage 1, self-improving pretraining."""

    objective: Annotated[str, OneOf("dpo", "rf-nll", "sft-rewrite", "continued")] = "dpo"
    """`dpo`: best against worst; `rf-nll`: NLL of the best candidate; `sft-rewrite`: NLL of the rewrite;
    `continued`: plain next-token training on the same chunks (the control); `module:function`: your own."""
    control: bool = True
    """Whether `forethought run` also trains the `continued` control arm."""
    control_lineage: bool = False
    """Whether that arm goes through stages 2 and 3, too: without it nothing tells what stage 1 does for them from what
    more training on the same text does."""
    prefixes_per_step: Positive = 16
    """Prefixes per step."""
    rollouts: Repeats = 16
    """K, the policy's continuations of each prefix."""
    original: bool = True
    """Whether the original suffix is a candidate."""
    rewrite: RewriteConfig | None = None
    """The teacher whose rewrite is a candidate; default: none."""
    temperature: Temperature = 1.0
    """Sampling temperature; there is no top-p or top-k, so that the sampler's log-probs are the trainer's."""
    beta: Annotated[float, Field(strict=True, ge=1e-6, le=1e3)] = 0.1
    """DPO's beta."""
    nll_weight: Weight = 0.0
    """Weight of an NLL term, per token, on the chosen candidate."""
    sync_reference_every: Count = 0
    """Copy the policy into the reference every n steps; 0: the reference stays frozen."""
    sample_rows: Positive = 256
    """Rollouts that are sampled at once; changes memory and speed, not the text."""
    monitor_chunks: Positive = 64
    """Held-out chunks whose suffix NLL is measured while training."""

    @property
    def ranks(self) -> bool:
        """Whether the policy continues each prefix, and judges rank what it writes; else neither is done."""
        return self.objective not in ("sft-rewrite", "continued")

    @property
    def rewrites(self) -> bool:
        """Whether a teacher's rewrite of each suffix is asked for."""
        return self.rewrite is not None and self.objective != "continued"

    @property
    def compares(self) -> bool:
        """Whether the objective compares with a reference, which is loaded, too."""
        return self.objective not in ("rf-nll", "sft-rewrite", "continued")


class TeacherConfig(PromptedConfig):
    """The model that writes thoughts."""

    kind: Literal["model", "stand-in"] = "model"
    """`model`: a language model; `stand-in`: a fixed rule that needs no model (tests)."""
    temperature: OrGreedy = 0.7
    """Sampling temperature."""
    top_p: PositiveShare = 1.0
    """Nucleus (top-p); a model in this process supports only 1."""
    max_tokens: Length = 64
    """Longest reply about one place; a reply about a whole chunk may have this many tokens per thought."""
    retries: Retries = 1
    """Further requests for thoughts that were rejected or missing."""

    @model_validator(mode="after")
    def _consistent(self) -> TeacherConfig:
        if self.sources != (1 if self.kind == "model" else 0):
            raise ValueError("a teacher needs exactly one of `model` and `endpoint`; kind = 'stand-in' takes neither")
        return self


class InterleaveConfig(Section):
    """Stage 2, first half: a teacher inserts thoughts; the text itself does not change."""

    teacher: TeacherConfig
    """The model that writes the thoughts."""
    positions: Literal["teacher", "surprise"] = "surprise"
    """Where thoughts stand: `teacher`: where the teacher chooses (one request per chunk; needs a strong model);
    `surprise`: where the untrained policy finds the next tokens most surprising (one request per place)."""
    clauses: bool = True
    """Whether thoughts may follow clauses, and not only sentences."""
    thoughts: tuple[Repeats, Repeats] = (3, 6)
    """Fewest and most thoughts of a row; a chunk with fewer that pass the checks gives no row."""
    gap: Positive = 80
    """Fewest characters between two thoughts, before the first and after the last."""
    max_words: Positive = 40
    """Longest thought, in words."""
    max_leak: Share = 0.2
    """Largest share of a thought's word 3-grams that may occur in the text that follows it."""
    tags: tuple[Tag, Tag] = ("<think>", "</think>")
    """Opening and closing tag of a thought."""
    rows: Positive | None = None
    """Rows of the `sft` split that are kept: chunks are tried until so many pass; default: all that its chunks give."""
    heldout_rows: Positive = 128
    """Held-out rows that are kept, for evaluation; gate and probe take a window of each document that was tried."""
    rlmt_rows: Positive | None = None
    """Rows of the `rlmt` split that are kept, with places only; default: all that its chunks give."""
    max_tries: Positive = 4
    """Chunks that are tried at most for each row that is wanted; then a split has fewer rows, and the run goes on."""

    @model_validator(mode="after")
    def _consistent(self) -> InterleaveConfig:
        if self.thoughts[0] > self.thoughts[1]:
            raise ValueError(f"thoughts = {list(self.thoughts)}: must be [fewest, most]")
        opened, closed = self.tags
        if not opened.strip() or not closed.strip() or opened in closed or closed in opened:
            raise ValueError(f"tags = {list(self.tags)}: must be two tags that do not contain each other")
        if any(one[:size] == other[-size:] for one in self.tags for other in self.tags for size in range(1, len(one))):
            raise ValueError(f"tags = {list(self.tags)}: no tag may start with the end of a tag, or text is ambiguous")
        return self


class SFTConfig(TrainingConfig):
    """Stage 2, second half: next-token training on text with thoughts, for both lineages on the same rows."""

    rows_per_step: Positive = 16
    """Rows per step."""
    control: bool = True
    """Whether to train the `*-raw` arms, too: the same chunks and steps without thoughts."""
    tags_as_tokens: bool = False
    """Whether each tag becomes a new token with its own row of the embedding, or stays ordinary text."""
    monitor_rows: Positive = 32
    """Held-out rows whose NLL is measured while training."""


Way = Literal["sampled", "greedy", "entropy-matched", "entropy-matched to the base"]


class ThoughtEvaluateConfig(Section):
    """What is measured of the thoughts, before and after SFT."""

    prefixes: Positive = 64
    """Held-out prefixes that are continued freely, and compared."""
    free_tokens: Length = 96
    """Length of a free continuation."""
    thought_tokens: Length = 64
    """Longest thought of a policy that is asked for one, in tokens."""
    text_tokens: Length = 32
    """Tokens after a thought whose NLL is compared with and without the thought."""
    conditions: Annotated[tuple[Way, ...], Distinct] = ("sampled", "greedy")
    """Ways of sampling in which the two thinking arms are compared; may be empty."""


class EvaluateConfig(Section):
    """Held-out comparison of arms."""

    prefixes: Positive = 64
    """Held-out prefixes."""
    conditions: Annotated[tuple[Way, ...], Field(min_length=1), Distinct] = (
        "sampled",
        "greedy",
        "entropy-matched",
        "entropy-matched to the base",
    )
    """Ways of sampling in which arms are compared. Sharpening alone wins `sampled`; at equal entropy the base is
    sampled with the entropy of the arm, or the arm with that of the base."""
    new_tokens: Length | None = None
    """Length of the compared continuations; default: the suffix length."""
    judges: dict[Name, JudgeConfig] = {}
    """Judges that did not train the policy, by name; the training judges are always added."""
    nll_chunks: Positive = 128
    """Held-out chunks for suffix NLL."""
    entropy_tolerance: Annotated[float, Field(strict=True, ge=1e-4, le=10.0)] = 0.02
    """Largest difference of entropy, in nats per token, between what is compared at matched entropy, here and in
    `[thinking]`."""
    examples: Count = 8
    """Examples that are kept, side by side."""
    thoughts: ThoughtEvaluateConfig = ThoughtEvaluateConfig()
    """Measurements of thoughts, if there is `[sft]`."""


class PrimaryConfig(Section):
    """The one figure that the run is made for, written down before it; all others are exploratory.

    It is named as in the table of figures: `forethought show` and summary.json have the same names.
    """

    stage: Line = "evaluate-rlmt"
    """The evaluation that measures it."""
    metric: Line = "gate score difference of differences"
    """Its name."""
    arm: Line = "self-improved-rlmt"
    """The arm."""
    against: str = "continued-rlmt"
    """The arm that it is compared with; empty for none."""
    condition: str = "entropy-matched"
    """The condition."""
    judge: Line | Literal[""] = ""
    """The judge; empty: of all that trained nothing, the least favourable."""


class LogConfig(Section):
    """Optional metric loggers; `metrics.jsonl` is always written."""

    tensorboard: bool = False
    """Also write TensorBoard events (needs `pip install tensorboard`)."""
    wandb: Line | None = None
    """Also log to this Weights & Biases project (needs `pip install wandb`)."""
    trackio: Line | None = None
    """Also log to this trackio project (needs `pip install trackio`)."""

"""TRL's trainers, one optimiser step at a time, in their best fair settings."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import datasets
import torch
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from benchmarks.material import load
from benchmarks.measure import Options
from forethought.records import Chunk

RATE = 1e-6
BETA = 0.1

datasets.disable_progress_bars()


@dataclass(frozen=True, slots=True)
class Variant:
    """How TRL is set."""

    name: str
    """For the table."""
    weights: torch.dtype
    """Of the trained weights."""
    autocast: bool
    """Whether products are computed in bfloat16 (TRL's ``bf16=True``)."""
    checkpointing: bool = False
    """Whether activations are computed again in the backward pass (TRL's default)."""


AUTOCAST = Variant("bf16 autocast over fp32 weights", torch.float32, True)
CHECKPOINTED = Variant("bf16 autocast over fp32 weights, gradient checkpointing", torch.float32, True, True)
FP32 = Variant("fp32", torch.float32, False)
PURE = Variant("bf16 weights, no fp32 master", torch.bfloat16, False)
VARIANTS = {variant.name: variant for variant in (AUTOCAST, CHECKPOINTED, FP32, PURE)}


def variants(options: Options, *of: Variant) -> list[Variant]:
    """Return the variants to measure; tiny random models are computed in float32."""
    return [FP32] if options.tiny else [variant for variant in of if options.wants(f"TRL {variant.name}")]


def settings(options: Options, variant: Variant, rows: int) -> dict[str, Any]:
    """Return what all of TRL's configs share: one optimiser step of ``rows`` rows, nothing logged or saved."""
    return {
        "output_dir": tempfile.mkdtemp(prefix="benchmark-trl-"),
        "use_cpu": options.device == "cpu",
        "bf16": variant.autocast,
        "gradient_checkpointing": variant.checkpointing,
        "per_device_train_batch_size": rows,
        "max_steps": 1,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.95,
        "max_grad_norm": 1.0,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
    }


def dpo(name: str, options: Options, variant: Variant, chunks: Sequence[Chunk]) -> DPOTrainer:
    """Return TRL's DPO trainer: each chunk's suffix chosen, the next chunk's rejected.

    Its frozen reference has the compute dtype, as ours has: less memory and work than in float32.
    """
    loaded = load(name, options, variant.weights)
    reference = load(name, options, torch.bfloat16 if variant.autocast else variant.weights)
    rows = [
        {"prompt": chunk.prefix, "chosen": chunk.suffix, "rejected": other.suffix}
        for chunk, other in zip(chunks, [*chunks[1:], chunks[0]], strict=True)
    ]
    return DPOTrainer(
        model=loaded.model,
        ref_model=reference.model,
        args=DPOConfig(beta=BETA, **settings(options, variant, len(rows))),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=loaded.tokenizer,
    )


def sft(name: str, options: Options, variant: Variant, sequences: Sequence[Sequence[int]], width: int) -> SFTTrainer:
    """Return TRL's SFT trainer on packed rows of ``width`` tokens; all rows make one batch."""
    loaded = load(name, options, variant.weights)
    rows = [{"input_ids": list(ids), "labels": list(ids)} for ids in sequences]
    config = SFTConfig(
        packing=True,
        packing_strategy="bfd",
        max_length=width,
        shuffle_dataset=False,
        **settings(options, variant, 1),
    )
    trainer = SFTTrainer(
        model=loaded.model,
        args=config,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=loaded.tokenizer,
    )
    trainer.args.per_device_train_batch_size = trainer._train_batch_size = len(trainer.train_dataset)
    return trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollouts:
    """Sizes of an RLMT step."""

    prefixes: int
    """Prefixes of a step."""
    group: int
    """G, rollouts of each."""
    prefix: int
    """Tokens of a prefix."""
    thought: int
    """Tokens of a thought."""
    suffix: int
    """Tokens of a suffix."""

    @property
    def new(self) -> int:
        """Tokens of a rollout."""
        return self.thought + self.suffix


def grpo(
    name: str, options: Options, variant: Variant, texts: Sequence[str], size: Rollouts, reward: Callable[[str], float]
) -> GRPOTrainer:
    """Return TRL's GRPO trainer as on-policy Dr. GRPO: reward minus group mean, fixed normaliser, no KL."""
    loaded = load(name, options, variant.weights)

    def rewards(completions: list[str], **_: Any) -> list[float]:
        return [reward(text) for text in completions]

    config = GRPOConfig(
        num_generations=size.group,
        max_completion_length=size.new,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        beta=0.0,
        loss_type="dr_grpo",
        scale_rewards="none",
        generation_kwargs={"min_new_tokens": size.new},
        **settings(options, variant, size.prefixes * size.group),
    )
    return GRPOTrainer(
        model=loaded.model,
        reward_funcs=rewards,
        args=config,
        train_dataset=datasets.Dataset.from_list([{"prompt": text} for text in texts]),
        processing_class=loaded.tokenizer,
    )


class Stepper:
    """One optimiser step of a TRL trainer after the other, without its loop's logging and callbacks."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        trainer.remove_callback(PrinterCallback)
        trainer.train()  # one step: prepares model and optimiser, and warms up

    def step(self, inputs: Any) -> float:
        """Take one step on ``inputs`` (a collated batch, or rows for GRPO) and return the loss."""
        trainer, model = self.trainer, self.trainer.model_wrapped
        model.train()
        loss = trainer.training_step(model, inputs, num_items_in_batch=None)
        trainer.accelerator.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        model.zero_grad()
        return float(loss)


def gradients(trainer: Any, inputs: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Return loss and gradients of a batch, from TRL's own ``compute_loss``; the weights stay."""
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in trainer.model.named_parameters()}

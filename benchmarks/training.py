"""Steps of training: DPO and SFT on packed rows, against TRL's trainers; what RLMT shares with them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks import machine, trl_side
from benchmarks.material import cut, load
from benchmarks.measure import Options, compare_memory, interleave, relative_error, require
from benchmarks.results import Row, compared
from benchmarks.trl_side import AUTOCAST, BETA, CHECKPOINTED, FP32, PURE, RATE, VARIANTS, Stepper
from forethought import models
from forethought.config import ModelConfig
from forethought.engine import Group, losses
from forethought.engine.policy import Policy
from forethought.engine.scorer import TorchScorer
from forethought.engine.trainer import Adam, Example, Schedule, Trainer
from forethought.records import Chunk

MODEL = "smollm2-135m-instruct"
SCHEDULE = Schedule(peak=RATE, warmup=0, total=1, min_ratio=1.0)
MICRO_TOKENS = 8192
TOLERANCE = 2e-3
"""Largest relative difference of loss and gradient in float32."""


def our_trainer(model: Any, adam: Adam | None = None) -> Trainer:
    """Return our trainer of a model."""
    return Trainer(Policy(model), SCHEDULE, adam or Adam(), micro_tokens=MICRO_TOKENS)


def our_gradients(trainer: Trainer, step: Callable[[], dict[str, float]]) -> tuple[float, dict[str, Tensor]]:
    """Return loss and gradients of one of our steps; the gradient's norm is not clipped."""
    found: dict[str, Tensor] = {}
    trainer.optimizer.register_step_pre_hook(
        lambda *_: found.update({name: master.grad.clone() for name, master in trainer.masters.items()})
    )
    return step()["loss"], found


def same(ours: tuple[float, dict[str, Tensor]], peer: tuple[float, dict[str, Tensor]], what: str) -> str:
    """Check that loss and gradients are equal in float32."""
    apart = relative_error(ours[1], peer[1])
    require(apart < TOLERANCE, f"{what}: the gradients differ by {apart:.2%}")
    lost = abs(ours[0] - peer[0]) / max(abs(peer[0]), 1e-6)
    require(lost < TOLERANCE, f"{what}: the losses are {ours[0]:.6f} and {peer[0]:.6f}")
    return f"in float32, {what}: gradients {apart:.1e} apart (relative norm), losses {lost:.1e}"


UNCLIPPED = Adam(clip_norm=float("inf"))


# ---- DPO --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DpoSize:
    """Sizes of a DPO step."""

    pairs: int
    """Prefixes, each with a chosen and a rejected suffix."""
    prefix: int
    """Tokens."""
    suffix: int
    """Tokens, EOS included."""


def dpo_size(options: Options) -> DpoSize:
    """Return the sizes of the issue's table."""
    return DpoSize(2, 24, 8) if options.quick else DpoSize(8, 256, 64)


def dpo_chunks(name: str, options: Options, size: DpoSize) -> list[Chunk]:
    """Return the text; TRL ends each suffix with EOS, which makes it whole."""
    return cut(models.load_tokenizer(ModelConfig(model=name)), options, size.pairs, size.prefix, size.suffix - 1)


def dpo_groups(trainer: Any) -> list[Group]:
    """Return the rows of a TRL DPO trainer, which tokenised them, as prefixes with two branches."""
    return [
        Group(prefix=tuple(row["prompt_ids"]), branches=(tuple(row["chosen_ids"]), tuple(row["rejected_ids"])))
        for row in trainer.train_dataset
    ]


def our_dpo(trainer: Trainer, reference: Policy, groups: Sequence[Group]) -> dict[str, float]:
    """Take our step: reference log-probabilities, then the update."""
    references = TorchScorer(reference, MICRO_TOKENS, as_trained=True).logprobs(groups)
    examples = [Example(group=g, reference=tuple(rows)) for g, rows in zip(groups, references, strict=True)]
    loss = functools.partial(losses.dpo, beta=BETA)
    return trainer.step(examples, loss, step=0, normaliser=len(groups))


def run_dpo(options: Options) -> Iterator[Row]:
    """Compare a DPO step, reference included, in time and memory."""
    size = dpo_size(options)
    what = f"DPO step: chosen and rejected of {size.pairs} prefixes, {size.prefix} + {size.suffix} tokens, fp32 master"
    for name in options.models_or(MODEL):
        checked = check_dpo(name, options, size)
        chunks = dpo_chunks(name, options, size)
        for variant in trl_side.variants(options, AUTOCAST, CHECKPOINTED, FP32, PURE):
            peer = trl_side.dpo(name, options, variant, chunks)
            groups = dpo_groups(peer)
            trainer, reference = our_trainer(load(name, options).model), Policy(load(name, options).model)
            limit = machine.forward_limit(reference.model, groups) + machine.update_limit(reference.model, groups)
            stepper, batch = Stepper(peer), peer.data_collator(list(peer.train_dataset))
            pairs = interleave(
                functools.partial(our_dpo, trainer, reference, groups),
                functools.partial(stepper.step, batch),
                options.at_most(3) if variant is FP32 else options,
            )
            del trainer, reference, peer, stepper
            memory = compare_memory(("dpo", "ours", name), ("dpo", variant.name, name), options)
            yield Row(
                benchmark="dpo",
                what=what,
                model=name,
                opponent=f"TRL DPOTrainer, {variant.name}",
                target=2.0,
                memory=memory,
                checked=checked,
                **compared(pairs, None, limit),
            )


def check_dpo(name: str, options: Options, size: DpoSize) -> str:
    """Check that one step's loss and gradient are TRL's, in float32, on two of the pairs."""
    peer = trl_side.dpo(name, options, FP32, dpo_chunks(name, options, replace(size, pairs=2)))
    with torch.no_grad():  # where both models are equal, every margin is 0, and so is a mistake in it
        for weight in peer.ref_model.parameters():
            weight.mul_(1.02)
    expected = trl_side.gradients(peer, peer.data_collator(list(peer.train_dataset)))
    groups = dpo_groups(peer)
    reference = Policy(peer.ref_model)
    trainer = our_trainer(load(name, options, torch.float32).model, UNCLIPPED)
    found = our_gradients(trainer, functools.partial(our_dpo, trainer, reference, groups))
    return same(found, expected, "DPO on 2 pairs")


# ---- SFT --------------------------------------------------------------------------------------------------------


def sft_sequences(name: str, options: Options) -> tuple[list[tuple[int, ...]], int]:
    """Return token sequences of unlike lengths and the width of a packed row; together they fill four rows."""
    width, lengths = (48, (30, 18, 48, 20, 28)) if options.quick else (512, (300, 212, 512, 200, 180, 132, 384, 128))
    tokenizer = models.load_tokenizer(ModelConfig(model=name))
    chunks = cut(tokenizer, options, len(lengths), max(lengths) - 8, 8)
    bos = models.bos_ids(tokenizer)
    rows = [(bos + chunk.prefix_ids + chunk.suffix_ids)[:length] for chunk, length in zip(chunks, lengths, strict=True)]
    return rows, width


def our_sft(trainer: Trainer, sequences: Sequence[tuple[int, ...]]) -> dict[str, float]:
    """Take our step: every sequence is a branch of its own first token; none sees another."""
    examples = [Example(group=Group(prefix=ids[:1], branches=(ids[1:],))) for ids in sequences]
    return trainer.step(examples, losses.nll, step=0, normaliser=sum(len(ids) - 1 for ids in sequences))


def run_sft(options: Options) -> Iterator[Row]:
    """Compare a step of next-token training on packed rows."""
    for name in options.models_or(MODEL):
        sequences, width = sft_sequences(name, options)
        groups = [Group(prefix=ids[:1], branches=(ids[1:],)) for ids in sequences]
        tokens = sum(map(len, sequences))
        checked = check_sft(name, options, sequences, width)
        for variant in trl_side.variants(options, AUTOCAST, CHECKPOINTED, PURE):
            peer = trl_side.sft(name, options, variant, sequences, width)
            trainer = our_trainer(load(name, options).model)
            limit = machine.update_limit(trainer.policy.model, groups)
            rows, peer_step = len(peer.train_dataset), _stepping(peer)
            pairs = interleave(functools.partial(our_sft, trainer, sequences), peer_step, options)
            del trainer, peer, peer_step
            yield Row(
                benchmark="sft",
                what=f"SFT step: {rows} packed rows of {width}, {tokens} tokens, fp32 master",
                model=name,
                opponent=f"TRL SFTTrainer with packing, {variant.name}",
                target=1.3,
                memory=compare_memory(("sft", "ours", name), ("sft", variant.name, name), options),
                checked=checked,
                **compared(pairs, None, limit),
            )


def check_sft(name: str, options: Options, sequences: Sequence[tuple[int, ...]], width: int) -> str:
    """Check that loss and gradient are TRL's, so that no packed sequence sees its neighbour."""
    peer = trl_side.sft(name, options, FP32, sequences, width)
    expected = trl_side.gradients(peer, peer.data_collator(list(peer.train_dataset)))
    trainer = our_trainer(load(name, options, torch.float32).model, UNCLIPPED)
    found = our_gradients(trainer, functools.partial(our_sft, trainer, sequences))
    return same(found, expected, f"SFT on {len(sequences)} sequences in {len(peer.train_dataset)} rows")


# ---- one side alone ---------------------------------------------------------------------------------------------


def alone(benchmark: str, side: str, name: str, options: Options) -> Callable[[], object]:
    """Return one side's step: ``side`` is ``ours`` or the name of a TRL variant."""
    if benchmark == "dpo":
        chunks = dpo_chunks(name, options, dpo_size(options))
        if side != "ours":
            return _stepping(trl_side.dpo(name, options, VARIANTS[side], chunks))
        groups = _dpo_groups_without_trl(name, chunks)
        trainer, reference = our_trainer(load(name, options).model), Policy(load(name, options).model)
        return functools.partial(our_dpo, trainer, reference, groups)
    sequences, width = sft_sequences(name, options)
    if side != "ours":
        return _stepping(trl_side.sft(name, options, VARIANTS[side], sequences, width))
    return functools.partial(our_sft, our_trainer(load(name, options).model), sequences)


def _stepping(trainer: Any) -> Callable[[], object]:
    stepper, rows = Stepper(trainer), list(trainer.train_dataset)
    # Collated anew at each step, because the SFT trainer changes what it is given.
    return lambda: stepper.step(trainer.data_collator(rows))


def _dpo_groups_without_trl(name: str, chunks: Sequence[Chunk]) -> list[Group]:
    tokenizer = models.load_tokenizer(ModelConfig(model=name))
    bos, eos = models.bos_ids(tokenizer), (tokenizer.eos_token_id,)
    return [
        Group(prefix=bos + chunk.prefix_ids, branches=(chunk.suffix_ids + eos, other.suffix_ids + eos))
        for chunk, other in zip(chunks, [*chunks[1:], chunks[0]], strict=True)
    ]

"""A step of RL mid-training, rollouts included, against TRL's GRPO trainer."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from benchmarks import machine, trl_side
from benchmarks.material import SEED, cut, load, prompts
from benchmarks.measure import Options, compare_memory, interleave
from benchmarks.results import Row, compared
from benchmarks.training import MODEL, UNCLIPPED, our_gradients, our_trainer, same
from benchmarks.trl_side import AUTOCAST, FP32, PURE, VARIANTS, Rollouts, Stepper
from forethought import models
from forethought.config import ModelConfig
from forethought.engine import Group, Prompt, Sampling, losses
from forethought.engine.branches import Thinking
from forethought.engine.sampler import TorchSampler
from forethought.engine.trainer import Adam, Example, Trainer
from forethought.keys import Key
from forethought.records import Rollout


def size_of(options: Options) -> Rollouts:
    """Return the sizes of the issue's table."""
    if options.quick:
        return Rollouts(prefixes=2, group=4, prefix=24, thought=4, suffix=6)
    return Rollouts(prefixes=2, group=16, prefix=256, thought=48, suffix=64)


def reward(text: str) -> float:
    """Return a stand-in reward: 0 or 1, a pure function of the text, a quarter ones."""
    return float(zlib.crc32(text.encode()) % 4 == 0)


@dataclass(slots=True, kw_only=True)
class OurRlmt:
    """Our RLMT step: rollouts, rewards, one on-policy update of Dr. GRPO."""

    trainer: Trainer
    tokenizer: Any
    asked: Sequence[Prompt]
    eos: tuple[int, ...]
    size: Rollouts
    steps: int = 0

    def step(self) -> dict[str, float]:
        """Take one step."""
        self.steps += 1
        drawn = self.rollouts(Key(SEED, "rlmt").at(self.steps))
        rewards = [[reward(self.tokenizer.decode(r.token_ids[r.thought_tokens :])) for r in rows] for rows in drawn]
        return self.update(drawn, np.array(rewards, np.float32))

    def rollouts(self, key: Key) -> list[list[Rollout]]:
        """Return thoughts and suffixes; a thought runs to its cap unless it ends with a line."""
        line = self.tokenizer("\n", add_special_tokens=False)["input_ids"][-1:]
        thinking = Thinking(max_tokens=self.size.thought, close_ids=tuple(line), closed=lambda ids: ids[-1] == line[0])
        sampling = Sampling(max_tokens=self.size.suffix, forbidden_ids=self.eos)
        return TorchSampler(self.trainer.policy).think(self.asked, self.size.group, thinking, sampling, key)

    def update(self, drawn: Sequence[Sequence[Rollout]], rewards_PG: np.ndarray) -> dict[str, float]:
        """Update on rollouts, Dr. GRPO: rewards minus their group's mean, over a fixed normaliser."""
        advantages = rewards_PG - rewards_PG.mean(1, keepdims=True)
        examples = [
            Example(
                group=Group(prefix=prompt.token_ids, branches=tuple(r.token_ids for r in rows)),
                weights=tuple(np.array(r.drawn, np.float32) for r in rows),
                advantages=tuple(map(float, given)),
            )
            for prompt, rows, given in zip(self.asked, drawn, advantages, strict=True)
        ]
        normaliser = advantages.size * self.size.new
        return self.trainer.step(examples, losses.policy_gradient, step=0, normaliser=normaliser)


def our_rlmt(name: str, options: Options, size: Rollouts, adam: Adam | None = None) -> OurRlmt:
    """Return our side; with ``adam`` in float32, for a check."""
    loaded = load(name, options, torch.float32 if adam else None)
    eos = loaded.model.generation_config.eos_token_id
    asked = prompts(cut(loaded.tokenizer, options, size.prefixes, size.prefix, 8), models.bos_ids(loaded.tokenizer))
    return OurRlmt(
        trainer=our_trainer(loaded.model, adam), tokenizer=loaded.tokenizer, asked=asked, eos=(eos,), size=size
    )


def trl_rlmt(
    name: str, options: Options, variant: trl_side.Variant, size: Rollouts
) -> tuple[Any, list[dict[str, str]]]:
    """Return TRL's trainer and the rows of one of its steps: each prompt G times."""
    tokenizer = models.load_tokenizer(ModelConfig(model=name))
    texts = [chunk.prefix for chunk in cut(tokenizer, options, size.prefixes, size.prefix, 8)]
    peer = trl_side.grpo(name, options, variant, texts, size, reward)
    return peer, [{"prompt": text} for text in texts for _ in range(size.group)]


def run(options: Options) -> Iterator[Row]:
    """Compare an RLMT step: rollout, reward, update."""
    size = size_of(options)
    what = (
        f"RLMT step: G={size.group}, {size.prefixes} prefixes, {size.prefix} + {size.thought} + {size.suffix} tokens, "
        "rollout and update, fp32 master"
    )
    for name in options.models_or(MODEL):
        checked = check_rlmt(name, options, size)
        for variant in trl_side.variants(options, AUTOCAST, PURE):
            peer, rows = trl_rlmt(name, options, variant, size)
            ours = our_rlmt(name, options, size)
            stepper = Stepper(peer)
            pairs = interleave(ours.step, functools.partial(stepper.step, rows), options.at_most(3))
            limit = rlmt_limit(ours)
            del ours, peer, stepper
            yield Row(
                benchmark="rlmt",
                what=what,
                model=name,
                opponent=f"TRL GRPOTrainer, {variant.name}",
                target=4.0,
                memory=compare_memory(("rlmt", "ours", name), ("rlmt", variant.name, name), options),
                checked=checked,
                **compared(pairs, None, limit),
            )


def rlmt_limit(ours: OurRlmt) -> float:
    """Return the seconds that the machine needs at least."""
    model, size = ours.trainer.policy.model, ours.size
    length = len(ours.asked[0].token_ids)
    rows = size.prefixes * size.group
    groups = [Group(prefix=prompt.token_ids, branches=((0,) * size.new,) * size.group) for prompt in ours.asked]
    decoding = machine.decoding_limit(model, prompts=size.prefixes, length=length, rows=rows, steps=size.new)
    return decoding + machine.update_limit(model, groups)


def check_rlmt(name: str, options: Options, size: Rollouts) -> str:
    """Check that the update's loss and gradient on the same rollouts and rewards are TRL's, in float32."""
    size = replace(size, prefixes=1, group=4)
    peer, _ = trl_rlmt(name, options, FP32, size)
    ours = our_rlmt(name, options, size, UNCLIPPED)
    drawn = ours.rollouts(Key(SEED, "check"))
    rewards = np.array([[1.0, 0.0, 0.0, 1.0]] * size.prefixes, np.float32)
    prompt_ids = torch.tensor([ours.asked[0].token_ids] * size.group, device=options.device)
    rows = [torch.tensor(rollout.token_ids) for rollout in drawn[0]]
    completion_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(options.device)
    lengths = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row)) for row in rows], batch_first=True)
    weights = torch.nn.utils.rnn.pad_sequence([torch.tensor(r.drawn) for r in drawn[0]], batch_first=True)
    expected = trl_side.gradients(
        peer,
        {
            "prompt_ids": prompt_ids,
            "prompt_mask": torch.ones_like(prompt_ids),
            "completion_ids": completion_ids,
            "completion_mask": lengths.long().to(options.device),
            "tool_mask": weights.long().to(options.device),
            "advantages": torch.from_numpy(rewards - rewards.mean(1, keepdims=True))[0].to(options.device),
        },
    )
    found = our_gradients(ours.trainer, functools.partial(ours.update, drawn, rewards))
    # On policy every ratio is 1 and the losses are near 0, whatever the rows are: compare the gradients.
    return same((0.0, found[1]), (0.0, expected[1]), f"policy gradient on {size.group} rollouts")


def alone(benchmark: str, side: str, name: str, options: Options) -> Callable[[], object]:
    """Return one side's step: ``side`` is ``ours`` or the name of a TRL variant."""
    size = size_of(options)
    if side == "ours":
        return our_rlmt(name, options, size).step
    peer, rows = trl_rlmt(name, options, VARIANTS[side], size)
    return functools.partial(Stepper(peer).step, rows)

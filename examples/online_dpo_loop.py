"""Online DPO in one loop: continue a text K times, rank with its own continuation, learn best against worst.

    python examples/online_dpo_loop.py                                   # a tiny random model, in seconds
    python examples/online_dpo_loop.py --model gemma-3-270m --judge smollm2-135m-instruct --rate 1e-5

Without ``--judge`` the shorter text is the better one.  With it, the one that the judge's model finds likelier.
`forethought run` does the same with splits, audits, checkpoints, controls and a held-out evaluation.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from forethought import (
    Adam,
    Example,
    Group,
    Key,
    ModelConfig,
    Policy,
    Prompt,
    Sampling,
    Schedule,
    TorchSampler,
    TorchScorer,
    Trainer,
    dpo,
    load_model,
)
from forethought.config.shipped import FOLDER
from forethought.models import LoadedModel, bos_ids, resolve_dtype, special_ids

PREFIX, SUFFIX = 32, 12
TEXTS = FOLDER / "smoke.jsonl"

Judge = Callable[[str, Sequence[str]], list[float]]
"""(prefix, continuations) -> scores; higher is better."""


def shorter(prefix: str, texts: Sequence[str]) -> list[float]:
    """Score by minus the number of characters."""
    return [-float(len(text)) for text in texts]


def likelier(loaded: LoadedModel) -> Judge:
    """Return a judge that scores by the mean log-probability of a continuation's tokens."""
    scorer = TorchScorer(Policy(loaded.model))
    bos = bos_ids(loaded.tokenizer)

    def judge(prefix: str, texts: Sequence[str]) -> list[float]:
        # All continuations of a prefix are one group: the prefix is computed once.
        group = Group(prefix=bos + encode(loaded.tokenizer, prefix), branches=tuple(encoded(loaded, texts)))
        return [float(logprobs.mean()) for logprobs in scorer.logprobs([group])[0]]

    return judge


def encoded(loaded: LoadedModel, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the ids of each text."""
    return [encode(loaded.tokenizer, text) for text in texts]


def encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Return the ids of ``text``, without BOS."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def train(args: argparse.Namespace) -> list[float]:
    """Run the loop and return the margin, in nats, of every step."""
    device = torch.device("cpu")
    load = functools.partial(load_model, device=device, dtype=resolve_dtype("auto", device))
    loaded = load(ModelConfig(model=args.model))
    tokenizer, bos = loaded.tokenizer, bos_ids(loaded.tokenizer)
    forbidden = special_ids(tokenizer, loaded.model.config.get_text_config().vocab_size)
    judge = likelier(load(ModelConfig(model=args.judge))) if args.judge else shorter

    policy = Policy(loaded.model)
    reference = TorchScorer(Policy(load(ModelConfig(model=args.model)).model), forbidden_ids=forbidden)
    sampler = TorchSampler(policy)
    schedule = Schedule(peak=args.rate, warmup=2, total=args.steps, min_ratio=0.1)
    trainer = Trainer(policy, schedule, Adam(), micro_tokens=4096, forbidden_ids=forbidden)
    sampling = Sampling(max_tokens=SUFFIX, forbidden_ids=forbidden)
    texts = [encode(tokenizer, json.loads(line)["text"]) for line in args.texts.read_text().splitlines()]
    texts = [ids for ids in texts if len(ids) >= PREFIX + SUFFIX]

    margins = []
    for step in range(args.steps):
        batch = [(step * args.prefixes + i) % len(texts) for i in range(args.prefixes)]
        prompts = [Prompt(id=str(i), token_ids=bos + texts[i][:PREFIX]) for i in batch]
        rollouts = sampler.sample(prompts, args.rollouts, sampling, Key(args.seed, "rollouts").at(step))
        groups, chosen_rollouts = [], 0
        for i, prompt, completions in zip(batch, prompts, rollouts, strict=True):
            candidates = [texts[i][PREFIX : PREFIX + SUFFIX], *(completion.token_ids for completion in completions)]
            scores = judge(tokenizer.decode(texts[i][:PREFIX]), [tokenizer.decode(ids) for ids in candidates])
            best, worst = scores.index(max(scores)), scores.index(min(scores))
            if scores[best] > scores[worst]:
                groups.append(Group(prefix=prompt.token_ids, branches=(candidates[best], candidates[worst])))
                chosen_rollouts += best > 0
        if not groups:
            print(f"step {step + 1}: every prefix ended in a tie", flush=True)
            continue
        pairs = zip(groups, reference.logprobs(groups), strict=True)
        examples = [Example(group=group, reference=tuple(logprobs)) for group, logprobs in pairs]
        metrics = trainer.step(examples, functools.partial(dpo, beta=args.beta), step=step, normaliser=len(examples))
        margins.append(metrics["margin"])
        shown = f"chosen rollouts {chosen_rollouts} of {len(groups)}, margin {metrics['margin']:+.3f} nats"
        print(f"step {step + 1}: loss {metrics['loss']:.4f}, {shown}", flush=True)
    return margins


def main() -> None:
    """Parse the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-llama", help="the policy: a name of `forethought models`, a folder")
    parser.add_argument("--judge", help="the judge's model [default: none, shorter is better]")
    parser.add_argument("--texts", type=Path, default=TEXTS, help="a .jsonl file with a `text` in every line")
    parser.add_argument("--steps", type=int, default=20, help="optimiser steps")
    parser.add_argument("--prefixes", type=int, default=4, help="prefixes per step")
    parser.add_argument("--rollouts", type=int, default=4, help="K, continuations of each prefix")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--beta", type=float, default=0.1, help="DPO's beta")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers")
    train(parser.parse_args())


if __name__ == "__main__":
    main()

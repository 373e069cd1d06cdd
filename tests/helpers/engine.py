"""Tiny models, token ids, groups and trainers for the tests of the engine."""

from __future__ import annotations

import functools

import numpy as np
import torch
from transformers import PreTrainedModel, Qwen2Config

from forethought.engine.branches import Group
from forethought.engine.losses import dpo
from forethought.engine.policy import Policy
from forethought.engine.scorer import TorchScorer
from forethought.engine.trainer import Adam, Example, Schedule, Trainer
from forethought.testing import random_model, tiny_config, tiny_model

ARCHITECTURES = ("llama", "qwen3", "gemma3")
CPU = torch.device("cpu")
DPO = functools.partial(dpo, beta=0.1)


def ids(seed: int, count: int, vocabulary: int = 250) -> tuple[int, ...]:
    return tuple(int(x) for x in np.random.default_rng(seed).integers(0, vocabulary, count))


def ragged_groups() -> list[Group]:
    """Two groups of unlike lengths, longer than tiny-gemma3's sliding window of 16."""
    return [
        Group(prefix=ids(0, 23), branches=(ids(1, 9), ids(2, 20), ids(3, 1))),
        Group(prefix=ids(4, 5), branches=(ids(5, 18),)),
    ]


def model_of(architecture: str, head_dim: int = 16) -> PreTrainedModel:
    config = tiny_config("llama" if architecture == "qwen2" else architecture)
    config.head_dim = head_dim
    if architecture != "qwen2":
        return random_model(config, 0)
    shape = {**config.to_dict(), "hidden_size": head_dim * config.num_attention_heads}
    kept = {name: shape[name] for name in shape if name.endswith(("_size", "_heads", "_layers", "_id", "_range"))}
    model = random_model(Qwen2Config(**kept), 0)
    for layer in model.get_decoder().layers:
        torch.nn.init.normal_(layer.self_attn.q_proj.bias)  # Qwen2's projections have one, zero at first
        torch.nn.init.normal_(layer.self_attn.v_proj.bias)
    return model


def flat(scorer: TorchScorer, groups: list[Group]) -> np.ndarray:
    return np.concatenate([row for rows in scorer.logprobs(groups) for row in rows])


def make_trainer(
    architecture: str = "llama",
    *,
    micro_tokens: int = 4096,
    dtype: torch.dtype = torch.float32,
    peak: float = 1e-3,
    eps: float = 1e-8,
) -> Trainer:
    policy = Policy(tiny_model(architecture).to(dtype))
    schedule = Schedule(peak=peak, warmup=0, total=10, min_ratio=0.1)
    return Trainer(policy, schedule, Adam(eps=eps), micro_tokens=micro_tokens)


def pairs(count: int = 4) -> list[Example]:
    return [
        Example(
            group=Group(prefix=ids(i, 5 + i), branches=(ids(100 + i, 7), ids(200 + i, 7))),
            reference=(np.full(7, -5.5, np.float32), np.full(7, -5.4, np.float32)),
        )
        for i in range(count)
    ]


def assert_drawn_from(logits_V: torch.Tensor, chosen: torch.Tensor, logprobs: torch.Tensor) -> None:
    """Chi-square on the draws ``chosen``; 99.99% bound by Wilson-Hilferty."""
    draws = len(chosen)
    expected = logits_V.double().softmax(-1).numpy() * draws
    counts = np.bincount(chosen.numpy(), minlength=len(logits_V))
    assert counts[expected == 0].sum() == 0
    common = expected >= 5
    chi2 = ((counts - expected)[common] ** 2 / expected[common]).sum()
    degrees = common.sum() - 1
    assert degrees > 100
    assert chi2 < degrees * (1 - 2 / (9 * degrees) + 3.72 * np.sqrt(2 / (9 * degrees))) ** 3
    np.testing.assert_allclose(logprobs.exp() * draws, expected[chosen], rtol=1e-4)

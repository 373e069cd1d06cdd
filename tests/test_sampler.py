"""The sampler draws what the model says, reproducibly, from a prefix that is computed once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_engine import ARCHITECTURES, ids

from forethought.engine.branches import Group, Prompt, Sampling
from forethought.engine.head import Head
from forethought.engine.policy import Policy
from forethought.engine.sampler import TorchSampler
from forethought.engine.scorer import TorchScorer
from forethought.keys import Key
from forethought.records import StopReason
from forethought.testing import tiny_model

KEY = Key(0, "test")
PROMPTS = [
    Prompt(id="a", token_ids=ids(0, 30)),
    Prompt(id="b", token_ids=ids(1, 4)),
    Prompt(id="c", token_ids=ids(2, 17)),
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sampled_logprobs_are_the_scorers(architecture: str) -> None:
    """Past tiny-gemma3's window of 16 as well: prompts of 4 to 30 tokens, 24 new ones."""
    policy = Policy(tiny_model(architecture))
    sampled = TorchSampler(policy).sample(PROMPTS, 3, Sampling(max_tokens=24, temperature=1.0), KEY)
    groups = [
        Group(prefix=p.token_ids, branches=tuple(c.token_ids for c in cs))
        for p, cs in zip(PROMPTS, sampled, strict=True)
    ]
    for completions, scored in zip(sampled, TorchScorer(policy).logprobs(groups), strict=True):
        for completion, logprobs in zip(completions, scored, strict=True):
            assert len(completion.token_ids) == 24
            assert completion.stop is StopReason.LENGTH
            np.testing.assert_allclose(completion.logprobs, logprobs, atol=1e-4)


def test_a_completion_depends_on_its_key_alone() -> None:
    sampler, sampling = TorchSampler(Policy(tiny_model("llama"))), Sampling(max_tokens=8)
    together = sampler.sample(PROMPTS, 4, sampling, KEY)
    alone = TorchSampler(sampler.policy, rows=1).sample(PROMPTS[1:2], 2, sampling, KEY)
    assert [c.token_ids for c in alone[0]] == [c.token_ids for c in together[1][:2]]
    assert len({c.token_ids for cs in together for c in cs}) == 12
    assert sampler.sample(PROMPTS, 4, sampling, KEY.at(1)) != together


def test_greedy_takes_the_likeliest_token() -> None:
    model = tiny_model("qwen3")
    found = TorchSampler(Policy(model)).sample(PROMPTS[:1], 2, Sampling(max_tokens=6, temperature=0), KEY)[0]
    plain, row = tiny_model("qwen3"), list(PROMPTS[0].token_ids)
    for _ in range(6):
        with torch.no_grad():
            row.append(int(plain(input_ids=torch.tensor([row])).logits[0, -1].argmax()))
    assert found[0].token_ids == found[1].token_ids == tuple(row[30:])


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_stopping_rows_leave_and_the_others_go_on(architecture: str) -> None:
    sampler = TorchSampler(Policy(tiny_model(architecture)))
    free = sampler.sample(PROMPTS, 6, Sampling(max_tokens=40), KEY)
    stops = tuple(range(0, 250, 12))
    found = sampler.sample(PROMPTS, 6, Sampling(max_tokens=40, stop_ids=stops), KEY)
    lengths = set()
    for free_group, group in zip(free, found, strict=True):
        for unstopped, completion in zip(free_group, group, strict=True):
            cut = next((i + 1 for i, t in enumerate(unstopped.token_ids) if t in stops), 40)
            assert completion.token_ids == unstopped.token_ids[:cut]
            assert (completion.stop is StopReason.STOP) == (completion.token_ids[-1] in stops)
            lengths.add(cut)
    assert len(lengths) > 5


def test_forbidden_tokens_are_never_drawn_and_scored_alike() -> None:
    policy = Policy(tiny_model("llama"))
    forbidden = tuple(range(0, 200))
    completions = TorchSampler(policy).sample(PROMPTS[:1], 8, Sampling(max_tokens=8, forbidden_ids=forbidden), KEY)[0]
    assert min(t for c in completions for t in c.token_ids) >= 200
    group = Group(prefix=PROMPTS[0].token_ids, branches=tuple(c.token_ids for c in completions))
    scored = TorchScorer(policy, forbidden_ids=forbidden).logprobs([group])[0]
    np.testing.assert_allclose(completions[0].logprobs, scored[0], atol=1e-4)


def head_with(logits_V: torch.Tensor) -> Head:
    """A head whose logits, for a hidden state of 1, are ``logits_V``; -inf forbids a token."""
    forbidden = torch.isinf(logits_V)
    return Head(weight=logits_V.masked_fill(forbidden, 0.0)[:, None], forbidden=forbidden)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chi-square on 40,000 draws over two stretches and three blocks; 99.99% bound by Wilson-Hilferty."""
    monkeypatch.setattr("forethought.engine.head.CPU_LOGITS", 40_000 * 1024)
    generator = np.random.default_rng(0)
    logits = torch.from_numpy(generator.normal(0, 1.5, 1300)).float()
    logits[generator.choice(1300, 900, replace=False)] = -torch.inf
    uniforms = torch.from_numpy(generator.random(40_000))
    chosen, logprobs = head_with(logits).draw(torch.ones(40_000, 1), uniforms, temperature)
    expected = (logits / temperature).softmax(-1).double().numpy() * 40_000
    counts = np.bincount(chosen.numpy(), minlength=1300)
    assert counts[expected == 0].sum() == 0
    common = expected >= 5
    chi2 = ((counts - expected)[common] ** 2 / expected[common]).sum()
    degrees = common.sum() - 1
    assert degrees > 100
    assert chi2 < degrees * (1 - 2 / (9 * degrees) + 3.72 * np.sqrt(2 / (9 * degrees))) ** 3
    np.testing.assert_allclose(logprobs.exp() * 40_000, expected[chosen], rtol=1e-4)


def test_extreme_uniforms_stay_on_tokens_with_weight() -> None:
    logits = torch.full((1030,), -torch.inf)
    logits[3], logits[700] = 0.0, 1.0
    uniforms = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    chosen, _ = head_with(logits).draw(torch.ones(2, 1), uniforms, 1.0)
    assert chosen.tolist() == [3, 700]


def test_a_stretch_without_any_allowed_token_is_never_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forethought.engine.head.CPU_LOGITS", 1)
    logits = torch.full((1536,), -torch.inf)
    logits[600] = -3.0
    chosen, logprobs = head_with(logits).draw(torch.ones(3, 1), torch.tensor([0.0, 0.5, 0.999]).double(), 1.0)
    assert chosen.tolist() == [600, 600, 600]
    assert logprobs.tolist() == pytest.approx([0, 0, 0], abs=1e-6)

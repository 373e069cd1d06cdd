"""The sampler draws what the model says, reproducibly, from a prefix that is computed once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.dtypes import DTYPES
from helpers.engine import ARCHITECTURES, assert_drawn_from, ids

from forethought.engine.backends.onednn import OneDNNBackend
from forethought.engine.backends.selection import forget
from forethought.engine.branches import Group, Prompt, Sampling, Thinking
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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_prompts_with_a_common_beginning_give_what_they_give_alone(architecture: str) -> None:
    """Their beginning is computed once, longer than tiny-gemma3's window of 16; another prompt stands among them."""
    policy, sampling = Policy(tiny_model(architecture)), Sampling(max_tokens=8)
    head = ids(7, 40)
    prompts = [Prompt(id=str(n), token_ids=head + ids(n, 3 + 5 * n)) for n in range(4)]
    prompts.insert(1, PROMPTS[2])
    seen = []
    hidden = policy.backend._hidden
    policy.backend._hidden = lambda packed, layers: seen.append(packed.tokens.shape[1]) or hidden(packed, layers)
    together = TorchSampler(policy).sample(prompts, 2, sampling, KEY)
    assert seen == [sum(len(prompt.token_ids) for prompt in prompts) - 3 * len(head)]
    alone = [TorchSampler(policy).sample([prompt], 2, sampling, KEY)[0] for prompt in prompts]
    for ours, single in zip(together, alone, strict=True):
        for one, other in zip(ours, single, strict=True):
            assert one.token_ids == other.token_ids
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)


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


def test_forbidden_tokens_are_never_drawn_and_get_the_same_scores() -> None:
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
    """40,000 draws over two stretches and three blocks."""
    monkeypatch.setattr("forethought.engine.head.CPU_LOGITS", 40_000 * 1024)
    generator = np.random.default_rng(0)
    logits = torch.from_numpy(generator.normal(0, 1.5, 1300)).float()
    logits[generator.choice(1300, 900, replace=False)] = -torch.inf
    uniforms = torch.from_numpy(generator.random(40_000))
    chosen, logprobs = head_with(logits).draw(torch.ones(40_000, 1), uniforms, temperature)
    assert_drawn_from(logits / temperature, chosen, logprobs)


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


def closes_at(token: int) -> Thinking:
    return Thinking(max_tokens=10, close_ids=(251, 252), closed=lambda ids: ids[-1] == token)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_thought_and_then_a_suffix_are_one_path_of_the_model(architecture: str) -> None:
    """Rows close their thoughts at unlike places, or have them closed; all log-probs are the scorer's."""
    policy = Policy(tiny_model(architecture))
    thinking = Thinking(max_tokens=10, close_ids=(251, 252), closed=lambda ids: ids[-1] % 12 == 0)
    found = TorchSampler(policy).think(PROMPTS, 8, thinking, Sampling(max_tokens=5), KEY)
    groups = [
        Group(prefix=p.token_ids, branches=tuple(r.token_ids for r in rows))
        for p, rows in zip(PROMPTS, found, strict=True)
    ]
    lengths = set()
    for rows, scored in zip(found, TorchScorer(policy).logprobs(groups), strict=True):
        assert len(rows) == 8
        for rollout, logprobs in zip(rows, scored, strict=True):
            drawn = np.array(rollout.drawn)
            np.testing.assert_allclose(np.array(rollout.logprobs)[drawn], logprobs[drawn], atol=1e-4)
            thought, suffix = rollout.token_ids[: rollout.thought_tokens], rollout.token_ids[rollout.thought_tokens :]
            assert len(suffix) == 5
            own = thought if rollout.closed else thought[:10]
            first = next((i for i, token in enumerate(own) if token % 12 == 0), None)
            if rollout.closed:
                assert first == len(thought) - 1
                assert drawn.all()
            else:
                assert first is None
                assert thought[10:] == (251, 252)
                assert drawn.tolist() == [True] * 10 + [False] * 2 + [True] * 5
            lengths.add(len(rollout.token_ids))
    assert len(lengths) > 4
    assert {r.closed for rows in found for r in rows} == {True, False}


def test_a_rollout_depends_on_its_key_alone() -> None:
    sampler = TorchSampler(Policy(tiny_model("llama")))
    together = sampler.think(PROMPTS, 4, closes_at(7), Sampling(max_tokens=6), KEY)
    alone = TorchSampler(sampler.policy, rows=1).think(PROMPTS[1:2], 2, closes_at(7), Sampling(max_tokens=6), KEY)
    assert [r.token_ids for r in alone[0]] == [r.token_ids for r in together[1][:2]]


def test_a_suffix_may_stop_early() -> None:
    sampler = TorchSampler(Policy(tiny_model("llama")))
    stops = tuple(range(0, 250, 9))
    sampling = Sampling(max_tokens=30, stop_ids=stops)
    rows = [r for rows in sampler.think(PROMPTS, 6, closes_at(7), sampling, KEY) for r in rows]
    suffixes = [r.token_ids[r.thought_tokens :] for r in rows]
    assert all(not set(suffix[:-1]) & set(stops) for suffix in suffixes)
    assert all(suffix[-1] in stops or len(suffix) == 30 for suffix in suffixes)
    assert any(set(r.token_ids[: r.thought_tokens]) & set(stops) for r in rows)  # a thought is not stopped by them


@pytest.mark.parametrize("vocabulary", [700, 1024])
def test_the_last_tokens_of_one_stretch_can_be_drawn(vocabulary: int) -> None:
    """Qwen's end of turn stands in the last block of its vocabulary, which is not a whole one."""
    logits = torch.zeros(vocabulary)
    logits[vocabulary - 3] = 30.0
    chosen, _ = head_with(logits).draw(torch.ones(2, 1), torch.tensor([0.3, 0.9]).double(), 0.7)
    assert chosen.tolist() == [vocabulary - 3] * 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fused_layers_draw_what_the_models_own_do(architecture: str, dtype: torch.dtype) -> None:
    policies = {name: Policy(tiny_model(architecture).to(dtype), name) for name in ("onednn", "torch")}
    sampling, bf16 = Sampling(max_tokens=12), dtype == torch.bfloat16
    drawn = {name: TorchSampler(policy).sample(PROMPTS, 4, sampling, KEY) for name, policy in policies.items()}
    for policy in policies.values():
        assert not any("forward" in vars(module) for module in policy.model.modules())  # the model is itself again
    first = [[completion.token_ids[0] for rows in sampled for completion in rows] for sampled in drawn.values()]
    same = np.mean([a == b for a, b in zip(*first, strict=True)])  # later draws may fall to either side of an edge
    assert same >= (2 / 3 if bf16 else 1)  # drawn from other numbers, one in 250 would be the same
    for name, sampled in drawn.items():
        groups = [
            Group(prefix=p.token_ids, branches=tuple(c.token_ids for c in cs))
            for p, cs in zip(PROMPTS, sampled, strict=True)
        ]
        scored = np.concatenate([row for rows in TorchScorer(policies[name]).logprobs(groups) for row in rows])
        far = np.abs(scored - np.concatenate([c.logprobs for completions in sampled for c in completions]))
        assert far.mean() < (0.04 if bf16 else 1e-5)  # a wrong rotary or norm is off by nats
        assert far.max() < (0.3 if bf16 else 2e-4)


def test_a_layer_with_a_twist_keeps_its_own_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fused layer that would leave something out is not used; nor is one of another shape."""
    extended = tiny_model("llama")
    extended.get_decoder().layers[1].mlp.extra = torch.nn.Linear(4, 4)
    assert "not of the shape" in OneDNNBackend.why_unavailable(extended)
    twisted = Policy(tiny_model("llama"))
    mlp = twisted.model.get_decoder().layers[0].mlp
    mlp.register_forward_hook(lambda module, given, output: output * 3)
    forget()
    monkeypatch.setattr(OneDNNBackend, "why_not_default", classmethod(lambda kind: ""))
    assert twisted.backend.name == "torch"
    assert "its results differ" in twisted.kernels.reasons["onednn"]
    forget()
    found = TorchSampler(twisted).sample(PROMPTS, 2, Sampling(max_tokens=6), KEY)
    groups = [
        Group(prefix=p.token_ids, branches=tuple(c.token_ids for c in cs)) for p, cs in zip(PROMPTS, found, strict=True)
    ]
    scored = TorchScorer(twisted).logprobs(groups)
    np.testing.assert_allclose(found[0][0].logprobs, scored[0][0], atol=1e-4)

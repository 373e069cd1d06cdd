"""The shared-prefix engine computes what separate sequences would."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers.engine import ARCHITECTURES, CPU, ids, ragged_groups
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought.engine.attention import PackedAttention
from forethought.engine.branches import Group, micro_batches, pack, share_prefixes
from forethought.engine.head import Head
from forethought.engine.policy import Policy
from forethought.engine.scorer import TorchScorer
from forethought.testing import tiny_model


def separate_logprobs(model, group: Group, branch: tuple[int, ...]) -> torch.Tensor:
    """The same log-probabilities by transformers alone, one sequence at a time."""
    logits = model(input_ids=torch.tensor([group.prefix + branch]), use_cache=False).logits
    picked = logits[0, len(group.prefix) - 1 : -1].float().log_softmax(-1)
    return picked.gather(1, torch.tensor(branch)[:, None])[:, 0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_branches_equal_separate_sequences(architecture: str) -> None:
    plain, packed_model = tiny_model(architecture), tiny_model(architecture)
    plain.set_attn_implementation("eager")
    groups = ragged_groups()
    with torch.no_grad():
        expected = [[separate_logprobs(plain, g, b).numpy() for b in g.branches] for g in groups]
    found = TorchScorer(Policy(packed_model)).logprobs(groups)
    for expected_group, found_group in zip(expected, found, strict=True):
        for a, b in zip(expected_group, found_group, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_gradients_equal_separate_sequences(architecture: str) -> None:
    plain, shared = tiny_model(architecture), tiny_model(architecture)
    plain.set_attn_implementation("eager")
    groups = ragged_groups()
    weights = torch.linspace(-1, 1, sum(len(b) for g in groups for b in g.branches))
    flat = torch.cat([separate_logprobs(plain, g, b) for g in groups for b in g.branches])
    (flat * weights).sum().backward()
    (Policy(shared).logprobs(pack(groups, CPU)) * weights).sum().backward()
    largest = max(float(p.grad.abs().max()) for p in plain.parameters() if p.grad is not None)
    assert largest > 1e-2
    for (name, a), (_, b) in zip(plain.named_parameters(), shared.named_parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, atol=2e-5 * largest, rtol=1e-3, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ragged", [True, False])
@pytest.mark.parametrize("window", [None, 50, 5])
def test_attention_in_two_parts_is_attention(dtype: torch.dtype, ragged: bool, window: int | None) -> None:
    groups = [*ragged_groups(), Group(prefix=ids(6, 9), branches=())]
    if not ragged:
        groups = [Group(prefix=ids(n, 5), branches=(ids(n + 1, 4), ids(n + 2, 4))) for n in (0, 3)]
    packed = pack(groups, CPU)
    make = torch.Generator().manual_seed(0)
    heads = (6, 2, 2)
    q, k, v = (torch.randn(packed.tokens.shape[1], n, 16, generator=make).to(dtype) for n in heads)
    with torch.inference_mode():
        parts, whole = (
            PackedAttention(packed, split_attention=a).attend(0, (q, k, v), 0.25, window) for a in (True, False)
        )
    torch.testing.assert_close(parts, whole, atol=1e-6 if dtype == torch.float32 else 0.02, rtol=0)


def test_micro_batches_do_not_change_scores() -> None:
    groups = ragged_groups()
    policy = Policy(tiny_model("qwen3"))
    whole, parts = TorchScorer(policy).logprobs(groups), TorchScorer(policy, micro_tokens=1).logprobs(groups)
    for a, b in zip(whole, parts, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5)


def test_choices_are_the_next_tokens_log_probabilities() -> None:
    plain, group = tiny_model("llama"), ragged_groups()[0]
    found = TorchScorer(Policy(tiny_model("llama"))).choices([group], (3, 200))[0]
    for row, branch in enumerate(group.branches):
        with torch.no_grad():
            logits = plain(input_ids=torch.tensor([group.prefix + branch])).logits[0, -1]
        np.testing.assert_allclose(found[row], logits.log_softmax(-1)[[3, 200]].numpy(), atol=2e-5)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("forbidden", [(), (4, 7)])
def test_head_equals_full_softmax_with_gradients(
    monkeypatch: pytest.MonkeyPatch, softcap: float | None, forbidden: tuple[int, ...]
) -> None:
    monkeypatch.setattr("forethought.engine.head.CPU_LOGITS", 1)
    monkeypatch.setattr("forethought.engine.head.BLOCK", 3)  # stretches of three tokens
    torch.manual_seed(0)
    hidden = torch.randn(10, 5, requires_grad=True)
    weight = torch.randn(11, 5, requires_grad=True)
    targets = torch.tensor([0, 1, 2, 3, 5, 6, 8, 9, 10, 0])
    coefficients = torch.linspace(-1, 2, 10)
    logits = hidden @ weight.T
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    if forbidden:
        logits = logits.index_fill(1, torch.tensor(forbidden), -torch.inf)
    expected = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    (expected * coefficients).sum().backward()
    wanted = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None
    banned = torch.isin(torch.arange(11), torch.tensor(forbidden)) if forbidden else None
    found = Head(weight=weight, softcap=softcap, forbidden=banned).logprobs(hidden, targets)
    (found * coefficients).sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(hidden.grad, wanted[0])
    torch.testing.assert_close(weight.grad, wanted[1])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.lists(st.integers(1, 5), max_size=4)),
        min_size=1,
        max_size=4,
    )
)
def test_a_packed_row_computes_every_token_once(shape: list[tuple[int, list[int]]]) -> None:
    groups = [
        Group(prefix=ids(i, p), branches=tuple(ids(100 * i + j, b) for j, b in enumerate(bs)))
        for i, (p, bs) in enumerate(shape)
    ]
    packed = pack(groups, CPU)
    assert packed.tokens.shape[1] == sum(g.tokens for g in groups)
    assert packed.targets.tolist() == [t for g in groups for b in g.branches for t in b]
    assert len(set(packed.inverse.tolist())) == packed.tokens.shape[1]
    assert packed.tokens[0, packed.branch_ends].tolist() == [b[-1] for g in groups for b in g.branches]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(1, 6)), min_size=1, max_size=9))
def test_common_beginnings_are_computed_once(shapes: list[tuple[int, int, int]]) -> None:
    """Sequences of instructions, one of some texts up to a place, and a tail of their own; some are equal."""
    sequences = [ids(99, 20) + ids(text, 60)[:place] + ids(tail, tail) for text, place, tail in shapes]
    order, groups = share_prefixes(sequences)
    paths = [group.prefix + branch for group in groups for branch in group.branches or ((),)]
    assert paths == [sequences[index] for index in order]
    assert sorted(order) == list(range(len(sequences)))
    assert sum(group.tokens for group in groups) <= sum(map(len, sequences))


def test_runs_are_cut_where_most_is_saved() -> None:
    """Two texts behind the same instructions, two places of each, and a stranger."""
    texts = [ids(9, 40) + ids(text, 50) + ids(place, 5) for text, place in ((1, 11), (2, 12), (1, 13), (2, 14))]
    order, groups = share_prefixes([*texts, ids(5, 7)])
    assert sorted(len(group.prefix) for group in groups) == [6, 90, 90]
    starts = np.cumsum([0] + [len(group.branches) for group in groups])
    runs = {frozenset(order[start:end]) for start, end in itertools.pairwise(starts)}
    assert runs == {frozenset({0, 2}), frozenset({1, 3}), frozenset({4})}
    unlike = [ids(0, 9), ids(1, 9)]
    assert share_prefixes(unlike) == ([0, 1], [Group(prefix=one, branches=()) for one in unlike])
    assert share_prefixes([ids(0, 1), *texts])[1][1].branches == ()


def test_micro_batches_keep_order_and_budget() -> None:
    groups = [Group(prefix=ids(i, 4), branches=(ids(i, 4),)) for i in range(5)]
    assert list(micro_batches(groups, 16)) == [[0, 1], [2, 3], [4]]
    assert list(micro_batches(groups, 1)) == [[0], [1], [2], [3], [4]]


def test_empty_prefix_and_branch_are_refused() -> None:
    with pytest.raises(ValueError, match="prefix of at least one token"):
        Group(prefix=(), branches=((1,),))
    with pytest.raises(ValueError, match="must not be empty"):
        Group(prefix=(1,), branches=((),))

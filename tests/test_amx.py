"""The kernels of ``amx.cpp`` compute what a model's own modules do, on the matrix unit or on its tiles in software."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import engine
from helpers.engine import ARCHITECTURES, assert_drawn_from, flat, ids, ragged_groups
from transformers import PreTrainedModel

from forethought.engine.backends import amx, amx_library
from forethought.engine.backends.selection import forget
from forethought.engine.branches import Group, Prompt, Sampling, Thinking
from forethought.engine.head import Head
from forethought.engine.policy import Policy
from forethought.engine.sampler import TorchSampler
from forethought.engine.scorer import TorchScorer
from forethought.keys import Key
from forethought.testing import VOCABULARY

HERE = amx_library.machine()
IN_SOFTWARE = HERE.system == "Linux" and not HERE.features >= amx_library.NEEDED
TILES = Path(__file__).with_name("amx_tiles.h")


@pytest.fixture(autouse=True, scope="module")
def kernels() -> Iterator[None]:
    """Run the kernels here; where there is no AMX, with its tiles in software, if the processor has the rest."""
    if HERE.system != "Linux" or not amx_library.NEEDED - {"amx_tile", "amx_bf16"} <= HERE.features:
        pytest.skip(
            f"cannot be shown on this machine: the kernels of amx.cpp need AVX-512 with bf16; this is {HERE.kind}"
        )
    with pytest.MonkeyPatch.context() as patch:
        if IN_SOFTWARE:
            with_amx = dataclasses.replace(HERE, features=HERE.features | amx_library.NEEDED)
            patch.setattr(amx_library, "machine", lambda: with_amx)
            flags = [flag for flag in amx_library.FLAGS if not flag.startswith("-mamx")]
            patch.setattr(amx_library, "FLAGS", (*flags, "-include", str(TILES), f"-DTILES={TILES.stat().st_mtime_ns}"))
        amx_library.kernels.cache_clear()
        forget()
        if isinstance(amx_library.kernels(), str):
            pytest.skip(f"cannot be shown on this machine: {amx_library.kernels()}")
        yield
    amx_library.kernels.cache_clear()
    forget()


KEY = Key(0, "test")
PROMPTS = [
    Prompt(id="a", token_ids=ids(0, 45)),
    Prompt(id="b", token_ids=ids(1, 4)),
    Prompt(id="c", token_ids=ids(2, 17)),
]


def model_of(architecture: str) -> PreTrainedModel:
    """A tiny model with heads as wide as the kernels ask for; ``qwen2`` has biases."""
    return engine.model_of(architecture, amx_library.constant("panel_width"))


def native_and_exact(architecture: str) -> tuple[Policy, Policy]:
    """A policy that runs on the kernels, and one in float32 over the same weights."""
    torch.manual_seed(0)
    model, twin = model_of(architecture).bfloat16(), model_of(architecture)
    twin.load_state_dict(model.state_dict())
    policy = Policy(model)
    assert policy.backend.name == "amx"
    return policy, Policy(twin)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "qwen2"])
def test_native_scores_are_as_near_to_the_truth_as_the_models_own(architecture: str) -> None:
    """Against float32 over the same weights, past Gemma's sliding window, on rows of several blocks."""
    policy, exact = native_and_exact(architecture)
    groups = ragged_groups() * 8
    assert sum(group.tokens for group in groups) > amx_library.constant("rows_per_block")
    truth = flat(TorchScorer(exact), groups)
    ours = flat(TorchScorer(policy), groups) - truth
    plain = flat(TorchScorer(policy, as_trained=True), groups) - truth
    assert (ours != plain).any()
    assert np.abs(ours).mean() < min(0.05, 1.5 * np.abs(plain).mean())  # a wrong formula is off by nats
    found, expected = (TorchScorer(one).choices(ragged_groups(), (3, 200)) for one in (policy, exact))
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), atol=0.3)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "qwen2"])
def test_what_is_decoded_has_the_models_own_log_probabilities(architecture: str) -> None:
    """Ragged prompts, 24 tokens past Gemma's window of 16, rows that stop and leave, a batch and one row alone."""
    policy, exact = native_and_exact(architecture)
    sampling = Sampling(max_tokens=24, stop_ids=tuple(range(0, 250, 24)), forbidden_ids=tuple(range(1, 250, 24)))
    found = TorchSampler(policy).sample(PROMPTS, 20, sampling, KEY)
    assert len({len(completion.token_ids) for rows in found for completion in rows}) > 8
    assert not {t for rows in found for completion in rows for t in completion.token_ids} & set(sampling.forbidden_ids)
    groups = [
        Group(prefix=prompt.token_ids, branches=tuple(completion.token_ids for completion in rows))
        for prompt, rows in zip(PROMPTS, found, strict=True)
    ]
    truth = flat(TorchScorer(exact, forbidden_ids=sampling.forbidden_ids), groups)
    plain = flat(TorchScorer(policy, forbidden_ids=sampling.forbidden_ids, as_trained=True), groups) - truth
    ours = np.concatenate([completion.logprobs for rows in found for completion in rows]) - truth
    assert np.abs(ours).mean() < min(0.05, 1.5 * np.abs(plain).mean())
    alone = TorchSampler(policy, rows=1).sample(PROMPTS[1:2], 2, sampling, KEY)
    assert alone[0] == found[1][:2]  # to the last bit: a row does not depend on what else is in the batch


def test_thoughts_and_greedy_text_are_decoded_natively_too() -> None:
    policy = Policy(model_of("llama").bfloat16())
    thinking = Thinking(max_tokens=10, close_ids=(251, 252), closed=lambda ids: ids[-1] % 12 == 0)
    rows = TorchSampler(policy).think(PROMPTS, 8, thinking, Sampling(max_tokens=5), KEY)
    assert {rollout.closed for found in rows for rollout in found} == {True, False}
    greedy = TorchSampler(policy).sample(PROMPTS, 2, Sampling(max_tokens=1, temperature=0), KEY)
    for prompt, (first, second) in zip(PROMPTS, greedy, strict=True):
        logprobs = TorchScorer(policy).logprobs(
            [Group(prefix=prompt.token_ids, branches=tuple((token,) for token in range(VOCABULARY)))]
        )[0]
        assert first == second
        assert float(logprobs[first.token_ids[0]][0]) >= max(float(row[0]) for row in logprobs) - 0.05


def test_packed_weights_follow_the_weights() -> None:
    torch.manual_seed(0)
    policy = Policy(model_of("llama").bfloat16())
    scorer, groups = TorchScorer(policy), ragged_groups()
    before = flat(scorer, groups)
    kept = dict(policy.backend._packed)
    assert set(kept) == {"layers", "head"}
    assert flat(scorer, groups).tolist() == before.tolist()
    assert all(policy.backend._packed[name] is packed for name, packed in kept.items())
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1.2)
    policy.weights_changed()
    after = flat(scorer, groups)
    assert np.abs(after - before).mean() > 0.1
    assert np.abs(after - flat(TorchScorer(policy, as_trained=True), groups)).mean() < 0.1


def head_with(logits_V: torch.Tensor, softcap: float | None = None) -> tuple[Head, amx.NativeHead, torch.Tensor]:
    """Heads whose logits, for the hidden state that comes with them, are ``logits_V``; -inf forbids a token."""
    forbidden = torch.isinf(logits_V)
    weight = torch.zeros(len(logits_V), 64, dtype=torch.bfloat16)
    weight[:, 5] = logits_V.masked_fill(forbidden, 0.0).bfloat16()
    head = Head(weight=weight, forbidden=forbidden, softcap=softcap)
    hidden = torch.zeros(64, dtype=torch.bfloat16)
    hidden[5] = 1
    return head, amx.NativeHead(head, amx.pack(weight)), hidden


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_native_draws_follow_the_distribution(temperature: float) -> None:
    """40,000 draws over 41 panels, the last of them ragged."""
    generator = np.random.default_rng(0)
    logits = torch.from_numpy(generator.normal(0, 1.5, 1300)).bfloat16().float()
    logits[generator.choice(1300, 900, replace=False)] = -torch.inf
    _, head, hidden = head_with(logits)
    uniforms = torch.from_numpy(generator.random(40_000))
    chosen, logprobs = head.draw(hidden.expand(40_000, -1), uniforms, temperature)
    assert_drawn_from(logits / temperature, chosen, logprobs)


@pytest.mark.parametrize("size", [1, 30, 90])
@pytest.mark.parametrize("softcap", [None, 30.0])
def test_native_heads_agree_with_the_plain_one(size: float, softcap: float | None) -> None:
    """Logits of any size: sums are taken relative to a peak that rises on the way."""
    logits = (torch.randn(1000, generator=torch.Generator().manual_seed(1)) * size).bfloat16().float()
    logits[::7] = -torch.inf
    plain, head, hidden = head_with(logits, softcap)
    allowed = (~torch.isinf(logits)).nonzero()[:, 0]
    rows = hidden.expand(len(allowed), -1)
    expected = plain.logprobs(rows, allowed)
    np.testing.assert_allclose(head.logprobs(rows, allowed), expected, rtol=1e-3, atol=2e-3 * size)
    uniforms = torch.linspace(0, 1 - 1e-9, 200, dtype=torch.float64)
    for temperature in (1.0, 0.7):
        ours, theirs = (one.draw(hidden.expand(200, -1), uniforms, temperature) for one in (head, plain))
        assert (ours[0] == theirs[0]).float().mean() > 0.9  # bf16 logits of the plain one move its edges
        assert (ours[0].diff() >= 0).all()  # the inverse of a distribution function
    best = float(expected.max())
    assert head.greedy(hidden[None])[1].item() == pytest.approx(best, abs=2e-3 * size)


def test_extreme_uniforms_stay_on_tokens_with_weight() -> None:
    logits = torch.full((1030,), -torch.inf)
    logits[3], logits[700], logits[1029] = 0.0, 1.0, -200.0
    _, head, hidden = head_with(logits)
    uniforms = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert head.draw(hidden.expand(2, -1), uniforms, 1.0)[0].tolist() == [3, 700]
    logits[:] = -torch.inf
    logits[1029] = -3.0
    _, head, hidden = head_with(logits)
    chosen, logprobs = head.draw(hidden.expand(3, -1), torch.tensor([0.0, 0.5, 0.999]).double(), 1.0)
    assert chosen.tolist() == [1029] * 3
    assert logprobs.tolist() == pytest.approx([0, 0, 0], abs=1e-6)


def test_panels_hold_every_weight_once() -> None:
    """Two steps of 32 inputs and two panels of 32 outputs, both ragged; the layout that ``amx.cpp`` describes."""
    weight = torch.arange(1, 1 + 40 * 36).view(40, 36).bfloat16()
    panels = amx.pack(weight).view(2, 2, 2, 16, 16, 2)  # panel, step, half, pair of inputs, output, of the pair
    whole = panels.permute(0, 2, 4, 1, 3, 5).reshape(64, 64)
    torch.testing.assert_close(whole[:40, :36], weight)
    assert whole[40:].count_nonzero() == whole[:, 36:].count_nonzero() == 0
    first, second = torch.randn(2, 64, 64).bfloat16()
    both = amx.pack(first, second).view(4, 2, 2, 16, 16, 2).permute(2, 0, 4, 1, 3, 5).reshape(2, 64, 64)
    torch.testing.assert_close(both, torch.stack([first, second]))


def test_two_processes_may_compile_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FORETHOUGHT_CACHE", str(tmp_path))
    with ThreadPoolExecutor(3) as pool:
        made = set(pool.map(amx_library._built, ["g++"] * 3))
    assert len(made) == 1
    assert [path.name for path in (tmp_path / "kernels").iterdir()] == [made.pop().name]


def test_kernels_with_other_structures_are_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    longer = type("RowBuffers", (amx_library.RowBuffers,), {"_fields_": [("more", ctypes.c_int64)]})
    monkeypatch.setattr(amx_library, "RowBuffers", longer)
    assert amx_library.kernels.__wrapped__() == "RowBuffers has 72 bytes in amx.cpp and 80 in amx_library.py"


def test_a_head_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = amx.NativeHead.logprobs
    monkeypatch.setattr(amx.NativeHead, "logprobs", lambda head, hidden, targets: right(head, hidden, targets) * 1.05)
    forget()
    policy = Policy(model_of("llama").bfloat16())
    assert policy.backend.name == "onednn"
    assert "its results differ" in policy.kernels.reasons["amx"]
    forget()

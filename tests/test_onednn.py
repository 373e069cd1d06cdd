"""Fused layers compute what a model's own modules do, and are there only where no gradient is needed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.dtypes import DTYPES, closeness
from helpers.engine import ARCHITECTURES, DPO, flat, ids, make_trainer, model_of, pairs, ragged_groups

from forethought.engine.backends import onednn
from forethought.engine.branches import Group
from forethought.engine.policy import Policy
from forethought.engine.scorer import TorchScorer
from forethought.testing import random_model, tiny_config


@pytest.mark.parametrize("row_block", [7, 1024])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "qwen2"])
def test_fused_scores_are_as_near_to_the_truth_as_the_models_own(
    architecture: str, dtype: torch.dtype, row_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against float64 over the same weights, past Gemma's sliding window, and a row longer than one block."""
    monkeypatch.setattr("forethought.engine.backends.onednn.ROW_BLOCK", row_block)
    torch.manual_seed(0)
    model = model_of(architecture).to(dtype)
    exact = model_of(architecture).double()
    exact.load_state_dict(model.state_dict())
    policy = Policy(model, "onednn")
    truth = flat(TorchScorer(Policy(exact, "torch"), as_trained=True), ragged_groups())
    fused = flat(TorchScorer(policy), ragged_groups()) - truth
    plain = flat(TorchScorer(policy, as_trained=True), ragged_groups()) - truth
    assert (fused != plain).any()
    assert np.abs(fused).mean() < min(closeness(dtype), 1.5 * np.abs(plain).mean() + 1e-6)  # a wrong formula: by nats
    choices = [
        np.concatenate(TorchScorer(policy, as_trained=trained).choices(ragged_groups(), (3, 200)))
        for trained in (False, True)
    ]
    np.testing.assert_allclose(*choices, atol=0.3 if dtype == torch.bfloat16 else 1e-4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_residual_stream_that_is_normalised_stays_what_it_is(dtype: torch.dtype) -> None:
    """In float32 nothing is cast, so a norm in place would overwrite what it normalises."""
    layer = random_model(tiny_config("llama"), 0).to(dtype).get_decoder().layers[0]
    x = torch.randn(5, layer.hidden_size).to(dtype)
    before = x.clone()
    onednn.Norm(layer.input_layernorm, layer.hidden_size)(x)
    torch.testing.assert_close(x, before, rtol=0, atol=0)


def test_scores_follow_a_training_step_and_training_uses_the_models_own_layers() -> None:
    trainer = make_trainer(dtype=torch.bfloat16, peak=0.05)
    layers = trainer.policy.model.get_decoder().layers
    scorer, groups = TorchScorer(trainer.policy), [Group(prefix=ids(0, 9), branches=(ids(1, 30),))]
    before = flat(scorer, groups)

    def loss(rows):
        assert not any("forward" in vars(layer) for layer in layers)
        return DPO(rows)

    trainer.step(pairs(), loss, step=0, normaliser=4)
    after = flat(scorer, groups)
    assert np.abs(after - before).mean() > 0.2
    assert np.abs(after - flat(TorchScorer(trainer.policy, as_trained=True), groups)).mean() < 0.04


def test_a_reference_that_is_the_policy_has_no_margin() -> None:
    """Scored as the policy is trained, it rounds as the policy does, to the last bit."""
    trainer = make_trainer(dtype=torch.bfloat16)
    trained = trainer._loss_inputs(pairs()).logprobs.detach().numpy()
    scored = flat(TorchScorer(trainer.policy, 4096, as_trained=True), [one.group for one in pairs()])
    np.testing.assert_array_equal(trained, scored)

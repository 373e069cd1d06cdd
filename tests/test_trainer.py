"""One optimiser step: exact under accumulation, real at tiny rates, restored bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.engine import CPU, DPO, ids, make_trainer, pairs
from transformers import AutoModelForCausalLM

from forethought.engine import checkpoint
from forethought.engine.branches import Group, pack
from forethought.engine.losses import LossInputs, dpo, nll, policy_gradient
from forethought.engine.policy import Policy
from forethought.engine.trainer import Adam, Example, Schedule, Trainer
from forethought.testing import byte_tokenizer, tiny_model

SCHEDULE = Schedule(peak=1e-3, warmup=2, total=10, min_ratio=0.1)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: master.clone() for name, master in trainer.masters.items()}


def test_micro_batches_do_not_change_the_step() -> None:
    """Adam's first step is the sign of the gradient, which rounding may turn where it is nearly nothing: with a large
    eps the step is as smooth as the gradient."""
    whole, parts = make_trainer(eps=1e-3), make_trainer(micro_tokens=1, eps=1e-3)
    before = weights(whole)
    a = whole.step(pairs(), DPO, step=0, normaliser=4)
    b = parts.step(pairs(), DPO, step=0, normaliser=4)
    assert a == pytest.approx(b, rel=1e-4)
    for name, master in whole.masters.items():
        torch.testing.assert_close(master, parts.masters[name], atol=2e-6, rtol=1e-5)
    assert max(float((master - before[name]).abs().max()) for name, master in whole.masters.items()) > 2e-4


def test_one_step_at_a_tiny_rate_moves_bf16_weights() -> None:
    """A bf16 weight near 0.02 has steps of 1e-4: only the float32 master can keep an update of 1e-6."""
    trainer = make_trainer(dtype=torch.bfloat16, peak=1e-6)
    before = weights(trainer)
    for step in range(3):
        trainer.step(pairs(), DPO, step=step, normaliser=4)
    moved = [float((trainer.masters[n] - before[n]).abs().max()) for n in before]
    assert max(moved) < 1e-5
    assert sum(m > 0 for m in moved) > len(moved) / 2
    for name, parameter in trainer.policy.model.named_parameters():
        assert torch.equal(parameter, trainer.masters[name].bfloat16()), name


def test_dpo_raises_the_chosen_over_the_rejected() -> None:
    trainer = make_trainer()
    margins = [trainer.step(pairs(), DPO, step=s, normaliser=4)["margin"] for s in range(6)]
    assert margins[-1] > margins[0] + 1


def test_dpo_at_equal_logprobs_is_log_two() -> None:
    flat = torch.full((4,), -1.0, requires_grad=True)
    rows = LossInputs(
        logprobs=flat, branch=torch.tensor([0, 0, 1, 1]), branches=2, weights=torch.ones(4), reference=flat.detach()
    )
    loss, metrics = dpo(rows, beta=0.1)
    assert float(loss.detach()) == pytest.approx(np.log(2))
    assert float(metrics["margin"]) == 0
    loss.backward()
    torch.testing.assert_close(flat.grad, torch.tensor([-0.05, -0.05, 0.05, 0.05]))


def test_dpo_needs_a_reference() -> None:
    rows = LossInputs(logprobs=torch.zeros(2), branch=torch.tensor([0, 1]), branches=2, weights=torch.ones(2))
    with pytest.raises(ValueError, match="reference"):
        dpo(rows, beta=0.1)


def test_nll_counts_weighted_tokens_only() -> None:
    rows = LossInputs(
        logprobs=torch.tensor([-1.0, -2.0, -4.0]),
        branch=torch.tensor([0, 0, 1]),
        branches=2,
        weights=torch.tensor([1.0, 0.0, 0.5]),
    )
    assert float(nll(rows)[0]) == 3.0


def test_schedule_warms_up_then_follows_a_cosine() -> None:
    rates = [SCHEDULE.rate(s) for s in range(11)]
    assert rates[:3] == pytest.approx([5e-4, 1e-3, 1e-3])
    assert rates[6] == pytest.approx(1e-3 * 0.55)
    assert rates[10] == pytest.approx(1e-4)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_a_bad_gradient_is_an_error_and_leaves_the_weights() -> None:
    trainer = make_trainer()
    before = weights(trainer)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        trainer.step(pairs(), lambda rows: (rows.logprobs.sum() * torch.inf, {}), step=0, normaliser=1)
    assert all(torch.equal(before[n], m) for n, m in trainer.masters.items())
    assert trainer.step(pairs(), DPO, step=0, normaliser=4)["gradient_norm"] > 0


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_a_checkpoint_resumes_bit_for_bit_and_loads_elsewhere(architecture: str, tmp_path: Path) -> None:
    straight = make_trainer(architecture, dtype=torch.bfloat16)
    for step in range(4):
        if step == 2:
            checkpoint.save(tmp_path / "step_000002", straight, byte_tokenizer(), step)
        straight.step(pairs(), DPO, step=step, normaliser=4)
    resumed = make_trainer(architecture, dtype=torch.bfloat16)
    assert checkpoint.load_into(tmp_path / "step_000002", resumed) == 2
    for step in (2, 3):
        resumed.step(pairs(), DPO, step=step, normaliser=4)
    for name, master in straight.masters.items():
        assert torch.equal(master, resumed.masters[name]), name

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "step_000002", dtype="auto")
    assert loaded.dtype == torch.float32
    again = Trainer(Policy(loaded), SCHEDULE, Adam(), micro_tokens=512)
    checkpoint.load_into(tmp_path / "step_000002", resumed)
    for name, master in resumed.masters.items():
        assert torch.equal(master, again.masters[name]), name


def test_forbidden_tokens_have_no_gradient() -> None:
    policy = Policy(tiny_model("llama"))
    packed = pack([Group(prefix=ids(0, 4), branches=((1, 2, 3),))], CPU)
    policy.logprobs(packed, forbidden_ids=(9,)).sum().backward()
    gradient = policy.model.get_output_embeddings().weight.grad
    assert float(gradient[9].abs().max()) == 0
    assert float(gradient[10].abs().max()) > 0


def gradient_inputs(**given: object) -> tuple[LossInputs, torch.Tensor]:
    """Two branches of two and three tokens; the second one's last token was inserted and weighs nothing."""
    logprobs = torch.tensor([-1.0, -2.0, -0.5, -1.5, -3.0], requires_grad=True)
    rows = LossInputs(
        logprobs=logprobs,
        branch=torch.tensor([0, 0, 1, 1, 1]),
        branches=2,
        weights=torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0]),
        advantages=torch.tensor([0.75, -0.25]),
        **given,  # type: ignore[arg-type]
    )
    return rows, logprobs


def test_the_on_policy_gradient_is_the_advantage_of_each_drawn_token() -> None:
    rows, logprobs = gradient_inputs()
    loss, sums = policy_gradient(rows)
    loss.backward()
    assert loss.item() == pytest.approx(-(2 * 0.75 - 2 * 0.25))
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-0.75, -0.75, 0.25, 0.25, 0.0])
    assert {name: float(value) for name, value in sums.items()} == {"tokens": 4.0, "clipped": 0.0}


def test_clipping_stops_what_has_gone_far_enough() -> None:
    """Ratios 1.5, 1, 0.5, 1.5: a good token beyond 1.2 and a bad one below 0.8 have no gradient left."""
    ratios = torch.tensor([1.5, 1.0, 0.5, 1.5, 9.0])
    old = torch.tensor([-1.0, -2.0, -0.5, -1.5, -3.0]) - ratios.log()
    rows, logprobs = gradient_inputs(old=old)
    loss, sums = policy_gradient(rows, clip=(0.2, 0.2))
    loss.backward()
    assert loss.item() == pytest.approx(-(1.2 * 0.75 + 0.75 - 0.8 * 0.25 - 1.5 * 0.25))
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0.0, -0.75, 0.0, 0.375, 0.0])
    assert float(sums["clipped"]) == 2.0


def test_the_divergence_pulls_towards_the_reference() -> None:
    reference = torch.tensor([-1.0, -1.0, -0.5, -1.5, 0.0])
    rows, logprobs = gradient_inputs(reference=reference)
    loss, sums = policy_gradient(rows, kl_weight=0.5)
    loss.backward()
    assert float(sums["kl"]) == pytest.approx(np.e - 2)
    assert logprobs.grad is not None
    assert logprobs.grad[1].item() == pytest.approx(-0.75 + 0.5 * (1 - np.e))
    with pytest.raises(ValueError, match="reference"):
        policy_gradient(gradient_inputs()[0], kl_weight=0.5)


def test_the_trainer_hands_advantages_to_the_right_branches() -> None:
    """As token weights under the NLL they are the same step, in micro-batches too."""
    groups = [Group(prefix=ids(i, 6), branches=(ids(50 + i, 4), ids(60 + i, 6))) for i in range(3)]
    values = [(0.5, -0.5), (1.0, -1.0), (-0.25, 0.25)]
    drawn = [tuple(np.array([1] * (len(b) - 1) + [0], np.float32) for b in g.branches) for g in groups]
    given = [Example(group=g, weights=w, advantages=a) for g, w, a in zip(groups, drawn, values, strict=True)]
    weighted = [
        Example(group=g, weights=tuple(np.float32(one) * part for one, part in zip(a, w, strict=True)))
        for g, w, a in zip(groups, drawn, values, strict=True)
    ]
    ours, plain = make_trainer(micro_tokens=20), make_trainer()
    ours.step(given, policy_gradient, step=0, normaliser=60)
    plain.step(weighted, nll, step=0, normaliser=60)
    for name, master in ours.masters.items():
        torch.testing.assert_close(master, plain.masters[name], atol=1e-4, rtol=1e-4)

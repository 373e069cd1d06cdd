"""TRL as numerical oracle: the same rows give the same loss and the same gradients, of DPO and of GRPO.

TRL runs its own code from the text on: its tokenisation (which ends every completion with EOS), collator, forward of
padded separate sequences, and loss.  Ours gets the ids that TRL made, as prefixes with branches.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.trl_record import CASES, RECORD, trls
from torch import Tensor

from forethought.algorithms.advantages import ADVANTAGES, normaliser
from forethought.config import RLMTConfig
from forethought.engine.branches import Group
from forethought.engine.losses import dpo, policy_gradient
from forethought.engine.policy import Policy
from forethought.engine.scorer import TorchScorer
from forethought.engine.trainer import Adam, Example, Schedule, Trainer
from forethought.testing import EOS_ID, byte_tokenizer, tiny_model

trl = pytest.importorskip("trl", reason="TRL is not installed; test_trl_record.py compares with what it said")
datasets = pytest.importorskip("datasets")

BETA, SFT_WEIGHT = 0.1, 0.3

RAGGED = [
    {"prompt": "The whale is a", "chosen": " marine mammal.", "rejected": " fish, or so it was said."},
    {"prompt": "Paris", "chosen": ", the capital of France, lies on the Seine", "rejected": " is"},
    {"prompt": "In 1369 a toll was taken on barley and", "chosen": " wool", "rejected": " glass — über £ 3"},
]
"""Prompts and completions of unlike lengths."""

EVEN = [
    {"prompt": "The whale is a", "chosen": " marine mammal", "rejected": " freshwater fish, surely"},
    {"prompt": "Of all the rivers", "chosen": " the Dane lies", "rejected": " it "},
    {"prompt": "A", "chosen": " bridge stands", "rejected": " toll was taken"},
]
"""Every chosen completion has 14 characters."""

Gradients = dict[str, Tensor]


def oracle(rows: Sequence[dict[str, str]], architecture: str, folder: Path, **loss: object) -> Any:
    """Return TRL's trainer: policy weights from seed 0, reference weights from seed 1."""
    config = trl.DPOConfig(
        output_dir=str(folder),
        beta=BETA,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        per_device_train_batch_size=len(rows),
        **loss,
    )
    return trl.DPOTrainer(
        model=tiny_model(architecture, seed=0),
        ref_model=tiny_model(architecture, seed=1),
        args=config,
        train_dataset=datasets.Dataset.from_list(list(rows)),
        processing_class=byte_tokenizer(),
    )


def batches_of(theirs: Any, size: int) -> list[dict[str, Tensor]]:
    rows = list(theirs.train_dataset)
    return [theirs.data_collator(rows[start : start + size]) for start in range(0, len(rows), size)]


def trl_loss(theirs: Any, batches: Sequence[dict[str, Tensor]]) -> tuple[float, Gradients]:
    """Return the mean loss over ``batches`` and its gradients."""
    theirs.model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = theirs.compute_loss(theirs.model, batch) / len(batches)
        loss.backward()
        total += loss.item()
    return total, {name: parameter.grad for name, parameter in theirs.model.named_parameters()}


def our_loss(theirs: Any, architecture: str, nll_weight: float = 0.0) -> tuple[float, Gradients]:
    """Return the loss and the gradients of one of our optimiser steps, in two micro-batches, on the same ids."""
    groups = [
        Group(prefix=tuple(row["prompt_ids"]), branches=(tuple(row["chosen_ids"]), tuple(row["rejected_ids"])))
        for row in theirs.train_dataset
    ]
    references = TorchScorer(Policy(tiny_model(architecture, seed=1))).logprobs(groups)
    examples = [Example(group=g, reference=tuple(r)) for g, r in zip(groups, references, strict=True)]
    schedule = Schedule(peak=1e-6, warmup=0, total=1, min_ratio=1.0)
    micro_tokens = groups[0].tokens + groups[1].tokens
    policy = Policy(tiny_model(architecture, seed=0))
    trainer = Trainer(policy, schedule, Adam(clip_norm=float("inf")), micro_tokens=micro_tokens)
    found: Gradients = {}
    trainer.optimizer.register_step_pre_hook(
        lambda *_: found.update({name: master.grad.clone() for name, master in trainer.masters.items()})
    )
    loss = functools.partial(dpo, beta=BETA, nll_weight=nll_weight)
    metrics = trainer.step(examples, loss, step=0, normaliser=len(examples))
    return metrics["loss"], found


def assert_same(expected: tuple[float, Gradients], found: tuple[float, Gradients]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        largest = float(gradient.abs().max())
        assert largest > 0, name
        torch.testing.assert_close(
            found[1][name], gradient, rtol=1e-4, atol=1e-5 * largest, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3"])
def test_sigmoid_loss_and_gradients_are_trls(architecture: str, tmp_path: Path) -> None:
    theirs = oracle(RAGGED, architecture, tmp_path, loss_type=["sigmoid"])
    expected = trl_loss(theirs, batches_of(theirs, len(RAGGED)))
    assert abs(expected[0] - 0.6931) > 0.1  # the reference is another model: its terms matter
    assert_same(expected, our_loss(theirs, architecture))


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_the_sft_term_is_trls_on_chosen_of_one_length(architecture: str, tmp_path: Path) -> None:
    """TRL averages its SFT term over all chosen tokens of a batch, we average within a row and then over rows."""
    theirs = oracle(EVEN, architecture, tmp_path, loss_type=["sigmoid", "sft"], loss_weights=[1.0, SFT_WEIGHT])
    assert {len(row["chosen_ids"]) for row in theirs.train_dataset} == {15}
    expected = trl_loss(theirs, batches_of(theirs, len(EVEN)))
    assert_same(expected, our_loss(theirs, architecture, SFT_WEIGHT))
    without = oracle(EVEN, architecture, tmp_path, loss_type=["sigmoid"])
    assert expected[0] - trl_loss(without, batches_of(without, len(EVEN)))[0] > 1  # the term is there at all


def test_the_sft_term_is_trls_row_by_row(tmp_path: Path) -> None:
    """Alone in its batch, a row of any length has the same SFT term in both; together only ours ignores length."""
    theirs = oracle(RAGGED, "llama", tmp_path, loss_type=["sigmoid", "sft"], loss_weights=[1.0, SFT_WEIGHT])
    found = our_loss(theirs, "llama", SFT_WEIGHT)
    assert_same(trl_loss(theirs, batches_of(theirs, 1)), found)
    together, _ = trl_loss(theirs, batches_of(theirs, len(RAGGED)))
    assert together != pytest.approx(found[0], rel=1e-3)


def test_the_oracle_trains_on_what_we_train_on(tmp_path: Path) -> None:
    theirs = oracle(RAGGED, "llama", tmp_path, loss_type=["sigmoid"])
    row = theirs.train_dataset[2]
    assert bytes(row["prompt_ids"]).decode() == RAGGED[2]["prompt"]
    assert bytes(row["rejected_ids"][:-1]).decode() == RAGGED[2]["rejected"]
    assert row["rejected_ids"][-1] == EOS_ID


def test_scaled_advantages_are_trls() -> None:
    rewards = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    tensor = torch.tensor([rewards])
    expected = (tensor - tensor.mean()) / (trl.trainer.utils.nanstd(tensor, dim=1)[:, None] + 1e-4)
    assert ADVANTAGES["grpo"].of(rewards, None) == pytest.approx(expected[0].tolist(), rel=1e-5)


PROMPT, COMPLETIONS = "The whale is", [" a fish<x> no", " big<x> and it sings", " here<x>", " a mammal<x> yes, yes"]
MASKED = b"<x>"
"""Stands for what the harness inserted."""


def grpo(architecture: str, loss_type: str, folder: Path, beta: float) -> Any:
    options = trl.GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=24,
        loss_type=loss_type,
        beta=0.0,
        use_bias_correction_kl=False,  # the estimator as the paper has it
        temperature=1.0,
    )
    trainer = trl.GRPOTrainer(
        model=tiny_model(architecture),
        reward_funcs=lambda completions, **more: [0.0] * len(completions),
        args=options,
        train_dataset=datasets.Dataset.from_list([{"prompt": PROMPT}] * 4),
        processing_class=byte_tokenizer(),
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.beta = beta  # set late: it would look for the reference on the hub, and the rows have its numbers
    return trainer


def drawn_mask(ids: bytes) -> np.ndarray:
    mask = np.ones(len(ids), np.float32)
    start = ids.index(MASKED)
    mask[start : start + len(MASKED)] = 0
    return mask


def moved(architecture: str) -> Any:
    """A model a little away from the one that drew the rows, so that ratios are not 1 and clipping acts."""
    model = tiny_model(architecture)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


def padded(parts: Sequence[Any], dtype: torch.dtype) -> torch.Tensor:
    width = max(map(len, parts))
    return torch.tensor([[*map(float, part), *[0.0] * (width - len(part))] for part in parts]).to(dtype)


def oracle_rows(architecture: str) -> Iterator[Any]:
    ids = [text.encode() for text in COMPLETIONS]
    group = Group(prefix=tuple(PROMPT.encode()), branches=tuple(tuple(one) for one in ids))
    yield ids
    yield group
    for seed in (0, 1):
        [logprobs] = TorchScorer(Policy(tiny_model(architecture, seed=seed))).logprobs([group])
        yield logprobs


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize(("loss_type", "beta"), [("dr_grpo", 0.0), ("grpo", 0.0), ("grpo", 0.04)])
def test_loss_and_gradients_are_trls(architecture: str, loss_type: str, beta: float, tmp_path: Path) -> None:
    """TRL gets padded separate sequences with a mask over inserted tokens, we get one prefix with its branches."""
    ids, group, old, reference = oracle_rows(architecture)
    values = ADVANTAGES[loss_type.replace("_", "-")].of([1.0, 0.0, 0.0, 1.0], None)
    off_policy = loss_type == "grpo"
    model = moved(architecture) if off_policy else tiny_model(architecture)
    theirs = grpo(architecture, loss_type, tmp_path, beta)
    inputs: dict[str, Any] = {
        "prompt_ids": torch.tensor([list(PROMPT.encode())] * 4),
        "prompt_mask": torch.ones(4, len(PROMPT), dtype=torch.long),
        "completion_ids": padded(ids, torch.long),
        "completion_mask": padded([[1] * len(one) for one in ids], torch.long),
        "tool_mask": padded([drawn_mask(one) for one in ids], torch.long),
        "advantages": torch.tensor(values),
        "num_items_in_batch": torch.tensor(4),
    }
    if off_policy:
        inputs["old_per_token_logps"] = padded(old, torch.float32)
    if beta:
        inputs["ref_per_token_logps"] = padded(reference, torch.float32)
    model.train()
    theirs.model.load_state_dict(model.state_dict())
    expected = theirs._compute_loss(theirs.model.train(), inputs)
    expected.backward()
    masks = [drawn_mask(one) for one in ids]
    example = Example(
        group=group,
        weights=tuple(m / m.sum() if off_policy else m for m in masks),
        advantages=values,
        old=tuple(old) if off_policy else None,
        reference=tuple(reference) if beta else None,
    )
    cfg = RLMTConfig(windows_per_step=1, rollouts=4, thought_tokens=16, suffix_tokens=8)
    cfg = cfg.model_copy(update={"advantage": "grpo" if off_policy else "dr-grpo"})
    schedule = Schedule(peak=1e-6, warmup=0, total=1, min_ratio=1.0)
    trainer = Trainer(Policy(model.eval()), schedule, Adam(clip_norm=float("inf")), micro_tokens=4096)
    ours: dict[str, torch.Tensor] = {}
    trainer.optimizer.register_step_pre_hook(
        lambda *_: ours.update({name: master.grad.clone() for name, master in trainer.masters.items()})
    )
    loss = functools.partial(policy_gradient, clip=(0.2, 0.2) if off_policy else None, kl_weight=beta)
    found = trainer.step([example], loss, step=0, normaliser=normaliser(cfg))
    assert found["loss"] == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    assert (found["clipped"] > 0) == off_policy
    for name, parameter in theirs.model.named_parameters():
        largest = float(parameter.grad.abs().max())
        assert largest > 0, name
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-4 * largest)


@pytest.mark.parametrize("case", CASES)
def test_the_record_is_what_trl_says(case: str) -> None:
    """Of the installed version, which may be a later one: a difference is news about TRL."""
    record = dict(np.load(RECORD))
    loss, gradient = trls(case, record)
    expected = record[f"{case}: gradient"]
    assert loss == pytest.approx(float(record[f"{case}: loss"]), rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())

"""TRL as numerical oracle: the same rows give the same DPO loss and the same gradients.

TRL runs its own code from the text on: its tokenisation (which ends every completion with EOS), collator, forward of
padded separate sequences, and loss.  Ours gets the ids that TRL made, as prefixes with branches.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import datasets
import pytest
import torch
from torch import Tensor
from trl import DPOConfig, DPOTrainer

from forethought.engine.branches import Group
from forethought.engine.losses import dpo
from forethought.engine.policy import Policy
from forethought.engine.scorer import TorchScorer
from forethought.engine.trainer import Adam, Example, Schedule, Trainer
from forethought.testing import EOS_ID, byte_tokenizer, tiny_model

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


def oracle(rows: Sequence[dict[str, str]], architecture: str, folder: Path, **loss: object) -> DPOTrainer:
    """Return TRL's trainer: policy weights from seed 0, reference weights from seed 1."""
    config = DPOConfig(
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
    return DPOTrainer(
        model=tiny_model(architecture, seed=0),
        ref_model=tiny_model(architecture, seed=1),
        args=config,
        train_dataset=datasets.Dataset.from_list(list(rows)),
        processing_class=byte_tokenizer(),
    )


def batches_of(trl: DPOTrainer, size: int) -> list[dict[str, Tensor]]:
    rows = list(trl.train_dataset)
    return [trl.data_collator(rows[start : start + size]) for start in range(0, len(rows), size)]


def trl_loss(trl: DPOTrainer, batches: Sequence[dict[str, Tensor]]) -> tuple[float, Gradients]:
    """Return the mean loss over ``batches`` and its gradients."""
    trl.model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = trl.compute_loss(trl.model, batch) / len(batches)
        loss.backward()
        total += loss.item()
    return total, {name: parameter.grad for name, parameter in trl.model.named_parameters()}


def our_loss(trl: DPOTrainer, architecture: str, nll_weight: float = 0.0) -> tuple[float, Gradients]:
    """Return the loss and the gradients of one of our optimiser steps, in two micro-batches, on the same ids."""
    groups = [
        Group(prefix=tuple(row["prompt_ids"]), branches=(tuple(row["chosen_ids"]), tuple(row["rejected_ids"])))
        for row in trl.train_dataset
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
    trl = oracle(RAGGED, architecture, tmp_path, loss_type=["sigmoid"])
    expected = trl_loss(trl, batches_of(trl, len(RAGGED)))
    assert abs(expected[0] - 0.6931) > 0.1  # the reference is another model: its terms matter
    assert_same(expected, our_loss(trl, architecture))


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_the_sft_term_is_trls_on_chosen_of_one_length(architecture: str, tmp_path: Path) -> None:
    """TRL averages its SFT term over all chosen tokens of a batch, we average within a row and then over rows."""
    trl = oracle(EVEN, architecture, tmp_path, loss_type=["sigmoid", "sft"], loss_weights=[1.0, SFT_WEIGHT])
    assert {len(row["chosen_ids"]) for row in trl.train_dataset} == {15}
    expected = trl_loss(trl, batches_of(trl, len(EVEN)))
    assert_same(expected, our_loss(trl, architecture, SFT_WEIGHT))
    without = oracle(EVEN, architecture, tmp_path, loss_type=["sigmoid"])
    assert expected[0] - trl_loss(without, batches_of(without, len(EVEN)))[0] > 1  # the term is there at all


def test_the_sft_term_is_trls_row_by_row(tmp_path: Path) -> None:
    """Alone in its batch, a row of any length has the same SFT term in both; together only ours ignores length."""
    trl = oracle(RAGGED, "llama", tmp_path, loss_type=["sigmoid", "sft"], loss_weights=[1.0, SFT_WEIGHT])
    found = our_loss(trl, "llama", SFT_WEIGHT)
    assert_same(trl_loss(trl, batches_of(trl, 1)), found)
    together, _ = trl_loss(trl, batches_of(trl, len(RAGGED)))
    assert together != pytest.approx(found[0], rel=1e-3)


def test_the_oracle_trains_on_what_we_train_on(tmp_path: Path) -> None:
    trl = oracle(RAGGED, "llama", tmp_path, loss_type=["sigmoid"])
    row = trl.train_dataset[2]
    assert bytes(row["prompt_ids"]).decode() == RAGGED[2]["prompt"]
    assert bytes(row["rejected_ids"][:-1]).decode() == RAGGED[2]["rejected"]
    assert row["rejected_ids"][-1] == EOS_ID

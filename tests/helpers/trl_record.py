"""What TRL said about a few rows, recorded: losses and gradients of a language model of 500 weights.

``tests/test_trl_record.py`` compares ours with it, whether TRL is installed or not.
``python tests/helpers/trl_record.py`` asks the installed TRL again and rewrites the record.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from forethought.engine.branches import Group
from forethought.engine.losses import dpo, nll, policy_gradient
from forethought.engine.policy import Policy
from forethought.engine.scorer import TorchScorer
from forethought.engine.trainer import Adam, Example, Schedule, Trainer

RECORD = Path(__file__).parents[1] / "data" / "trl.npz"
CASES = ("dpo", "dpo with nll", "sft nll", "dr. grpo", "grpo with clip", "grpo with clip and kl")

BETA, NLL_WEIGHT, CLIP, KL_WEIGHT, MAX_TOKENS = 0.1, 0.3, 0.2, 0.04, 7

PAIRS = (
    ((1, 5, 2), (3, 8, 4, 11), (7, 2)),
    ((6,), (9, 1, 1, 3), (2, 10, 5, 4, 6, 8)),
    ((4, 4, 9, 10, 2), (5, 7, 3, 2), (1,)),
)
"""Prompt, chosen, rejected.  The chosen have one length: TRL averages its SFT term over all tokens of a batch."""

PROMPT = (3, 7, 1)
ROLLOUTS = ((5, 2, 9, 4, 6), (8, 1, 3), (10, 11, 2, 7, 5, 3, 9), (4, 6))
DRAWN = ((1, 1, 0, 1, 1), (1, 0, 1), (1, 1, 1, 0, 0, 1, 1), (1, 1))
"""0: inserted by the harness."""
ADVANTAGES = (0.75, -0.25, -1.0, 0.5)


def model_of(weights: np.ndarray | None = None) -> PreTrainedModel:
    """Return the language model that has these weights, ``(W,)``, in the order of its parameters."""
    config = LlamaConfig(
        vocab_size=12,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    if weights is not None:
        torch.nn.utils.vector_to_parameters(torch.from_numpy(weights.copy()), model.parameters())
    return model


def ours(case: str, record: Mapping[str, np.ndarray]) -> tuple[float, np.ndarray]:
    """Return our loss of a case and its gradient, ``(W,)``: one step of the trainer, in micro-batches of one group."""
    policy = Policy(model_of(record["weights"]), "torch")
    trainer = Trainer(
        policy, Schedule(peak=1e-6, warmup=0, total=1, min_ratio=1.0), Adam(clip_norm=float("inf")), micro_tokens=1
    )
    gradients: list[Tensor] = []
    trainer.optimizer.register_step_pre_hook(
        lambda *_: gradients.extend(master.grad.clone() for master in trainer.masters.values())
    )
    examples, loss, normaliser = _inputs(case, record)
    metrics = trainer.step(examples, loss, step=0, normaliser=normaliser)
    return metrics["loss"], torch.cat([gradient.flatten() for gradient in gradients]).numpy()


def _logprobs(record: Mapping[str, np.ndarray], weights: str, groups: list[Group]) -> list[tuple[np.ndarray, ...]]:
    scorer = TorchScorer(Policy(model_of(record[weights]), "torch"))
    return [tuple(rows) for rows in scorer.logprobs(groups)]


def _inputs(case: str, record: Mapping[str, np.ndarray]) -> tuple[list[Example], Any, float]:
    if case == "sft nll":
        groups = [Group(prefix=prompt, branches=(chosen,)) for prompt, chosen, _ in PAIRS]
        return [Example(group=group) for group in groups], nll, sum(len(chosen) for _, chosen, _ in PAIRS)
    if "grpo" not in case:
        groups = [Group(prefix=prompt, branches=(chosen, rejected)) for prompt, chosen, rejected in PAIRS]
        reference = _logprobs(record, "reference", groups)
        examples = [Example(group=group, reference=rows) for group, rows in zip(groups, reference, strict=True)]
        return examples, functools.partial(dpo, beta=BETA, nll_weight=NLL_WEIGHT * ("nll" in case)), len(PAIRS)
    group = Group(prefix=PROMPT, branches=ROLLOUTS)
    masks = [np.array(mask, np.float32) for mask in DRAWN]
    if case == "dr. grpo":
        example = Example(group=group, weights=tuple(masks), advantages=ADVANTAGES)
        return [example], policy_gradient, len(ROLLOUTS) * MAX_TOKENS
    kl_weight = KL_WEIGHT * ("kl" in case)
    example = Example(
        group=group,
        weights=tuple(mask / mask.sum() for mask in masks),
        advantages=ADVANTAGES,
        old=_logprobs(record, "old", [group])[0],
        reference=_logprobs(record, "reference", [group])[0] if kl_weight else None,
    )
    return [example], functools.partial(policy_gradient, clip=(CLIP, CLIP), kl_weight=kl_weight), len(ROLLOUTS)


def _padded(rows: Any, dtype: torch.dtype = torch.long) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*map(float, row), *[0.0] * (width - len(row))] for row in rows]).to(dtype)


def trls(case: str, record: Mapping[str, np.ndarray]) -> tuple[float, np.ndarray]:
    """Return TRL's loss of a case and its gradient, ``(W,)``: padded separate sequences, its own forward and loss."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(case, record, folder)
        loss = trainer.compute_loss(trainer.model.train(), _batch(case, record))
        loss.backward()
    return loss.item(), torch.cat([weight.grad.flatten() for weight in trainer.model.parameters()]).numpy()


def _trainer(case: str, record: Mapping[str, np.ndarray], folder: str) -> Any:
    import datasets
    from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

    from forethought.testing import byte_tokenizer

    common: dict[str, Any] = {"output_dir": folder, "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    common |= {"report_to": "none", "disable_tqdm": True, "per_device_train_batch_size": 4}
    text = {"prompt": "a", "completion": "b", "chosen": "b", "rejected": "c"}
    names = ("prompt", "completion") if case == "sft nll" else ("prompt", "chosen", "rejected")
    names = ("prompt",) if "grpo" in case else names
    # TRL wants a data set at once; the rows that count come as ids, in a batch of their own.
    more = {
        "model": model_of(record["weights"]),
        "train_dataset": datasets.Dataset.from_list([{name: text[name] for name in names}] * 4),
        "processing_class": byte_tokenizer(),
    }
    if case == "sft nll":
        return SFTTrainer(args=SFTConfig(**common), **more)
    if "grpo" not in case:
        types = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, NLL_WEIGHT]} if "nll" in case else {}
        options = DPOConfig(beta=BETA, **common, **types)
        return DPOTrainer(args=options, ref_model=model_of(record["reference"]), **more)
    options = GRPOConfig(
        **common,
        num_generations=4,
        max_completion_length=MAX_TOKENS,
        loss_type="dr_grpo" if case == "dr. grpo" else "grpo",
        epsilon=CLIP,
        beta=0.0,
        use_bias_correction_kl=False,  # the estimator as the paper has it
        temperature=1.0,
    )
    trainer = GRPOTrainer(reward_funcs=lambda completions, **_: [0.0] * len(completions), args=options, **more)
    trainer.current_gradient_accumulation_steps = 1
    trainer.beta = KL_WEIGHT * ("kl" in case)  # set late: it would look for the reference on the hub
    return trainer


def _batch(case: str, record: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    if "grpo" not in case:
        chosen = [(prompt, branch) for prompt, branch, _ in PAIRS]
        rejected = [(prompt, branch) for prompt, _, branch in PAIRS]
        rows = chosen if case == "sft nll" else chosen + rejected
        batch = {
            "input_ids": _padded([prompt + branch for prompt, branch in rows]),
            "attention_mask": _padded([[1] * len(prompt + branch) for prompt, branch in rows]),
        }
        mask = _padded([[0] * len(prompt) + [1] * len(branch) for prompt, branch in rows])
        if case == "sft nll":
            return batch | {"labels": batch["input_ids"].masked_fill(mask == 0, -100)}
        return batch | {"completion_mask": mask}
    batch = {
        "prompt_ids": torch.tensor([PROMPT] * len(ROLLOUTS)),
        "prompt_mask": torch.ones(len(ROLLOUTS), len(PROMPT), dtype=torch.long),
        "completion_ids": _padded(ROLLOUTS),
        "completion_mask": _padded([[1] * len(row) for row in ROLLOUTS]),
        "tool_mask": _padded(DRAWN),
        "advantages": torch.tensor(ADVANTAGES),
        "num_items_in_batch": torch.tensor(len(ROLLOUTS)),
    }
    group = [Group(prefix=PROMPT, branches=ROLLOUTS)]
    if case != "dr. grpo":
        batch["old_per_token_logps"] = _padded(_logprobs(record, "old", group)[0], torch.float32)
        batch["ref_per_token_logps"] = _padded(_logprobs(record, "reference", group)[0], torch.float32)
    return batch


def main() -> None:
    """Ask the installed TRL and write the record."""
    import trl

    draw = np.random.default_rng(0)
    size = model_of().num_parameters()
    weights = draw.normal(0, 0.5, size).astype(np.float32)
    record: dict[str, Any] = {"weights": weights, "trl": np.array(trl.__version__)}
    for name in ("old", "reference"):  # a little away, so that ratios are not 1 and clipping acts
        record[name] = weights + draw.normal(0, 0.1, size).astype(np.float32)
    for case in CASES:
        loss, gradient = trls(case, record)
        record |= {f"{case}: loss": np.array(loss), f"{case}: gradient": gradient}
    np.savez_compressed(RECORD, **record)


if __name__ == "__main__":
    main()

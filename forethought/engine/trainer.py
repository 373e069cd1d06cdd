"""One optimiser step of any algorithm: weighted branches and a loss in, new weights out.

The trained weights are float32 masters; the model computes with a working copy in its own dtype.  At the
learning rates of this field (1e-7 to 1e-5) pure bf16 weights would round every update away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from forethought.engine.branches import Group, micro_batches, pack
from forethought.engine.losses import Loss, LossInputs
from forethought.engine.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A group to train on, with what its loss needs for each branch token."""

    group: Group  # its branches are trained, its prefix never
    # By branch, float32 of one number per token:
    reference: tuple[np.ndarray, ...] | None = None  # log-probabilities under the reference
    weights: tuple[np.ndarray, ...] | None = None  # default: 1 everywhere
    old: tuple[np.ndarray, ...] | None = None  # log-probabilities under the policy that sampled the tokens
    advantages: tuple[float, ...] | None = None  # one per branch


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Learning rate as a pure function of the step: linear warm-up, then a cosine to a share of the peak."""

    peak: float  # learning rate at the end of the warm-up
    warmup: int  # steps
    total: int  # steps, warm-up included
    min_ratio: float  # the cosine ends at this share of the peak

    def rate(self, step: int) -> float:
        """Return the learning rate of ``step``, counted from 0."""
        if step < self.warmup:
            # step + 1: a first step at rate 0 would be wasted.
            return self.peak * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.total - self.warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return self.peak * (self.min_ratio + (1 - self.min_ratio) * cosine)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adam:
    """Settings of AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101)."""

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0  # decoupled; not applied to vectors (norms, biases), as is usual
    clip_norm: float = 1.0  # largest norm of the gradient of all weights together


class Trainer:
    """Owns the float32 masters, the optimiser and the schedule of one policy."""

    def __init__(
        self, policy: Policy, schedule: Schedule, adam: Adam, *, micro_tokens: int, forbidden_ids: Sequence[int] = ()
    ) -> None:
        self.policy, self.schedule, self.adam = policy, schedule, adam
        self.micro_tokens, self.forbidden_ids = micro_tokens, tuple(forbidden_ids)
        self.masters: dict[str, Tensor] = {}
        for name, parameter in policy.model.named_parameters():
            # clone(): float() of a float32 weight is that weight itself.
            self.masters[name] = master = parameter.detach().float().clone()
            parameter.requires_grad_(True)
            parameter.register_post_accumulate_grad_hook(_accumulate_into(master))
        matrices = [master for master in self.masters.values() if master.ndim > 1]
        vectors = [master for master in self.masters.values() if master.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": adam.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=schedule.peak,
            betas=adam.betas,
            eps=adam.eps,
            fused=True,
        )

    def step(self, examples: Sequence[Example], loss: Loss, *, step: int, normaliser: float) -> dict[str, float]:
        """Take optimiser step ``step``, counted from 0, on ``examples``; return the loss's metrics over ``normaliser``.

        The gradient of ``sum of losses / normaliser`` is summed over micro-batches, and its norm clipped; then masters
        and working copy are updated.  Also returned: ``loss``, ``gradient_norm`` before clipping, ``learning_rate``.

        Raises:
            FloatingPointError: if the gradient is not finite; the weights are then unchanged.
        """
        totals: dict[str, float] = {}
        for batch in micro_batches([example.group for example in examples], self.micro_tokens):
            value, sums = loss(self._loss_inputs([examples[i] for i in batch]))
            # Frees the graph before the next one is built: memory is that of one micro-batch.
            (value / normaliser).backward()
            for name, amount in {"loss": value.detach(), **sums}.items():
                totals[name] = totals.get(name, 0.0) + float(amount) / normaliser
        # None without examples: the norm is then 0, and the optimiser leaves all weights alone, decay included.
        gradients = [master.grad for master in self.masters.values() if master.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm):
            self.optimizer.zero_grad()  # a later step must not add to these
            raise FloatingPointError(f"step {step}: the gradient norm is {norm}; lower the learning rate")
        if norm > self.adam.clip_norm:
            torch._foreach_mul_(gradients, self.adam.clip_norm / norm)
        rate = self.schedule.rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.publish()
        return {**totals, "gradient_norm": norm, "learning_rate": rate}

    @torch.no_grad()
    def publish(self) -> None:
        """Copy the masters into the working copy."""
        for name, parameter in self.policy.model.named_parameters():
            parameter.copy_(self.masters[name])  # rounded from the masters each time, so rounding never adds up
        self.policy.weights_changed()

    def _loss_inputs(self, examples: Sequence[Example]) -> LossInputs:
        packed = pack([example.group for example in examples], self.policy.device)
        logprobs_A = self.policy.logprobs(packed, self.forbidden_ids)

        def tensor(values: Iterable[Iterable[np.ndarray] | None]) -> Tensor | None:
            arrays = [array for of_example in values for array in of_example or ()]
            return torch.from_numpy(np.concatenate(arrays)).to(logprobs_A.device) if arrays else None

        weights_A = tensor(
            example.weights or [np.ones(len(branch), np.float32) for branch in example.group.branches]
            for example in examples
        )
        assert weights_A is not None
        return LossInputs(
            logprobs=logprobs_A,
            branch=packed.branch,
            branches=len(packed.branch_lengths),
            weights=weights_A,
            reference=tensor(example.reference for example in examples),
            old=tensor(example.old for example in examples),
            advantages=tensor([np.array(e.advantages, np.float32)] if e.advantages else None for e in examples),
        )


def _accumulate_into(master: Tensor) -> Callable[[Tensor], None]:
    """Return a hook that sums a working copy's gradients in its float32 master: bf16 sums would lose small ones."""

    def hook(parameter: Tensor) -> None:
        assert parameter.grad is not None
        if master.grad is None:
            master.grad = parameter.grad.to(torch.float32, copy=True)
        else:
            master.grad += parameter.grad
        parameter.grad = None  # or a second set of gradients would stay in memory

    return hook

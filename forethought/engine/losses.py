"""Losses: pure functions of the log-probabilities of branches.

Every loss reads :class:`LossInputs`, those of one micro-batch, and returns a *sum* and sums of metrics.  The trainer
divides all of them by one normaliser of the whole batch, so that the result is the same however the batch is cut into
micro-batches.  Log-probabilities and losses are in nats.

Shape legend: A branch tokens, M branches, P pairs of branches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """A tokens of M branches."""

    logprobs: Tensor  # (A,) under the policy, with gradients
    branch: Tensor  # (A,) number of the branch, 0 to M-1, that each token belongs to
    branches: int  # M
    weights: Tensor  # (A,); 0 masks a token
    reference: Tensor | None = None  # (A,) log-probabilities under the reference
    old: Tensor | None = None  # (A,) log-probabilities under the policy that sampled the tokens; None: this very policy
    advantages: Tensor | None = None  # (M,)

    def per_branch(self, values_A: Tensor) -> Tensor:
        """Return the weighted sum of token values in each branch, ``(M,)``."""
        return values_A.new_zeros(self.branches).index_add(0, self.branch, values_A * self.weights)


Loss = Callable[[LossInputs], tuple[Tensor, dict[str, Tensor]]]
"""Returns the sum of losses, and sums of metrics by name."""


def nll(inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted negative log-likelihood, the next-token loss of pretraining and SFT: ``-sum_t w_t log p(x_t | x_<t)``.

    Normaliser: the number of tokens.  Metric: ``nll``, the same sum, in nats.
    """
    loss = -(inputs.logprobs * inputs.weights).sum()
    return loss, {"nll": loss.detach()}


def dpo(inputs: LossInputs, *, beta: float, nll_weight: float = 0.0) -> tuple[Tensor, dict[str, Tensor]]:
    """Direct preference optimisation of pairs of branches, in the order (chosen, rejected).

    ``-log sigmoid(beta [(log pi(c) - log ref(c)) - (log pi(r) - log ref(r))])`` with sums of suffix-token
    log-probabilities (Rafailov et al. 2023, arXiv 2305.18290, equation 7; online with the best and worst of a ranked
    pool in Tan et al. 2026, section 1.2), plus ``nll_weight`` times the chosen's mean token NLL.  That mean is taken
    pair by pair, so that long and short suffixes weigh the same; TRL's ``sft`` term averages over a batch's tokens.

    Normaliser: the number of pairs.  Metrics, sums over pairs: ``margin``, the bracket, in nats; ``margin_beta``, beta
    times it; ``margin_positive``, the number of positive margins; ``chosen_logprob_change`` and
    ``rejected_logprob_change``, the two differences of the bracket, in nats.
    """
    if inputs.reference is None:
        raise ValueError("DPO needs the reference's log-probabilities")
    # Subtracted before the sum: two float32 sums of hundreds of nats would hide a small difference.
    ratio_P2 = inputs.per_branch(inputs.logprobs - inputs.reference).view(-1, 2)
    margin_P = ratio_P2[:, 0] - ratio_P2[:, 1]
    loss_P = -logsigmoid(beta * margin_P)  # log(sigmoid(x)) is -inf far below 0
    if nll_weight:
        # A sum of weights, so that masked tokens do not count.
        length_P = inputs.per_branch(torch.ones_like(inputs.logprobs)).view(-1, 2)[:, 0]
        loss_P = loss_P - nll_weight * inputs.per_branch(inputs.logprobs).view(-1, 2)[:, 0] / length_P
    detached_P = margin_P.detach()
    return loss_P.sum(), {
        "margin": detached_P.sum(),
        "margin_beta": beta * detached_P.sum(),
        "margin_positive": (detached_P > 0).float().sum(),
        "chosen_logprob_change": ratio_P2[:, 0].detach().sum(),
        "rejected_logprob_change": ratio_P2[:, 1].detach().sum(),
    }


def policy_gradient(
    inputs: LossInputs, *, clip: tuple[float, float] | None = None, kl_weight: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Policy gradient with given advantages: ``-sum_t w_t rho_t A``, ``rho_t = p(x_t) / p_old(x_t)``.

    On policy, ``rho`` is 1 and only its gradient counts.  Divided by a constant (the number of rollouts times the token
    budget of one) and with advantages that are rewards minus their group's mean, this is Dr. GRPO (Liu et al. 2025,
    arXiv 2503.20783, section 3.2).  With ``clip = (low, high)`` it is the surrogate of PPO and GRPO,
    ``min(rho A, clip(rho, 1 - low, 1 + high) A)`` (Shao et al. 2024, arXiv 2402.03300, equation 3).  ``kl_weight`` adds
    that paper's estimator of the divergence from the reference, ``exp(d) - d - 1`` with ``d = log p_ref - log p``
    (equation 4).

    Normaliser: the caller's constant.  Metrics, sums over weighted tokens: ``kl``, in nats, if ``kl_weight`` is not 0;
    ``clipped``, the number of clipped tokens; and ``tokens`` to divide them by.
    """
    if inputs.advantages is None:
        raise ValueError("a policy gradient needs the branches' advantages")
    # On policy the ratio is exp(0), exactly 1, with the gradient of log p.
    old_A = inputs.logprobs.detach() if inputs.old is None else inputs.old
    ratio_A = (inputs.logprobs - old_A).exp()
    advantage_A = inputs.advantages[inputs.branch]
    gain_A = ratio_A * advantage_A
    sums = {"tokens": inputs.weights.sum(), "clipped": inputs.weights.new_zeros(())}
    if clip is not None:
        low, high = clip
        bounded_A = ratio_A.clamp(1 - low, 1 + high) * advantage_A
        # A token outside of the range that its advantage pulls back into it is not clipped.
        sums["clipped"] = ((bounded_A < gain_A).detach() * inputs.weights).sum()
        gain_A = torch.minimum(gain_A, bounded_A)
    loss = -(gain_A * inputs.weights).sum()
    if kl_weight:
        if inputs.reference is None:
            raise ValueError("the divergence from a reference needs the reference's log-probabilities")
        log_ratio_A = inputs.reference - inputs.logprobs
        # At least 0 for every token, unlike the log-ratio itself.
        kl = ((log_ratio_A.exp() - log_ratio_A - 1) * inputs.weights).sum()
        loss = loss + kl_weight * kl
        sums["kl"] = kl.detach()
    return loss, sums

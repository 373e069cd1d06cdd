"""Losses: pure functions of tensors.

Every loss reads :class:`Rows`, the log-probabilities of the branches of one micro-batch, and returns a
*sum* and sums of metrics; the trainer divides all of them by one normaliser of the whole batch, so that
the effective batch is the same however it is cut into micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What a loss sees.  A scored tokens of M branches."""

    logprobs: Tensor
    """``(A,)`` log-probabilities under the policy, with gradients."""
    branch: Tensor
    """``(A,)`` number of the branch, 0 to M-1, that each token belongs to."""
    branches: int
    """M."""
    weights: Tensor
    """``(A,)`` weight of each token; 0 masks it."""
    reference: Tensor | None = None
    """``(A,)`` log-probabilities under the reference."""
    old: Tensor | None = None
    """``(A,)`` log-probabilities under the policy that drew the tokens; ``None``: this very policy."""
    advantages: Tensor | None = None
    """``(M,)`` how much better than its group's baseline each branch was."""

    def per_branch(self, values_A: Tensor) -> Tensor:
        """Return the weighted sum of token values in each branch, ``(M,)``."""
        return values_A.new_zeros(self.branches).index_add(0, self.branch, values_A * self.weights)


Loss = Callable[[Rows], tuple[Tensor, dict[str, Tensor]]]
"""Rows -> (sum of losses, sums of metrics)."""


def nll(rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted negative log-likelihood: ``-sum_t w_t log p(x_t | x_<t)``.  Normaliser: the number of tokens."""
    loss = -(rows.logprobs * rows.weights).sum()
    return loss, {"nll": loss.detach()}


def dpo(rows: Rows, *, beta: float, nll_weight: float = 0.0) -> tuple[Tensor, dict[str, Tensor]]:
    """Direct preference optimisation of (chosen, rejected) branch pairs.  Normaliser: the number of pairs.

    ``-log sigmoid(beta [(log pi(c) - log ref(c)) - (log pi(r) - log ref(r))])`` with sums of suffix-token
    log-probabilities (Rafailov et al. 2023, eq. 7; online with the best and worst of a ranked pool in Tan
    et al. 2026, section 1.2), plus ``nll_weight`` times the chosen's mean token NLL.  That mean is taken pair
    by pair, so that long and short suffixes weigh the same; TRL's ``sft`` term averages over all chosen
    tokens of a batch, which is equal where they have one length.

    Metrics: ``margin`` is the bracket, in nats; ``margin_beta`` is beta times it.
    """
    if rows.reference is None:
        raise ValueError("DPO needs the reference's log-probabilities")
    ratio_P2 = rows.per_branch(rows.logprobs - rows.reference).view(-1, 2)
    margin_P = ratio_P2[:, 0] - ratio_P2[:, 1]
    loss_P = -logsigmoid(beta * margin_P)
    if nll_weight:
        lengths = rows.per_branch(torch.ones_like(rows.logprobs)).view(-1, 2)[:, 0]
        loss_P = loss_P - nll_weight * rows.per_branch(rows.logprobs).view(-1, 2)[:, 0] / lengths
    detached = margin_P.detach()
    return loss_P.sum(), {
        "margin": detached.sum(),
        "margin_beta": beta * detached.sum(),
        "margin_positive": (detached > 0).float().sum(),
        "chosen_logprob_change": ratio_P2[:, 0].detach().sum(),
        "rejected_logprob_change": ratio_P2[:, 1].detach().sum(),
    }


def policy_gradient(
    rows: Rows, *, clip: tuple[float, float] | None = None, kl_weight: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Policy gradient with given advantages: ``-sum_t w_t rho_t A``, ``rho_t = p(x_t) / p_old(x_t)``.

    On policy, ``rho`` is 1 and only its gradient counts.  Divided by a constant (the number of rollouts times the token
    budget of one) and with advantages that are rewards minus their group's mean, this is Dr. GRPO (Liu et al. 2025,
    arXiv 2503.20783, section 3.2).  With ``clip = (low, high)`` it is the surrogate of PPO and GRPO,
    ``min(rho A, clip(rho, 1 - low, 1 + high) A)`` (Shao et al. 2024, arXiv 2402.03300, equation 3).  ``kl_weight`` adds
    that paper's estimator of the divergence from the reference, ``exp(d) - d - 1`` with ``d = log p_ref - log p``
    (equation 4).

    Metrics, sums over weighted tokens: ``kl``, ``clipped``, and ``tokens`` to divide them by.

    Raises:
        ValueError: if advantages, or the reference of a divergence, are missing.
    """
    if rows.advantages is None:
        raise ValueError("a policy gradient needs the branches' advantages")
    old = rows.logprobs.detach() if rows.old is None else rows.old
    ratio = (rows.logprobs - old).exp()
    advantage = rows.advantages[rows.branch]
    gain = ratio * advantage
    sums = {"tokens": rows.weights.sum(), "clipped": rows.weights.new_zeros(())}
    if clip is not None:
        low, high = clip
        bounded = ratio.clamp(1 - low, 1 + high) * advantage
        sums["clipped"] = ((bounded < gain).detach() * rows.weights).sum()
        gain = torch.minimum(gain, bounded)
    loss = -(gain * rows.weights).sum()
    if kl_weight:
        if rows.reference is None:
            raise ValueError("the divergence from a reference needs the reference's log-probabilities")
        ahead = rows.reference - rows.logprobs
        kl = ((ahead.exp() - ahead - 1) * rows.weights).sum()
        loss = loss + kl_weight * kl
        sums["kl"] = kl.detach()
    return loss, sums

"""Objectives of stage 1: what one optimiser step learns from ranked pools.

A new objective is one function and one row of :data:`OBJECTIVES`, or a dotted path in ``improve.objective``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from forethought.algorithms.pools import CandidatePool
from forethought.config import ImproveConfig
from forethought.engine import Group
from forethought.engine.losses import Loss, dpo, nll
from forethought.engine.trainer import Example
from forethought.records import Origin
from forethought.user_code import call, load


@dataclass(frozen=True, slots=True, kw_only=True)
class LossBatch:
    """What one optimiser step trains on."""

    examples: Sequence[Example]
    loss: Loss
    normaliser: float
    """What the summed loss is divided by: pairs, or tokens."""

    @property
    def groups(self) -> list[Group]:
        return [example.group for example in self.examples]

    def with_reference(self, logprobs: Sequence[Sequence[np.ndarray]]) -> LossBatch:
        """Return the batch with the reference's log-probabilities of every branch token, nats."""
        rows = zip(self.examples, logprobs, strict=True)
        return replace(self, examples=[replace(example, reference=tuple(row)) for example, row in rows])


MakeBatch = Callable[[Sequence[CandidatePool], tuple[int, ...], ImproveConfig], LossBatch]
"""(pools of a step, ids before every prefix, settings) -> what is trained on."""


def dpo_batch(pools: Sequence[CandidatePool], bos: tuple[int, ...], cfg: ImproveConfig) -> LossBatch:
    """Online DPO (Tan et al. 2026, arXiv 2601.21343, section 1.2): best against worst of every pool that has both."""
    # A pool in which no two scores differ has no pair: it is left out, not trained on by lot.
    pairs = [(pool.prefix_ids(bos), pool.preferred) for pool in pools if pool.preferred is not None]
    groups = [Group(prefix=prefix, branches=(pair.chosen.token_ids, pair.rejected.token_ids)) for prefix, pair in pairs]
    loss = functools.partial(dpo, beta=cfg.beta, nll_weight=cfg.nll_weight)
    return LossBatch(examples=[Example(group=group) for group in groups], loss=loss, normaliser=len(groups))


def rf_nll_batch(pools: Sequence[CandidatePool], bos: tuple[int, ...], cfg: ImproveConfig) -> LossBatch:
    """RF-NLL (the same paper): next-token loss on the best candidate alone."""
    decided = [(pool.prefix_ids(bos), pool.preferred) for pool in pools if pool.preferred is not None]
    return nll_batch([(prefix, pair.chosen.token_ids) for prefix, pair in decided])


def rewrite_batch(pools: Sequence[CandidatePool], bos: tuple[int, ...], cfg: ImproveConfig) -> LossBatch:
    return nll_batch([(pool.prefix_ids(bos), c.token_ids) for pool in pools for c in pool.by_origin(Origin.REWRITE)])


def continued_batch(pools: Sequence[CandidatePool], bos: tuple[int, ...], cfg: ImproveConfig) -> LossBatch:
    """Continued pretraining: next-token loss on every token of the chunk, prefix included."""
    texts = [pool.prefix_ids(bos) + pool.chunk.suffix_ids for pool in pools]
    # The first id has nothing before it to be predicted from.
    return nll_batch([(ids[:1], ids[1:]) for ids in texts])


def nll_batch(rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> LossBatch:
    """Return the next-token loss of (prefix, continuation) rows, as a mean over the continuations' tokens."""
    examples = [Example(group=Group(prefix=prefix, branches=(ids,))) for prefix, ids in rows]
    # Over tokens, not rows: a short continuation must not weigh as much as a long one.
    return LossBatch(examples=examples, loss=nll, normaliser=sum(len(ids) for _, ids in rows))


OBJECTIVES: dict[str, MakeBatch] = {
    "dpo": dpo_batch,
    "rf-nll": rf_nll_batch,
    "sft-rewrite": rewrite_batch,
    "continued": continued_batch,
}
"""The values of `improve.objective`; :class:`~forethought.config.ImproveConfig` says what each needs."""


def objective_of(name: str) -> tuple[MakeBatch, dict[str, str]]:
    """Return the objective of that name, and what it depends on beyond its name: the source of the user's own."""
    if name in OBJECTIVES:
        return OBJECTIVES[name], {}
    user = load(name, "improve.objective")
    user.takes("pools", "bos", "cfg")

    def batch(pools: Sequence[CandidatePool], bos: tuple[int, ...], cfg: ImproveConfig) -> LossBatch:
        made = call(user, user.object, pools, bos, cfg)
        if not isinstance(made, LossBatch):
            raise user.error(f"it returned {type(made).__name__}; expected a LossBatch")
        return made

    # The path of the user's file says nothing of its content: an edit must start the stage over.
    return batch, {"objective source": user.source_hash}

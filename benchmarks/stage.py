"""A whole step of stage 1 as in ``laptop.toml``: ours, and the same assembled from TRL, ``generate`` and judge rows."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from benchmarks import machine, trl_side
from benchmarks.judging import Noted
from benchmarks.material import SEED, corpus, local, subject
from benchmarks.measure import Options, interleave, require, seconds
from benchmarks.peers import GenerateSampler, RowScorer, fastest_rows
from benchmarks.results import Row, compared
from forethought import config as configs
from forethought.algorithms.objectives import dpo_batch
from forethought.algorithms.pools import CandidatePool, candidate, make_pool, rank_pools
from forethought.corpus.chunker import chunks
from forethought.corpus.sources import documents
from forethought.engine import Prompt, Sampler, Sampling
from forethought.engine.scorer import TorchScorer
from forethought.engine.trainer import Trainer
from forethought.judges.likelihood import LikelihoodJudge
from forethought.keys import Key
from forethought.models.model import Compute, Model
from forethought.records import Chunk, JudgeRequest, Origin
from forethought.stages.session import batch

QUICK = {
    "name": "quick",
    "policy": {"model": "tiny-llama"},
    "chunk": {"prefix_tokens": [16, 24], "suffix_tokens": 6},
    "judges": {"tiny": {"model": {"model": "tiny-qwen3"}}},
    "improve": {"prefixes_per_step": 2, "rollouts": 3},
    "dtype": "float32",
}


def run(options: Options) -> Iterator[Row]:
    """Compare the seconds of a step: rollouts, verdicts, reference and update."""
    config = configs.build(QUICK) if options.quick else configs.load("laptop")
    config = config.model_copy(update={"device": options.device})
    cfg, (judge_config,) = config.improve, config.judges.values()
    ours, judges = our_side(config, options)
    peer = Assembled.of(ours, options, judges)
    checked = same_scores(ours, peer, judges)
    pairs = interleave(ours.step, peer.step, options.at_most(3))
    for side, phases in (("ours", ours.seconds), ("peer", peer.seconds)):
        print(f"stage      {side}: " + ", ".join(f"{name} {spent:.2f} s" for name, spent in phases.items()), flush=True)
    name, judge = config.policy.model, judge_config.model.model if judge_config.model else ""
    yield Row(
        benchmark="stage",
        what=(
            f"stage 1 step of laptop.toml: {cfg.prefixes_per_step} prefixes, K={cfg.rollouts}, "
            f"judged by the likelihood under {judge}"
        ),
        model=name,
        opponent="TRL DPOTrainer (bf16 autocast), generate, separate judge rows",
        target=5.0,
        checked=checked,
        **compared(pairs, None, limit_of(ours, judges)),
    )


@dataclass(slots=True, kw_only=True)
class Step:
    """A step of stage 1, with the calls of :meth:`forethought.stages.improve.Improve.run` in its order."""

    config: configs.Config
    chunks: Sequence[Chunk]
    sampler: Sampler
    judge: LikelihoodJudge
    policy: Model
    """What is trained; of the peer its tokenizer and its ids before every text."""
    steps: int = 0
    seconds: Counter[str] = field(default_factory=Counter)
    """Of each phase of the last step."""
    pools: Sequence[CandidatePool] = ()
    """Of the last step."""

    @contextlib.contextmanager
    def timer(self, phase: str) -> Iterator[None]:
        """Add the seconds spent inside to ``phase``."""
        start = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - start

    def step(self) -> None:
        """Take one step."""
        cfg, bos = self.config.improve, self.policy.bos
        self.seconds.clear()
        chunks = batch(self.chunks, cfg.prefixes_per_step, self.steps, SEED)
        prompts = [Prompt(id=chunk.id, token_ids=bos + chunk.prefix_ids) for chunk in chunks]
        longest = max(len(chunk.suffix_ids) for chunk in chunks)
        sampling = Sampling(max_tokens=longest, temperature=cfg.temperature, forbidden_ids=self.policy.forbidden)
        with self.timer("sample"):
            rollouts_PK = self.sampler.sample(prompts, cfg.rollouts, sampling, Key(SEED, "rollouts").at(self.steps))
        pools = []
        for chunk, row in zip(chunks, rollouts_PK, strict=True):
            texts = [(self.policy.decode(rollout.token_ids), rollout.token_ids) for rollout in row]
            candidates = [candidate(chunk, Origin.CORPUS, chunk.suffix, chunk.suffix_ids)]
            candidates += [candidate(chunk, Origin.ROLLOUT, text, ids, k) for k, (text, ids) in enumerate(texts)]
            pools.append(make_pool(chunk, candidates, Key(SEED, "pool order").at(self.steps)))
        with self.timer("judge"):
            self.pools = rank_pools(pools, [self.judge], Key(SEED, "ties").at(self.steps))
        with self.timer("reference and update"):
            self.update()
        self.steps += 1

    def update(self) -> None:
        """Learn from the pools."""
        raise NotImplementedError


@dataclass(slots=True, kw_only=True)
class OurStep(Step):
    """The step on our engine."""

    reference: Model
    trainer: Trainer

    def update(self) -> None:
        """Learn from the pools: the reference's log-probabilities, then a step of DPO."""
        learnt = dpo_batch(self.pools, self.policy.bos, self.config.improve)
        learnt = learnt.with_reference(self.reference.logprobs(learnt.groups, as_trained=True))
        self.trainer.step(learnt.examples, learnt.loss, step=self.steps, normaliser=learnt.normaliser)


@dataclass(slots=True, kw_only=True)
class Assembled(Step):
    """The same step with ``generate``, separate judge rows and TRL's DPO trainer."""

    stepper: trl_side.Stepper
    copy: Any
    """The policy in the compute dtype, which generates: faster than float32 weights under autocast."""

    @classmethod
    def of(cls, ours: OurStep, options: Options, judges: Judges) -> Assembled:
        """Return the peer of ``ours``."""
        name = ours.config.policy.model
        policy = subject(name, options)
        variant = trl_side.FP32 if options.quick else trl_side.AUTOCAST
        some = list(ours.chunks[: ours.config.improve.prefixes_per_step])
        return cls(
            config=ours.config,
            chunks=ours.chunks,
            sampler=GenerateSampler(policy.plain, policy.eos),
            judge=judges.peer,
            policy=ours.policy,
            stepper=trl_side.Stepper(trl_side.dpo(name, options, variant, some)),
            copy=policy.plain,
        )

    def update(self) -> None:
        """Learn from the pools: TRL's step, then the new weights for ``generate``."""
        rows = [
            {
                "prompt_ids": list(pool.prefix_ids(self.policy.bos)),
                "chosen_ids": list(pool.preferred.chosen.token_ids),
                "rejected_ids": list(pool.preferred.rejected.token_ids),
            }
            for pool in self.pools
            if pool.preferred is not None
        ]
        trainer = self.stepper.trainer
        self.stepper.step(trainer.data_collator(rows))
        with torch.no_grad():
            for copy, weight in zip(self.copy.parameters(), trainer.model.parameters(), strict=True):
                copy.copy_(weight)


@dataclass(slots=True, kw_only=True)
class Judges:
    """The training judge over both kinds of scorer."""

    ours: LikelihoodJudge
    peer: LikelihoodJudge
    model: Any
    """The model of both."""
    noted: Noted
    """What it was asked."""


def our_side(config: configs.Config, options: Options) -> tuple[OurStep, Judges]:
    """Return our step and the judges."""
    (judge_config,) = config.judges.values()
    assert judge_config.model is not None
    found = subject(judge_config.model.model, options)
    noted = Noted(TorchScorer(found.policy))
    ours, peer = (
        LikelihoodJudge(local(found, scorer), judge_config.normalise, copy_cost=judge_config.copy_cost)
        for scorer in (noted, RowScorer(found.plain, 16))
    )
    judges = Judges(ours=ours, peer=peer, model=found.plain, noted=noted)
    policy, reference = (Model.load(config.policy, Compute.of(config), tags=None) for _ in range(2))
    step = OurStep(
        config=config,
        chunks=laptop_chunks(config, policy.tokenizer, options),
        sampler=policy.sampler,
        judge=judges.ours,
        policy=policy,
        reference=reference,
        trainer=policy.trainer(config.improve),
    )
    return step, judges


def laptop_chunks(config: configs.Config, tokenizer: Any, options: Options) -> list[Chunk]:
    """Return enough chunks for all steps, cut as the config says."""
    wanted = config.improve.prefixes_per_step * (2 * options.repeats + 4)
    found: list[Chunk] = []
    for document in documents(corpus(options), Counter()):
        found += chunks(document, tokenizer, config.chunk, Key(SEED, "chunk"), Counter())
        if len(found) >= wanted:
            break
    return found


def same_scores(ours: OurStep, peer: Assembled, judges: Judges) -> str:
    """Check on real pools that both judges score alike, and give the peer its fastest batch size."""
    ours.step()
    contests = [
        JudgeRequest(
            prefix=one.chunk.prefix, candidates=tuple(c.text for c in one.candidates), original=one.chunk.suffix
        )
        for one in ours.pools
    ]
    part = judges.noted.groups[:2]
    best = fastest_rows(judges.model, (4, 9, 18, 36), lambda scorer: seconds(lambda: scorer.logprobs(part)))
    judges.peer.model.scorer.rows = best.rows  # type: ignore[attr-defined]
    a, b = (
        np.array([v.score for said in judge.rank(contests) for v in said], float)
        for judge in (judges.ours, judges.peer)
    )
    apart = float(np.abs(a - b).mean() / a.std())
    require(apart < 0.1, f"the judges' scores are {apart:.2f} standard deviations apart on average")
    return (
        f"scores of {len(a)} candidates by both judges {apart:.3f} standard deviations apart on average; rollouts and "
        "DPO update: see sampling and dpo"
    )


def limit_of(ours: OurStep, judges: Judges) -> float:
    """Return the seconds that the machine needs at least for our last step."""
    cfg, policy = ours.config.improve, ours.policy.policy.model
    lengths = [len(pool.prefix_ids(ours.policy.bos)) for pool in ours.pools]
    total = machine.decoding_limit(
        policy,
        prompts=len(lengths),
        length=sum(lengths) // len(lengths),
        rows=len(lengths) * cfg.rollouts,
        steps=max(len(one.chunk.suffix_ids) for one in ours.pools),
    )
    total += machine.forward_limit(judges.model, judges.noted.groups)
    groups = dpo_batch(ours.pools, ours.policy.bos, cfg).groups
    return total + machine.forward_limit(policy, groups) + machine.update_limit(policy, groups)

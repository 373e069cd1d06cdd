"""Stage 1, self-improving pretraining: the policy learns from ranked continuations of ordinary text.

For each prefix the policy writes K rollouts; judges rank them together with the original suffix (and a
teacher's rewrite); one optimiser step moves the policy from the worst to the best (Tan et al. 2026,
arXiv 2601.21343, section 1).  The paper's other objectives are a config word away.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from forethought import models, training
from forethought.config import Config, ImproveConfig
from forethought.engine import Group, Prompt, Sampler, Sampling
from forethought.engine.losses import Loss, dpo, nll
from forethought.engine.policy import Policy
from forethought.engine.sampler import TorchSampler
from forethought.engine.scorer import TorchScorer
from forethought.engine.trainer import Example, Trainer
from forethought.judges import Judge
from forethought.judges.pool import Pool, candidate, judged, metrics, pool
from forethought.keys import Key
from forethought.metric_log import MetricLog
from forethought.progress import StageProgress
from forethought.records import Candidate, Chunk, Origin
from forethought.store import StageFolder
from forethought.text import distinct_n, repetition, words


class Rewriter(Protocol):
    """A teacher that rewrites suffixes."""

    def rewrite(self, chunks: Sequence[Chunk]) -> list[str | None]:
        """Return a better suffix of each chunk, or ``None`` where the teacher failed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What the stage reads."""

    chunks: Sequence[Chunk]
    """The `improve` split."""
    heldout: Sequence[Chunk]
    """Held-out chunks; the first `monitor_chunks` are measured while training."""
    identity: str
    """Hash of the chunk stage."""
    judges: Sequence[Judge] = ()
    """Rank the pools; none are needed for `sft-rewrite` and `continued`."""
    rewriter: Rewriter | None = None
    """Adds a rewrite to every pool."""


@dataclass(slots=True, kw_only=True)
class Workshop:
    """Everything a step uses."""

    config: ImproveConfig
    seed: int
    material: Material
    tokenizer: Any
    bos: tuple[int, ...]
    forbidden: tuple[int, ...]
    reference: Policy
    trainer: Trainer
    sampler: Sampler

    def batch(self, step: int) -> list[Chunk]:
        """Return the chunks of ``step``."""
        return training.batch(self.material.chunks, self.config.prefixes_per_step, step, self.seed)

    def prefix(self, chunk: Chunk) -> tuple[int, ...]:
        """Return what the policy reads."""
        return self.bos + chunk.prefix_ids

    def rollouts(self, chunks: Sequence[Chunk], step: int) -> list[list[Candidate]]:
        """Return K continuations of each chunk by the present policy, as long as the chunk's suffix."""
        sampling = Sampling(
            max_tokens=max(len(chunk.suffix_ids) for chunk in chunks),
            temperature=self.config.temperature,
            forbidden_ids=self.forbidden,
        )
        prompts = [Prompt(id=chunk.id, token_ids=self.prefix(chunk)) for chunk in chunks]
        sampled = self.sampler.sample(prompts, self.config.rollouts, sampling, Key(self.seed, "rollouts").at(step))
        return [
            [
                candidate(chunk, Origin.ROLLOUT, self.tokenizer.decode(c.token_ids), c.token_ids, k)
                for k, c in enumerate(completions)
            ]
            for chunk, completions in zip(chunks, sampled, strict=True)
        ]

    def learn(self, lesson: Lesson, step: int) -> dict[str, float]:
        """Take one optimiser step; a batch in which nothing was decided changes nothing."""
        if not lesson.examples:
            return {}
        return self.trainer.step(lesson.examples, lesson.loss, step=step, normaliser=lesson.normaliser)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What one optimiser step learns from its pools."""

    examples: Sequence[Example]
    """Groups with their weights and reference log-probabilities."""
    loss: Loss
    """Pure function of the branches' log-probabilities."""
    normaliser: float
    """What the summed loss is divided by: pairs, or tokens."""


def run(config: Config, folder: StageFolder, material: Material) -> Path:
    """Train one arm and return its final checkpoint, a Hugging Face folder.

    An interrupted stage goes on at its last checkpoint, and ends with the same weights bit for bit (CPU).
    """
    folder.write_config(stage_config(config, material))
    if folder.done:
        training.forget(folder)
        return training.final(folder)
    cfg = config.improve
    shop, identity = open_workshop(config, material)
    start = training.resume(folder, shop.trainer, ["pools"], _synced(shop))
    with (
        MetricLog(folder, config.log, training.peak(shop.trainer)) as log,
        StageProgress(f"{folder.arm}: improve", cfg.steps) as progress,
    ):
        if start == 0:
            with log.timer("monitor"):
                before = suffix_nll(shop)
            log.log(0, {"improve/suffix_nll": before})
        for step in range(start, cfg.steps):
            pools = make_pools(shop, step, log)
            folder.append("pools", [one.row(step) for one in pools])
            with log.timer("reference"):
                lesson = LESSONS[cfg.objective](shop, pools, step)
            with log.timer("update"):
                log.count("update", sum(example.group.tokens for example in lesson.examples))
                row = describe(pools, cfg) | shop.learn(lesson, step)
            if training.due(cfg.monitor_every, step + 1, cfg.steps):
                with log.timer("monitor"):
                    row["suffix_nll"] = suffix_nll(shop)
            log.log(step + 1, {f"improve/{name}": value for name, value in row.items()})
            if cfg.checkpoint_every and (step + 1) % cfg.checkpoint_every == 0 and step + 1 < cfg.steps:
                with log.timer("checkpoint"):  # after the row, which a kill in between would lose
                    training.save(folder, shop.trainer, shop.tokenizer, step + 1, _synced(shop))
            progress.update(step + 1, **{name: row.get(name) for name in ("selection_rate", "margin", "loss")})
    inputs = {"chunks": material.identity, "policy": identity}
    return training.finish(folder, shop.trainer, shop.tokenizer, cfg.steps, inputs)


def make_pools(shop: Workshop, step: int, log: MetricLog) -> list[Pool]:
    """Return the judged pools of ``step``; what an objective does not need is not sampled, rewritten or judged."""
    cfg, chunks = shop.config, shop.batch(step)
    candidates: list[list[Candidate]] = [[] for _ in chunks]
    ranked = cfg.objective in ("dpo", "rf-nll")
    if ranked and cfg.original:
        for chunk, row in zip(chunks, candidates, strict=True):
            row.append(candidate(chunk, Origin.CORPUS, chunk.suffix, chunk.suffix_ids))
    if ranked:
        with log.timer("sample"):
            for row, rollouts in zip(candidates, shop.rollouts(chunks, step), strict=True):
                row.extend(rollouts)
                log.count("sample", sum(len(rollout.token_ids) for rollout in rollouts))
    if shop.material.rewriter is not None and cfg.objective != "continued":
        with log.timer("rewrite"):
            for chunk, row, text in zip(chunks, candidates, shop.material.rewriter.rewrite(chunks), strict=True):
                if text:
                    ids = shop.tokenizer(text, add_special_tokens=False)["input_ids"]
                    row.append(candidate(chunk, Origin.REWRITE, text, ids))
    order = Key(shop.seed, "pool order").at(step)
    pools = [pool(chunk, row, order) for chunk, row in zip(chunks, candidates, strict=True)]
    if not ranked:
        return pools
    with log.timer("judge"):
        log.count("judge", sum(len(c.token_ids) for one in pools for c in one.candidates))
        return judged(pools, shop.material.judges, Key(shop.seed, "ties").at(step))


def learn_preferences(shop: Workshop, pools: Sequence[Pool], step: int) -> Lesson:
    """Online DPO: best against worst of every pool that has both."""
    cfg = shop.config
    if cfg.sync_reference_every and step and step % cfg.sync_reference_every == 0:
        shop.reference.model.load_state_dict(shop.trainer.policy.model.state_dict())
        shop.reference.weights_changed()
    decided = [(shop.prefix(one.chunk), one.preferred) for one in pools if one.preferred is not None]
    groups = [
        Group(prefix=prefix, branches=(best.chosen.token_ids, best.rejected.token_ids)) for prefix, best in decided
    ]
    reference = TorchScorer(shop.reference, cfg.micro_tokens, shop.forbidden, as_trained=True).logprobs(groups)
    return Lesson(
        examples=[Example(group=g, reference=tuple(rows)) for g, rows in zip(groups, reference, strict=True)],
        loss=functools.partial(dpo, beta=cfg.beta, nll_weight=cfg.nll_weight),
        normaliser=len(groups),
    )


def learn_best(shop: Workshop, pools: Sequence[Pool], step: int) -> Lesson:
    """RF-NLL: next-token loss on the best candidate alone (Tan et al. 2026, arXiv 2601.21343)."""
    return _nll_lesson(
        [(shop.prefix(one.chunk), one.preferred.chosen.token_ids) for one in pools if one.preferred is not None]
    )


def learn_rewrites(shop: Workshop, pools: Sequence[Pool], step: int) -> Lesson:
    """SFT on the teacher's rewrite."""
    return _nll_lesson([(shop.prefix(one.chunk), c.token_ids) for one in pools for c in one.by_origin(Origin.REWRITE)])


def learn_text(shop: Workshop, pools: Sequence[Pool], step: int) -> Lesson:
    """Continued pretraining: next-token loss on every token of the chunk, prefix included."""
    texts = [shop.prefix(one.chunk) + one.chunk.suffix_ids for one in pools]
    return _nll_lesson([(ids[:1], ids[1:]) for ids in texts])


LESSONS = {"dpo": learn_preferences, "rf-nll": learn_best, "sft-rewrite": learn_rewrites, "continued": learn_text}
"""The objectives of `improve.objective`."""


def describe(pools: Sequence[Pool], cfg: ImproveConfig) -> dict[str, float]:
    """Return the metrics of a step's pools: how they were judged, and what the rollouts look like.

    ``rewritten`` is the share of the pools for which the teacher, if there is one, wrote a usable rewrite.
    """
    found: dict[str, float] = {}
    if cfg.rewrite is not None:
        found["rewritten"] = sum(bool(one.by_origin(Origin.REWRITE)) for one in pools) / len(pools)
    rollouts = [c for one in pools for c in one.by_origin(Origin.ROLLOUT)]
    if not rollouts:
        return found
    texts = [words(rollout.text) for rollout in rollouts]
    return (found | metrics(pools)) | {
        "distinct_2": distinct_n(texts, 2),
        "repetition": sum(map(repetition, texts)) / len(texts),
        "rollout_characters": sum(len(rollout.text) for rollout in rollouts) / len(rollouts),
    }


def suffix_nll(shop: Workshop) -> float:
    """Return the policy's NLL of the monitored held-out suffixes, nats per token."""
    chunks = shop.material.heldout[: shop.config.monitor_chunks]
    groups = [Group(prefix=shop.prefix(chunk), branches=(chunk.suffix_ids,)) for chunk in chunks]
    found = TorchScorer(shop.trainer.policy, shop.config.micro_tokens).logprobs(groups)
    return -sum(float(row.sum()) for (row,) in found) / sum(len(chunk.suffix_ids) for chunk in chunks)


def stage_config(config: Config, material: Material) -> dict[str, Any]:
    """Return what this arm's weights depend on: other changes do not make them stale."""
    judged_by = [judge.name for judge in material.judges]
    parts = {
        "policy": config.policy.model_dump(mode="json"),
        "improve": config.improve.model_dump(mode="json", exclude={"control", "checkpoint_every"}),
    }
    shared = {"seed": config.seed, "dtype": config.dtype, "chunks": material.identity, "judges": judged_by}
    return parts | shared


def open_workshop(config: Config, material: Material) -> tuple[Workshop, str]:
    """Load policy and reference; return the workshop and the identity of the weights it starts from."""
    device, cfg = models.resolve_device(config.device), config.improve
    dtype = models.resolve_dtype(config.dtype, device)
    loaded = models.load(config.policy, device=device, dtype=dtype, seed=config.seed)
    policy = Policy(loaded.model, config.engine.backend)
    needs_reference = cfg.objective == "dpo"
    frozen = models.load(config.policy, device=device, dtype=dtype, seed=config.seed) if needs_reference else None
    forbidden = models.special_ids(loaded.tokenizer, loaded.model.config.get_text_config().vocab_size)
    shop = Workshop(
        config=cfg,
        seed=config.seed,
        material=material,
        tokenizer=loaded.tokenizer,
        bos=models.bos_ids(loaded.tokenizer),
        forbidden=forbidden,
        reference=Policy(frozen.model, config.engine.backend) if frozen else policy,
        trainer=training.trainer(policy, cfg, forbidden),
        sampler=TorchSampler(policy, cfg.sample_rows),
    )
    return shop, loaded.identity


def _nll_lesson(rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> Lesson:
    examples = [Example(group=Group(prefix=prefix, branches=(ids,))) for prefix, ids in rows]
    return Lesson(examples=examples, loss=nll, normaliser=sum(len(ids) for _, ids in rows))


def _synced(shop: Workshop) -> Any:
    moves = shop.config.objective == "dpo" and shop.config.sync_reference_every
    return shop.reference.model if moves else None

"""Stage 2, second half: SFT installs where thoughts stand, what they look like and how they connect.

Next-token loss on every token of a chunk with its thoughts, text and tags included (Tan et al. 2026, arXiv 2601.21343,
section 2).  Rows are packed without seeing one another.  The `raw` control trains on the same chunks, in the same
order, for as many steps, without thoughts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forethought import models, training
from forethought.config import Config, ModelConfig, SFTConfig
from forethought.engine import Group
from forethought.engine.losses import nll
from forethought.engine.policy import Policy
from forethought.engine.scorer import TorchScorer
from forethought.engine.trainer import Example, Trainer
from forethought.metric_log import MetricLog
from forethought.progress import StageProgress
from forethought.records import Chunk, SpanKind, ThoughtRow
from forethought.store import StageFolder
from forethought.thoughts.format import Tags
from forethought.thoughts.tokens import Tokens, add_tags, as_group, codec, plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What the stage reads."""

    rows: Sequence[ThoughtRow]
    """Rows with thoughts, of the `sft` split."""
    heldout: Sequence[ThoughtRow]
    """Held-out rows; the first `monitor_rows` are measured while training."""
    chunks: dict[str, Chunk]
    """The chunks of both, by id."""
    start: ModelConfig
    """The model that training starts from."""
    identity: str
    """Hash of that model."""
    data: str
    """Hash of the interleave stage."""
    tags: Tags
    """What stands around a thought."""
    thoughts: bool = True
    """Whether the text has its thoughts, or is the raw control."""


@dataclass(slots=True, kw_only=True)
class Workshop:
    """Everything a step uses."""

    trainer: Trainer
    tokenizer: Any
    bos: tuple[int, ...]
    rows: Sequence[Tokens]
    """What is trained on."""
    monitored: Sequence[Tokens]
    """Held-out rows, with their thoughts in either arm."""

    def group(self, row: Tokens) -> Group:
        """Return the row as a branch of its first token, which nothing predicts."""
        return as_group(row.ids, self.bos)


def run(config: Config, folder: StageFolder, material: Material) -> Path:
    """Train one arm and return its final checkpoint, a Hugging Face folder.

    An interrupted stage goes on at its last checkpoint, and ends with the same weights bit for bit (CPU).
    """
    cfg = _section(config)
    folder.write_config(stage_config(config, material))
    if folder.done:
        training.forget(folder)
        return training.final(folder)
    shop = open_workshop(config, material)
    start = training.resume(folder, shop.trainer)
    with (
        MetricLog(folder, config.log, training.peak(shop.trainer)) as log,
        StageProgress(f"{folder.arm}: sft", cfg.steps) as progress,
    ):
        if start == 0:
            with log.timer("monitor"):
                before = monitored(shop, cfg)
            log.log(0, before)
        for step in range(start, cfg.steps):
            with log.timer("update"):
                row = {f"sft/{name}": value for name, value in learn(shop, cfg, step, config.seed).items()}
                log.count("update", int(row["sft/tokens"]))
            if training.due(cfg.monitor_every, step + 1, cfg.steps):
                with log.timer("monitor"):
                    row |= monitored(shop, cfg)
            log.log(step + 1, row)
            if cfg.checkpoint_every and (step + 1) % cfg.checkpoint_every == 0 and step + 1 < cfg.steps:
                with log.timer("checkpoint"):  # after the row, which a kill in between would lose
                    training.save(folder, shop.trainer, shop.tokenizer, step + 1)
            progress.update(step + 1, loss=row["sft/loss"], thought_nll=row.get("sft/thought_nll"))
    inputs = {"rows": material.data, "policy": material.identity}
    return training.finish(folder, shop.trainer, shop.tokenizer, cfg.steps, inputs)


def learn(shop: Workshop, cfg: SFTConfig, step: int, seed: int) -> dict[str, float]:
    """Take one optimiser step on the rows of ``step``; the loss is the mean over their tokens."""
    groups = [shop.group(row) for row in training.batch(shop.rows, cfg.rows_per_step, step, seed)]
    tokens = sum(len(group.branches[0]) for group in groups)
    examples = [Example(group=group) for group in groups]
    return {"tokens": float(tokens)} | shop.trainer.step(examples, nll, step=step, normaliser=float(tokens))


def monitored(shop: Workshop, cfg: SFTConfig) -> dict[str, float]:
    """Return the policy's NLL on held-out rows by kind of token, nats per token."""
    scorer = TorchScorer(shop.trainer.policy, cfg.micro_tokens)
    nats = dict.fromkeys(SpanKind, 0.0)
    count = dict.fromkeys(SpanKind, 0)
    for row, [logprobs] in zip(shop.monitored, scorer.logprobs([shop.group(r) for r in shop.monitored]), strict=True):
        for kind, logprob in zip(row.kinds[-len(logprobs) :], logprobs.tolist(), strict=True):
            nats[kind] -= logprob
            count[kind] += 1
    return {f"sft/{kind}_nll": nats[kind] / count[kind] for kind in SpanKind if count[kind]}


def open_workshop(config: Config, material: Material) -> Workshop:
    """Load the policy, give it the tags, and put the rows into tokens."""
    cfg, device = _section(config), models.resolve_device(config.device)
    dtype = models.resolve_dtype(config.dtype, device)
    loaded = models.load(material.start, device=device, dtype=dtype, seed=config.seed)
    if cfg.tags_as_tokens:
        add_tags(loaded.model, loaded.tokenizer, material.tags)
    coded = codec(loaded.tokenizer, material.tags)
    make = coded.tokens if material.thoughts else plain
    return Workshop(
        trainer=training.trainer(Policy(loaded.model, config.engine.backend), cfg),
        tokenizer=loaded.tokenizer,
        bos=models.bos_ids(loaded.tokenizer),
        rows=[make(row, material.chunks[row.chunk_id]) for row in material.rows],
        monitored=[coded.tokens(row, material.chunks[row.chunk_id]) for row in material.heldout[: cfg.monitor_rows]],
    )


def stage_config(config: Config, material: Material) -> dict[str, Any]:
    """Return what this arm's weights depend on: other changes do not make them stale."""
    return {
        "seed": config.seed,
        "dtype": config.dtype,
        "policy": material.identity,
        "rows": material.data,
        "thoughts": material.thoughts,
        "sft": _section(config).model_dump(mode="json", exclude={"control", "checkpoint_every"}),
    }


class NoSFTError(ValueError):
    """A config without SFT."""


def _section(config: Config) -> SFTConfig:
    if config.sft is None:
        raise NoSFTError("there is no [sft] table in the config: add it, with [interleave] and [interleave.teacher]")
    return config.sft

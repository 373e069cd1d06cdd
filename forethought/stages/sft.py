"""Stage 2, second half: SFT installs where thoughts stand, what they look like and how they connect.

Next-token loss on every token of a chunk with its thoughts, text and tags included (Tan et al. 2026, arXiv 2601.21343,
section 2).  Rows are packed without seeing one another.  The `raw` control trains on the same chunks, in the same
order, for as many steps, without thoughts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from forethought.config import SFTConfig
from forethought.costs.base import Cost, Phase, Setting, known, scored, times, trained
from forethought.costs.loads import saving
from forethought.engine.losses import nll
from forethought.engine.trainer import Example
from forethought.graph import Step, arm_of
from forethought.models.model import Model
from forethought.models.thought_tokens import Tokens, add_tags, as_group, plain
from forethought.records import SpanKind, Split
from forethought.run.store import SHARED, StageFolder
from forethought.stages.base import required
from forethought.stages.session import Session, TrainingStage

ROWS = f"{SHARED}/interleave"


class SFT(TrainingStage):
    """Trains one arm of stage 2: on rows with thoughts, or as the raw control without."""

    name = "sft"

    @property
    def cfg(self) -> SFTConfig:
        return required(self.config.sft)

    def depends_on(self) -> dict[str, Any]:
        return {
            **self.seeds(),
            "dtype": self.config.dtype,
            "policy": self.context.arm(self.arm.start).identity,
            "rows": self.context.identity(ROWS),
            "thoughts": self.arm.thinks,
            "sft": self.cfg.model_dump(mode="json", exclude={"control", "checkpoint_every"}),
        }

    def run(self, folder: StageFolder) -> None:
        cfg, context = self.cfg, self.context
        policy = context.load(self.arm.start, cfg, context.tags)
        if cfg.tags_as_tokens:
            add_tags(policy.policy.model, policy.tokenizer, context.tags)
        chunks = context.chunks_by_id(Split.SFT, Split.HELDOUT)
        with_thoughts = policy.thoughts.tokens
        make = with_thoughts if self.arm.thinks else plain
        rows = [make(row, chunks[row.chunk_id]) for row in context.rows(Split.SFT)]
        # Both arms are measured on held-out text with its thoughts.
        heldout = [with_thoughts(row, chunks[row.chunk_id]) for row in context.rows(Split.HELDOUT)[: cfg.monitor_rows]]
        trainer = policy.trainer(cfg, as_drawn=False)
        with Session(self, folder, policy, trainer, partial(nll_by_kind, policy, heldout)) as session:
            for step in session:
                # A row is a branch of its first token, which nothing predicts.
                groups = [as_group(row.ids, policy.bos) for row in session.batch(rows, cfg.rows_per_step)]
                tokens = sum(len(group.branches[0]) for group in groups)
                session.count(update=tokens)
                # The loss is the mean over all tokens of the step: text, tags and thoughts alike.
                examples, how = [Example(group=group) for group in groups], {"step": step, "normaliser": float(tokens)}
                update = session.timed("update", trainer.step, examples, nll, **how)
                session.log({"tokens": float(tokens), **update}, show=("loss", "thought_nll"))
            session.finish({"rows": context.identity(ROWS), "policy": policy.identity})

    @classmethod
    def cost(cls, at: Setting, step: Step) -> list[Phase]:
        cfg, interleave = required(at.config.sft), required(at.config.interleave)
        rows, thinks, with_thoughts = cfg.steps * cfg.rows_per_step, arm_of(step.arm).thinks, at.chunk + at.thoughts
        monitored = times(cfg.monitor_every, cfg.steps)

        def cost() -> Cost:
            length = with_thoughts if thinks else at.chunk
            heldout = scored(at.policy, at.heldout(cfg.monitor_rows), 1, with_thoughts - 1, cfg.micro_tokens)
            update = trained(at.policy, rows, 1, length - 1, cfg.steps)
            return update + heldout.times(monitored) + saving(at.policy, cfg.checkpoint_every, cfg.steps)

        longest = at.config.chunk.prefix_tokens[1] + at.suffix
        if thinks:
            longest += interleave.thoughts[1] * interleave.teacher.max_tokens
        return [Phase(name="sft", amount=f"{cfg.steps:,} steps, up to {rows * longest:,} tokens", cost=known(cost))]


def nll_by_kind(model: Model, rows: Sequence[Tokens]) -> dict[str, float | None]:
    """Return the model's NLL of rows by kind of token (text, tag, thought), nats per token."""
    nats = dict.fromkeys(SpanKind, 0.0)
    count = dict.fromkeys(SpanKind, 0)
    scored = model.logprobs([as_group(row.ids, model.bos) for row in rows])
    for row, [logprobs] in zip(rows, scored, strict=True):
        # Without BOS the first token is not scored, so kinds are aligned at their end.
        for kind, logprob in zip(row.kinds[-len(logprobs) :], logprobs.tolist(), strict=True):
            nats[kind] -= logprob
            count[kind] += 1
    # A kind without a token has no NLL: 0 would be a perfect one.
    return {f"{kind}_nll": nats[kind] / count[kind] for kind in SpanKind if count[kind]}


STAGE = SFT

"""What stage 2 computes: places and thoughts, SFT of both lineages, and what became of them."""

from __future__ import annotations

from forethought.costs.base import REPLY, Cost, Phase, Setting, known, scored, times, trained
from forethought.costs.judges import FRAME, written
from forethought.costs.loads import saving
from forethought.graph import RAW, arms
from forethought.stages.interleave import BATCH

AGAIN = 0.4
"""Share of the places for which a teacher is asked once more."""
TOLD = 100
"""Tokens of a teacher's instructions that stand behind the text, and so are read once for each request; about."""


def interleaving(at: Setting) -> list[Phase]:
    """Return the places in the text, and the teacher's thoughts at them."""
    cfg = at.config.interleave
    if cfg is None:
        return []
    rows = None if cfg.rows is None else cfg.rows + cfg.heldout_rows
    amount = f"up to {cfg.thoughts[1]} thoughts for {'every chunk' if rows is None else f'{rows:,} chunks'}"
    cost = known(lambda: thinking_up(at))
    return [Phase(name="interleave", amount=amount, cost=cost, steps=at.of("interleave"))]


def thinking_up(at: Setting) -> Cost:
    """Return the cost of all places and thoughts."""
    cfg, share = at.config.interleave, at.config.chunk
    assert cfg is not None
    micro, rows = at.config.improve.micro_tokens, at.config.improve.sample_rows
    chunks = at.chunks(share.sft_share, cfg.rows) + at.heldout(cfg.heldout_rows)
    placed = chunks + (at.chunks(share.rlmt_share, cfg.rlmt_rows) if share.rlmt_share else 0)
    found = scored(at.policy, placed, 1, at.chunk - 1, micro) if cfg.positions == "surprise" else Cost()
    if cfg.teacher.kind == "stand-in":
        return found
    model = None if cfg.teacher.endpoint is not None else at.shape("thought teacher")
    by_chunk = cfg.positions == "teacher"
    each = 1 if by_chunk else cfg.thoughts[1]
    reply = REPLY * cfg.teacher.max_tokens * (cfg.thoughts[1] if by_chunk else 1)
    sizes = TOLD + FRAME + at.chunk, reply
    asked = each * (placed if by_chunk else chunks)
    once = written(model, cfg.teacher.endpoint, asked, sizes, min(rows, BATCH * each))
    again = written(model, cfg.teacher.endpoint, AGAIN * asked, sizes, max(1, round(min(rows, AGAIN * BATCH * each))))
    return found + once + again.times(cfg.teacher.retries)


def tuning(at: Setting) -> list[Phase]:
    """Return SFT; arms with thoughts have more to learn than their raw controls."""
    cfg, interleave = at.config.sft, at.config.interleave
    if cfg is None or interleave is None:
        return []
    rows, long = cfg.steps * cfg.rows_per_step, at.chunk + at.thoughts
    watched = times(cfg.monitor_every, cfg.steps)
    tuned = [arm.name for arm in arms(at.config) if arm.stage == "sft"]
    raw = {f"{name}/sft": 1.0 for name in tuned if name.endswith(RAW)}
    thinking = {f"{name}/sft": 1.0 for name in tuned if not name.endswith(RAW)}

    def cost(count: int, length: float) -> Cost:
        monitor = scored(at.policy, at.heldout(cfg.monitor_rows), 1, long - 1, cfg.micro_tokens).times(watched)
        one = trained(at.policy, rows, 1, length - 1, cfg.steps) + monitor
        return (one + saving(at.policy, cfg.checkpoint_every, cfg.steps)).times(count)

    longest = at.config.chunk.prefix_tokens[1] + at.suffix + interleave.thoughts[1] * interleave.teacher.max_tokens
    amount = f"{len(tuned)} arms of {cfg.steps:,} steps, up to {len(tuned) * rows * longest:,} tokens"
    found = [Phase(name="sft", amount=amount, cost=known(lambda: cost(len(thinking), long)), steps=thinking)]
    if raw:
        amount = f"{len(raw)} of these arms, without thoughts"
        found.append(Phase(name="sft: raw", amount=amount, cost=known(lambda: cost(len(raw), at.chunk)), steps=raw))
    return found

"""What stage 1 computes: the audit, the rollouts and their verdicts, the updates."""

from __future__ import annotations

from forethought.costs.base import Cost, Phase, Setting, drawn, known, scored, times, trained
from forethought.costs.corpus import reading_seconds
from forethought.costs.judges import FRAME, INSTRUCTIONS, judging, verdicts, written
from forethought.costs.loads import saving
from forethought.graph import CONTINUED, IMPROVED
from forethought.store import SHARED


def chunking(at: Setting) -> list[Phase]:
    """Return the reading and cutting of the corpus."""
    seconds = reading_seconds(at.config.corpus)
    cost = None if seconds is None else Cost(seconds=seconds)
    return [Phase(name="chunk", amount="the text, once", cost=cost, steps={f"{SHARED}/chunk": 1.0})]


def auditing(at: Setting) -> list[Phase]:
    """Return the judges' entrance examination."""
    cfg = at.config.audit
    if not cfg.enabled or at.config.improve.objective not in ("dpo", "rf-nll"):
        return []
    kinds = len(cfg.min_accuracy)

    def cost() -> Cost:
        found = drawn(at.policy, cfg.prefixes, 1, (at.prefix, at.suffix), at.config.improve.sample_rows)
        for name, judge in at.config.judges.items():
            # Who scores texts does so with all texts behind a prefix; who compares pairs is asked about each.
            together = (cfg.prefixes, kinds + 1) if judge.kind == "likelihood" else (cfg.prefixes * kinds, 2)
            found += judging(at, name, *together, at.suffix)
        return found

    amount = f"up to {cfg.prefixes * kinds:,} planted pairs for each judge"
    return [Phase(name="audit", amount=amount, cost=known(cost), steps={f"{SHARED}/audit": 1.0})]


def improving(at: Setting) -> list[Phase]:
    """Return the training of stage 1."""
    cfg, longest, steps = at.config.improve, at.config.chunk.prefix_tokens[1], {f"{IMPROVED}/improve": 1.0}
    pools = cfg.steps * cfg.prefixes_per_step
    found = []
    if cfg.rewrite is not None and cfg.objective != "continued":
        found.append(
            Phase(name="rewrite", amount=f"{pools:,} rewrites", cost=known(lambda: rewriting(at)), steps=steps)
        )
    if cfg.objective in ("dpo", "rf-nll"):
        amount = f"{pools * cfg.rollouts:,} rollouts of {at.suffix} tokens after {pools:,} prefixes"
        found.append(Phase(name="sample", amount=amount, cost=known(lambda: sampling(at)), steps=steps))
        many = at.config.candidates_per_prefix
        for name, judge in at.config.judges.items():
            cost = known(lambda name=name: judging(at, name, pools, many, at.suffix))  # type: ignore[misc]
            amount = f"{pools * verdicts(judge, many):,} verdicts"
            found.append(Phase(name=f"judge: {name}", amount=amount, cost=cost, steps=steps))
    tokens = pools * (longest + (2 if cfg.objective == "dpo" else 1) * at.suffix)
    amount = f"{cfg.steps:,} steps, up to {tokens:,} tokens"
    update = known(lambda: updating(at, cfg.objective))
    found.append(Phase(name="update", amount=amount, cost=update, steps=steps))
    return [*found, _monitored(at, "monitor", steps)]


def controlling(at: Setting) -> list[Phase]:
    """Return the training of the control arm."""
    if at.arms("improve") < 2:
        return []
    steps = {f"{CONTINUED}/improve": 1.0}
    cfg = at.config.improve
    tokens = cfg.steps * cfg.prefixes_per_step * (at.config.chunk.prefix_tokens[1] + at.suffix)
    update = known(lambda: updating(at, "continued"))
    phase = Phase(name="control arm", amount=f"up to {tokens:,} tokens", cost=update, steps=steps)
    return [phase, _monitored(at, "control arm: monitor", steps)]


def rewriting(at: Setting) -> Cost:
    """Return the cost of one rewrite of each suffix, by the teacher."""
    cfg = at.config.improve
    assert cfg.rewrite is not None
    model = None if cfg.rewrite.endpoint is not None else at.shape("rewrite teacher")
    sizes = INSTRUCTIONS + FRAME + at.chunk, 1.5 * at.suffix
    return written(model, cfg.rewrite.endpoint, cfg.prefixes_per_step, sizes, cfg.sample_rows).times(cfg.steps)


def sampling(at: Setting) -> Cost:
    """Return the cost of all rollouts."""
    cfg = at.config.improve
    sizes = at.prefix, at.suffix
    return drawn(at.policy, cfg.prefixes_per_step, cfg.rollouts, sizes, cfg.sample_rows).times(cfg.steps)


def updating(at: Setting, objective: str) -> Cost:
    """Return the cost of all optimiser steps, with the reference's log-probabilities where there is a reference."""
    cfg = at.config.improve
    pools = cfg.steps * cfg.prefixes_per_step
    if objective == "continued":  # every token of the chunk is predicted
        return trained(at.policy, pools, 1, at.chunk - 1, cfg.steps)
    branches = (2 if objective == "dpo" else 1) * at.suffix
    found = trained(at.policy, pools, at.prefix, branches, cfg.steps)
    if objective == "dpo":
        found += scored(at.policy, cfg.prefixes_per_step, at.prefix, branches, cfg.micro_tokens).times(cfg.steps)
    return found


def _monitored(at: Setting, name: str, steps: dict[str, float]) -> Phase:
    cfg = at.config.improve
    count = times(cfg.monitor_every, cfg.steps)

    def cost() -> Cost:
        once = scored(at.policy, at.heldout(cfg.monitor_chunks), at.prefix, at.suffix, cfg.micro_tokens)
        return once.times(count) + saving(at.policy, cfg.checkpoint_every, cfg.steps)

    amount = f"{count} times the NLL of {cfg.monitor_chunks} held-out suffixes; checkpoints"
    return Phase(name=name, amount=amount, cost=known(cost), steps=steps)

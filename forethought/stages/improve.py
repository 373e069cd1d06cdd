"""Stage 1, self-improving pretraining: the policy learns from ranked continuations of ordinary text.

For each prefix the policy writes K rollouts; judges rank them together with the original suffix (and a
teacher's rewrite); one optimiser step moves the policy from the worst to the best (Tan et al. 2026,
arXiv 2601.21343, section 1).  The paper's other objectives are a config word away.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from forethought.algorithms.objectives import LossBatch, MakeBatch, objective_of
from forethought.algorithms.pools import CandidatePool, candidate, make_pool, pool_metrics, rank_pools
from forethought.config import Config, ImproveConfig, RewriteConfig
from forethought.costs.base import Cost, Phase, Setting, drawn, known, scored, times, trained
from forethought.costs.judges import FRAME, INSTRUCTIONS, judging, verdicts, written
from forethought.costs.loads import saving
from forethought.engine import Group, Prompt
from forethought.graph import Arm, Step, arm_of
from forethought.judges.build import build_rewriter
from forethought.models.model import Model
from forethought.records import Candidate, Chunk, Completion, Origin, Split
from forethought.run.store import SHARED, StageFolder
from forethought.stages.base import JudgeFailedError
from forethought.stages.session import Session, TrainingStage
from forethought.text import distinct_n, repetition, words

# Neither how often checkpoints are written nor what is waited for changes the weights.
UNIMPORTANT: dict[str, Any] = {
    **dict.fromkeys(("control", "control_lineage", "checkpoint_every", "max_undecided"), True),
    "rewrite": {"endpoint": {"patience"}},
}
CHUNKS, AUDIT = f"{SHARED}/chunk", f"{SHARED}/audit"


class Improve(TrainingStage):
    """Trains one arm: by its objective, or as the control by plain next-token prediction on the same chunks."""

    name = "improve"

    @cached_property
    def cfg(self) -> ImproveConfig:
        return settings(self.config, self.arm)

    @cached_property
    def objective(self) -> tuple[MakeBatch, dict[str, str]]:
        return objective_of(self.cfg.objective)

    def depends_on(self) -> dict[str, Any]:
        return {
            "policy": self.config.policy.model_dump(mode="json"),
            "improve": self.cfg.model_dump(mode="json", exclude=UNIMPORTANT),
            **self.seeds(),
            "dtype": self.config.dtype,
            "chunks": self.context.identity(CHUNKS),
            # Judges that rank nothing here must not start the arm over.
            "judges": [judge.name for judge in self.context.judges.values()] if self.cfg.ranks else [],
            **self.objective[1],
        }

    def validate(self) -> None:
        self.objective  # noqa: B018  the user's own code is loaded, so that what is wrong with it is said at once

    def check(self) -> None:
        """Refuse to train with a judge that failed its audit."""
        if self.cfg.ranks and self.config.audit.enabled and not self.config.audit.allow_failing:
            failures = (self.context.done(AUDIT).manifest() or {})["summary"]["failures"]
            sentences = [f"{name}: {sentence}" for name, row in failures.items() for sentence in row]
            if sentences:
                raise JudgeFailedError(
                    "\n  ".join(["a judge failed its audit and must not train the policy:", *sentences])
                    + "\nUse a stronger judge (likelihood under a larger model works well), lower the threshold in "
                    "[audit.min_accuracy], or train with it all the same: --set audit.allow_failing=true"
                )

    def run(self, folder: StageFolder) -> None:
        cfg, context, (make_batch, _) = self.cfg, self.context, self.objective
        policy = context.load(self.arm.start, cfg)
        reference = context.load(self.arm.start, cfg) if cfg.compares else None
        trainer, teacher, judges = policy.trainer(cfg), self.teacher(), list(context.judges.values())
        train, heldout = context.chunks(Split.IMPROVE), context.chunks(Split.HELDOUT)[: cfg.monitor_chunks]
        synced = reference if cfg.sync_reference_every else None
        monitor = functools.partial(suffix_nll, policy, heldout)
        with Session(self, folder, policy, trainer, monitor, rows=["pools"], reference=synced) as session:
            for step in session:
                chunks = session.batch(train, cfg.prefixes_per_step)
                rollouts_PK: Sequence[Sequence[Completion]] = [()] * len(chunks)
                rewrites_P: Sequence[str | None] = [None] * len(chunks)
                # K continuations of each prefix by the present policy, as long as the author's suffix.
                if cfg.ranks:
                    prompts = [Prompt(id=chunk.id, token_ids=policy.bos + chunk.prefix_ids) for chunk in chunks]
                    longest = max(len(chunk.suffix_ids) for chunk in chunks)
                    how = {"max_tokens": longest, "temperature": cfg.temperature, "key": session.key("rollouts")}
                    rollouts_PK = session.timed("sample", policy.sample, prompts, cfg.rollouts, **how)
                if teacher is not None:
                    rewrites_P = session.timed("rewrite", teacher.rewrite, chunks)
                # Judges see texts in a random order, never who wrote them.
                rows, order = zip(chunks, rollouts_PK, rewrites_P, strict=True), session.key("pool order")
                pools = [make_pool(c, self.candidates(policy, c, own, rewrite), order) for c, own, rewrite in rows]
                if cfg.ranks:
                    pools = session.timed("judge", rank_pools, pools, judges, session.key("ties"))
                session.keep("pools", [pool.row(step) for pool in pools])
                # `rank_pools` chose the best and the worst of each pool; without two different scores there is no pair.
                batch = make_batch(pools, policy.bos, cfg)
                if synced is not None and step and step % cfg.sync_reference_every == 0:
                    synced.copy_weights(policy)
                if reference is not None:
                    logprobs = session.timed("reference", reference.logprobs, batch.groups, as_trained=True)
                    batch = batch.with_reference(logprobs)
                # A batch in which nothing was decided changes nothing.
                update: Mapping[str, float | None]
                if batch.examples:
                    how = {"step": step, "normaliser": batch.normaliser}
                    update = session.timed("update", trainer.step, batch.examples, batch.loss, **how)
                else:
                    update = session.undecided([pool.lacks_scores for pool in pools], cfg.max_undecided)
                session.count(**token_counts(pools, batch))
                session.log({**self.metrics(pools), **update}, show=("selection_rate", "margin", "loss"))
            session.finish({"chunks": context.identity(CHUNKS), "policy": policy.identity})

    @classmethod
    def cost(cls, at: Setting, step: Step) -> list[Phase]:
        cfg, phases = settings(at.config, arm_of(step.arm)), list[Phase]()
        pools, many = cfg.steps * cfg.prefixes_per_step, at.config.candidates_per_prefix
        measured = times(cfg.monitor_every, cfg.steps)

        def add(name: str, amount: str, cost: Callable[..., Cost], *arguments: Any) -> None:
            phases.append(Phase(name=name, amount=amount, cost=known(functools.partial(cost, at, *arguments))))

        if cfg.rewrite is not None and cfg.rewrites:
            add("rewrite", f"{pools:,} rewrites", rewriting, cfg.rewrite)
        if cfg.ranks:
            add("sample", f"{pools * cfg.rollouts:,} rollouts of {at.suffix} tokens after {pools:,} prefixes", sampling)
            for name, judge in at.config.judges.items():
                amount = f"{pools * verdicts(judge, many):,} verdicts"
                add(f"judge: {name}", amount, judging, name, pools, many, at.suffix)
        tokens = pools * (at.config.chunk.prefix_tokens[1] + (2 if cfg.compares else 1) * at.suffix)
        add("update", f"{cfg.steps:,} steps, up to {tokens:,} tokens", updates, cfg)
        amount = f"{measured} times the NLL of {cfg.monitor_chunks} held-out suffixes; checkpoints"
        add("monitor", amount, monitoring, measured)
        return phases

    def teacher(self) -> Any:
        if self.cfg.rewrite is None or not self.cfg.rewrites:
            return None
        replies = self.context.run.path / "replies.sqlite"
        return build_rewriter(self.cfg.rewrite, self.context.pool, self.context.tokenizer, replies)

    def candidates(
        self, policy: Model, chunk: Chunk, rollouts: Sequence[Completion], rewrite: str | None
    ) -> list[Candidate]:
        """Return what is ranked behind one prefix: the original suffix, the rollouts, and the rewrite."""
        written = []
        if self.cfg.ranks and self.cfg.original:
            written.append(candidate(chunk, Origin.CORPUS, chunk.suffix, chunk.suffix_ids))
        written += [candidate(chunk, Origin.ROLLOUT, c.text, c.token_ids, k) for k, c in enumerate(rollouts)]
        if rewrite:
            # Of the text itself: training is on the ids of what judges read.
            ids = policy.tokenizer(rewrite, add_special_tokens=False)["input_ids"]
            written.append(candidate(chunk, Origin.REWRITE, rewrite, ids))
        return written

    def metrics(self, pools: Sequence[CandidatePool]) -> dict[str, float | None]:
        """Return how a step's pools were judged, and what the rollouts look like.

        ``rewritten`` is the share of the pools for which the teacher, if there is one, wrote a usable rewrite.
        """
        metrics: dict[str, float | None] = {}
        if self.cfg.rewrite is not None:
            metrics["rewritten"] = sum(bool(pool.by_origin(Origin.REWRITE)) for pool in pools) / len(pools)
        rollouts = [c for pool in pools for c in pool.by_origin(Origin.ROLLOUT)]
        if not rollouts:
            return metrics
        texts = [words(rollout.text) for rollout in rollouts]
        return {
            **metrics,
            **pool_metrics(pools),
            "distinct_2": distinct_n(texts, 2),
            "repetition": sum(map(repetition, texts)) / len(texts),
            "rollout_characters": sum(len(rollout.text) for rollout in rollouts) / len(rollouts),
        }


def settings(config: Config, arm: Arm) -> ImproveConfig:
    """Return the settings of an arm; the control trains by plain next-token prediction."""
    control = {"objective": "continued", "rewrite": None}
    return config.improve.model_copy(update=control if arm.control else {})


def token_counts(pools: Sequence[CandidatePool], batch: LossBatch) -> dict[str, int]:
    """Return how many tokens a step sampled, judged and trained on, for the rates in its metrics."""
    rollouts = [candidate for pool in pools for candidate in pool.by_origin(Origin.ROLLOUT)]
    return {
        "sample": sum(len(rollout.token_ids) for rollout in rollouts),
        "judge": sum(len(candidate.token_ids) for pool in pools for candidate in pool.candidates),
        "update": sum(group.tokens for group in batch.groups),
    }


def suffix_nll(model: Model, chunks: Sequence[Chunk]) -> dict[str, float | None]:
    """Return the model's NLL of the chunks' true suffixes, nats per token."""
    groups = [Group(prefix=model.bos + chunk.prefix_ids, branches=(chunk.suffix_ids,)) for chunk in chunks]
    rows = model.logprobs(groups)
    nats = -sum(float(row.sum()) for (row,) in rows)
    return {"suffix_nll": nats / sum(len(chunk.suffix_ids) for chunk in chunks)}


def rewriting(at: Setting, teacher: RewriteConfig) -> Cost:
    cfg, sizes = at.config.improve, (INSTRUCTIONS + FRAME + at.chunk, 1.5 * at.suffix)
    once = written(at, "rewrite teacher", teacher, cfg.prefixes_per_step, sizes, cfg.sample_rows)
    return once.times(cfg.steps)


def sampling(at: Setting) -> Cost:
    cfg, sizes = at.config.improve, (at.prefix, at.suffix)
    return drawn(at.policy, cfg.prefixes_per_step, cfg.rollouts, sizes, cfg.sample_rows).times(cfg.steps)


def updates(at: Setting, cfg: ImproveConfig) -> Cost:
    """Return the cost of all optimiser steps, with the reference's log-probabilities where there is a reference."""
    pools = cfg.steps * cfg.prefixes_per_step
    if cfg.objective == "continued":  # every token of the chunk is predicted
        return trained(at.policy, pools, 1, at.chunk - 1, cfg.steps)
    branches = (2 if cfg.compares else 1) * at.suffix
    total = trained(at.policy, pools, at.prefix, branches, cfg.steps)
    if cfg.compares:
        total += scored(at.policy, cfg.prefixes_per_step, at.prefix, branches, cfg.micro_tokens).times(cfg.steps)
    return total


def monitoring(at: Setting, count: int) -> Cost:
    """Return the cost of ``count`` measurements of held-out text, and of the checkpoints."""
    cfg = at.config.improve
    once = scored(at.policy, at.heldout(cfg.monitor_chunks), at.prefix, at.suffix, cfg.micro_tokens)
    return once.times(count) + saving(at.policy, cfg.checkpoint_every, cfg.steps)


STAGE = Improve

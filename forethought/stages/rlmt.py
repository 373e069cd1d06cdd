"""Stage 3, RL mid-training: from a prefix the policy writes a thought, then a suffix; the suffix is rewarded.

A match judge compares the suffix with the true one and never sees the thought (Tan et al. 2026, arXiv 2601.21343,
section 2).  On-policy Dr. GRPO by default.  The `*-rl` control has the same reward and does not think.  Of the
other rewards, a blank thought's is another baseline of the same objective, information gain is the true suffix's plain
likelihood, and only specific gain is a new one (:mod:`forethought.algorithms.rewards`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np

from forethought.algorithms.advantages import ADVANTAGES, normaliser
from forethought.algorithms.rewards import MatchTask, RewardFunction, reward_of
from forethought.algorithms.rollouts import RolloutGroup, group_metrics, mean
from forethought.algorithms.windows import Window
from forethought.config import TRAINING, RLMTConfig
from forethought.costs.base import REPLY, TAGS, Cost, Phase, Setting, drawn, known, scored, times, trained
from forethought.costs.judges import matching
from forethought.costs.loads import saving
from forethought.engine import Prompt
from forethought.engine.losses import policy_gradient
from forethought.engine.trainer import Example
from forethought.graph import Step, arm_of
from forethought.keys import Key
from forethought.models.model import Model
from forethought.records import Rollout
from forethought.run.store import SHARED, StageFolder
from forethought.stages.base import JudgeFailedError, required
from forethought.stages.session import Session, TrainingStage

T = TypeVar("T")

ROWS, CALIBRATED = f"{SHARED}/interleave", f"{SHARED}/calibrate"

UNIMPORTANT = {"match", "checkpoint_every", "max_undecided", "control", "negatives"}

VARYING = 0.6
"""Share of the groups whose rewards differ where a reward is 0 or 1; an estimate for the plan."""


class RLMT(TrainingStage):
    """Trains one arm of stage 3."""

    name = "rlmt"

    @property
    def cfg(self) -> RLMTConfig:
        return required(self.config.rlmt)

    @cached_property
    def reward(self) -> tuple[RewardFunction, dict[str, str | int]]:
        return reward_of(self.cfg.reward, self.cfg.negatives)

    def validate(self) -> None:
        self.reward  # noqa: B018  the user's own code is loaded, so that what is wrong with it is said at once

    def check(self) -> None:
        """Refuse to train with a match judge that failed its audit."""
        # What earns its reward by likelihood asks no match judge.
        if self.cfg.thought_only or self.cfg.match.audit.allow_failing:
            return
        row = (self.context.done(CALIBRATED).manifest() or {})["summary"]["judges"][TRAINING]
        if row["failures"]:
            raise JudgeFailedError(
                "\n  ".join([f"the match judge {row['judge']} failed its audit and must not train:", *row["failures"]])
                + "\nUse another [rlmt.match] kind or a stronger model, another bar in [rlmt.match.audit], a reward "
                "without a match judge (rlmt.reward = 'specific-gain'), or train with it all the same: "
                "--set rlmt.match.audit.allow_failing=true"
            )

    def depends_on(self) -> dict[str, Any]:
        return {
            **self.seeds(),
            "dtype": self.config.dtype,
            "policy": self.context.arm(self.arm.start).identity,
            "rows": self.context.identity(ROWS),
            "windows": self.context.window_ids("all"),
            "judge": self.context.matcher.name,
            "rlmt": self.cfg.model_dump(mode="json", exclude=UNIMPORTANT),
            "suffixes": "as written",  # before, thoughts were taken out of them
            **({} if self.arm.thinks else {"thoughts": False}),
            **self.reward[1],
        }

    def run(self, folder: StageFolder) -> None:
        cfg, context = self.cfg, self.context
        policy, reference = (context.load(self.arm.start, cfg, context.tags) for _ in range(2))
        train, heldout = context.rlmt_windows, list(context.heldout_windows[: cfg.monitor_windows])
        trainer, monitor = policy.trainer(cfg), partial(self.heldout_reward, policy, heldout)
        loss = partial(policy_gradient, clip=cfg.clip if cfg.updates > 1 else None, kl_weight=cfg.kl_weight)
        with Session(self, folder, policy, trainer, monitor, rows=["groups"]) as session:
            for step in session:
                windows = session.batch(train, cfg.windows_per_step)
                # G thoughts with suffixes of each prefix by the present policy, rewarded, and measured from their mean.
                groups = self.rollout_groups(policy, windows, session.key("thoughts"), session)
                drawn = sum(len(rollout.token_ids) for group in groups for rollout in group.rollouts)
                metrics: dict[str, float | None] = {}
                # A group in which all rollouts earn the same teaches nothing: it may be drawn again.
                if cfg.resample:
                    metrics["first_dead_rate"] = sum(group.zero_variance for group in groups) / len(groups)
                for attempt in range(cfg.resample):
                    flat = [index for index, group in enumerate(groups) if group.zero_variance]
                    key = session.key(f"thoughts, attempt {attempt + 1}")
                    again = self.rollout_groups(policy, [windows[index] for index in flat], key, session)
                    for index, group in zip(flat, again, strict=True):
                        groups[index] = group
                session.keep("groups", [group.row(step) for group in groups])
                metrics |= group_metrics(groups)
                if session.monitored and not cfg.kl_weight:  # before the update; with a weight, the loss says it
                    metrics["kl"] = session.timed("monitor", self.divergence, policy, reference, groups)
                # What teaches nothing is left out, and the denominator stays: the learning rate does not rise.
                learnt = [group for group in groups if not group.zero_variance]
                session.count(sample=drawn, update=sum(len(r.token_ids) for group in learnt for r in group.rollouts))
                if learnt:
                    with session.timer("update"):
                        examples = self.examples(policy, reference, learnt)
                        for _ in range(cfg.updates):
                            update = trainer.step(examples, loss, step=step, normaliser=normaliser(cfg))
                    tokens = update.pop("tokens")
                    metrics |= update | {name: update[name] / tokens for name in ("kl", "clipped") if name in update}
                else:
                    metrics |= session.undecided([group.lacks_rewards for group in groups], cfg.max_undecided)
                session.log(metrics, show=("reward", "heldout_reward"))
            session.finish({"rows": context.identity(ROWS), "policy": policy.identity})

    def rollout_groups(
        self, policy: Model, windows: Sequence[Window], key: Key, session: Session | None = None, k: int = 0
    ) -> list[RolloutGroup]:
        """Return ``k`` rollouts (default: G) of each window with rewards and advantages; seconds go to ``session``."""
        cfg, (reward, _), k = self.cfg, self.reward, k or self.cfg.rollouts
        timed = session.timed if session is not None else untimed
        task = MatchTask(matcher=self.context.matcher, whole_rest=cfg.match.kind == "llm")
        prompts = [Prompt(id=window.id, token_ids=policy.bos + window.prefix_ids) for window in windows]
        rollouts_PG = timed("sample", self.draw, policy, prompts, k, key)
        groups = [RolloutGroup(window=w, rollouts=tuple(row)) for w, row in zip(windows, rollouts_PG, strict=True)]
        rewards_PG = timed("judge", reward, groups, policy, task)
        baselines_P: list[float | None] = [None] * len(groups)  # None: the mean of the group
        if cfg.blank_baseline:
            # A thought without words, under keys of its own: what the suffix earns without anything thought.
            empty, blank = policy.thoughts.open + policy.thoughts.close, f"{key.purpose}, blank"
            prompts = [dataclasses.replace(prompt, token_ids=prompt.token_ids + empty) for prompt in prompts]
            own = dataclasses.replace(key, purpose=blank)
            blanks_PK = timed("sample", policy.sample, prompts, cfg.blanks, key=own, max_tokens=cfg.suffix_tokens)
            texts_PK = [[policy.decode(completion.token_ids) for completion in row] for row in blanks_PK]
            baselines_P = [mean(row) for row in timed("judge", task.rewards, windows, texts_PK)]
        advantage = ADVANTAGES[cfg.advantage]
        return [
            dataclasses.replace(
                group,
                rewards=tuple(row),
                blank=baseline,
                # A group whose baseline nobody could score teaches nothing.
                advantages=(0.0,) * k if cfg.blank_baseline and baseline is None else advantage.of(row, baseline),
            )
            for group, row, baseline in zip(groups, rewards_PG, baselines_P, strict=True)
        ]

    def draw(self, policy: Model, prompts: Sequence[Prompt], k: int, key: Key) -> Sequence[Sequence[Rollout]]:
        """Return ``k`` thoughts with suffixes after each prompt, or of a control that does not think, suffixes alone.

        At temperature 1, without top-p: what is drawn has the probability that the trainer computes.
        """
        # Where no suffix is judged, the shortest one is written.
        max_tokens = 1 if self.cfg.thought_only else self.cfg.suffix_tokens
        if self.arm.thinks:
            return policy.think(prompts, k, thought_tokens=self.cfg.thought_tokens, max_tokens=max_tokens, key=key)
        drawn = policy.sample(prompts, k, max_tokens=max_tokens, key=key)
        # As it was written: a thought that the control opens is part of its suffix, as it is for who thinks.
        return [[dataclasses.replace(Rollout.of(c), text=policy.decode(c.token_ids)) for c in row] for row in drawn]

    def examples(self, policy: Model, reference: Model, groups: Sequence[RolloutGroup]) -> list[Example]:
        """Return scored rollouts on their one prefix, with what a loss compares their log-probabilities with."""
        cfg, examples = self.cfg, [self.example(policy, group) for group in groups]
        compared = {"reference": reference if cfg.kl_weight else None, "old": policy if cfg.updates > 1 else None}
        # Before the step's first update, so that `old` is the policy that drew.
        for field, model in compared.items():
            if model is not None:
                rows = model.logprobs([example.group for example in examples], as_trained=True)
                examples = [
                    dataclasses.replace(example, **{field: tuple(row)})  # type: ignore[arg-type]
                    for example, row in zip(examples, rows, strict=True)
                ]
        return examples

    def example(self, policy: Model, group: RolloutGroup) -> Example:
        opened = policy.thoughts.open if self.arm.thinks else ()
        return group.example(
            policy.bos + group.window.prefix_ids + opened,
            thought_only=self.cfg.thought_only,
            per_rollout_mean=ADVANTAGES[self.cfg.advantage].per_rollout_mean,
        )

    def divergence(self, policy: Model, reference: Model, groups: Sequence[RolloutGroup]) -> float:
        """Return the estimate ``exp(d) - d - 1`` of the divergence from the SFT model, nats per drawn token."""
        examples = [self.example(policy, g) for g in groups if any(reward is not None for reward in g.rewards)]
        if not examples:
            return float("nan")
        total = count = 0.0
        ours, theirs = (m.logprobs([e.group for e in examples], as_drawn=True) for m in (policy, reference))
        for example, policy_rows, reference_rows in zip(examples, ours, theirs, strict=True):
            for weight, a, b in zip(example.weights or (), policy_rows, reference_rows, strict=True):
                # In double precision: near 0 the terms cancel almost wholly.
                ahead = (b - a).astype(np.float64)
                total += float(((np.exp(ahead) - ahead - 1) * (weight > 0)).sum())
                count += float((weight > 0).sum())
        return total / count

    def heldout_reward(self, policy: Model, windows: Sequence[Window]) -> dict[str, float | None]:
        """Return the mean reward on held-out windows, always with the same random numbers."""
        key = Key(self.config.seed, "monitored thoughts")
        groups = self.rollout_groups(policy, windows, key, k=self.cfg.monitor_samples)
        return {"heldout_reward": mean([reward for group in groups for reward in group.rewards])}

    @classmethod
    def cost(cls, at: Setting, step: Step) -> list[Phase]:
        cfg = required(at.config.rlmt)
        if not arm_of(step.arm).thinks:
            cfg = cfg.model_copy(update={"thought_tokens": 0})
        windows, monitored = cfg.steps * cfg.windows_per_step, times(cfg.monitor_every, cfg.steps)
        thoughts, batch = windows * cfg.rollouts, (cfg.windows_per_step, cfg.rollouts)
        thought_only = cfg.thought_only
        longest = cfg.thought_tokens + (1 if thought_only else cfg.suffix_tokens)
        tokens = thoughts * longest + windows * at.config.chunk.prefix_tokens[1]
        judged = f"{thoughts:,} thoughts, by the policy's own likelihood" if thought_only else f"{thoughts:,} suffixes"
        heldout = f"{monitored} times {cfg.monitor_samples} thoughts about {cfg.monitor_windows} held-out windows"
        amounts = {
            "sample": (
                f"{cfg.steps:,} steps, {thoughts:,} thoughts with suffixes after {windows:,} prefixes",
                lambda: rollout_cost(at, cfg, *batch).times(cfg.steps),
            ),
            "reward": (judged, lambda: reward_cost(at, cfg, *batch).times(cfg.steps)),
            "update": (f"up to {tokens:,} tokens", lambda: update_cost(at, cfg).times(cfg.steps)),
            "monitor": (heldout, lambda: monitor_cost(at, cfg, monitored)),
        }
        return [Phase(name=name, amount=amount, cost=known(cost)) for name, (amount, cost) in amounts.items()]


def untimed(phase: str, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    return function(*arguments, **options)


def rollout_cost(at: Setting, cfg: RLMTConfig, windows: float, k: float) -> Cost:
    """Return the cost of ``k`` thoughts with suffixes for each window, and of the suffixes after a blank thought."""
    suffix = 1 if cfg.thought_only else cfg.suffix_tokens
    total = drawn(at.policy, windows, k, (at.prefix + TAGS, cfg.thought_tokens + suffix), cfg.sample_rows)
    if cfg.blank_baseline:
        total += drawn(at.policy, windows, cfg.blanks, (at.prefix + TAGS, cfg.suffix_tokens), cfg.sample_rows)
    return total


def reward_cost(at: Setting, cfg: RLMTConfig, windows: float, k: float) -> Cost:
    """Return the cost of saying what ``k`` rollouts of each window earn."""
    if not cfg.thought_only:
        return matching(at, windows, k + (cfg.blanks if cfg.blank_baseline else 0))
    with_thought = k * (REPLY * cfg.thought_tokens + cfg.suffix_tokens)
    thought = scored(at.policy, windows, at.prefix, with_thought, cfg.micro_tokens)
    plain = scored(at.policy, windows, at.prefix, cfg.suffix_tokens, cfg.micro_tokens)
    if cfg.reward != "specific-gain":
        return thought + plain
    # Own and negative windows alike, and all suffixes after each prefix to find these.
    ranking = scored(at.policy, windows, at.prefix, (windows - 1) * cfg.suffix_tokens, cfg.micro_tokens)
    return (thought + plain).times(1 + min(cfg.negatives, windows - 1)) + ranking


def update_cost(at: Setting, cfg: RLMTConfig) -> Cost:
    """Return the cost of learning from one batch, groups that are drawn again included."""
    always = cfg.thought_only or cfg.blank_baseline
    learnt = cfg.windows_per_step * (1.0 if always else VARYING)
    before = scored(at.policy, learnt, at.prefix, branch_tokens(cfg), cfg.micro_tokens)
    total = trained(at.policy, cfg.updates * learnt, at.prefix, branch_tokens(cfg), cfg.updates)
    total += before.times(int(cfg.kl_weight > 0) + int(cfg.updates > 1))
    again = (cfg.windows_per_step - learnt) * sum(0.7**attempt for attempt in range(cfg.resample))
    if again and not cfg.thought_only:
        total += rollout_cost(at, cfg, again, cfg.rollouts) + reward_cost(at, cfg, again, cfg.rollouts)
    return total


def monitor_cost(at: Setting, cfg: RLMTConfig, count: int) -> Cost:
    """Return the cost of measuring held-out reward and the divergence from the start, and of checkpoints."""
    windows, k = at.heldout(cfg.monitor_windows), cfg.monitor_samples
    once = rollout_cost(at, cfg, windows, k) + reward_cost(at, cfg, windows, k)
    total = once.times(count) + saving(at.policy, cfg.checkpoint_every, cfg.steps)
    if not cfg.kl_weight:
        both = scored(at.policy, cfg.windows_per_step, at.prefix, branch_tokens(cfg), cfg.micro_tokens).times(2)
        total += both.times(count - 1)
    return total


def branch_tokens(cfg: RLMTConfig) -> float:
    """Return how many tokens of a group are trained on, about."""
    suffix = 0 if cfg.thought_only else cfg.suffix_tokens
    return cfg.rollouts * (0.8 * cfg.thought_tokens + suffix)


STAGE = RLMT

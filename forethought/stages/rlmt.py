"""Stage 3, RL mid-training: from a prefix the policy writes a thought, then a suffix; the suffix is rewarded.

A match judge compares the suffix with the true one and never sees the thought (Tan et al. 2026, arXiv 2601.21343,
section 2).  On-policy Dr. GRPO by default; two rewards aim at thoughts that are worth more than none.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forethought import models, training
from forethought.config import Config, ModelConfig, RLMTConfig
from forethought.engine import Group, Prompt, Sampling, Thinking, ThinkingSampler
from forethought.engine.losses import policy_gradient
from forethought.engine.policy import Policy
from forethought.engine.sampler import TorchSampler
from forethought.engine.scorer import TorchScorer
from forethought.engine.trainer import Example, Trainer
from forethought.judges.match import Matcher
from forethought.keys import Key
from forethought.metric_log import MetricLog
from forethought.progress import StageProgress
from forethought.records import Rollout, content_id
from forethought.store import StageFolder
from forethought.thoughts.format import Tags, strip
from forethought.thoughts.groups import Drawn, advantages, describe, normaliser
from forethought.thoughts.tokens import Codec, closing, codec
from forethought.thoughts.windows import Window, contest

Timer = Callable[[str], AbstractContextManager[None]]
"""Measures a phase."""


def _untimed(phase: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What the stage reads."""

    windows: Sequence[Window]
    """Of the `rlmt` split."""
    heldout: Sequence[Window]
    """Held-out windows; the first `monitor_windows` are measured while training."""
    matcher: Matcher
    """Rewards suffixes; `information-gain` needs none."""
    start: ModelConfig
    """The SFT model: training starts from it, and divergence is measured from it."""
    identity: str
    """Hash of that model."""
    data: str
    """Hash of the interleave stage."""
    tags: Tags
    """What stands around a thought."""


@dataclass(slots=True, kw_only=True)
class Workshop:
    """Everything a step uses."""

    config: RLMTConfig
    seed: int
    material: Material
    coded: Codec
    bos: tuple[int, ...]
    forbidden: tuple[int, ...]
    reference: Policy
    trainer: Trainer
    sampler: ThinkingSampler

    def head(self, window: Window, *more: int) -> tuple[int, ...]:
        """Return the ids of the prefix and what follows it."""
        return self.bos + window.prefix_ids + more

    @property
    def scorer(self) -> TorchScorer:
        """Scores under the present policy."""
        return TorchScorer(self.trainer.policy, self.config.micro_tokens, self.forbidden)

    def exact_scorer(self, policy: Policy) -> TorchScorer:
        """Scores under ``policy`` what the loss compares with the trained policy's own log-probabilities."""
        return TorchScorer(policy, self.config.micro_tokens, self.forbidden, as_trained=True)

    @property
    def sampling(self) -> Sampling:
        """Return how suffixes are drawn; where none is judged, the shortest one is."""
        # At temperature 1, without top-p: what is drawn has the probability that the trainer computes.
        most = 1 if self.config.dense else self.config.suffix_tokens
        return Sampling(max_tokens=most, forbidden_ids=self.forbidden)


def run(config: Config, folder: StageFolder, material: Material) -> Path:
    """Train one arm and return its final checkpoint, a Hugging Face folder.

    An interrupted stage goes on at its last checkpoint, and ends with the same weights bit for bit (CPU).
    """
    folder.write_config(stage_config(config, material))
    if folder.done:
        training.forget(folder)
        return training.final(folder)
    shop = open_workshop(config, material)
    cfg = shop.config
    start = training.resume(folder, shop.trainer, ["groups"])
    with (
        MetricLog(folder, config.log, training.peak(shop.trainer)) as log,
        StageProgress(f"{folder.arm}: rlmt", cfg.steps) as progress,
    ):
        if start == 0:
            with log.timer("monitor"):
                before = monitored(shop)
            log.log(0, before)
        for step in range(start, cfg.steps):
            groups, row = make_groups(shop, step, log)
            folder.append("groups", [group.row(step) for group in groups])
            row |= describe(groups)
            if not cfg.kl_weight and training.due(cfg.monitor_every, step + 1, cfg.steps):
                with log.timer("monitor"):
                    row["kl"] = divergence(shop, groups)
            with log.timer("update"):
                log.count("update", sum(len(r.token_ids) for group in groups if not group.dead for r in group.rollouts))
                row |= learn(shop, groups, step)
            row = {f"rlmt/{name}": value for name, value in row.items()}
            if training.due(cfg.monitor_every, step + 1, cfg.steps):
                with log.timer("monitor"):
                    row |= monitored(shop)
            log.log(step + 1, row)
            if cfg.checkpoint_every and (step + 1) % cfg.checkpoint_every == 0 and step + 1 < cfg.steps:
                with log.timer("checkpoint"):  # after the row, which a kill in between would lose
                    training.save(folder, shop.trainer, shop.coded.tokenizer, step + 1)
            progress.update(step + 1, reward=row["rlmt/reward"], heldout=row.get("rlmt/heldout_reward"))
    inputs = {"rows": material.data, "policy": material.identity}
    return training.finish(folder, shop.trainer, shop.coded.tokenizer, cfg.steps, inputs)


def make_groups(shop: Workshop, step: int, log: MetricLog) -> tuple[list[Drawn], dict[str, float | None]]:
    """Return the rewarded groups of ``step``; those without variance are drawn anew as often as the config says."""
    cfg = shop.config
    windows = training.batch(shop.material.windows, cfg.windows_per_step, step, shop.seed)
    groups = draw(shop, windows, cfg.rollouts, Key(shop.seed, "thoughts").at(step), log.timer)
    first_dead = sum(group.dead for group in groups)
    log.count("sample", sum(len(rollout.token_ids) for group in groups for rollout in group.rollouts))
    for attempt in range(cfg.resample):
        dead = [index for index, group in enumerate(groups) if group.dead]
        again = Key(shop.seed, f"thoughts, attempt {attempt + 1}").at(step)
        fresh = draw(shop, [windows[index] for index in dead], cfg.rollouts, again, log.timer) if dead else []
        for index, group in zip(dead, fresh, strict=True):
            groups[index] = group
    return groups, {"first_dead_rate": first_dead / len(groups)} if cfg.resample else {}


def draw(shop: Workshop, windows: Sequence[Window], k: int, key: Key, timer: Timer = _untimed) -> list[Drawn]:
    """Return ``k`` rollouts of each window with rewards and advantages."""
    cfg, codec_ = shop.config, shop.coded
    thinking = Thinking(
        max_tokens=cfg.thought_tokens, close_ids=codec_.close, closed=closing(codec_, shop.material.tags)
    )
    prompts = [Prompt(id=window.id, token_ids=shop.head(window, *codec_.open)) for window in windows]
    with timer("sample"):
        rollouts = shop.sampler.think(prompts, k, thinking, shop.sampling, key)
    groups = [_drawn(shop, window, group) for window, group in zip(windows, rollouts, strict=True)]
    with timer("judge"):
        rewarded = rewards(shop, groups)
    blanks: list[float | None] = [None] * len(groups)
    if cfg.reward == "gain-over-blank":
        blanks = blank_rewards(shop, windows, key, timer)
    found = []
    for group, row, blank in zip(groups, rewarded, blanks, strict=True):
        if cfg.reward == "gain-over-blank" and blank is None:  # no baseline, no lesson
            better: tuple[float, ...] = (0.0,) * len(row)
        else:
            better = advantages(row, blank, scaled=cfg.advantage == "grpo")
        found.append(dataclasses.replace(group, rewards=tuple(row), blank=blank, advantages=better))
    return found


def rewards(shop: Workshop, groups: Sequence[Drawn]) -> Sequence[Sequence[float | None]]:
    """Return what each rollout of each group earns, ``None`` where nobody could say; one more reward goes here."""
    if shop.config.reward == "specific-gain":
        return specific_gain(shop, groups)
    if shop.config.dense:
        return information_gain(shop, groups, [group.window for group in groups])
    return matches(shop, [group.window for group in groups], [group.suffixes for group in groups])


def matches(
    shop: Workshop, windows: Sequence[Window], predictions: Sequence[Sequence[str]]
) -> list[list[float | None]]:
    """Return 1 for each prediction that matches, 0 for another, ``None`` where the judge did not say."""
    longer = shop.config.match.kind == "llm"
    contests = [contest(window, row, longer) for window, row in zip(windows, predictions, strict=True)]
    matcher = shop.material.matcher
    return [[matcher.passes(score) for score in row] for row in matcher.scores(contests)]


def blank_rewards(shop: Workshop, windows: Sequence[Window], key: Key, timer: Timer) -> list[float | None]:
    """Return the mean reward of suffixes that the policy writes after a thought without words."""
    empty = shop.coded.open + shop.coded.close
    prompts = [Prompt(id=window.id, token_ids=shop.head(window, *empty)) for window in windows]
    with timer("sample"):
        blank = dataclasses.replace(key, purpose=f"{key.purpose}, blank")
        drawn = shop.sampler.sample(prompts, shop.config.blanks, shop.sampling, blank)
    texts = [[_suffix(shop, completion.token_ids) for completion in row] for row in drawn]
    with timer("judge"):
        rows = matches(shop, windows, texts)
    known = [[reward for reward in row if reward is not None] for row in rows]
    return [sum(row) / len(row) if row else None for row in known]


def specific_gain(shop: Workshop, groups: Sequence[Drawn]) -> list[list[float]]:
    """Return each thought's information gain less the one that it brings to the next window of the batch.

    A thought that would serve any text earns nothing.  It is the contrast of InfoNCE (van den Oord et al. 2018, arXiv
    1807.03748) with one negative.
    """
    windows = [group.window for group in groups]
    here, elsewhere = (information_gain(shop, groups, some) for some in (windows, windows[1:] + windows[:1]))
    return [[own - other for own, other in zip(*rows, strict=True)] for rows in zip(here, elsewhere, strict=True)]


def information_gain(shop: Workshop, groups: Sequence[Drawn], windows: Sequence[Window]) -> list[list[float]]:
    """Return ``1/|s| [log p(s | prefix, thought) - log p(s | prefix)]`` of the true suffix s, nats per token.

    Group by group, thoughts stand between prefix and suffix of the window beside it in ``windows``, mostly its own.
    The present policy scores both sides (RLP, Hatamizadeh et al. 2025, arXiv 2510.01265, takes a moving average for
    the second one, which is the same for the whole group and so leaves its advantages as they are).
    """
    with_thought = [
        Group(
            prefix=shop.head(window, *shop.coded.open),
            branches=tuple(r.token_ids[: r.thought_tokens] + window.suffix_ids for r in group.rollouts),
        )
        for group, window in zip(groups, windows, strict=True)
    ]
    plain = [Group(prefix=shop.head(window), branches=(window.suffix_ids,)) for window in windows]
    thought, bare = shop.scorer.logprobs(with_thought), shop.scorer.logprobs(plain)
    return [
        [float(branch[-len(window.suffix_ids) :].mean() - base.mean()) for branch in row]
        for window, row, [base] in zip(windows, thought, bare, strict=True)
    ]


def learn(shop: Workshop, groups: Sequence[Drawn], step: int) -> dict[str, float]:
    """Take the optimiser steps of one batch; groups that teach nothing are left out, and the denominator stays."""
    cfg = shop.config
    examples = [example(shop, group) for group in groups if not group.dead]
    if not examples:
        return {}
    packed = [one.group for one in examples]
    if cfg.kl_weight:
        rows = shop.exact_scorer(shop.reference).logprobs(packed)
        examples = [dataclasses.replace(e, reference=tuple(r)) for e, r in zip(examples, rows, strict=True)]
    if cfg.updates > 1:
        rows = shop.exact_scorer(shop.trainer.policy).logprobs(packed)
        examples = [dataclasses.replace(e, old=tuple(r)) for e, r in zip(examples, rows, strict=True)]
    clip = cfg.clip if cfg.updates > 1 else None
    loss = functools.partial(policy_gradient, clip=clip, kl_weight=cfg.kl_weight)
    found: dict[str, float] = {}
    for _ in range(cfg.updates):
        found = shop.trainer.step(examples, loss, step=step, normaliser=normaliser(cfg))
    tokens = found.pop("tokens")
    return found | {name: found[name] / tokens for name in ("kl", "clipped") if name in found}


def example(shop: Workshop, group: Drawn) -> Example:
    """Return the rollouts that were scored, on their one prefix; what the harness inserted has no weight."""
    scored = zip(group.rollouts, group.advantages, group.rewards, strict=True)
    kept = [(rollout, advantage) for rollout, advantage, reward in scored if reward is not None]
    branches, weights = [], []
    for rollout, _ in kept:
        end = rollout.thought_tokens if shop.config.dense else len(rollout.token_ids)
        mask = np.array(rollout.drawn[:end], np.float32)
        branches.append(rollout.token_ids[:end])
        weights.append(mask / max(1.0, mask.sum()) if shop.config.advantage == "grpo" else mask)
    return Example(
        group=Group(prefix=shop.head(group.window, *shop.coded.open), branches=tuple(branches)),
        weights=tuple(weights),
        advantages=tuple(advantage for _, advantage in kept),
    )


def divergence(shop: Workshop, groups: Sequence[Drawn]) -> float:
    """Return the estimate ``exp(d) - d - 1`` of the divergence from the SFT model, nats per drawn token."""
    packed = [example(shop, group) for group in groups if any(reward is not None for reward in group.rewards)]
    if not packed:
        return float("nan")
    frozen = TorchScorer(shop.reference, shop.config.micro_tokens, shop.forbidden)
    total = count = 0.0
    ours, theirs = (scorer.logprobs([one.group for one in packed]) for scorer in (shop.scorer, frozen))
    for one, policy, reference in zip(packed, ours, theirs, strict=True):
        for weight, a, b in zip(one.weights or (), policy, reference, strict=True):
            ahead = (b - a).astype(np.float64)
            total += float(((np.exp(ahead) - ahead - 1) * (weight > 0)).sum())
            count += float((weight > 0).sum())
    return total / count


def monitored(shop: Workshop) -> dict[str, float | None]:
    """Return the mean reward on held-out windows, always with the same random numbers."""
    windows = list(shop.material.heldout[: shop.config.monitor_windows])
    groups = draw(shop, windows, shop.config.monitor_samples, Key(shop.seed, "monitored thoughts"))
    known = [reward for group in groups for reward in group.rewards if reward is not None]
    return {"rlmt/heldout_reward": sum(known) / len(known) if known else None}


def stage_config(config: Config, material: Material) -> dict[str, Any]:
    """Return what this arm's weights depend on: other changes do not make them stale."""
    assert config.rlmt is not None
    return {
        "seed": config.seed,
        "dtype": config.dtype,
        "policy": material.identity,
        "rows": material.data,
        "windows": content_id([[one.id for one in some] for some in (material.windows, material.heldout)]),
        "judge": material.matcher.name,
        "rlmt": config.rlmt.model_dump(mode="json", exclude={"match", "checkpoint_every"}),
    }


def open_workshop(config: Config, material: Material) -> Workshop:
    """Load the policy and the frozen SFT model."""
    assert config.rlmt is not None
    device, cfg = models.resolve_device(config.device), config.rlmt
    dtype = models.resolve_dtype(config.dtype, device)
    loaded, frozen = (models.load(material.start, device=device, dtype=dtype, seed=config.seed) for _ in range(2))
    policy, coded = Policy(loaded.model, config.engine.backend), codec(loaded.tokenizer, material.tags)
    special = models.special_ids(loaded.tokenizer, loaded.model.config.get_text_config().vocab_size)
    forbidden = tuple(sorted(set(special) - {*coded.open, *coded.close}))
    return Workshop(
        config=cfg,
        seed=config.seed,
        material=material,
        coded=coded,
        bos=models.bos_ids(loaded.tokenizer),
        forbidden=forbidden,
        reference=Policy(frozen.model, config.engine.backend),
        trainer=training.trainer(policy, cfg, forbidden),
        sampler=TorchSampler(policy, cfg.sample_rows),
    )


def _drawn(shop: Workshop, window: Window, rollouts: Sequence[Rollout]) -> Drawn:
    decode, close = shop.coded.tokenizer.decode, shop.material.tags.close
    return Drawn(
        window=window,
        rollouts=tuple(rollouts),
        thoughts=tuple(decode(list(r.token_ids[: r.thought_tokens])).partition(close)[0] for r in rollouts),
        suffixes=tuple(_suffix(shop, r.token_ids[r.thought_tokens :]) for r in rollouts),
    )


def _suffix(shop: Workshop, ids: Sequence[int]) -> str:
    return strip(shop.coded.tokenizer.decode(list(ids)), shop.material.tags)

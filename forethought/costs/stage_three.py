"""What stage 3 and the evaluations behind it compute: thoughts that are rewarded, reward gate, probe."""

from __future__ import annotations

from forethought.config import RLMTConfig
from forethought.costs.base import REPLY, TAGS, Cost, Phase, Setting, drawn, known, scored, times, trained
from forethought.costs.judges import matching
from forethought.costs.loads import saving
from forethought.evals.probe import CONDITIONS
from forethought.graph import LINEAGES, arms
from forethought.stages.calibrate import OTHERS

ALIVE = 0.6
"""Share of the groups whose rewards differ where a reward is 0 or 1; the others are not trained on."""


def calibrating(at: Setting) -> list[Phase]:
    """Return the search for the score from which a suffix matches."""
    cfg = at.config.rlmt
    if cfg is None:
        return []

    def cost() -> Cost:
        chunks, rows = cfg.match.calibration_chunks, at.config.improve.sample_rows
        text = drawn(at.policy, chunks, 1, (at.prefix, cfg.suffix_tokens), rows)
        # An embedder reads every text once; who compares two texts sees each with each.
        return text + matching(at, chunks, 1 if cfg.match.kind == "similarity" else 1 + OTHERS)

    amount = f"{cfg.match.calibration_chunks:,} suffixes against those of {OTHERS} others"
    return [Phase(name="calibrate", amount=amount, cost=known(cost), steps=at.of("calibrate"))]


def rewarding(at: Setting) -> list[Phase]:
    """Return the training of both lineages."""
    cfg = at.config.rlmt
    if cfg is None:
        return []
    count, steps, prefix = len(LINEAGES), at.of("rlmt"), at.config.chunk.prefix_tokens[1]
    windows = count * cfg.steps * cfg.windows_per_step
    thoughts = windows * cfg.rollouts
    tokens = thoughts * (cfg.thought_tokens + (1 if cfg.dense else cfg.suffix_tokens)) + windows * prefix
    amount = f"{count} arms of {cfg.steps:,} steps, {thoughts:,} thoughts with suffixes after {windows:,} prefixes"
    watched = times(cfg.monitor_every, cfg.steps)
    watching = f"{watched} times {cfg.monitor_samples} thoughts about each of {cfg.monitor_windows} held-out windows"

    def every(cost: Cost) -> Cost:
        return cost.times(count * cfg.steps)

    sample = known(lambda: every(rollouts(at, cfg, cfg.windows_per_step, cfg.rollouts)))
    reward = known(lambda: every(rewards(at, cfg, cfg.windows_per_step, cfg.rollouts)))
    update = known(lambda: every(updates(at, cfg)))
    monitor = known(lambda: monitored(at, cfg, watched).times(count))
    judged = f"{thoughts:,} suffixes" if not cfg.dense else f"{thoughts:,} thoughts, by the policy's own likelihood"
    return [
        Phase(name="rlmt: sample", amount=amount, cost=sample, steps=steps),
        Phase(name="rlmt: reward", amount=judged, cost=reward, steps=steps),
        Phase(name="rlmt: update", amount=f"up to {tokens:,} tokens", cost=update, steps=steps),
        Phase(name="rlmt: monitor", amount=watching, cost=monitor, steps=steps),
    ]


def rollouts(at: Setting, cfg: RLMTConfig, windows: float, k: float) -> Cost:
    """Return the cost of ``k`` thoughts with suffixes for each window, and of the suffixes without thought."""
    sizes = at.prefix + TAGS, cfg.thought_tokens + (1 if cfg.dense else cfg.suffix_tokens)
    found = drawn(at.policy, windows, k, sizes, cfg.sample_rows)
    if cfg.reward == "gain-over-blank":
        found += drawn(at.policy, windows, cfg.blanks, (at.prefix + TAGS, cfg.suffix_tokens), cfg.sample_rows)
    return found


def rewards(at: Setting, cfg: RLMTConfig, windows: float, k: float) -> Cost:
    """Return the cost of saying what ``k`` rollouts of each window earn."""
    if not cfg.dense:
        return matching(at, windows, k + (cfg.blanks if cfg.reward == "gain-over-blank" else 0))
    thought = scored(
        at.policy, windows, at.prefix, k * (REPLY * cfg.thought_tokens + cfg.suffix_tokens), cfg.micro_tokens
    )
    plain = scored(at.policy, windows, at.prefix, cfg.suffix_tokens, cfg.micro_tokens)
    return (thought + plain).times(2 if cfg.reward == "specific-gain" else 1)


def updates(at: Setting, cfg: RLMTConfig) -> Cost:
    """Return the cost of learning from one batch, groups that are drawn anew included."""
    learnt = cfg.windows_per_step * (1.0 if cfg.dense or cfg.reward == "gain-over-blank" else ALIVE)
    branches = cfg.rollouts * (0.8 * cfg.thought_tokens + (0 if cfg.dense else cfg.suffix_tokens))
    before = scored(at.policy, learnt, at.prefix, branches, cfg.micro_tokens)
    found = trained(at.policy, cfg.updates * learnt, at.prefix, branches, cfg.updates)
    found += before.times(int(cfg.kl_weight > 0) + int(cfg.updates > 1))
    if not cfg.dense:
        anew = (cfg.windows_per_step - learnt) * sum(0.7**attempt for attempt in range(cfg.resample))
        if anew:
            found += rollouts(at, cfg, anew, cfg.rollouts) + rewards(at, cfg, anew, cfg.rollouts)
    return found


def monitored(at: Setting, cfg: RLMTConfig, watched: int) -> Cost:
    """Return the cost of watching one arm: held-out reward, the divergence from its start, checkpoints."""
    windows = at.heldout(cfg.monitor_windows)
    once = rollouts(at, cfg, windows, cfg.monitor_samples) + rewards(at, cfg, windows, cfg.monitor_samples)
    found = once.times(watched) + saving(at.policy, cfg.checkpoint_every, cfg.steps)
    if not cfg.kl_weight:
        branches = cfg.rollouts * (0.8 * cfg.thought_tokens + (0 if cfg.dense else cfg.suffix_tokens))
        found += scored(at.policy, cfg.windows_per_step, at.prefix, branches, cfg.micro_tokens).times(2 * (watched - 1))
    return found


def examining(at: Setting) -> list[Phase]:
    """Return the reward gate of all arms, and the probe of those that think."""
    cfg, own = at.config.rlmt, at.config.thinking
    if cfg is None:
        return []
    taking = [arm for arm in arms(at.config) if not arm.control]
    thinking = sum(arm.thinks for arm in taking)
    rows = at.config.interleave.heldout_rows if at.config.interleave is not None else own.windows
    most = min(own.windows, rows)

    def cost() -> Cost:
        windows, many, micro = at.heldout(most), at.config.improve.sample_rows, at.config.improve.micro_tokens
        plain = drawn(at.policy, windows, own.samples, (at.prefix, cfg.suffix_tokens), many)
        thought = drawn(
            at.policy, windows, own.samples, (at.prefix + TAGS, cfg.thought_tokens + cfg.suffix_tokens), many
        )
        inserted = REPLY * cfg.thought_tokens + TAGS
        shown = len(CONDITIONS) * own.probe_samples
        gains = scored(at.policy, windows, at.prefix, shown * (inserted + cfg.suffix_tokens), micro)
        sizes = at.prefix + inserted, cfg.suffix_tokens
        predicted = drawn(at.policy, windows * own.probe_samples, 1, sizes, many).times(len(CONDITIONS))
        gate = (
            plain.times(len(taking) - thinking)
            + thought.times(thinking)
            + matching(at, windows, own.samples).times(len(taking))
        )
        scripted = 2 if own.controls else 0
        probe = (gains + predicted).times(thinking) + matching(at, windows, shown).times(thinking + scripted)
        return gate + probe

    judged = len(taking) * most * own.samples + thinking * len(CONDITIONS) * most * own.probe_samples
    amount = f"{len(taking)} arms on up to {most:,} held-out windows, up to {judged:,} scored suffixes"
    return [Phase(name="gate and probe", amount=amount, cost=known(cost), steps=at.of("evaluate-rlmt"))]

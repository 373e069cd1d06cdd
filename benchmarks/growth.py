"""How the time of each phase grows with K, prefix, suffix and vocabulary."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.material import SEED, cut, load, prompts
from benchmarks.measure import ROOT, Options, seconds, spread
from benchmarks.training import MICRO_TOKENS, our_dpo, our_trainer
from forethought.engine import Group, Prompt, Sampling
from forethought.engine.policy import Policy
from forethought.engine.sampler import TorchSampler
from forethought.engine.scorer import TorchScorer
from forethought.keys import Key
from forethought.models.tiny import random_model

MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True, slots=True)
class Point:
    """Sizes of one measurement."""

    k: int
    prefix: int
    suffix: int
    vocabulary: int | None = None


BASE, QUICK_BASE = Point(8, 128, 32), Point(2, 16, 4)
PREFIXES = 4

AXES: dict[str, tuple[str, tuple[int, ...]]] = {
    "K": ("k", (4, 8, 16, 32, 64)),
    "prefix tokens": ("prefix", (64, 128, 256, 512)),
    "suffix tokens": ("suffix", (16, 32, 64, 128)),
    "vocabulary": ("vocabulary", (16384, 49152, 131072, 262144)),
}
QUICK_AXES = {"K": ("k", (2, 4)), "vocabulary": ("vocabulary", (259, 1024))}


def run(options: Options) -> Iterator[dict[str, Any]]:
    """Measure each phase along each axis; the plot shows all axes."""
    axes, base = (QUICK_AXES, QUICK_BASE) if options.quick else (AXES, BASE)
    (name,) = options.models_or(MODEL)[:1]
    found = []
    for title, (attribute, sizes) in axes.items():
        points = [
            {"size": size, "seconds": phases(name, replace(base, **{attribute: size}), options)} for size in sizes
        ]
        print(f"growth     {title}: {points}", flush=True)
        what = (
            f"{name}, {PREFIXES} prefixes of {base.prefix} tokens, K={base.k}, {base.suffix} new tokens, unless the "
            "axis says otherwise: rollouts of K branches, log-probabilities of the same branches, DPO update on two"
        )
        found.append({"kind": "growth", "title": title, "what": what, "points": points, "exponents": exponents(points)})
    if not options.quick:
        found[-1]["plot"] = plot(found)
    yield from found


def phases(name: str, point: Point, options: Options) -> dict[str, float]:
    """Return the median seconds of each phase."""
    loaded = load(name, options)
    model = loaded.model
    if point.vocabulary is not None:
        config = copy.deepcopy(model.config)
        config.vocab_size = point.vocabulary
        model = random_model(config, SEED).to(options.device, options.dtype)
    asked = prompts(cut(loaded.tokenizer, options, PREFIXES, point.prefix, 8), ())
    if point.vocabulary is not None:
        asked = [replace(prompt, token_ids=tuple(i % point.vocabulary for i in prompt.token_ids)) for prompt in asked]
    runs = _runs(model, asked, point)
    for run in runs.values():
        run()
    return {phase: spread([seconds(run) for _ in range(1 if options.quick else 3)])[0] for phase, run in runs.items()}


def _runs(model: Any, asked: Sequence[Prompt], point: Point) -> dict[str, Callable[[], object]]:
    trainer = our_trainer(model)
    sampler = TorchSampler(trainer.policy, rows=10**6)
    sampling = Sampling(max_tokens=point.suffix)
    draw = functools.partial(sampler.sample, asked, point.k, sampling, Key(SEED, "growth"))
    groups = [
        Group(prefix=prompt.token_ids, branches=tuple(row.token_ids for row in rows))
        for prompt, rows in zip(asked, draw(), strict=True)
    ]
    pairs = [Group(prefix=group.prefix, branches=group.branches[:2]) for group in groups]
    scorer = TorchScorer(Policy(trainer.policy.model), MICRO_TOKENS)
    return {
        "rollouts": draw,
        "log-probabilities": functools.partial(scorer.logprobs, groups),
        "DPO update": functools.partial(our_dpo, trainer, trainer.policy, pairs),
    }


def exponents(points: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return, per phase, the slope of log time over log size."""
    sizes = np.log([point["size"] for point in points])
    return {
        phase: float(np.polyfit(sizes, np.log([point["seconds"][phase] for point in points]), 1)[0])
        for phase in points[0]["seconds"]
    }


def plot(found: Sequence[dict[str, Any]]) -> str | None:
    """Draw the page's figure and return its path from the page, or nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        print('growth     no figure: pip install -e ".[bench]"', flush=True)
        return None
    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "growth"  # the same figures give the same file
    figure, panels = plt.subplots(1, len(found), figsize=(3 * len(found), 2.8), sharey=True, layout="constrained")
    seen = [time for row in found for point in row["points"] for time in point["seconds"].values()]
    marks = [m * 10**e for e in range(-4, 4) for m in (1, 2, 5) if min(seen) / 2 < m * 10**e < max(seen) * 2]
    for panel, row in zip(panels, found, strict=True):
        sizes = [point["size"] for point in row["points"]]
        for phase in row["exponents"]:
            times = [point["seconds"][phase] for point in row["points"]]
            panel.loglog(sizes, times, marker="o", markersize=3, linewidth=1, label=phase)
        panel.set_xlabel(row["title"])
        panel.set_xticks(sizes, [f"{size:,}" if size < 1000 else f"{size // 1024}k" for size in sizes])
        panel.set_yticks(marks, [f"{mark:g}" for mark in marks])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("seconds")
    panels[0].legend(fontsize=7, frameon=False)
    figure.savefig(ROOT / "docs" / "img" / "growth.svg", metadata={"Date": None})
    return "img/growth.svg"

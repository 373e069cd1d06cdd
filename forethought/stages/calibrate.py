"""The threshold of a match judge, from held-out text and the untrained policy's continuations of it.

Suffixes of other documents may hardly ever pass, and about a tenth of what the untrained policy writes passes: a reward
that is neither free nor out of reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from forethought.config import Config, RLMTConfig
from forethought.engine import Prompt, Sampler, Sampling
from forethought.judges.match import Matcher, calibrate
from forethought.keys import Key
from forethought.records import Chunk, Contest, Measurement, content_id
from forethought.stats import Interval, bootstrap_mean
from forethought.store import StageFolder

OTHERS = 16
"""Rollouts of other documents that each suffix is compared with."""


class NoRLMTError(ValueError):
    """A config without RL mid-training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What the stage reads."""

    chunks: Sequence[Chunk]
    """Held-out chunks."""
    matcher: Matcher
    """Whose threshold is sought."""
    sampler: Sampler
    """The untrained policy."""
    tokenizer: Any
    """The policy's."""
    bos: tuple[int, ...]
    """Stands before every prefix."""
    forbidden: tuple[int, ...]
    """Never drawn."""
    policy: str
    """Hash of the policy's weights."""


def run(
    config: Config, folder: StageFolder, material: Material, measure: Callable[[Iterable[Measurement]], None]
) -> float:
    """Return the threshold, and record what passes it."""
    cfg = section(config)
    folder.write_config(stage_config(config, material))
    related, unrelated = scores(config, material)
    threshold = cfg.match.threshold
    if threshold is None and cfg.match.kind == "llm":
        threshold = material.matcher.threshold
    if threshold is None:
        flat = [one for row in unrelated for one in row]
        threshold = calibrate(flat, related, cfg.match.max_unrelated, cfg.match.base_rate)
    found = {
        "base rollouts that pass": [float(one >= threshold) for one in related],
        "unrelated suffixes that pass": [sum(one >= threshold for one in row) / len(row) for row in unrelated if row],
    }
    figures = {name: bootstrap_mean(values, config.seed) for name, values in found.items() if values}
    measure(_figures(figures, threshold, material))
    folder.finish({"policy": material.policy}, {"threshold": threshold, "judge": material.matcher.judge.name})
    return threshold


def scores(config: Config, material: Material) -> tuple[list[float], list[list[float]]]:
    """Return the scores of the policy's own continuations, and per chunk those of other documents' continuations."""
    cfg, chunks = section(config), material.chunks
    sampling = Sampling(max_tokens=cfg.suffix_tokens, forbidden_ids=material.forbidden)
    prompts = [Prompt(id=chunk.id, token_ids=material.bos + chunk.prefix_ids) for chunk in chunks]
    drawn = material.sampler.sample(prompts, 1, sampling, Key(config.seed, "calibration"))
    texts = [material.tokenizer.decode(list(one.token_ids)) for [one] in drawn]
    contests = []
    for index, chunk in enumerate(chunks):
        true = material.tokenizer.decode(list(chunk.suffix_ids[: cfg.suffix_tokens]))
        others = [i for i, other in enumerate(chunks) if other.document_id != chunk.document_id]
        turned = [others[(index + step) % len(others)] for step in range(min(OTHERS, len(others)))]
        candidates = (texts[index], *(texts[other] for other in turned))
        contests.append(Contest(prefix=chunk.prefix, candidates=candidates, original=true))
    rows = material.matcher.scores(contests)
    related = [row[0] for row in rows if row[0] is not None]
    return related, [[one for one in row[1:] if one is not None] for row in rows]


def threshold_of(folder: StageFolder) -> float:
    """Return the threshold that a finished stage found."""
    manifest = folder.manifest()
    assert manifest is not None
    return float(manifest["summary"]["threshold"])


def stage_config(config: Config, material: Material) -> dict[str, Any]:
    """Return what the threshold depends on."""
    cfg = section(config)
    return {
        "seed": config.seed,
        "dtype": config.dtype,
        "policy": material.policy,
        "judge": material.matcher.judge.name,
        "chunks": content_id([chunk.id for chunk in material.chunks]),
        "suffix_tokens": cfg.suffix_tokens,
        "match": cfg.match.model_dump(mode="json", include={"threshold", "max_unrelated", "base_rate"}),
    }


def section(config: Config) -> RLMTConfig:
    """Return `[rlmt]`.

    Raises:
        NoRLMTError: if there is none.
    """
    if config.rlmt is None:
        raise NoRLMTError("there is no [rlmt] table in the config: add it, with [sft] and [interleave]")
    return config.rlmt


def _figures(found: dict[str, Interval], threshold: float, material: Material) -> Iterable[Measurement]:
    n = len(material.chunks)
    rows = {"threshold": Interval(value=threshold, low=threshold, high=threshold, n=n), **found}
    for metric, one in rows.items():
        yield Measurement(
            stage="calibrate",
            arm="base",
            metric=metric,
            judge=material.matcher.judge.name,
            value=one.value,
            low=one.low,
            high=one.high,
            n=one.n,
            unit="score" if metric == "threshold" else "share; n chunks of the improve split, bootstrap over them",
            subject=material.policy,
        )

"""Held-out evaluation of one arm against the base: three ways of comparing, suffix NLL, examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from forethought.config import Config
from forethought.engine import Sampler, Scorer
from forethought.evals.continuation import ComparisonSettings, Continuations, Side, compare
from forethought.evals.nll import SuffixNLL, nll_measurements, suffix_nll
from forethought.judges import Judge
from forethought.progress import Progress
from forethought.records import Chunk, Measurement, content_id
from forethought.store import StageFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A policy that can write and score."""

    name: str
    """Its name in the run."""
    identity: str
    """Hash of its weights."""
    sampler: Sampler
    """Writes."""
    scorer: Scorer
    """Scores."""
    tokenizer: Any
    """A transformers tokenizer."""
    bos: tuple[int, ...]
    """Stands before every prefix."""
    forbidden: tuple[int, ...]
    """Never drawn."""
    drawn: dict[str, Continuations] = field(default_factory=dict)
    """Continuations by the chunks and settings they belong to, kept for the comparison with other arms."""
    scored: dict[str, SuffixNLL] = field(default_factory=dict)
    """Suffix NLL by the chunks it belongs to."""

    def continuations(self, chunks: Sequence[Chunk], settings: ComparisonSettings) -> Continuations:
        """Return the continuations of ``chunks``; nothing is drawn yet, and nothing will be drawn twice."""
        key = _name(chunks)
        if key not in self.drawn:
            self.drawn[key] = Continuations(Side(self.name, self.sampler, self.identity), chunks, settings)
        return self.drawn[key]

    def nll(self, chunks: Sequence[Chunk], progress: Progress) -> SuffixNLL:
        """Return the suffix NLL on ``chunks``."""
        key = _name(chunks)
        if key not in self.scored:
            report = lambda done, total: progress(done, total, f"{self.name}: suffix NLL")  # noqa: E731
            self.scored[key] = suffix_nll(self.scorer, chunks, self.bos, report)
        return self.scored[key]


def run(
    config: Config,
    folder: StageFolder,
    arms: tuple[Arm, Arm],
    chunks: Sequence[Chunk],
    judges: Mapping[str, Judge],
    progress: Progress,
) -> list[Measurement]:
    """Compare ``arms`` (policy, base) on held-out ``chunks``; write ``examples.jsonl`` and return the figures."""
    policy, base = arms
    cfg = config.evaluate
    compared, scored = chunks[: cfg.prefixes], chunks[: cfg.nll_chunks]
    settings = ComparisonSettings(
        conditions=cfg.conditions,
        new_tokens=cfg.new_tokens or config.chunk.suffix_tokens,
        bos=base.bos,
        forbidden_ids=base.forbidden,
        entropy_tolerance=cfg.entropy_tolerance,
        decode=base.tokenizer.decode,
        seed=config.seed,
    )
    sides = policy.continuations(compared, settings), base.continuations(compared, settings)
    comparison = compare(*sides, judges, lambda note: progress(0, 0, note))
    before, after = base.nll(scored, progress), policy.nll(scored, progress)
    measurements = [
        *comparison.measurements,
        *nll_measurements(base.name, base.identity, before, seed=config.seed),
        *nll_measurements(policy.name, policy.identity, after, (base.name, before), config.seed),
    ]
    folder.truncate("examples", lambda row: False)
    folder.append("examples", comparison.examples[: cfg.examples])
    return measurements


def finish(folder: StageFolder, arms: tuple[Arm, Arm], measurements: Sequence[Measurement]) -> None:
    """Write the manifest; the figures must be in the run's table by then, or a kill in between would lose them."""
    policy, base = arms
    figures = content_id([_figure(one) for one in measurements])
    folder.finish({"policy": policy.identity, "base": base.identity}, {"figures": figures})


def stage_config(config: Config, trained: str, judges: Mapping[str, Judge], chunks: Sequence[Chunk]) -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "seed": config.seed,
        "dtype": config.dtype,
        "policy": trained,
        "judges": {name: judge.name for name, judge in judges.items()},
        "chunks": _name(chunks),
        "evaluate": config.evaluate.model_dump(mode="json", exclude={"judges", "thoughts"}),
    }


def _figure(one: Measurement) -> list[Any]:
    return [one.arm, one.against, one.metric, one.condition, one.judge, one.value, one.low, one.high, one.n]


def _name(chunks: Sequence[Chunk]) -> str:
    return content_id([chunk.id for chunk in chunks])

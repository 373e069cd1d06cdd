"""The judges' entrance examination as a stage: planted pairs, the bar, and the refusal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forethought.config import Config
from forethought.engine import Prompt, Sampler, Sampling
from forethought.judges import Judge
from forethought.judges.audit import AuditReport, audit
from forethought.judges.planted import plant
from forethought.keys import Key
from forethought.records import Chunk, Measurement, content_id
from forethought.store import StageFolder, StoreError


class JudgeFailedError(ValueError):
    """A judge that must not train anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """The untrained policy, as the audit needs it."""

    sampler: Sampler
    """Writes."""
    tokenizer: Any
    """A transformers tokenizer."""
    bos: tuple[int, ...]
    """Stands before every prefix."""
    forbidden: tuple[int, ...]
    """Never drawn."""
    identity: str
    """Hash of its weights."""

    def write(self, chunks: Sequence[Chunk], key: Key) -> list[str]:
        """Return one sampled continuation of each chunk, as long as the suffixes."""
        sampling = Sampling(max_tokens=max(len(c.suffix_ids) for c in chunks), forbidden_ids=self.forbidden)
        prompts = [Prompt(id=chunk.id, token_ids=self.bos + chunk.prefix_ids) for chunk in chunks]
        completions = self.sampler.sample(prompts, 1, sampling, key)
        return [self.tokenizer.decode(branches[0].token_ids) for branches in completions]


def run(
    config: Config,
    folder: StageFolder,
    chunks: Sequence[Chunk],
    judges: Mapping[str, Judge],
    writer: Writer,
    measure: Callable[[Iterable[Measurement]], None],
) -> None:
    """Examine every judge on planted pairs of ``chunks`` and hand the figures to ``measure``.

    Writes ``reports.jsonl`` (one row per judge) and ``planted.jsonl``; see :func:`demand` for the consequence.
    """
    folder.write_config(stage_config(config, chunks, judges, writer))
    rollouts = writer.write(chunks, Key(config.seed, "audit rollouts"))
    planting = plant(chunks, rollouts, Key(config.seed, "audit"))
    reports = {name: audit(judge, planting.pairs, config.audit) for name, judge in judges.items()}
    folder.truncate("planted", lambda row: False)
    folder.append("planted", planting.pairs)
    folder.truncate("reports", lambda row: False)
    folder.append("reports", [_row(name, report) for name, report in reports.items()])
    failed = {name: list(report.failures) for name, report in reports.items() if not report.passed}
    measure(figure for report in reports.values() for figure in report.measurements())
    folder.finish({"policy": writer.identity}, {"failures": failed, "left_out": planting.left_out})


def failures(folder: StageFolder) -> list[str]:
    """Return what a finished audit found wrong, one sentence each with the judge's name before it; empty: nothing.

    Raises:
        StoreError: if the audit is not done.
    """
    manifest = folder.manifest()
    if manifest is None:
        raise StoreError(f"{folder.path}: no finished audit here. Run `forethought audit-judge CONFIG` first")
    found: dict[str, list[str]] = manifest["summary"]["failures"]
    return [f"{name}: {sentence}" for name, sentences in found.items() for sentence in sentences]


def demand(folder: StageFolder, config: Config) -> None:
    """Refuse to go on with a judge that failed.

    Raises:
        JudgeFailedError: naming the judge, what it missed, and the ways out.
    """
    failed = failures(folder)
    if failed and not config.audit.allow_failing:
        raise JudgeFailedError(
            "\n  ".join(["a judge failed its audit and must not train the policy:", *failed])
            + "\nUse a stronger judge (likelihood under a larger model works well), lower the bar in "
            "[audit.min_accuracy], or train with it all the same: --set audit.allow_failing=true"
        )


def stage_config(
    config: Config, chunks: Sequence[Chunk], judges: Mapping[str, Judge], writer: Writer
) -> dict[str, Any]:
    """Return what the audit depends on; whether a failure is tolerated is not part of it."""
    return {
        "seed": config.seed,
        "chunks": content_id([chunk.id for chunk in chunks]),
        "policy": writer.identity,
        "judges": {name: judge.name for name, judge in judges.items()},
        "audit": config.audit.model_dump(mode="json", exclude={"allow_failing", "enabled"}),
    }


def _row(name: str, report: AuditReport) -> dict[str, Any]:
    return {
        "name": name,
        "judge": report.judge,
        "failures": list(report.failures),
        "notes": list(report.notes),
        "unscored_pairs": dict(report.unscored_pairs),
    }

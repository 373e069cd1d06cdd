"""The evaluation after SFT: every arm sits the same exam, and the two thinking arms are compared with each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forethought.config import Config
from forethought.evals.arm import Arm
from forethought.evals.continuation import ComparisonSettings, Continuations, Side, compare
from forethought.evals.thoughts import Answers, Exam, Thinker, changes, examine, figures
from forethought.judges import Judge
from forethought.progress import Progress
from forethought.records import Chunk, Measurement, ThoughtRow, content_id
from forethought.store import StageFolder
from forethought.thoughts.build import tags
from forethought.thoughts.format import Tags, strip
from forethought.thoughts.tokens import codec


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An arm that takes part."""

    name: str
    """Its name in the run."""
    identity: str
    """Hash of its weights."""
    open: Callable[[], Arm]
    """Loads it."""
    against: tuple[str, ...] = ()
    """Arms with which its NLL is compared, row by row."""
    thinks: bool = False
    """Whether it takes part in the comparison of thinking arms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What is evaluated on."""

    rows: Sequence[ThoughtRow]
    """Held-out rows with thoughts."""
    chunks: Sequence[Chunk]
    """Held-out chunks, those of the rows among them."""
    judges: Mapping[str, Judge]
    """Compare the thinking arms."""


def run(
    config: Config, folder: StageFolder, entries: Sequence[Entry], material: Material, progress: Progress
) -> list[Measurement]:
    """Examine all arms and compare the thinking ones; write ``examples.jsonl`` and return the figures."""
    exam = _exam(config, material)
    found: list[Measurement] = []
    done: dict[str, tuple[Thinker, Answers]] = {}
    thinking: list[Arm] = []
    folder.truncate("examples", lambda row: False)
    for number, entry in enumerate(entries):
        progress(number, len(entries), f"{entry.name}: thoughts")
        arm = entry.open()
        thinker = _thinker(arm, exam.tags)
        answers = examine(thinker, exam)
        found += figures(thinker, answers, exam)
        for other in entry.against:
            found += changes((thinker, answers), done[other], exam)
        rows = answers.examples[: config.evaluate.examples]
        folder.append("examples", [{"arm": entry.name, **row} for row in rows])
        # Only the thinking arms are kept in memory: the others' answers say enough.
        done[entry.name] = (dataclasses.replace(thinker, sampler=_Gone(), scorer=_Gone()), answers)
        thinking += [arm] if entry.thinks else []
    if len(thinking) == 2 and material.judges:
        base, improved = thinking
        found += _compared(config, exam.tags, (improved, base), material, progress)
    return found


def stage_config(config: Config, entries: Sequence[Entry], material: Material) -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "seed": config.seed,
        "dtype": config.dtype,
        "arms": {entry.name: entry.identity for entry in entries},
        "judges": {name: judge.name for name, judge in material.judges.items()},
        "rows": content_id([row.id for row in material.rows]),
        "thoughts": config.evaluate.thoughts.model_dump(mode="json"),
        "entropy_tolerance": config.evaluate.entropy_tolerance,
    }


def _compared(
    config: Config, tags_: Tags, arms: tuple[Arm, Arm], material: Material, progress: Progress
) -> list[Measurement]:
    """Compare two thinking arms by their text: thoughts are taken out before a judge reads it."""
    policy, base = arms
    cfg = config.evaluate
    decode = base.tokenizer.decode
    settings = ComparisonSettings(
        conditions=cfg.thoughts.conditions,
        new_tokens=cfg.thoughts.free_tokens,
        bos=base.bos,
        forbidden_ids=_thinker(base, tags_).forbidden,
        entropy_tolerance=cfg.entropy_tolerance,
        decode=lambda ids: strip(decode(list(ids)), tags_),
        seed=config.seed,
    )
    chunks = material.chunks[: cfg.thoughts.prefixes]
    sides = [Continuations(Side(arm.name, arm.sampler, arm.identity), chunks, settings) for arm in (policy, base)]
    comparison = compare(sides[0], sides[1], material.judges, lambda note: progress(0, 0, note))
    return [dataclasses.replace(one, stage="evaluate-sft") for one in comparison.measurements]


def _exam(config: Config, material: Material) -> Exam:
    assert config.interleave is not None
    cfg = config.evaluate.thoughts
    return Exam(
        rows=material.rows,
        chunks={chunk.id: chunk for chunk in material.chunks},
        tags=tags(config.interleave),
        free_tokens=cfg.free_tokens,
        thought_tokens=cfg.thought_tokens,
        text_tokens=cfg.text_tokens,
        prefixes=cfg.prefixes,
        seed=config.seed,
    )


def _thinker(arm: Arm, tags_: Tags) -> Thinker:
    coded = codec(arm.tokenizer, tags_)
    return Thinker(
        name=arm.name,
        identity=arm.identity,
        sampler=arm.sampler,
        scorer=arm.scorer,
        codec=coded,
        bos=arm.bos,
        forbidden=tuple(sorted(set(arm.forbidden) - {*coded.open, *coded.close})),
    )


class _Gone:
    """Stands where a model was that is no longer needed."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("this arm's model was dropped after its exam")

"""Stage 2, first half: a teacher supplies thoughts for raw chunks, whose text stays byte for byte as it is.

The `sft` split and held-out chunks get places and thoughts, the `rlmt` split places only (Tan et al. 2026,
arXiv 2601.21343, section 2).  The teacher's replies are cached: an interrupted stage asks for nothing twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forethought.config import Config, InterleaveConfig
from forethought.engine import Scorer
from forethought.progress import Progress, silent
from forethought.records import Chunk, Measurement, Place, Split, ThoughtRow, content_id
from forethought.stats import Interval
from forethought.store import StageFolder, StoreError, atomic_write
from forethought.thoughts import build
from forethought.thoughts.dataset import FEW_PLACES, Ledger, augment, finished, measurements, row, statistics, usable
from forethought.thoughts.export import FILES, card, parquet
from forethought.thoughts.places import by_surprise, candidates, spaced
from forethought.thoughts.teacher import ChunkTeacher, Draft, Teacher

BATCH = 16
"""Chunks that are worked on at once."""


class NoThoughtsError(ValueError):
    """A split of which no row is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What the stage reads."""

    chunks: Mapping[Split, Sequence[Chunk]]
    """The `sft`, held-out and, if there are any, `rlmt` chunks."""
    identity: str
    """Hash of the chunk stage."""
    teacher: Teacher
    """Writes thoughts."""
    scorer: Scorer
    """The untrained policy, which says where the text is surprising."""
    policy: str
    """Hash of its weights."""
    tokenizer: Any
    """The policy's."""
    bos: tuple[int, ...]
    """Stands before every text."""


def run(
    config: Config,
    folder: StageFolder,
    material: Material,
    measure: Callable[[Iterable[Measurement]], None],
    progress: Progress = silent,
) -> None:
    """Make the rows of every split; write logs, parquet files and the dataset card, and hand figures to ``measure``.

    Raises:
        NoThoughtsError: if no row of a split is left, with the counted reasons.
    """
    cfg = _section(config)
    folder.write_config(stage_config(config, material))
    found: dict[Split, tuple[dict[str, Interval], Ledger]] = {}
    total, done = sum(map(len, material.chunks.values())), 0
    for split, chunks in material.chunks.items():
        ledger, rows = Ledger(), list[ThoughtRow]()
        folder.truncate(f"rows.{split}", lambda row: False)
        for start in range(0, len(chunks), BATCH):
            made = make_rows(cfg, material, chunks[start : start + BATCH], split, ledger)
            folder.append(f"rows.{split}", made)
            rows += made
            done += len(chunks[start : start + BATCH])
            kept = f", {ledger.accepted} of {ledger.offered} thoughts kept" if ledger.offered else ""
            progress(done, total, f"{split}: {len(rows)} rows{kept}")
        _demand(split, rows, ledger)
        found[split] = (statistics(rows, chunks, ledger, config.seed), ledger)
        atomic_write(folder.path / FILES[split], parquet(rows, build.tags(cfg)))
    atomic_write(folder.path / "README.md", card(config.name, material.teacher.name, build.tags(cfg), found))
    measure(_figures(found, material))
    counts = {split.value: ledger.plain() for split, (_, ledger) in found.items()}
    folder.finish({"chunks": material.identity, "policy": material.policy}, {"ledgers": counts})


def make_rows(
    cfg: InterleaveConfig, material: Material, chunks: Sequence[Chunk], split: Split, ledger: Ledger
) -> list[ThoughtRow]:
    """Return the rows of a batch of chunks; those that give none are counted in ``ledger``."""
    wanted, rules, tags = build.wanted(cfg), build.rules(cfg), build.tags(cfg)
    drafts = []
    for chunk in chunks:
        places = candidates(chunk, material.tokenizer, cfg.gap, cfg.clauses)
        if usable(chunk, places, tags, wanted.fewest, ledger):
            drafts.append(Draft(chunk=chunk, places=places))
    if cfg.positions == "surprise":
        ranked = by_surprise([d.chunk for d in drafts], [d.places for d in drafts], material.scorer, material.bos)
        for draft, best in zip(drafts, ranked, strict=True):
            draft.places = spaced(best, wanted.most, wanted.gap)
    if split is Split.RLMT:
        return _places_only(cfg, material.teacher, drafts, ledger)
    augment(drafts, material.teacher, rules, wanted, ledger)
    return [made for draft in drafts if (made := finished(draft, wanted, ledger)) is not None]


def load_rows(folder: StageFolder, split: Split) -> list[ThoughtRow]:
    """Return the rows of a split.

    Raises:
        StoreError: if the stage is not done.
    """
    if folder.manifest() is None:
        raise StoreError(f"{folder.path}: no finished thoughts here. Run `forethought interleave CONFIG` first")
    return folder.load(f"rows.{split}", ThoughtRow)


def describe(folder: StageFolder) -> list[str]:
    """Return, per split, what became of the chunks and of the thoughts, a line each."""
    manifest = folder.manifest() or {"summary": {"ledgers": {}}}
    lines = []
    for split, counts in manifest["summary"]["ledgers"].items():
        thoughts = (
            f"; thoughts: {counts['accepted']} of {counts['offered']} kept, rejected: {_line(counts['rejected'])}"
        )
        chunks = f"{split}: {counts['chunks']} chunks, left out: {_line(counts['dropped'])}"
        lines.append(chunks + (thoughts if counts["offered"] else ""))
    return lines


def stage_config(config: Config, material: Material) -> dict[str, Any]:
    """Return what the rows depend on."""
    cfg = _section(config)
    return {
        "seed": config.seed,
        "dtype": config.dtype,
        "policy": material.policy,
        "teacher": material.teacher.identity,
        "chunks": {split.value: content_id([c.id for c in chunks]) for split, chunks in material.chunks.items()},
        "interleave": cfg.model_dump(mode="json", exclude={"teacher", "rows", "heldout_rows", "rlmt_rows"}),
    }


def _places_only(cfg: InterleaveConfig, teacher: Teacher, drafts: Sequence[Draft], ledger: Ledger) -> list[ThoughtRow]:
    wanted = build.wanted(cfg)
    chosen: list[list[Place]] = [draft.places for draft in drafts]
    if isinstance(teacher, ChunkTeacher):
        chosen = [spaced(places, wanted.most, wanted.gap) for places in teacher.choose(drafts, 0)]
    rows = []
    for draft, places in zip(drafts, chosen, strict=True):
        if places:
            rows.append(row(draft.chunk, places))
        else:
            ledger.dropped[FEW_PLACES] += 1
    return rows


def _figures(found: Mapping[Split, tuple[dict[str, Interval], Ledger]], material: Material) -> Iterable[Measurement]:
    for split, (figures, ledger) in found.items():
        blank = Measurement(
            stage="interleave",
            arm=split.value,
            metric="",
            judge=material.teacher.name,
            value=0.0,
            n=0,
            unit="",
            subject=material.teacher.identity,
        )
        yield from measurements(figures, ledger, blank)


def _demand(split: Split, rows: Sequence[ThoughtRow], ledger: Ledger) -> None:
    if not rows:
        raise NoThoughtsError(
            f"no row of {split} is left: {json.dumps(ledger.plain())}. Take a stronger teacher, allow fewer thoughts "
            "(interleave.thoughts), a smaller interleave.gap, or longer chunks (chunk.prefix_tokens)"
        )


def _section(config: Config) -> InterleaveConfig:
    if config.interleave is None:
        raise NoThoughtsError("there is no [interleave] table in the config: add it, with [interleave.teacher]")
    return config.interleave


def _line(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items()) or "none"

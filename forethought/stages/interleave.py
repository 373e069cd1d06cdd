"""Stage 2, first half: a teacher supplies thoughts for raw chunks, whose text stays byte for byte as it is.

The `sft` split and held-out chunks get places and thoughts, the `rlmt` split places only (Tan et al. 2026,
arXiv 2601.21343, section 2).  The teacher's replies are cached: an interrupted stage asks for nothing twice.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from forethought.config import InterleaveConfig
from forethought.costs.base import REPLY, Cost, Phase, Setting, known, scored
from forethought.costs.judges import FRAME, written
from forethought.graph import Step
from forethought.records import Chunk, Measurement, Place, Split, ThoughtRow
from forethought.run.files import atomic_write
from forethought.run.progress import StageProgress
from forethought.run.store import SHARED, StageFolder
from forethought.stages.base import Stage, StageError, required
from forethought.stats import Interval
from forethought.thoughts.dataset import (
    FEW_PLACES,
    ThoughtCounts,
    augment,
    finished_row,
    make_row,
    measurements,
    statistics,
    usable,
)
from forethought.thoughts.export import FILES, card, parquet
from forethought.thoughts.places import by_surprise, candidates, spaced
from forethought.thoughts.teacher import ChunkTeacher, Draft, Teacher, build_teacher

BATCH = 16
AGAIN = 0.4
"""Share of the places for which a teacher is asked once more; an estimate for the plan."""
TOLD = 100
"""Tokens of a teacher's instructions behind the text, which are read once for each request; about."""


class NoThoughtsError(StageError):
    """A split of which no row is left."""


class Interleave(Stage):
    """Makes the rows of every split."""

    name = "interleave"

    @property
    def cfg(self) -> InterleaveConfig:
        return required(self.config.interleave)

    @cached_property
    def teacher(self) -> Teacher:
        return build_teacher(self.cfg, self.context.pool, self.context.run.path / "replies.sqlite")

    @property
    def counts(self) -> dict[Split, int | None]:
        """How many chunks of each split are tried at most; ``None`` is all."""
        counts = {Split.SFT: self.cfg.rows, Split.HELDOUT: self.cfg.heldout_rows, Split.RLMT: self.cfg.rlmt_rows}
        if not self.config.chunk.rlmt_share:
            del counts[Split.RLMT]
        return counts

    def depends_on(self) -> dict[str, Any]:
        # The numbers of rows are in the hashes of the chunks, and all of the teacher in its identity.
        left_out = {"teacher", "rows", "heldout_rows", "rlmt_rows"}
        return {
            "seed": self.config.seed,
            "dtype": self.config.dtype,
            "policy": self.context.base.identity,
            "teacher": self.teacher.identity,
            "chunks": {split.value: self.context.chunk_ids(split, count) for split, count in self.counts.items()},
            "interleave": self.cfg.model_dump(mode="json", exclude=left_out),
        }

    def run(self, folder: StageFolder) -> None:
        """Write a log and a parquet file of rows for every split, and the dataset card."""
        tags, config = self.context.tags, self.config
        chunks = {split: self.context.chunks(split)[:count] for split, count in self.counts.items()}
        made_of: dict[Split, tuple[dict[str, Interval], ThoughtCounts]] = {}
        total, done = sum(map(len, chunks.values())), 0
        with StageProgress(self.name) as progress:
            for split, some in chunks.items():
                counts, rows = ThoughtCounts(), list[ThoughtRow]()
                # After a kill rows are made again, from cached replies.
                folder.truncate(f"rows.{split}", lambda row: False)
                for start in range(0, len(some), BATCH):
                    batch = some[start : start + BATCH]
                    made = self.rows(batch, split, counts)
                    folder.append(f"rows.{split}", made)
                    rows += made
                    done += len(batch)
                    kept = f", {counts.accepted} of {counts.offered} thoughts kept" if counts.offered else ""
                    progress(done, total, f"{split}: {len(rows)} rows{kept}")
                if not rows:
                    raise NoThoughtsError(
                        f"no row of {split} is left: {json.dumps(counts.to_dict())}. Take a stronger teacher, allow "
                        "fewer thoughts (interleave.thoughts), a smaller interleave.gap, or longer chunks "
                        "(chunk.prefix_tokens)"
                    )
                made_of[split] = (statistics(rows, some, counts), counts)
                atomic_write(folder.path / FILES[split], parquet(rows, tags))
        atomic_write(folder.path / "README.md", card(config.name, self.teacher.name, tags, made_of))
        teacher = self.teacher
        blank = Measurement(
            stage=self.name, arm="", metric="", judge=teacher.name, value=0.0, n=0, unit="", subject=teacher.identity
        )
        self.context.measure(
            figure
            for split, (intervals, counts) in made_of.items()
            for figure in measurements(intervals, counts, dataclasses.replace(blank, arm=split.value))
        )
        by_split = {split.value: counts.to_dict() for split, (_, counts) in made_of.items()}
        inputs = {"chunks": self.context.identity(f"{SHARED}/chunk"), "policy": self.context.base.identity}
        folder.finish(inputs, {"ledgers": by_split})

    def rows(self, chunks: Sequence[Chunk], split: Split, counts: ThoughtCounts) -> list[ThoughtRow]:
        """Return the rows of a batch of chunks; those that give none are counted in ``counts``."""
        cfg, base = self.cfg, self.context.base
        drafts = []
        for chunk in chunks:
            places = candidates(chunk, base.tokenizer, cfg.gap, cfg.clauses)
            if usable(chunk, places, cfg, counts):
                drafts.append(Draft(chunk=chunk, places=places))
        if cfg.positions == "surprise":
            ranked = by_surprise([d.chunk for d in drafts], [d.places for d in drafts], base.scorer, base.bos)
            for draft, best in zip(drafts, ranked, strict=True):
                draft.places = spaced(best, cfg.thoughts[1], cfg.gap)
        # There the policy is to write the thoughts itself.
        if split is Split.RLMT:
            return self._places_only(drafts, counts)
        augment(drafts, self.teacher, cfg, counts)
        return [made for draft in drafts if (made := finished_row(draft, cfg, counts)) is not None]

    @classmethod
    def cost(cls, at: Setting, step: Step) -> list[Phase]:
        cfg = required(at.config.interleave)
        rows = None if cfg.rows is None else cfg.rows + cfg.heldout_rows
        amount = f"up to {cfg.thoughts[1]} thoughts for {'every chunk' if rows is None else f'{rows:,} chunks'}"
        return [Phase(name="interleave", amount=amount, cost=known(lambda: thoughts(at, cfg)))]

    def report(self, folder: StageFolder) -> list[str]:
        lines = []
        for split, counts in (folder.manifest() or {})["summary"]["ledgers"].items():
            line = f"{split}: {counts['chunks']} chunks, left out: {_line(counts['dropped'])}"
            if counts["offered"]:
                line += f"; thoughts: {counts['accepted']} of {counts['offered']} kept"
                line += f", rejected: {_line(counts['rejected'])}"
            lines.append(line)
        return lines

    def _places_only(self, drafts: Sequence[Draft], counts: ThoughtCounts) -> list[ThoughtRow]:
        cfg, teacher = self.cfg, self.teacher
        chosen: list[list[Place]] = [draft.places for draft in drafts]
        if isinstance(teacher, ChunkTeacher):
            chosen = [spaced(places, cfg.thoughts[1], cfg.gap) for places in teacher.choose(drafts, 0)]
        rows = []
        for draft, places in zip(drafts, chosen, strict=True):
            if places:
                rows.append(make_row(draft.chunk, places))
            else:
                counts.dropped[FEW_PLACES] += 1
        return rows


def thoughts(at: Setting, cfg: InterleaveConfig) -> Cost:
    share, improve = at.config.chunk, at.config.improve
    chunks = at.chunks(share.sft_share, cfg.rows) + at.heldout(cfg.heldout_rows)
    placed = chunks + (at.chunks(share.rlmt_share, cfg.rlmt_rows) if share.rlmt_share else 0)
    total = Cost()
    if cfg.positions == "surprise":
        total = scored(at.policy, placed, 1, at.chunk - 1, improve.micro_tokens)
    if cfg.teacher.kind == "stand-in":
        return total
    by_chunk = cfg.positions == "teacher"
    each = 1 if by_chunk else cfg.thoughts[1]
    reply = REPLY * cfg.teacher.max_tokens * (cfg.thoughts[1] if by_chunk else 1)
    sizes = TOLD + FRAME + at.chunk, reply
    asked, rows = each * (placed if by_chunk else chunks), min(improve.sample_rows, BATCH * each)
    once = written(at, "thought teacher", cfg.teacher, asked, sizes, rows)
    few = max(1, round(min(improve.sample_rows, AGAIN * BATCH * each)))
    again = written(at, "thought teacher", cfg.teacher, AGAIN * asked, sizes, few)
    return total + once + again.times(cfg.teacher.retries)


def _line(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items()) or "none"


STAGE = Interleave

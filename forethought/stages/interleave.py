"""Stage 2, first half: a teacher supplies thoughts for raw chunks, whose text stays byte for byte as it is.

The `sft` split and held-out chunks get places and thoughts, the `rlmt` split places only (Tan et al. 2026,
arXiv 2601.21343, section 2).  Of held-out chunks the places that were offered are kept, too: windows are cut there.
The teacher's replies are cached: an interrupted stage asks for nothing twice.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from forethought.config import InterleaveConfig
from forethought.costs.base import REPLY, Cost, Phase, Setting, known, scored
from forethought.costs.judges import FRAME, written
from forethought.graph import Step
from forethought.metrics import ROWS
from forethought.records import Chunk, Measurement, Place, Split, ThoughtRow
from forethought.run.files import atomic_write
from forethought.run.progress import StageProgress
from forethought.run.store import SHARED, StageFolder
from forethought.stages.base import OFFERED, Stage, StageError, required
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
GIVES_ROW = 0.75
"""Share of the chunks that give a row, an estimate for the plan; 76% to 95% did with a teacher of 1.5B weights."""


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
        """How many rows of each split are wanted; ``None`` is all that its chunks give."""
        counts = {Split.SFT: self.cfg.rows, Split.HELDOUT: self.cfg.heldout_rows, Split.RLMT: self.cfg.rlmt_rows}
        if not self.config.chunk.rlmt_share:
            del counts[Split.RLMT]
        return counts

    def limit(self, split: Split) -> int | None:
        """Return how many chunks of a split are tried at most; ``None`` is all.

        A row is what passed every check, so more chunks are tried than rows are wanted; how many, only the teacher
        shows.  Without a limit one that never keeps to the format would be asked about the whole corpus.
        """
        wanted = self.counts[split]
        return None if wanted is None else wanted * self.cfg.max_tries

    def depends_on(self) -> dict[str, Any]:
        return {
            "seed": self.config.seed,
            "dtype": self.config.dtype,
            "policy": self.context.base.identity,
            "teacher": self.teacher.identity,
            # Every chunk that may be tried.
            "chunks": {split.value: self.context.chunk_ids(split, self.limit(split)) for split in self.counts},
            # All of the teacher is in its identity, and the limit in the chunks.
            "interleave": self.cfg.model_dump(mode="json", exclude={"teacher", "max_tries"}),
        }

    def run(self, folder: StageFolder) -> None:
        """Write a log and a parquet file of rows for every split, and the dataset card."""
        tags, config = self.context.tags, self.config
        made_of: dict[Split, tuple[dict[str, Interval], ThoughtCounts]] = {}
        most = {split: self._most(split) for split in self.counts}
        done, total = 0, sum(most.values())
        with StageProgress(self.name) as progress:
            for split in self.counts:
                said = partial(self._said, progress, split, done, total)
                rows, counts = self._split(folder, split, said)
                done += most[split]
                if not rows:
                    raise NoThoughtsError(
                        f"no row of {split} is left: {json.dumps(counts.to_dict())}. Take a stronger teacher, allow "
                        "fewer thoughts (interleave.thoughts), a smaller interleave.gap, or longer chunks "
                        "(chunk.prefix_tokens)"
                    )
                made_of[split] = (statistics(rows, self.context.chunks(split), counts), counts)
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
        kept = {split.value: int(intervals[ROWS].value) for split, (intervals, _) in made_of.items()}
        inputs = {"chunks": self.context.identity(f"{SHARED}/chunk"), "policy": self.context.base.identity}
        folder.finish(inputs, {"ledgers": by_split, "rows": kept})

    def _split(
        self, folder: StageFolder, split: Split, said: Callable[[int, ThoughtCounts], None]
    ) -> tuple[list[ThoughtRow], ThoughtCounts]:
        """Return the rows of a split and what became of its chunks: they are tried in order until enough are kept."""
        chunks, wanted = self.context.chunks(split)[: self.limit(split)], self.counts[split]
        counts, rows, start = ThoughtCounts(), list[ThoughtRow](), 0
        # After a kill rows are made again, from cached replies.
        for log in (f"rows.{split}", *([OFFERED] if split is Split.HELDOUT else [])):
            folder.clear(log)
        while start < len(chunks) and (wanted is None or len(rows) < wanted):
            # A chunk gives one row at most: no more are asked about than rows are missing.
            size = BATCH if wanted is None else min(BATCH, wanted - len(rows))
            drafts = self.drafts(chunks[start : start + size], counts)
            if split is Split.HELDOUT:
                folder.append(OFFERED, self._places_only(drafts, ThoughtCounts()))
            made = self.rows(drafts, split, counts)
            folder.append(f"rows.{split}", made)
            rows, start = rows + made, start + size
            said(len(rows), counts)
        return rows, counts

    def _most(self, split: Split) -> int:
        """Return how many rows a split can give at most."""
        wanted, there = self.counts[split], len(self.context.chunks(split))
        return there if wanted is None else min(wanted, there)

    def _said(
        self, progress: StageProgress, split: Split, before: int, total: int, rows: int, counts: ThoughtCounts
    ) -> None:
        done = counts.chunks if self.counts[split] is None else rows
        kept = f", {counts.accepted} of {counts.offered} thoughts kept" if counts.offered else ""
        progress(before + done, total, f"{split}: {rows} rows of {counts.chunks} chunks{kept}")

    def drafts(self, chunks: Sequence[Chunk], counts: ThoughtCounts) -> list[Draft]:
        """Return a batch of chunks with the places that are offered; those that give none are counted in ``counts``."""
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
        return drafts

    def rows(self, drafts: Sequence[Draft], split: Split, counts: ThoughtCounts) -> list[ThoughtRow]:
        """Return the rows of a batch of drafts; those that give none are counted in ``counts``."""
        # There the policy is to write the thoughts itself.
        if split is Split.RLMT:
            return self._places_only(drafts, counts)
        augment(drafts, self.teacher, self.cfg, counts)
        return [made for draft in drafts if (made := finished_row(draft, self.cfg, counts)) is not None]

    @classmethod
    def cost(cls, at: Setting, step: Step) -> list[Phase]:
        cfg = required(at.config.interleave)
        rows = "every chunk" if cfg.rows is None else f"{cfg.rows + cfg.heldout_rows:,} rows"
        limit = "" if cfg.rows is None else f", of at most {cfg.max_tries} times as many chunks"
        amount = f"up to {cfg.thoughts[1]} thoughts for {rows}{limit}"
        return [Phase(name="interleave", amount=amount, cost=known(lambda: thoughts(at, cfg)))]

    def report(self, folder: StageFolder) -> list[str]:
        lines, summary = [], (folder.manifest() or {})["summary"]
        for split, counts in summary["ledgers"].items():
            rows, wanted = summary["rows"][split], self.counts[Split(split)]
            # Fewer than were wanted is said: training then goes through them more than once.
            asked = f" of {wanted} wanted" if wanted is not None and rows < wanted else ""
            line = f"{split}: {rows} rows{asked} from {counts['chunks']} chunks, left out: {_line(counts['dropped'])}"
            if counts["offered"]:
                line += f"; thoughts: {counts['accepted']} of {counts['offered']} kept"
                line += f", rejected: {_line(counts['rejected'])}"
            lines.append(line)
        return lines

    def _places_only(self, drafts: Sequence[Draft], counts: ThoughtCounts) -> list[ThoughtRow]:
        """Return the places where a thought may stand: those of most surprise, or those that the teacher names."""
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

    def tried(of: float, rows: int | None) -> float:
        """Return about how many chunks are tried until so many rows are kept."""
        return at.chunks(of, None if rows is None else math.ceil(rows * min(1 / GIVES_ROW, cfg.max_tries)))

    heldout = tried(share.heldout_share, cfg.heldout_rows)
    chunks = tried(share.sft_share, cfg.rows) + heldout
    # Nearly every chunk has places: of those nothing is checked.
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
    # A teacher that names places is asked for them of held-out chunks, too, besides for thoughts.
    named = placed + heldout
    asked, rows = each * (named if by_chunk else chunks), min(improve.sample_rows, BATCH * each)
    once = written(at, "thought teacher", cfg.teacher, asked, sizes, rows)
    few = max(1, round(min(improve.sample_rows, AGAIN * BATCH * each)))
    again = written(at, "thought teacher", cfg.teacher, AGAIN * asked, sizes, few)
    return total + once + again.times(cfg.teacher.retries)


def _line(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items()) or "none"


STAGE = Interleave

"""The first stage: a corpus becomes chunks, one log per split."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PreTrainedTokenizerFast

from forethought.corpus.chunker import chunks
from forethought.corpus.sources import documents
from forethought.costs.base import Cost, Phase, Setting
from forethought.costs.corpus import reading_seconds
from forethought.graph import Step
from forethought.keys import Key
from forethought.records import Chunk, Document, Split, content_id
from forethought.run.progress import StageProgress
from forethought.run.store import StageFolder
from forethought.stages.base import Stage, StageError

log = logging.getLogger(__name__)

BATCH = 1000


class EmptySplitError(StageError):
    """A split that should have documents has no chunk."""


class ChunkStage(Stage):
    """Cuts the corpus; documents, not chunks, are split."""

    name = "chunk"

    def depends_on(self) -> dict[str, Any]:
        policy = self.config.policy
        return {
            "seed": self.config.seed,
            "policy": {"model": policy.model, "revision": policy.revision},
            "corpus": self.config.corpus.model_dump(mode="json"),
            "chunk": self.config.chunk.model_dump(mode="json"),
        }

    def run(self, folder: StageFolder) -> None:
        """Write ``chunks.<split>.jsonl``; what a killed process left is discarded."""
        depends_on = self.depends_on()
        folder.reset()
        folder.write_config(depends_on)
        rows: Counter[str] = Counter()
        places: Counter[str] = Counter()
        splits = {split.value: Counter[str](documents=0, chunks=0, prefix_tokens=0, suffix_tokens=0) for split in Split}
        corpus = hashlib.sha256()
        pending: list[Chunk] = []
        with StageProgress(self.name) as progress:
            for document, made in self.cut(rows, places):
                # Of every document that was read, also of one that gives no chunk.
                corpus.update(document.id.encode())
                if made:
                    counts = splits[made[0].split]
                    counts["documents"] += 1
                    counts["chunks"] += len(made)
                    counts["prefix_tokens"] += sum(len(chunk.prefix_ids) for chunk in made)
                    counts["suffix_tokens"] += sum(len(chunk.suffix_ids) for chunk in made)
                pending += made
                if len(pending) >= BATCH:
                    _write(folder, pending)
                    pending = []
                note = f"{sum(counts['chunks'] for counts in splits.values()):,} chunks"
                progress(rows["kept"], self.config.corpus.max_documents or 0, note)
        _write(folder, pending)
        summary = {"documents": dict(rows), "places": dict(places), "splits": {k: dict(v) for k, v in splits.items()}}
        # Before the manifest: a stage without chunks is not done.
        self._check_splits(summary)
        log.info("chunks: %s", summary)
        folder.finish({"tokenizer": tokenizer_hash(self.context.tokenizer), "corpus": corpus.hexdigest()}, summary)

    def cut(self, rows: Counter[str], places: Counter[str]) -> Iterator[tuple[Document, list[Chunk]]]:
        """Yield each document with its chunks; ``rows`` and ``places`` count what was read and what gave no chunk."""
        key = Key(seed=self.config.seed, purpose="chunk")
        for document in documents(self.config.corpus, rows):
            yield document, chunks(document, self.context.tokenizer, self.config.chunk, key, places)

    @classmethod
    def cost(cls, at: Setting, step: Step) -> list[Phase]:
        seconds = reading_seconds(at.config.corpus)
        return [Phase(name="chunk", amount="the text, once", cost=None if seconds is None else Cost(seconds=seconds))]

    def report(self, folder: StageFolder) -> list[str]:
        summary = (folder.manifest() or {})["summary"]
        counts = {split: f"{row['chunks']} of {row['documents']} documents" for split, row in summary["splits"].items()}
        return [
            f"documents: {_line(summary['documents'])}",
            f"places that gave no chunk: {_line(summary['places'])}",
            f"chunks: {_line(counts)}",
        ]

    def _check_splits(self, summary: dict[str, Any]) -> None:
        config = self.config.chunk
        shares = {Split.SFT: config.sft_share, Split.RLMT: config.rlmt_share, Split.HELDOUT: config.heldout_share}
        # Rounded: 1 - 0.7 - 0.3 is not 0, and would ask for chunks of a split without a share.
        shares[Split.IMPROVE] = round(1 - sum(shares.values()), 9)
        empty = [split for split, share in shares.items() if share and not summary["splits"][split]["chunks"]]
        if empty:
            inexact = summary["places"].get("inexact_tokens", 0)
            hint = (
                "The policy's tokenizer does not give its text back (inexact_tokens): use another. " if inexact else ""
            )
            names = " and ".join(f"{split} (share {shares[split]:g})" for split in empty)
            raise EmptySplitError(
                f"no chunk for {names}. Documents: {_line(summary['documents'])}. Places: {_line(summary['places'])}. "
                f"Chunks: {_line({split: counts['chunks'] for split, counts in summary['splits'].items()})}. "
                f"{hint}Read more documents (corpus.max_documents), ask for shorter chunks (chunk.prefix_tokens, "
                "chunk.suffix_tokens), or give the split no share (chunk.sft_share = 0, ...)"
            )


def tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return a content hash of the whole tokenizer: vocabulary, merges and rules."""
    return content_id(tokenizer.backend_tokenizer.to_str())


def _write(folder: StageFolder, pending: list[Chunk]) -> None:
    for split in Split:
        folder.append(f"chunks.{split}", [chunk for chunk in pending if chunk.split is split])


def _line(counts: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "nothing to report"


STAGE = ChunkStage

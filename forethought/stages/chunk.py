"""The first stage: a corpus becomes chunks, one log per split."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

from forethought.config import ChunkConfig, Config
from forethought.corpus.chunker import chunks
from forethought.corpus.sources import documents
from forethought.keys import Key
from forethought.progress import Progress, silent
from forethought.records import Chunk, Document, Split, content_id
from forethought.store import StageFolder, StoreError

log = logging.getLogger(__name__)

_BATCH = 1000
"""Chunks that are written at once."""


class EmptySplitError(ValueError):
    """A split that should have documents has no chunk."""


def run(
    config: Config, folder: StageFolder, tokenizer: PreTrainedTokenizerFast, progress: Progress = silent
) -> dict[str, Any]:
    """Cut the corpus into chunks and return the summary: counts of documents, of skipped places, and per split.

    Writes ``chunks.<split>.jsonl`` and the manifest.  A finished stage is not run again; what a killed one
    left is discarded.

    Raises:
        CorpusError: if the corpus cannot be read, or nothing is left of it.
        EmptySplitError: if a split with a share of the documents has no chunk.
        StoreError: if the folder holds chunks of another config or another tokenizer.
    """
    inputs = {"tokenizer": tokenizer_hash(tokenizer)}
    manifest = folder.manifest()
    if manifest is None:
        folder.reset()
    folder.write_config(stage_config(config))
    if manifest is not None:
        if manifest["inputs"]["tokenizer"] != inputs["tokenizer"]:
            raise StoreError(f"{folder.path} was made with another tokenizer. Start it over, or choose another --run")
        summary: dict[str, Any] = manifest["summary"]
        return summary

    rows: Counter[str] = Counter()
    places: Counter[str] = Counter()
    splits = {split.value: Counter[str](documents=0, chunks=0, prefix_tokens=0, suffix_tokens=0) for split in Split}
    corpus = hashlib.sha256()
    pending: list[Chunk] = []
    for document, found in _cut(config, tokenizer, rows, places):
        corpus.update(document.id.encode())
        if found:
            _count(splits[found[0].split], found)
        pending += found
        if len(pending) >= _BATCH:
            _write(folder, pending)
            pending = []
        note = f"{sum(counts['chunks'] for counts in splits.values()):,} chunks"
        progress(rows["kept"], config.corpus.max_documents, note)
    _write(folder, pending)
    summary = {"documents": dict(rows), "places": dict(places), "splits": {k: dict(v) for k, v in splits.items()}}
    _check_splits(config.chunk, summary)
    log.info("chunks: %s", summary)
    folder.finish({**inputs, "corpus": corpus.hexdigest()}, summary)
    return summary


def load_chunks(folder: StageFolder, split: Split) -> list[Chunk]:
    """Return the chunks of a split, in the order of the corpus.

    Raises:
        StoreError: if the stage is not done.
    """
    if folder.manifest() is None:
        raise StoreError(f"{folder.path}: no finished chunks here. Run `forethought chunk CONFIG` first")
    return folder.load(f"chunks.{split}", Chunk)


def spread(chunks: Sequence[Chunk], key: Key) -> list[Chunk]:
    """Return ``chunks`` in a keyed order that takes one of every document before a second of any.

    The first n of them are then a fair sample, and independent as long as there are n documents.
    """
    by_document: dict[str, list[Chunk]] = {}
    for chunk in chunks:
        by_document.setdefault(chunk.document_id, []).append(chunk)
    rows = []
    for document, found in by_document.items():
        place = float(key.uniforms(document, 0, 1)[0])
        order = key.generator(document, 1).permutation(len(found))
        rows += [(turn, place, found[index]) for turn, index in enumerate(order)]
    return [chunk for _, _, chunk in sorted(rows, key=lambda row: row[:2])]


def stage_config(config: Config) -> dict[str, Any]:
    """Return the part of the config on which chunks depend: other changes do not make them stale."""
    policy = {"model": config.policy.model, "revision": config.policy.revision}
    corpus, chunk = config.corpus.model_dump(mode="json"), config.chunk.model_dump(mode="json")
    return {"seed": config.seed, "policy": policy, "corpus": corpus, "chunk": chunk}


def tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return a content hash of the whole tokenizer: vocabulary, merges and rules."""
    return content_id(tokenizer.backend_tokenizer.to_str())


def describe(summary: dict[str, Any]) -> list[str]:
    """Return what was read, skipped and made, a line each."""
    chunks = {
        split: f"{counts['chunks']} of {counts['documents']} documents" for split, counts in summary["splits"].items()
    }
    return [
        f"documents: {_line(summary['documents'])}",
        f"places that gave no chunk: {_line(summary['places'])}",
        f"chunks: {_line(chunks)}",
    ]


def _cut(
    config: Config, tokenizer: PreTrainedTokenizerFast, rows: Counter[str], places: Counter[str]
) -> Iterator[tuple[Document, list[Chunk]]]:
    key = Key(seed=config.seed, purpose="chunk")
    for document in documents(config.corpus, rows):
        yield document, chunks(document, tokenizer, config.chunk, key, places)


def _count(counts: Counter[str], found: list[Chunk]) -> None:
    counts["documents"] += 1
    counts["chunks"] += len(found)
    counts["prefix_tokens"] += sum(len(chunk.prefix_ids) for chunk in found)
    counts["suffix_tokens"] += sum(len(chunk.suffix_ids) for chunk in found)


def _write(folder: StageFolder, pending: list[Chunk]) -> None:
    for split in Split:
        folder.append(f"chunks.{split}", [chunk for chunk in pending if chunk.split is split])


def _check_splits(config: ChunkConfig, summary: dict[str, Any]) -> None:
    shares = {
        Split.SFT: config.sft_share,
        Split.RLMT: config.rlmt_share,
        Split.HELDOUT: config.heldout_share,
    }
    shares[Split.IMPROVE] = round(1 - sum(shares.values()), 9)
    empty = [split for split, share in shares.items() if share and not summary["splits"][split]["chunks"]]
    if empty:
        inexact = summary["places"].get("inexact_tokens", 0)
        hint = "The policy's tokenizer does not give its text back (inexact_tokens): use another. " if inexact else ""
        names = " and ".join(f"{split} (share {shares[split]:g})" for split in empty)
        raise EmptySplitError(
            f"no chunk for {names}. Documents: {_line(summary['documents'])}. Places: {_line(summary['places'])}. "
            f"Chunks: {_line({split: counts['chunks'] for split, counts in summary['splits'].items()})}. "
            f"{hint}Read more documents (corpus.max_documents), ask for shorter chunks (chunk.prefix_tokens, "
            "chunk.suffix_tokens), or give the split no share (chunk.sft_share = 0, ...)"
        )


def _line(counts: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "nothing to report"

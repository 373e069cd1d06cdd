"""How much text there is, without reading it."""

from __future__ import annotations

import glob
from pathlib import Path

from forethought.config import Config, CorpusConfig
from forethought.config.shipped import text_file

BUNDLED_CHUNKS, BUNDLED_DOCUMENTS, BUNDLED_LENGTH = 9_260, 9_236, 176
"""What the bundled text gives: so many chunks of so many documents, with chunks of at most so many tokens."""
BUNDLED_SECONDS = 8.0
"""Seconds that reading and cutting it takes on two cores."""
BYTES_PER_SECOND = 4e6
"""The same for other files."""
BYTES_PER_TOKEN, BYTES_OF_BYTES = 4.5, 512
"""English text under an ordinary tokenizer; one with fewer tokens than this reads bytes."""


def chunk_count(config: Config, vocabulary: int) -> float | None:
    """Return about how many chunks a corpus gives; ``None`` for text that is not here.

    Args:
        config: the whole config.
        vocabulary: tokens that the policy's tokenizer knows.
    """
    corpus, cfg = config.corpus, config.chunk
    longest = cfg.prefix_tokens[1] + cfg.suffix_tokens
    documents = corpus.max_documents
    if corpus.source == "bundled":
        kept = min(BUNDLED_DOCUMENTS, documents or BUNDLED_DOCUMENTS)
        most = BUNDLED_CHUNKS * kept / BUNDLED_DOCUMENTS * max(1.0, BUNDLED_LENGTH / longest)
        return min(most, kept * cfg.chunks_per_document) if cfg.chunks_per_document else most
    size = corpus_bytes(corpus)
    if size is None:
        return None
    tokens = size / (1.0 if vocabulary < BYTES_OF_BYTES else BYTES_PER_TOKEN)
    return max(1.0, tokens / longest)


def reading_seconds(corpus: CorpusConfig) -> float | None:
    """Return about how long reading and cutting takes; ``None`` for text that is not here."""
    if corpus.source == "bundled":
        return BUNDLED_SECONDS * min(BUNDLED_DOCUMENTS, corpus.max_documents or BUNDLED_DOCUMENTS) / BUNDLED_DOCUMENTS
    size = corpus_bytes(corpus)
    return None if size is None else 0.5 + size / BYTES_PER_SECOND


def corpus_bytes(corpus: CorpusConfig) -> int | None:
    """Return the bytes of a corpus's files; ``None`` for a hub data set and for files that are not there."""
    if corpus.source in ("bundled", "hub"):
        return None
    shipped = text_file(corpus.path)
    path = shipped or Path(corpus.path).expanduser()
    if path.is_dir():
        files = [one for one in path.rglob("*") if one.is_file()]
    else:
        files = [path] if path.is_file() else [Path(name) for name in glob.glob(str(path), recursive=True)]
    return sum(one.stat().st_size for one in files if one.is_file()) or None

"""How much text there is, without reading it."""

from __future__ import annotations

from pathlib import Path

from forethought.config import Config, CorpusConfig
from forethought.corpus.find import find
from forethought.corpus.rows import CorpusError

BUNDLED_CHUNKS, BUNDLED_DOCUMENTS, BUNDLED_LENGTH = 9_260, 9_236, 176
"""What the bundled text gives: chunks, documents, and the longest chunk in tokens for which that holds."""
BUNDLED_SECONDS, BYTES_PER_SECOND = 8.0, 4e6
"""Seconds that reading and cutting it takes on two cores, and bytes of other files a second."""
BYTES_PER_TOKEN, BYTES_OF_BYTES = 4.5, 512
"""English text under an ordinary tokenizer; one with fewer tokens than this reads bytes."""


def chunk_count(config: Config, vocabulary: int) -> float | None:
    """Return about how many chunks a corpus gives a policy of that vocabulary; ``None`` for text that is not here."""
    corpus, cfg = config.corpus, config.chunk
    longest = cfg.prefix_tokens[1] + cfg.suffix_tokens
    if corpus.source == "bundled":
        documents = min(BUNDLED_DOCUMENTS, corpus.max_documents or BUNDLED_DOCUMENTS)
        most = BUNDLED_CHUNKS * documents / BUNDLED_DOCUMENTS * max(1.0, BUNDLED_LENGTH / longest)
        return min(most, documents * cfg.chunks_per_document) if cfg.chunks_per_document else most
    size = corpus_bytes(corpus)
    if size is None:
        return None
    return max(1.0, size / (1.0 if vocabulary < BYTES_OF_BYTES else BYTES_PER_TOKEN) / longest)


def reading_seconds(corpus: CorpusConfig) -> float | None:
    if corpus.source == "bundled":
        return BUNDLED_SECONDS * min(BUNDLED_DOCUMENTS, corpus.max_documents or BUNDLED_DOCUMENTS) / BUNDLED_DOCUMENTS
    size = corpus_bytes(corpus)
    return None if size is None else 0.5 + size / BYTES_PER_SECOND


def corpus_bytes(corpus: CorpusConfig) -> int | None:
    """Return the bytes of a corpus's files; ``None`` for a hub data set and for files that are not there."""
    if corpus.source == "hub":
        return None
    try:
        return sum(Path(file).stat().st_size for file in find(corpus.path, ("",))) or None
    except CorpusError:
        return None

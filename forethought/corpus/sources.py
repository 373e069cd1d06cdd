"""Documents from installed packages, a hub data set, parquet, JSON lines or text files, read lazily.

A row that cannot be used is counted with the reason; a file that cannot be used is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from forethought.config import CorpusConfig
from forethought.corpus import files
from forethought.corpus.filters import fingerprint, rejection, title_key
from forethought.corpus.rows import CorpusError, Row
from forethought.offline import INSTALL, offline
from forethought.records import Document, content_id

__all__ = ["CorpusError", "documents"]


def documents(config: CorpusConfig, counts: Counter[str]) -> Iterator[Document]:
    """Yield the documents of a corpus that pass the filters, without duplicates.

    ``counts`` gets ``read`` (rows seen), ``kept``, ``shortened`` (kept, but cut at ``max_characters``),
    ``paragraphs_with_holes`` (bundled articles), ``hidden`` (files and folders left out) and one count per
    reason to skip a row: those of :func:`rejection`, ``duplicate``, ``hole``, ``not_a_string``, ``bad_utf8``,
    ``bad_json``, ``missing_column``.  ``read`` is ``kept`` plus these.

    Raises:
        CorpusError: if something is missing or broken, or if no document is left in the end.
    """
    seen: set[bytes] = set()
    for row in _rows(config, counts):
        counts["read"] += 1
        if isinstance(row.text, str):
            text = row.text[: config.max_characters]
            reason = row.defect or rejection(text, config)
        else:
            reason = row.defect or "not_a_string"
        if reason is None:
            digest = fingerprint(text)
            reason = "duplicate" if digest in seen else None
            seen.add(digest)
        if reason is not None:
            counts[reason] += 1
            continue
        counts["kept"] += 1
        counts["shortened"] += len(text) < len(str(row.text))
        identity = content_id(text)
        titled = row.title is not None and str(row.title).strip()
        # Texts with one title go to one split: they may share passages.
        key = title_key(str(row.title)) if titled else identity
        yield Document(id=identity, text=text, source=row.source, split_key=key)
        if counts["kept"] == config.max_documents:
            return
    if not counts["kept"]:
        summary = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items()) if count) or "nothing"
        raise CorpusError(
            f"corpus {config.path or config.source}: no usable document. Found: {summary}. "
            "Check corpus.path and corpus.text_column, or lower corpus.min_characters"
        )


def _rows(config: CorpusConfig, counts: Counter[str]) -> Iterator[Row]:
    match config.source:
        case "bundled":
            extra = offline()
            if extra is None:
                raise CorpusError(f'corpus.source = "bundled" reads text that installs as Python packages: {INSTALL}')
            rows: Iterator[Row] = extra.rows(counts)
            return rows
        case "hub":
            return _hub_rows(config)
        case "parquet":
            return files.parquet_rows(config, counts)
        case "jsonl":
            return files.jsonl_rows(config, counts)
        case "text":
            return files.text_rows(config, counts)


def _hub_rows(config: CorpusConfig) -> Iterator[Row]:
    try:
        import datasets
    except ImportError:
        raise CorpusError('corpus.source = "hub" needs the package datasets: pip install "forethought[hub]"') from None
    import httpx

    where = f"hub data set {config.path or '(corpus.path is empty)'}"
    try:
        stream = datasets.load_dataset(
            config.path, name=config.config_name, split=config.hub_split, revision=config.revision, streaming=True
        )
        for entry in stream:
            row = files.pick(entry, config, config.path)
            if row.defect == "missing_column":
                raise CorpusError(files.no_column(where, config, entry))
            yield row
    except CorpusError:
        raise
    except (OSError, ValueError, datasets.exceptions.DatasetsError, httpx.HTTPError) as error:
        asked = f"configuration {config.config_name}, split {config.hub_split}, revision {config.revision}"
        raise CorpusError(f"{where} ({asked}): {error}") from error

"""Rows from local files: parquet, JSON lines (plain, gzip, zstandard) and text."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from forethought.config import CorpusConfig
from forethought.corpus.find import find
from forethought.corpus.rows import CorpusError, Row

_JSONL = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".json.zst", ".ndjson")
_TEXTS = {
    (pa.string(), pa.binary()): pa.binary(),
    (pa.large_string(), pa.large_binary(), pa.string_view(), pa.binary_view()): pa.large_binary(),
}
"""Arrow's types of text, and of bytes that may be text, with what they are cast to."""
_BLOCK = 1 << 20
_PATIENCE = 100
"""If the first rows of a JSON lines file, this many, all lack the column, the file is an error and not skipped."""


def parquet_rows(config: CorpusConfig, counts: Counter[str]) -> Iterator[Row]:
    """Yield the rows of parquet files; one batch is in memory at a time."""
    for path in find(config.path, (".parquet",), counts):
        try:
            with pq.ParquetFile(path) as table:
                yield from _table_rows(table, config, path)
        except (pa.ArrowException, OSError) as error:
            raise CorpusError(f"{path}: broken parquet: {error}. Download or write it again") from error


def jsonl_rows(config: CorpusConfig, counts: Counter[str]) -> Iterator[Row]:
    for path in find(config.path, _JSONL, counts):
        lines = good = 0
        columns: dict[str, None] = {}
        for line in filter(bytes.strip, _lines(path)):
            lines += 1
            entry, defect = _parse(line)
            if entry is None:
                yield Row(None, None, _name(path), defect)
                continue
            row = pick(entry, config, _name(path))
            columns.update(dict.fromkeys(entry))
            good += row.defect is None
            # A wrong column shows early: gigabytes need not be read for it.
            if not good and lines >= _PATIENCE:
                break
            yield row
        if lines and not columns:
            raise CorpusError(f"{path}: none of its {lines} lines is a JSON object in UTF-8; write one object per line")
        if lines and not good:
            raise CorpusError(no_column(str(path), config, columns))


def text_rows(config: CorpusConfig, counts: Counter[str]) -> Iterator[Row]:
    for path in find(config.path, (".txt", ".md"), counts):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise CorpusError(f"{path}: could not read it: {error.strerror or error}") from error
        text, defect = _decode(content)
        yield Row(text, None, _name(path), defect)


def pick(entry: Mapping[str, Any], config: CorpusConfig, source: str) -> Row:
    """Return the row of a mapping; its defect is ``missing_column`` if it lacks the text or the title column."""
    if any(column not in entry for column in _columns(config)):
        return Row(None, None, source, "missing_column")
    return Row(entry[config.text_column], entry[config.title_column] if config.title_column else None, source)


def no_column(where: str, config: CorpusConfig, columns: Iterable[str]) -> str:
    wanted = {"text_column": config.text_column, "title_column": config.title_column}
    names = sorted(columns)
    missing = " and ".join(f"corpus.{key} = {name!r}" for key, name in wanted.items() if name and name not in names)
    return f"{where}: no such column: {missing}. It has: {', '.join(names) or 'none'}"


def _columns(config: CorpusConfig) -> list[str]:
    return [config.text_column] + ([config.title_column] if config.title_column else [])


def _table_rows(table: Any, config: CorpusConfig, path: Path) -> Iterator[Row]:
    columns = _columns(config)
    schema = table.schema_arrow
    if any(column not in schema.names for column in columns):
        raise CorpusError(no_column(str(path), config, schema.names))
    for column in columns:
        if schema.names.count(column) > 1:
            raise CorpusError(
                f"{path}: {schema.names.count(column)} columns are called {column!r}, and nothing says which is meant. "
                "Rename all but one"
            )
    for batch in table.iter_batches(batch_size=1024, columns=columns):
        texts = _raw(batch.column(config.text_column))
        if texts is None:
            kind = schema.field(config.text_column).type
            raise CorpusError(f"{path}: column {config.text_column!r} holds {kind}, not text. Check corpus.text_column")
        titles: list[Any] = [None] * len(texts)
        if config.title_column:
            column = batch.column(config.title_column)
            titles = _raw(column) or column.to_pylist()
        for text, title in zip(texts, titles, strict=True):
            value, defect = (None, None) if text is None else _decode(text)
            yield Row(
                value, title.decode("utf-8", "replace") if isinstance(title, bytes) else title, _name(path), defect
            )


def _raw(column: Any) -> Any:
    """Return the bytes of a text column, or ``None`` for other columns; arrow's own decoding stops at invalid UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type):  # a file in which every text is missing
        return [None] * len(column)
    for texts, plain in _TEXTS.items():
        if column.type in texts:
            return column.cast(plain).to_pylist()
    return None


def _name(path: Path) -> str:
    """Return a file's name as text: a name may be any bytes, and records are UTF-8."""
    return os.fsencode(path.name).decode("utf-8", "replace")


def _decode(content: bytes) -> tuple[str | None, str | None]:
    try:
        # A byte order mark is no text.
        return content.decode("utf-8-sig"), None
    except UnicodeDecodeError:
        return None, "bad_utf8"


def _parse(line: bytes) -> tuple[dict[str, Any] | None, str | None]:
    text, defect = _decode(line)
    if text is None:
        return None, defect
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None, "bad_json"
    return (entry, None) if isinstance(entry, dict) else (None, "bad_json")


def _lines(path: Path) -> Iterator[bytes]:
    name = path.name.lower()
    try:
        if name.endswith(".zst"):
            yield from _split(_zst_blocks(path))
        else:
            with gzip.open(path) if name.endswith(".gz") else open(path, "rb") as handle:
                yield from handle
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise CorpusError(f"{path}: could not read it to its end: {error}. Download or write it again") from error


def _zst_blocks(path: Path) -> Iterator[bytes]:
    """Decompress frame by frame: zstandard's own reader does not notice a truncated file."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    frame = None
    with open(path, "rb") as handle:
        while data := handle.read(_BLOCK):
            while data:
                frame = frame or decompressor.decompressobj()
                yield frame.decompress(data)
                data = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the last zstandard frame is cut off")


def _split(blocks: Iterable[bytes]) -> Iterator[bytes]:
    line: list[bytes] = []  # joined once: a line may be as long as the file
    for block in blocks:
        first, *others = block.split(b"\n")
        line.append(first)
        for other in others:
            yield b"".join(line)
            line = [other]
    yield b"".join(line)

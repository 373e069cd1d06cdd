"""What language models said, on disk and keyed by content: nothing is asked twice and nothing said is lost."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from forethought.llm import TRANSPORT, LanguageError
from forethought.llm.generate import GenerationConfig, Generator, Reply
from forethought.llm.interrupts import stored_first
from forethought.records import content_id

T = TypeVar("T")

COLUMNS = {"replies": ("writer", "reply"), "verdicts": ("judge", "verdict")}
"""Of each table, after its key: who said it, and what."""
BATCH = 16
"""Requests that are asked and stored together: a killed process loses one batch at most.

The size is fixed, so what is computed together, and the last bit of a score, does not depend on where it was killed.
"""


class TextCache:
    """A table of an SQLite file that holds a text for each key.

    A batch is one transaction in write-ahead mode, so that ``kill -9`` leaves whole batches.  Threads may share an
    instance, and processes may share the file.
    """

    def __init__(self, path: Path, table: Literal["replies", "verdicts"]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._table = table
        source, self._text = COLUMNS[table]
        columns = f"key TEXT PRIMARY KEY, {source} TEXT NOT NULL, {self._text} TEXT NOT NULL"
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, timeout=60.0, check_same_thread=False)
        try:
            self._database.execute("PRAGMA journal_mode=WAL")
            # No fsync for each batch: what a power cut loses is asked again.
            self._database.execute("PRAGMA synchronous=NORMAL")
            with self._database:
                self._database.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns}) WITHOUT ROWID")
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise LanguageError(
                f"{path}: not a usable {self._text} cache ({error}). Move it away to start a new one"
            ) from None

    def get(self, keys: Sequence[str]) -> dict[str, str]:
        stored: dict[str, str] = {}
        select = f"SELECT key, {self._text} FROM {self._table} WHERE key IN"
        with self._lock:
            # SQLite limits the variables of one statement.
            for start in range(0, len(keys), 500):
                some = keys[start : start + 500]
                stored.update(self._database.execute(f"{select} ({','.join('?' * len(some))})", some))
        return stored

    def put(self, source: str, rows: Sequence[tuple[str, str]]) -> None:
        """Store ``(key, text)`` rows from ``source`` in one transaction; a key that is there already keeps its text."""
        insert = f"INSERT OR IGNORE INTO {self._table} VALUES (?, ?, ?)"
        try:
            with self._lock, self._database:
                self._database.executemany(insert, [(key, source, text) for key, text in rows])
        except sqlite3.OperationalError as error:
            raise LanguageError(
                f"{self._path}: {len(rows)} {self._table} cannot be stored: {error}. If the disk is full, free some "
                "space; the same command goes on where it was"
            ) from error

    def complete(
        self,
        source: str,
        keys: Sequence[str],
        compute: Callable[[list[int]], Sequence[T]],
        pack: Callable[[T], str | None],
        unpack: Callable[[int, str], T],
    ) -> list[T]:
        """Return the value of each key; ``compute`` returns the values of the unknown ones, given their indices.

        ``pack`` makes a text of a value, or ``None`` of one that is not to be kept; ``unpack`` makes the value of an
        index from its text.
        """
        known = self.get(keys)
        missing = [index for index, key in enumerate(keys) if key not in known]
        with stored_first():
            fresh = dict(zip(missing, compute(missing), strict=True)) if missing else {}
            rows = [(keys[index], text) for index, value in fresh.items() if (text := pack(value)) is not None]
            self.put(source, rows)
        return [fresh[i] if i in fresh else unpack(i, known[key]) for i, key in enumerate(keys)]

    def close(self) -> None:
        with self._lock:
            self._database.close()


class CachedGenerator:
    """A generator that asks another one only what the cache does not know."""

    def __init__(self, generator: Generator, cache: TextCache, batch: int = BATCH) -> None:
        self.generator = generator
        self.cache = cache
        self.batch = batch
        self.name = generator.name
        self.identity = generator.identity

    def generate(self, requests: Sequence[str], repeats: int, config: GenerationConfig) -> list[list[Reply]]:
        rows: list[list[Reply]] = []
        for start in range(0, len(requests), self.batch):
            rows += self._generate_batch(requests[start : start + self.batch], repeats, config)
        return rows

    def _generate_batch(self, requests: Sequence[str], repeats: int, config: GenerationConfig) -> list[list[Reply]]:
        return self.cache.complete(
            self.name,
            [content_id(self.identity, config.identity, repeats, request) for request in requests],
            lambda missing: self.generator.generate([requests[index] for index in missing], repeats, config),
            _pack,
            lambda index, text: [Reply(*reply) for reply in json.loads(text)],
        )


def _pack(replies: Sequence[Reply]) -> str | None:
    # The replies to a request are kept together or, where a server failed on one of them, not at all.
    if any(reply.reason.startswith(TRANSPORT) for reply in replies):
        return None
    return json.dumps([[reply.text, reply.reason, *([True] if reply.cut else [])] for reply in replies])

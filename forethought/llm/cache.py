"""What language models said, on disk and keyed by content: nothing is asked twice and nothing said is lost."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from forethought.llm.base import TRANSPORT, LanguageError
from forethought.llm.generate import Style, Writer, Written
from forethought.records import content_id


class Cache:
    """An SQLite file that holds a text for each key.

    A batch is one transaction in write-ahead mode, so that ``kill -9`` leaves whole batches.  Threads may share an
    instance, and processes may share the file.
    """

    what, table, columns = "reply", "replies", ("writer", "reply")
    """What is kept, for messages; where; and the names of its source and text."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, timeout=60.0, check_same_thread=False)
        columns = f"key TEXT PRIMARY KEY, {self.columns[0]} TEXT NOT NULL, {self.columns[1]} TEXT NOT NULL"
        try:
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            with self._database:
                self._database.execute(f"CREATE TABLE IF NOT EXISTS {self.table} ({columns}) WITHOUT ROWID")
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise LanguageError(
                f"{path}: not a usable {self.what} cache ({error}). Move it away to start a new one"
            ) from None

    def get(self, keys: Sequence[str]) -> dict[str, str]:
        """Return the stored texts among ``keys``."""
        found: dict[str, str] = {}
        select = f"SELECT key, {self.columns[1]} FROM {self.table} WHERE key IN"
        with self._lock:
            for start in range(0, len(keys), 500):
                some = keys[start : start + 500]
                found.update(self._database.execute(f"{select} ({','.join('?' * len(some))})", some))
        return found

    def put(self, source: str, rows: Sequence[tuple[str, str]]) -> None:
        """Store ``(key, text)`` rows from ``source`` in one transaction; what is there already stays."""
        try:
            with self._lock, self._database:
                self._database.executemany(
                    f"INSERT OR IGNORE INTO {self.table} VALUES (?, ?, ?)", [(key, source, text) for key, text in rows]
                )
        except sqlite3.OperationalError as error:
            raise LanguageError(
                f"{self._path}: {len(rows)} {self.table} cannot be stored: {error}. If the disk is full, free some "
                "space; the same command goes on where it was"
            ) from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()


class CachedWriter:
    """A writer that asks another one only what the cache does not know.

    Requests are written and stored in batches of fixed size, so that a killed process loses one batch at most, and
    what is computed together does not depend on where it was killed.
    """

    def __init__(self, writer: Writer, cache: Cache, batch: int = 16) -> None:
        self.writer = writer
        self.cache = cache
        self.batch = batch

    @property
    def name(self) -> str:
        """Name of the writer behind the cache."""
        return self.writer.name

    @property
    def identity(self) -> str:
        """Identity of the writer behind the cache."""
        return self.writer.identity

    def write(self, requests: Sequence[str], repeats: int, style: Style) -> list[list[Written]]:
        """See :class:`~forethought.llm.generate.Writer`."""
        replies: list[list[Written]] = []
        for start in range(0, len(requests), self.batch):
            replies += self._write(requests[start : start + self.batch], repeats, style)
        return replies

    def _write(self, requests: Sequence[str], repeats: int, style: Style) -> list[list[Written]]:
        keys = [content_id(self.identity, str(style), repeats, request) for request in requests]
        known = {key: json.loads(text) for key, text in self.cache.get(keys).items()}
        # A batch is all or nothing, unless a server failed on some of it.
        missing = [index for index, key in enumerate(keys) if key not in known]
        fresh = dict(zip(missing, self._asked([requests[index] for index in missing], repeats, style), strict=True))
        stored = [
            (keys[index], json.dumps([[reply.text, reply.reason] for reply in row]))
            for index, row in fresh.items()
            if not any(reply.reason.startswith(TRANSPORT) for reply in row)
        ]
        self.cache.put(self.name, stored)
        return [
            fresh[index] if index in fresh else [Written(text, reason) for text, reason in known[key]]
            for index, key in enumerate(keys)
        ]

    def _asked(self, requests: Sequence[str], repeats: int, style: Style) -> list[list[Written]]:
        return self.writer.write(requests, repeats, style) if requests else []

"""What language models said, on disk and keyed by content: nothing is asked twice and nothing said is lost."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from forethought.llm import TRANSPORT, LanguageError
from forethought.llm.damage import COLUMNS, as_text, crc_of, is_damage, readable, select
from forethought.llm.generate import GenerationConfig, Generator, Reply
from forethought.llm.interrupts import stored_first
from forethought.records import content_id

T = TypeVar("T")

log = logging.getLogger(__name__)

BATCH = 16
"""Requests that are asked and stored together: a killed process loses one batch at most.

The size is fixed, so what is computed together, and the last bit of a score, does not depend on where it was killed.
"""

UNUSABLE = (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError)
"""What making a value of a stored text may raise, if the text is not what was stored."""


class TextCache:
    """A table of an SQLite file that holds a text for each key.

    A batch is one transaction in write-ahead mode, so that ``kill -9`` leaves whole batches.  Threads may share an
    instance, and processes may share the file.  A damaged file is put aside, and what of it can be read goes on being
    used; a damaged row is moved to the table ``damaged`` and asked again.
    """

    def __init__(self, path: Path, table: Literal["replies", "verdicts"]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._table = table
        self._source, self._text = COLUMNS[table]
        self._lock = threading.Lock()
        try:
            self._database = self._opened()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise LanguageError(
                    f"{path}: not a usable {self._text} cache ({error}). Move it away to start a new one"
                ) from None
            self._start_anew(error)

    def get(self, keys: Sequence[str]) -> dict[str, str]:
        """Return the text of each key that is known; damaged rows are not."""
        stored, damaged = self._attempt(lambda: self._get(keys), f"{self._table} cannot be read")
        if damaged:
            self.drop(damaged)
        return stored

    def put(self, source: str, rows: Sequence[tuple[str, str]]) -> None:
        """Store ``(key, text)`` rows from ``source`` in one transaction; a key that is there already keeps its text."""
        self._attempt(lambda: self._put(source, rows), f"{len(rows)} {self._table} cannot be stored")

    def drop(self, keys: Sequence[str]) -> None:
        """Move damaged rows out of the way; what they said will be asked again."""
        log.warning("%s: %d damaged %s are asked again", self._path, len(keys), self._table)
        self._attempt(lambda: self._drop(keys), f"{len(keys)} damaged {self._table} cannot be moved")

    def _attempt(self, action: Callable[[], T], failure: str) -> T:
        """Return what ``action`` returns, after starting anew if the file turns out to be damaged."""
        try:
            with self._lock:
                try:
                    return action()
                except sqlite3.DatabaseError as error:
                    if not is_damage(error):
                        raise
                    self._start_anew(error)
                    return action()
        except sqlite3.DatabaseError as error:
            raise LanguageError(
                f"{self._path}: {failure}: {error}. If the disk is full, free some "
                "space; the same command goes on where it was"
            ) from error

    def _opened(self) -> sqlite3.Connection:
        """Return a connection to the file, with the table; made if it is missing."""
        database = sqlite3.connect(self._path, timeout=60.0, check_same_thread=False)
        database.text_factory = as_text
        try:
            database.execute("PRAGMA journal_mode=WAL")
            # No fsync for each batch: what a power cut loses is asked again.
            database.execute("PRAGMA synchronous=NORMAL")
            columns = f"key TEXT PRIMARY KEY, {self._source} TEXT NOT NULL, {self._text} TEXT NOT NULL"
            with database:
                database.execute(f"CREATE TABLE IF NOT EXISTS {self._table} ({columns}) WITHOUT ROWID")
                # Beside the table, which stays what older code reads and writes; its rows have no checksum.
                columns = "key TEXT PRIMARY KEY, crc INTEGER NOT NULL"
                database.execute(f"CREATE TABLE IF NOT EXISTS {self._table}_crc ({columns}) WITHOUT ROWID")
            database.execute(f"{select(self._table)} LIMIT 1").fetchall()
        except BaseException:
            database.close()
            raise
        return database

    def _get(self, keys: Sequence[str]) -> tuple[dict[str, str], list[str]]:
        """Return what is stored by key, and the keys of damaged rows."""
        stored: dict[str, str] = {}
        damaged: list[str] = []
        # SQLite limits the variables of one statement.
        for start in range(0, len(keys), 500):
            some = keys[start : start + 500]
            wanted = f"{select(self._table)} WHERE key IN ({','.join('?' * len(some))})"
            for key, _, text, crc in self._database.execute(wanted, some):
                if isinstance(text, str) and crc in (None, crc_of(key, text)):
                    stored[key] = text
                else:
                    damaged.append(key)
        return stored, damaged

    def _put(self, source: str, rows: Sequence[tuple[str, str]]) -> None:
        with self._database:
            for key, text in rows:
                added = self._database.execute(
                    f"INSERT OR IGNORE INTO {self._table} VALUES (?, ?, ?)", (key, source, text)
                )
                if added.rowcount:
                    crc = (key, crc_of(key, text))
                    self._database.execute(f"INSERT OR REPLACE INTO {self._table}_crc VALUES (?, ?)", crc)

    def _drop(self, keys: Sequence[str]) -> None:
        with self._database:
            self._database.execute("CREATE TABLE IF NOT EXISTS damaged (key, source, text)")
            for key in keys:
                move = f"INSERT INTO damaged SELECT key, {self._source}, {self._text} FROM {self._table} WHERE key = ?"
                self._database.execute(move, [key])
                for table in (self._table, f"{self._table}_crc"):
                    self._database.execute(f"DELETE FROM {table} WHERE key = ?", [key])

    def _start_anew(self, error: sqlite3.DatabaseError) -> None:
        """Put a damaged file aside, and take over into a new one what can be read of it."""
        if hasattr(self, "_database"):
            self._database.close()
            with contextlib.suppress(sqlite3.DatabaseError):
                self._database = self._opened()
                if self._database.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok":
                    return  # another judge of this process has put it aside before
                self._database.close()
        aside = self._path.with_name(f"{self._path.name}.damaged")
        number = 1
        while aside.exists():
            number += 1
            aside = aside.with_name(f"{self._path.name}.damaged.{number}")
        for suffix in ("-wal", "-shm", ""):  # the log belongs to the file
            part = self._path.with_name(self._path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        self._database = self._opened()
        kept = readable(aside, self._table)
        for source in {row[1] for row in kept}:
            self._put(source, [(key, text) for key, by, text in kept if by == source])
        log.warning(
            "%s: damaged (%s). It is kept as %s; %d %s of it could be read, what is missing is asked again",
            self._path, error, aside.name, len(kept), self._table,
        )  # fmt: skip

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
        known: dict[int, T] = {}
        stored, damaged = self.get(keys), list[str]()
        for index, key in enumerate(keys):
            if key in stored:
                try:
                    known[index] = unpack(index, stored[key])
                except UNUSABLE:
                    damaged.append(key)
        if damaged:
            self.drop(damaged)
        missing = [index for index in range(len(keys)) if index not in known]
        with stored_first():
            fresh = dict(zip(missing, compute(missing), strict=True)) if missing else {}
            rows = [(keys[index], text) for index, value in fresh.items() if (text := pack(value)) is not None]
            self.put(source, rows)
        return [fresh[i] if i in fresh else known[i] for i in range(len(keys))]

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
            lambda index, text: _unpack(text, repeats),
        )


def _pack(replies: Sequence[Reply]) -> str | None:
    # The replies to a request are kept together or, where a server failed on one of them, not at all.
    if any(reply.reason.startswith(TRANSPORT) for reply in replies):
        return None
    return json.dumps([[reply.text, reply.reason, *([True] if reply.cut else [])] for reply in replies])


def _unpack(text: str, repeats: int) -> list[Reply]:
    replies = [Reply(*reply) for reply in json.loads(text)]
    if len(replies) != repeats or not all(
        isinstance(reply.text, str | None) and isinstance(reply.reason, str) and isinstance(reply.cut, bool)
        for reply in replies
    ):
        raise ValueError("these are not the replies that were stored")
    return replies

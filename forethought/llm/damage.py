"""Damaged caches: what of an SQLite file and of its rows is still what was stored."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import zlib
from pathlib import Path

COLUMNS = {"replies": ("writer", "reply"), "verdicts": ("judge", "verdict")}
"""Of each table, after its key: who said it, and what."""
_CORRUPT, _NOT_A_DATABASE = 11, 26
"""SQLite's codes of a damaged file."""


def crc_of(key: str, text: str) -> int:
    return zlib.crc32(f"{key} {text}".encode("utf-8", "surrogatepass"))


def as_text(data: bytes) -> str | bytes:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data  # damaged: no text


def is_damage(error: sqlite3.DatabaseError) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (_CORRUPT, _NOT_A_DATABASE)


def select(table: str, checked: bool = True) -> str:
    """Return SQL for key, source, text and checksum of the rows of a table; rows of older code have no checksum."""
    source, text = COLUMNS[table]
    if not checked:
        return f"SELECT key, {source}, {text}, NULL FROM {table}"
    return f"SELECT key, {source}, {text}, crc FROM {table} LEFT JOIN {table}_crc USING (key)"


def readable(path: Path, table: str) -> list[tuple[str, str, str]]:
    """Return the rows of a damaged cache that can be read, from both ends of the table, and that are what was stored.

    Rows without a checksum are among them: whether they are verdicts or replies shows when they are used.
    """
    rows: dict[str, tuple[str, str, str]] = {}
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.text_factory = as_text
        for checked in (True, False):
            for order in ("ASC", "DESC"):
                with contextlib.suppress(sqlite3.DatabaseError):
                    for key, source, text, crc in database.execute(f"{select(table, checked)} ORDER BY key {order}"):
                        if isinstance(source, str) and _is_whole(key, text, crc):
                            rows.setdefault(key, (key, source, text))
            if rows:
                break
    return list(rows.values())


def faults(path: Path) -> list[str]:
    """Return what is wrong with a cache, a line each; nothing is changed."""
    try:
        with contextlib.closing(sqlite3.connect(path.resolve().as_uri() + "?mode=ro", uri=True)) as database:
            database.text_factory = as_text
            found = [str(row[0]) for row in database.execute("PRAGMA integrity_check(3)") if row[0] != "ok"]
            names = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            for table in sorted(names & COLUMNS.keys()):
                rows = database.execute(select(table, f"{table}_crc" in names))
                bad = sum(not _is_whole(key, text, crc) for key, _, text, crc in rows)
                found += [f"{bad} damaged {table}"] if bad else []
    except sqlite3.DatabaseError as error:
        return [str(error)]
    return found


def _is_whole(key: str | bytes, text: str | bytes, crc: int | None) -> bool:
    if not (isinstance(key, str) and isinstance(text, str)) or crc not in (None, crc_of(key, text)):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True

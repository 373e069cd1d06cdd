"""Files that survive ``kill -9``: append-only JSON lines, atomic writes, atomic publishing of folders."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import itertools
import json
import numbers
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from forethought.records import Record, RecordError, from_json, to_dict
from forethought.run.rows import sealed, unsealed

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

R = TypeVar("R", bound=Record)

FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or this user's share of it

_IN_WORDS = re.compile(r"\(os error (\d+)\)")


class StoreError(ValueError):
    """A file or folder that cannot be used; the message says which path and the way out."""


def cache_root() -> Path:
    """Return ``$FORETHOUGHT_CACHE``, or ``~/.cache/forethought/models``: what is made once for all runs."""
    return Path(os.environ.get("FORETHOUGHT_CACHE") or Path.home() / ".cache" / "forethought" / "models").expanduser()


def inside(path: Path, root: Path) -> Path:
    """Return ``path``, unless a symbolic link leads from it out of the run folder ``root``.

    Raises:
        StoreError: naming the path and where it leads: it would be read as the run's, or written to.
    """
    place: Path | None
    try:
        place = path.resolve()
    except RuntimeError:  # a loop of links
        place = None
    if place is None or not place.is_relative_to(root.resolve()):
        to = "nowhere" if place is None else f"out of the run folder, to {place}"
        raise StoreError(f"{path}: a symbolic link leads {to}. Put the file itself there, or remove the link")
    return path


def append_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Append records or mappings to ``path``, one JSON object with its checksum a line, and fsync once.

    A torn last line, left by a killed process, is cut off first.
    """
    data = b"".join(sealed(encode(row)) for row in rows)
    if not data:
        return
    with writing(path, len(data)), open(path, "a+b", buffering=0) as handle:
        end = _whole_lines(handle)
        if end < handle.seek(0, os.SEEK_END):
            handle.truncate(end)
        written = 0
        while written < len(data):
            written += handle.write(data[written:])
        _flush(handle.fileno())


@overload
def read_jsonl(path: Path, *, keys: Sequence[str] = (), content: bytes | None = None) -> Iterator[dict[str, Any]]: ...
@overload
def read_jsonl(path: Path, kind: type[R], *, content: bytes | None = None) -> Iterator[R]: ...
def read_jsonl(
    path: Path, kind: type[R] | None = None, *, keys: Sequence[str] = (), content: bytes | None = None
) -> Iterator[Any]:
    """Yield the rows of ``path``, as records of ``kind`` if it is given; none if the file does not exist.

    A row counts once its newline is written: a last line without one was torn by a kill and is dropped.  ``content``
    is what the file holds, if it has been read.

    Raises:
        StoreError: if a whole line is not JSON, not such a record, without one of ``keys``, or not what was written
            (by its checksum, which older logs lack), naming the file, the line and the keys.
    """
    for _, row in _lines(path, kind, keys, content):
        yield row


def keep_rows(path: Path, keep: Callable[[dict[str, Any]], bool], keys: Sequence[str] = ()) -> int:
    """Rewrite a log atomically with the rows that ``keep`` wants; return how many were dropped."""
    lines, dropped = [], 0
    for line, row in _lines(path, None, keys):
        if keep(row):
            lines.append(line)
        else:
            dropped += 1
    if dropped:
        atomic_write(path, b"".join(lines))
    return dropped


def _lines(
    path: Path, kind: type[R] | None, keys: Sequence[str], content: bytes | None = None
) -> Iterator[tuple[bytes, Any]]:
    """Yield every whole line of a log with its row."""
    if content is None and not is_there(path):
        return
    with reading(path), open(path, "rb") if content is None else io.BytesIO(content) as handle:
        checked = False
        for number, line in enumerate(handle, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                plain, has_checksum = unsealed(line)
                if checked and not has_checksum:  # rows that older code wrote come before all others
                    raise ValueError("it has no checksum, unlike the rows before it")
                checked = has_checksum
                row = _row(plain, kind, keys)
            except (ValueError, RecursionError) as error:
                raise StoreError(
                    f"{path}, line {number}: {error}. "
                    "The file was changed by hand, by the disk or by another version of forethought: "
                    "correct or delete that line, or start the stage over"
                ) from None
            yield line, row


def _row(line: bytes, kind: type[R] | None, keys: Sequence[str]) -> Any:
    try:
        row: Any = json.loads(line) if kind is None else from_json(kind, line)
    except RecordError:
        raise
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if kind is None and not isinstance(row, dict):
        raise ValueError(f"not an object: {str(row)[:80]}")
    missing = [key for key in keys if key not in row]
    if missing:
        raise ValueError(f"no {', '.join(missing)} in it")
    return row


def read_json(path: Path) -> Any:
    """Return what a JSON file holds, or ``None`` if it is not there."""
    if not is_there(path):
        return None
    with reading(path):
        try:
            return json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{path}: not JSON ({error}). It was changed by hand or by the disk; remove it") from None


def is_there(path: Path) -> bool:
    """Return whether ``path`` is a file.

    Raises:
        StoreError: if something else is in its place: a folder, a link to nothing, a pipe.
    """
    with reading(path):
        if path.is_file():
            return True
        if not os.path.lexists(path):
            return False
    kind = "a link to nothing" if path.is_symlink() else "a folder" if path.is_dir() else "no file"
    raise StoreError(f"{path}: {kind}, where a file is expected. Move it away, or put the file back")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn a system's error inside into a :class:`StoreError` about ``path``, which is read."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{path}: cannot read: {error.strerror or error}. Make it readable, or put the file back"
        ) from error


def atomic_write(path: str | Path, content: str | bytes) -> None:
    """Write a whole file or nothing: a temporary file, fsync, rename."""
    path, data = Path(path), content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path, len(data)):
        try:
            temporary.unlink(missing_ok=True)
            with open(temporary, "xb") as handle:  # nothing is written through a link that stands there
                handle.write(data)
                handle.flush()
                _flush(handle.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(path.parent)


@contextlib.contextmanager
def publish(final_dir: str | Path) -> Iterator[Path]:
    """Fill a folder that appears under its final name whole or not at all, replacing what is there.

    A replaced folder is put aside first and removed last, so that after a kill at any moment the old or
    the new one is whole; the next ``publish``, or :meth:`forethought.run.store.Run.lock`, puts it back.
    """
    final_dir = Path(final_dir)
    partial, old = (final_dir.with_name(f".{final_dir.name}.{suffix}") for suffix in ("tmp", "old"))
    with writing(final_dir):
        remove(partial)
        partial.mkdir(parents=True)
        try:
            yield partial
            flush_folder(partial)
            restore(final_dir)
            if final_dir.exists():
                final_dir.rename(old)
            partial.rename(final_dir)
        finally:
            remove(partial)
        _sync(final_dir.parent)
        remove(old)


def hash_file(path: str | Path) -> str:
    with reading(Path(path)), open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextlib.contextmanager
def writing(path: Path, needed: int = 0) -> Iterator[None]:
    """Turn a system's error inside into a :class:`StoreError` about ``path``, to which ``needed`` bytes are written."""
    try:
        yield
    except Exception as error:
        cause = system_error(error)
        if cause is None:
            raise
        if cause.errno not in FULL:
            raise StoreError(
                f"{path}: cannot write: {cause.strerror or cause}. Make the folder writable, or use another one"
            ) from error
        size = f" to write {needed:,} bytes" if needed else ""
        raise StoreError(
            f"{path}: the disk is full; there was no room{size}. "
            "Free some space and run the same command again: it goes on where it was"
        ) from error


def system_error(error: Exception) -> OSError | None:
    """Return the system's error in ``error``, if it is one; safetensors and tokenizers tell its number in words."""
    if isinstance(error, OSError):
        return error
    foreign = type(error) is Exception or type(error).__module__.startswith("safetensors")
    number = _IN_WORDS.search(str(error)) if foreign else None
    return None if number is None else OSError(int(number[1]), os.strerror(int(number[1])))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[str | None]:
    """Hold the lock ``path`` inside; yields ``None``, or the id of the process that holds it in place of this one.

    The kernel drops the lock with the process, so a ``kill -9`` never leaves a stale one.

    Raises:
        StoreError: if the system or the disk has no locks.
    """
    if fcntl is None:
        raise StoreError(f"{path}: this system cannot lock files; runs are written on Linux, macOS and WSL2")
    with writing(path):
        handle = open(path, "a+b", buffering=0)  # noqa: SIM115 (must outlive this block)
    with handle:
        if not _flock(handle, fcntl.LOCK_EX, path):
            handle.seek(0)
            yield handle.read().decode().strip() or "unknown"
            return
        with writing(path):
            handle.truncate(0)
            handle.write(str(os.getpid()).encode())
        try:
            yield None
        finally:
            handle.truncate(0)


def holder(path: Path) -> str | None:
    """Return the id of the process that holds the lock ``path``, or ``None``; nothing is created."""
    if not path.exists():
        return None
    with open(path, "rb") as handle:
        if fcntl is None:  # who let go has emptied the file, but not who was killed
            named = handle.read().decode().strip()
            return f"{named} (unless it was killed: this system cannot tell)" if named else None
        if _flock(handle, fcntl.LOCK_SH, path):
            return None
        return handle.read().decode().strip() or "unknown"


def _flock(handle: Any, kind: int, path: Path) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # some network file systems say the second
        return False
    except OSError as error:
        raise StoreError(
            f"{path}: this disk cannot lock files ({error.strerror}). Put the run on another one with --run"
        ) from error
    return True


def _whole_lines(handle: Any) -> int:
    """Return the offset after the last newline of a file."""
    end = handle.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        handle.seek(start)
        newline = handle.read(end - start).rfind(b"\n")
        if newline >= 0:
            return int(start + newline + 1)
        end = start
    return 0


def restore(final_dir: Path) -> None:
    old = final_dir.with_name(f".{final_dir.name}.old")
    if old.exists() and not final_dir.exists():
        old.rename(final_dir)
    remove(old)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Have the disk hold ``folder`` with all that is in it; renamed after that, it is whole even after a power cut."""
    for path in itertools.chain(folder.rglob("*"), (folder,)):
        _sync(path)


def _sync(path: Path) -> None:
    if sys.platform == "win32":  # it opens no folders, and flushes only what is open for writing
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        _flush(handle)
    finally:
        os.close(handle)


def _flush(handle: int) -> None:
    """Have the disk hold what was written to a file; on macOS ``fsync`` leaves it in the drive's own memory."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        with contextlib.suppress(OSError):  # network file systems have ``fsync`` only
            fcntl.fcntl(handle, full)
            return
    os.fsync(handle)


def encode(value: Any, indent: int | None = None) -> bytes:
    """Return JSON of ``value`` and a newline, in UTF-8; records become objects, numpy's numbers numbers.

    Raises:
        StoreError: if a number is not finite: JSON has no NaN, and a log should not have one either.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent, default=_builtin)
    except ValueError as error:
        raise StoreError(f"cannot be stored as JSON: {error}: {str(value)[:200]}") from None
    try:
        return text.encode("utf-8") + b"\n"
    except UnicodeEncodeError:  # lone surrogates are no UTF-8; their escapes are
        return json.dumps(json.loads(text), indent=indent).encode("ascii") + b"\n"


def _builtin(value: Any) -> Any:
    if isinstance(value, numbers.Integral):  # numpy's integers and floats register as these
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, Path):
        return str(value)
    return to_dict(value)

"""The files that a ``corpus.path`` names: each once, hidden ones left out, links followed."""

from __future__ import annotations

import glob
import itertools
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from forethought.config.shipped import text_file
from forethought.corpus.rows import CorpusError


def find(pattern: str, suffixes: tuple[str, ...], counts: Counter[str] | None = None) -> list[Path]:
    """Return the files of a ``corpus.path``: a shipped file, a file, a folder (with its subfolders) or a glob.

    Hidden files and folders in a folder (their names begin with a dot) are left out, as a glob leaves them out;
    ``counts`` gets them as ``hidden``.  Linked folders are read, and a file that is there under two names once.

    Raises:
        CorpusError: if there is no such file, or a link that leads nowhere or back to a folder above it.
    """
    kinds = ", ".join(suffixes)
    if not pattern:
        raise CorpusError(f"corpus.path is empty: name a file, a folder or a glob of {kinds} files")
    if "\0" in pattern:
        raise CorpusError(f"corpus.path = {pattern!r}: no file name holds a nul character. Check corpus.path")
    try:
        path = text_file(pattern) or Path(pattern).expanduser()
    except (FileNotFoundError, RuntimeError) as error:  # RuntimeError: ~name of nobody
        raise CorpusError(f"{error}. Check corpus.path") from None
    if os.path.isfile(path):
        return [path]
    counts = Counter() if counts is None else counts
    if os.path.isdir(path):
        inside = _once(file for file in _walk(path, counts) if file.name.lower().endswith(suffixes))
        if not inside:
            hidden = f" (hidden ones are left out: {counts['hidden']})" if counts["hidden"] else ""
            raise CorpusError(f"{path}: a folder without {kinds} files{hidden}. Check corpus.path and corpus.source")
        return inside
    if os.path.lexists(path):
        _check_regular(path)
    matches = _once(Path(match) for match in _matches(path) if not os.path.isdir(match))
    if not matches:
        fault = "matches no file" if glob.has_magic(pattern) else "no such file or folder"
        raise CorpusError(f"{path}: {fault}. Check corpus.path")
    return matches


def _matches(pattern: Path) -> list[str]:
    if "**" in pattern.parts:
        # glob would follow two links that lead back 2^40 times.
        fixed = itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts)
        for _ in _walk(Path(*fixed), Counter(), ignore_unreadable=True):
            pass
    return glob.glob(str(pattern), recursive=True)


def _walk(folder: Path, counts: Counter[str], ignore_unreadable: bool = False) -> Iterator[Path]:
    """Yield what is in a folder and its subfolders, linked ones too, but for folders; each folder once."""
    seen: set[str] = set()
    waiting: list[tuple[str, tuple[str, ...]]] = [(str(folder), ())]  # folders, and where those above them really are
    while waiting:
        place, above = waiting.pop()
        here = os.path.realpath(place)
        if here in seen:
            continue
        seen.add(here)
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            if ignore_unreadable:
                continue
            raise CorpusError(
                f"{place}: could not read this folder: {error.strerror or error}. "
                "Make it readable, or name the files with a glob in corpus.path"
            ) from error
        for entry in entries:
            if entry.name.startswith("."):
                counts["hidden"] += 1
            elif not os.path.isdir(entry.path):
                yield Path(entry.path)
            else:
                _check_loop(entry, (*above, here))
                waiting.append((entry.path, (*above, here)))


def _check_loop(entry: os.DirEntry[str], above: tuple[str, ...]) -> None:
    if not entry.is_symlink():
        return
    target = os.path.realpath(entry.path)
    if any(Path(place).is_relative_to(target) for place in above):
        raise CorpusError(
            f"{entry.path}: a link to {target}, a folder above it: the corpus would hold itself. Remove the link"
        )


def _once(files: Iterator[Path]) -> list[Path]:
    """Return files sorted by name, each once: file systems list in any order, and a run may read only the first."""
    real: dict[str, Path] = {}
    for file in sorted(files):
        _check_regular(file)
        real.setdefault(os.path.realpath(file), file)
    return list(real.values())


def _check_regular(file: Path) -> None:
    if os.path.isfile(file):
        return
    fault = (
        "not a regular file, but a pipe, a socket or a device" if os.path.exists(file) else "a link that leads nowhere"
    )
    raise CorpusError(f"{file}: {fault}. Remove it, or put a file in its place")

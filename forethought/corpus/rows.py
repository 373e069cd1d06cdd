"""What every source yields, before filters."""

from __future__ import annotations

from typing import NamedTuple


class CorpusError(ValueError):
    """A corpus that cannot be used; the message names the file or data set, what is wrong, and the way out."""

    def __init__(self, message: str) -> None:
        # Names of files and columns may hold what no terminal and no log can take.
        super().__init__(message.encode("utf-8", "backslashreplace").decode())


class Row(NamedTuple):
    """One text before filters."""

    text: object
    """A string, or what the source has instead of one."""
    title: object
    source: str
    """A package, file or data set name."""
    defect: str | None = None
    """Why the row cannot be used, if the source knows."""

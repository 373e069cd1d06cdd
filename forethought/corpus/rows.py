"""What every source yields, before filters: a text, perhaps a title, and where it was."""

from __future__ import annotations

from typing import NamedTuple


class CorpusError(ValueError):
    """A corpus that cannot be read; the message names the file or data set, what is wrong, and the way out."""


class Row(NamedTuple):
    """One text as it was found."""

    text: object
    """A string, or whatever stood in its place."""
    title: object
    """The title, or ``None``."""
    source: str
    """A package, file or data set name."""
    defect: str | None = None
    """Why the row cannot be used, if the source knows already."""

"""Thoughts in a text: tags, rendering, parsing.

A row keeps its raw text whole and its thoughts apart from it.  What is trained on is put together from slices of that
text, so nothing of it can be lost.  Parsing is for what a policy writes, and for readers of rendered text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from forethought.records import SpanKind, ThoughtRow


@dataclass(frozen=True, slots=True)
class Tags:
    """What stands before and after a thought, such as ``<think>`` and ``</think>``."""

    open: str
    close: str

    def inside(self, text: str) -> bool:
        """Return whether ``text`` holds one of the tags: it could not be told from a rendered thought."""
        return self.open in text or self.close in text


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of an augmented text."""

    kind: SpanKind
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """What a text with tags consists of."""

    spans: tuple[Span, ...]
    """Text and thoughts in order; a thought that is never closed ends with the text."""
    opened: int
    closed: int
    faults: tuple[str, ...]
    """What is wrong: ``unclosed``, ``nested``, ``stray close``, ``empty``."""

    @property
    def text(self) -> str:
        """The text without its thoughts."""
        return "".join(span.text for span in self.spans if span.kind is SpanKind.TEXT)

    @property
    def thoughts(self) -> list[str]:
        return [span.text for span in self.spans if span.kind is SpanKind.THOUGHT]


def spans(row: ThoughtRow) -> list[Span]:
    """Return the row's text and thoughts in order; the text spans are slices of ``row.text`` that cover it."""
    found: list[Span] = []
    start = 0
    for place, thought in zip(row.places, row.thoughts, strict=False):  # a row of places only has no thoughts
        found += [Span(SpanKind.TEXT, row.text[start : place.position]), Span(SpanKind.THOUGHT, thought)]
        start = place.position
    return [*found, Span(SpanKind.TEXT, row.text[start:])]


def raw(pieces: Sequence[Span]) -> str:
    """Return the text spans joined: the raw chunk, byte for byte."""
    return "".join(piece.text for piece in pieces if piece.kind is SpanKind.TEXT)


def render(pieces: Sequence[Span], tags: Tags) -> str:
    """Return the spans as one text, every thought between its tags."""
    return "".join(
        piece.text if piece.kind is SpanKind.TEXT else tags.open + piece.text + tags.close for piece in pieces
    )


def parse(text: str, tags: Tags) -> Parsed:
    """Return what ``text`` consists of, whatever it holds; nothing of it is lost but the tags.

    An opening tag inside of a thought is a fault and part of that thought, a closing tag outside of one is a fault
    and part of the text.
    """
    found: list[Span] = []
    faults: list[str] = []
    opened = closed = 0
    kind, pending = SpanKind.TEXT, ""
    for piece in re.split(f"({re.escape(tags.open)}|{re.escape(tags.close)})", text):
        outside = kind is SpanKind.TEXT
        if piece == tags.open and outside:
            found, kind, pending, opened = [*found, Span(kind, pending)], SpanKind.THOUGHT, "", opened + 1
        elif piece == tags.close and not outside:
            if not pending.strip():
                faults.append("empty")
            found, kind, pending, closed = [*found, Span(kind, pending)], SpanKind.TEXT, "", closed + 1
        else:
            if piece in (tags.open, tags.close):
                faults.append("stray close" if outside else "nested")
                opened += int(piece == tags.open)
            pending += piece
    if kind is SpanKind.THOUGHT:
        faults.append("unclosed")
    return Parsed(spans=(*found, Span(kind, pending)), opened=opened, closed=closed, faults=tuple(faults))


def strip(text: str, tags: Tags) -> str:
    """Return ``text`` without thoughts, an unclosed one included."""
    return parse(text, tags).text

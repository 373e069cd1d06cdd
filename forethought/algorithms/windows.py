"""Windows: a prefix after which a policy thinks and predicts, and the text that really comes next.

Earlier thoughts of a row stay out of the prefix: the rows of RL mid-training have places only, so there is none to put
in.  Held-out windows are cut alike, at every place that was offered to the teacher, whatever became of its thought:
where thoughts pass all checks, text is another than where they do not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from forethought.keys import Key
from forethought.records import Chunk, JudgeRequest, ThoughtRow, content_id

Cut = Literal["place", "raw"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One task of RL mid-training."""

    id: str
    """Content hash of the chunk's id and the place; names its random numbers."""
    document_id: str
    prefix: str
    prefix_ids: tuple[int, ...]
    suffix: str
    """What comes next, as long as a prediction."""
    suffix_ids: tuple[int, ...]
    reference: str
    """All that comes next in the chunk; begins with the suffix."""
    thought: str = ""
    """The teacher's thought at this place, if there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowCutter:
    """How windows are cut."""

    tokenizer: Any
    suffix_tokens: int
    """Length of the suffix; places with less text behind them give no window."""
    cut: Cut = "place"

    def all(self, rows: Sequence[ThoughtRow], chunks: Mapping[str, Chunk]) -> list[Window]:
        return [window for row in rows for window in self.of_row(row, chunks[row.chunk_id])]

    def one_each(self, rows: Sequence[ThoughtRow], chunks: Mapping[str, Chunk], key: Key) -> list[Window]:
        """Return one window of each document that has any, chosen by ``key`` among all of its rows."""
        by_document: dict[str, list[Window]] = {}
        for row in rows:
            by_document.setdefault(row.document_id, []).extend(self.of_row(row, chunks[row.chunk_id]))
        # Each draw is keyed by its document, so a document without windows moves no other one's choice.
        return [some[int(key.generator(name).integers(len(some)))] for name, some in by_document.items() if some]

    def of_row(self, row: ThoughtRow, chunk: Chunk) -> list[Window]:
        ids = chunk.prefix_ids + chunk.suffix_ids
        if self.cut == "raw":
            places = [(len(chunk.prefix), len(chunk.prefix_ids), "")]
        else:
            # Rows for RL have places without thoughts.
            thoughts = row.thoughts or ("",) * len(row.places)
            places = [(p.position, p.token, thought) for p, thought in zip(row.places, thoughts, strict=True)]
        windows = []
        for position, token, thought in places:
            suffix_ids = ids[token : token + self.suffix_tokens]
            # A shorter suffix would be an easier task, and at token 0 there is no prefix to think about.
            if len(suffix_ids) < self.suffix_tokens or not token:
                continue
            windows.append(
                Window(
                    id=content_id(chunk.id, token),
                    document_id=chunk.document_id,
                    prefix=row.text[:position],
                    prefix_ids=ids[:token],
                    # From ids, not cut from the text: it must end where a prediction of as many tokens ends.
                    suffix=self.tokenizer.decode(list(suffix_ids)),
                    suffix_ids=suffix_ids,
                    reference=row.text[position:],
                    thought=thought,
                )
            )
        return windows


def with_thoughts(windows: Sequence[Window], rows: Sequence[ThoughtRow]) -> list[Window]:
    """Return ``windows`` with the teacher's thoughts where one of ``rows`` has one at the window's place."""
    thoughts = {
        content_id(row.chunk_id, place.token): thought
        for row in rows
        for place, thought in zip(row.places, row.thoughts, strict=True)
    }
    return [dataclasses.replace(window, thought=thoughts.get(window.id, "")) for window in windows]


def match_request(window: Window, predictions: Sequence[str], longer: bool) -> JudgeRequest:
    """Return what a match judge is shown; ``longer``: all that comes next, not only as much as was predicted."""
    original = window.reference if longer else window.suffix
    return JudgeRequest(prefix=window.prefix, candidates=tuple(predictions), original=original)


def prefix_copies(window: Window | Chunk, tokenizer: Any, tokens: int) -> tuple[str, str]:
    """Return the first and the last ``tokens`` tokens of the prefix as texts: predictions that predict nothing.

    A shorter prefix is copied whole, twice.
    """
    ids = list(window.prefix_ids)
    start, end = (str(tokenizer.decode(some)) for some in (ids[:tokens], ids[-tokens:]))
    return start, end

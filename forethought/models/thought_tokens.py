"""A row's tokens: the chunk's own ids, with the ids of tags and thoughts between them.

The chunk's ids are never made anew, so its text has the same tokens with thoughts and without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from tokenizers import AddedToken

from forethought.engine import Group
from forethought.records import Chunk, SpanKind, ThoughtRow
from forethought.tags import Tags, strip


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """A row as token ids, without BOS."""

    row_id: str
    document_id: str
    ids: tuple[int, ...]
    kinds: tuple[SpanKind, ...]  # what each id belongs to


@dataclass(frozen=True, kw_only=True)
class ThoughtTokens:
    """How tags and thoughts become token ids under one tokenizer, and how a thought is cut out of what was written."""

    tokenizer: Any
    tags: Tags
    open: tuple[int, ...]  # ids of the opening tag
    close: tuple[int, ...]  # ids of the closing tag

    @classmethod
    def of(cls, tokenizer: Any, tags: Tags) -> ThoughtTokens:
        """Return the ids of ``tags``: one token each if the tokenizer has them added, else ordinary text."""
        added = tokenizer.get_added_vocab()
        opened, closed = ((added[tag],) if tag in added else encode(tokenizer, tag) for tag in (tags.open, tags.close))
        return cls(tokenizer=tokenizer, tags=tags, open=opened, close=closed)

    def between_tags(self, text: str) -> tuple[int, ...]:
        """Return the ids of ``text`` as a thought, tags included; what looks like a special token in it is text."""
        return self.open + encode(self.tokenizer, text) + self.close

    def read(self, ids: Sequence[int]) -> str:
        """Return the words of a thought, given its ids after the opening tag: what stands before the closing tag."""
        text: str = self.tokenizer.decode(list(ids))
        return text.partition(self.tags.close)[0]

    def without_thoughts(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids`` without any thought in it, an unclosed one included."""
        return strip(self.tokenizer.decode(list(ids)), self.tags)

    @cached_property
    def closed(self) -> Callable[[Sequence[int]], bool]:
        """Says of written ids whether the last of them completes the closing tag.

        A tag that is ordinary text may be spelled with other tokens than the teacher's, and its last token may go on
        after it.  So the end of the ids is decoded: every token of the tag spells at least one of its bytes.
        """
        if len(self.close) == 1 and self.tokenizer.get_added_vocab().get(self.tags.close) == self.close[0]:
            added = self.close[0]
            return lambda ids: ids[-1] == added
        longest = len(self.tags.close.encode())
        return lambda ids: self.tags.close in self.tokenizer.decode(list(ids[-longest:]))

    def tokens(self, row: ThoughtRow, chunk: Chunk) -> Tokens:
        """Return the row's tokens; raises ``ValueError`` if ``chunk`` is not the row's."""
        if row.chunk_id != chunk.id or row.text != chunk.prefix + chunk.suffix:
            raise ValueError(f"row {row.id} is of chunk {row.chunk_id}, not of {chunk.id}")
        text_ids = chunk.prefix_ids + chunk.suffix_ids
        parts: list[tuple[Sequence[int], SpanKind]] = []
        start = 0
        for place, thought in zip(row.places, row.thoughts, strict=False):
            parts += [
                (text_ids[start : place.token], SpanKind.TEXT),
                (self.open, SpanKind.TAG),
                (encode(self.tokenizer, thought), SpanKind.THOUGHT),
                (self.close, SpanKind.TAG),
            ]
            start = place.token
        parts.append((text_ids[start:], SpanKind.TEXT))
        return Tokens(
            row_id=row.id,
            document_id=row.document_id,
            ids=tuple(token for ids, _ in parts for token in ids),
            kinds=tuple(kind for ids, kind in parts for _ in ids),
        )


def plain(row: ThoughtRow, chunk: Chunk) -> Tokens:
    """Return the row's chunk without thoughts."""
    ids = chunk.prefix_ids + chunk.suffix_ids
    return Tokens(row_id=row.id, document_id=row.document_id, ids=ids, kinds=(SpanKind.TEXT,) * len(ids))


def encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Return the ids of ``text`` as it stands in the middle of another."""
    return tuple(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


@torch.no_grad()
def add_tags(model: Any, tokenizer: Any, tags: Tags) -> list[int]:
    """Make each tag a token of its own, and return their ids.

    The embedding grows if it has no room.  A new row is the mean of the tag's old tokens, so that the model starts
    from what it knows of ``<think>``; input and output embeddings alike.  Nothing is drawn.
    """
    names = (tags.open, tags.close)
    old = [encode(tokenizer, tag) for tag in names]
    # Not special: a special token is never drawn, and skipped when text is decoded.
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in names])
    new = [tokenizer.convert_tokens_to_ids(tag) for tag in names]
    rows = model.get_input_embeddings().num_embeddings
    if max(new) >= rows:
        with torch.random.fork_rng(devices=[]):  # it draws rows, which are replaced below
            model.resize_token_embeddings(max(new) + 1, mean_resizing=False)
    tables = [model.get_input_embeddings().weight]
    output = model.get_output_embeddings()
    if output is not None and output.weight is not tables[0]:
        tables.append(output.weight)
    for table in tables:
        table[rows:] = table[:rows].mean(dim=0)
        for index, parts in zip(new, old, strict=True):
            table[index] = table[list(parts)].mean(dim=0)
    return new


def as_group(ids: tuple[int, ...], bos: tuple[int, ...]) -> Group:
    """Return a text as a branch of its first token, BOS if there is one."""
    whole = bos + ids
    return Group(prefix=whole[:1], branches=(whole[1:],))

"""Where a thought may stand: after a sentence or a clause, between two tokens of the untouched text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from forethought.engine import Scorer
from forethought.models.thought_tokens import as_group
from forethought.records import Chunk, Place

SENTENCE_END = re.compile(r"[.!?…؟]+[\"'”’»)\]]*(?=\s+[^\s\d\W])|[。！？]+[」』）]*|\n(?=\s*\S)")
"""A mark that ends a sentence, with quotes and brackets after it; before a space, unless the script uses none."""
CLAUSE_END = re.compile(r"[,;:،؛](?=\s)|[，；：、]|\s[–—](?=\s)")
"""A mark that ends a clause."""
ABBREVIATION = re.compile(r"(?:\b(?:[A-Za-z]|[A-Z][a-z]{1,2}|St|vs|cf|etc|No|approx)|\W[a-z]\.[a-z])\.$")
"""What ends in a full stop and mostly goes on: initials, titles, `e.g.`"""
WINDOW = 8
"""Tokens after a place that say how surprising the text is there."""


def boundaries(ids: Sequence[int], text: str, tokenizer: Any) -> dict[int, int]:
    """Return, for each position of ``text`` that lies between two tokens, how many of ``ids`` stand before it.

    ``ids`` decode to ``text``.  A place inside of a character that spans several tokens is no boundary.
    """
    tokens_before: dict[int, int] = {}
    for count in range(1, len(ids)):
        decoded = tokenizer.decode(list(ids[:count]), clean_up_tokenization_spaces=False, skip_special_tokens=False)
        # Part of a character decodes to a replacement character, with which the text does not go on.
        if text.startswith(decoded):
            tokens_before[len(decoded)] = count
    return tokens_before


def candidates(chunk: Chunk, tokenizer: Any, gap: int, clauses: bool = True) -> list[Place]:
    """Return the sentence and clause ends of a chunk that lie between tokens, ``gap`` characters from both its ends.

    Prefix and suffix are one text here, and ``tokenizer`` is the policy's.
    """
    text = chunk.prefix + chunk.suffix
    ends = {match.end() for match in SENTENCE_END.finditer(text)}
    # Only 12 characters are looked at: no abbreviation is longer, and a long text is not searched at every full stop.
    ends -= {end for end in ends if text[end - 1] == "." and ABBREVIATION.search(text[max(0, end - 12) : end])}
    if clauses:
        ends |= {match.end() for match in CLAUSE_END.finditer(text)}
    inside = boundaries(chunk.prefix_ids + chunk.suffix_ids, text, tokenizer)
    return [
        Place(position=position, token=inside[position])
        for position in sorted(ends & inside.keys())
        if gap <= position <= len(text) - gap
    ]


def spaced(ranked: Sequence[Place], count: int, gap: int) -> list[Place]:
    """Return up to ``count`` of ``ranked`` (best first) that stand ``gap`` characters apart, in the text's order."""
    kept: list[Place] = []
    for place in ranked:
        if len(kept) < count and all(abs(place.position - other.position) >= gap for other in kept):
            kept.append(place)
    return sorted(kept, key=lambda place: place.position)


def by_surprise(
    chunks: Sequence[Chunk], places: Sequence[Sequence[Place]], scorer: Scorer, bos: tuple[int, ...]
) -> list[list[Place]]:
    """Return the places of each chunk, the most surprising first: by the mean NLL of the next tokens (nats)."""
    groups = [as_group(chunk.prefix_ids + chunk.suffix_ids, bos) for chunk in chunks]
    ranked = []
    for chunk_places, [logprobs] in zip(places, scorer.logprobs(groups), strict=True):
        first = len(bos) - 1  # the branch begins after the group's first token
        nll = {p: -float(np.mean(logprobs[p.token + first : p.token + first + WINDOW])) for p in chunk_places}
        ranked.append(sorted(chunk_places, key=lambda place: (-nll[place], place.position)))
    return ranked

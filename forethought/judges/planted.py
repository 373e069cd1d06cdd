"""Planted pairs: the author's suffix against one that is worse by construction."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from forethought.keys import Key
from forethought.records import Chunk, JudgeRequest

Kind = Literal["other_document", "shuffled", "repeated", "corrupted", "rollout"]

IMPOSSIBLE: dict[Kind, str] = {
    "other_document": "no other document",
    "shuffled": "no two different words",
    "repeated": "fewer than eight words",
    "corrupted": "no number or name to swap",
    "rollout": "no rollout",
}
"""Why a chunk may have no pair of a kind."""

NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
WORD = re.compile(r"\S+")
NAME = re.compile(r"[^\W\d_][\w’'-]+")
SENTENCE_END = re.compile(r"(?:^|[.!?:;\n][\"”’')\]]*)\s*[\"“‘'(\[]*$")


class Span(NamedTuple):
    """``text`` stands, or shall stand, at ``[start, end)`` of another text."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """A pair whose better side is known."""

    kind: Kind
    """How the worse side was made."""
    chunk_id: str
    request: JudgeRequest
    """Two candidates, in a random order."""
    original: int
    """Index of the author's suffix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planting:
    """Planted pairs by kind and chunk, and what could not be planted."""

    pairs: tuple[Planted, ...]
    left_out: dict[str, int]
    """How often a pair was left out, by kind and reason: ``"corrupted: no number or name to swap"``."""


def plant(chunks: Sequence[Chunk], rollouts: Sequence[str | None], key: Key) -> Planting:
    """Plant a pair of each kind for each chunk where it can be made.

    Args:
        rollouts: a continuation by the untrained policy for each chunk, ``None`` where there is none; or empty.
    """
    continuations = list(rollouts) or [None] * len(chunks)
    if len(continuations) != len(chunks):
        raise ValueError(f"{len(continuations)} rollouts for {len(chunks)} chunks: give one for each, or none at all")
    pairs: list[Planted] = []
    left_out: Counter[str] = Counter()
    for kind, reason in IMPOSSIBLE.items():
        for chunk, rollout in zip(chunks, continuations, strict=True):
            worse = rollout if kind == "rollout" else _worse(kind, chunk, chunks, key)
            if not worse or not worse.strip():
                left_out[f"{kind}: {reason}"] += 1
            # A pair of equal texts has no better side.
            elif worse == chunk.suffix:
                left_out[f"{kind}: same as the original"] += 1
            else:
                # By lot, so that a judge which always names the first is right half the time.
                original = int(key.generator(f"place/{kind}/{chunk.id}").integers(2))
                candidates = (worse, chunk.suffix) if original else (chunk.suffix, worse)
                request = JudgeRequest(prefix=chunk.prefix, candidates=candidates, original=chunk.suffix)
                pairs.append(Planted(kind=kind, chunk_id=chunk.id, request=request, original=original))
    return Planting(pairs=tuple(pairs), left_out=dict(left_out))


def _worse(kind: Kind, chunk: Chunk, chunks: Sequence[Chunk], key: Key) -> str | None:
    # Of other documents: a later chunk of the same one may well fit.
    others = [other for other in chunks if other.document_id != chunk.document_id]
    if kind == "shuffled":
        return shuffled(chunk.suffix, key.generator(f"shuffled/{chunk.id}"))
    if kind == "repeated":
        return repeated(chunk.suffix)
    if kind == "corrupted":
        texts = [other.prefix + other.suffix for other in others]
        return corrupted(chunk.prefix, chunk.suffix, texts, key.generator(f"corrupted/{chunk.id}"))
    return others[int(key.generator(f"other/{chunk.id}").integers(len(others)))].suffix if others else None


def shuffled(text: str, generator: np.random.Generator) -> str | None:
    """Return ``text`` with its words in another order and its white space where it was; ``None`` if all are alike."""
    words = WORD.findall(text)
    if len(set(words)) < 2:
        return None
    order = words
    while order == words:  # a permutation may change nothing, and equal words may change places
        order = [words[i] for i in generator.permutation(len(words))]
    others = iter(order)
    return WORD.sub(lambda match: next(others), text)


def repeated(text: str) -> str | None:
    """Return the first quarter of ``text``'s words over and over, until it is as long; ``None`` if too short."""
    words = WORD.findall(text)
    if len(words) < 8:
        return None
    loop = itertools.cycle(words[: max(4, len(words) // 4)])
    return WORD.sub(lambda match: next(loop), text)


def corrupted(prefix: str, suffix: str, others: Sequence[str], generator: np.random.Generator) -> str | None:
    """Return ``suffix`` with its numbers and names swapped, or ``None`` if it has nothing to swap.

    Two or more different ones of a class (numbers, names) change places among themselves; a single one is replaced by
    one of the ``others``' texts.  A name is a run of capitalised words that does not begin a sentence.
    """
    changes = [
        *_swap(numbers(suffix), [span.text for text in others for span in numbers(text)], generator),
        *_swap(names(prefix, suffix), [span.text for text in others for span in names("", text)], generator),
    ]
    pieces, end = [], 0
    for change in sorted(changes):
        pieces += [suffix[end : change.start], change.text]
        end = change.end
    return "".join([*pieces, suffix[end:]]) if changes else None


def numbers(text: str) -> list[Span]:
    """Return the numbers of ``text``."""
    return [Span(*match.span(), match.group()) for match in NUMBER.finditer(text)]


def names(prefix: str, text: str) -> list[Span]:
    """Return the runs of capitalised words of ``text``, which goes on from ``prefix``, that begin no sentence."""
    found: list[Span] = []
    for match in NAME.finditer(text):
        start, end = match.span()
        if not match.group()[0].isupper():
            continue
        if found and text[found[-1].end : start] == " ":
            start = found.pop().start  # the second word of "New York" goes on with the first
        # A word that begins a sentence is capitalised anyway.
        elif SENTENCE_END.search(prefix[-20:] + text[:start]):
            continue
        found.append(Span(start, end, text[start:end]))
    return found


def _swap(spans: Sequence[Span], foreign: Sequence[str], generator: np.random.Generator) -> list[Span]:
    """Return the spans with other texts: of one another, or a foreign one where there is only one text."""
    own = list(dict.fromkeys(span.text for span in spans))
    if len(own) > 1:
        # A rotation by at least one place: no text stays where it was.
        turn = int(generator.integers(1, len(own)))
        exchange = dict(zip(own, own[turn:] + own[:turn], strict=True))
    else:
        others = [text for text in foreign if text not in own]
        if not own or not others:
            return []
        # A year should become a year: something of the same length is the harder, hence the better forgery.
        same_length = [text for text in others if len(text) == len(own[0])] or others
        exchange = {own[0]: same_length[int(generator.integers(len(same_length)))]}
    return [span._replace(text=exchange[span.text]) for span in spans]

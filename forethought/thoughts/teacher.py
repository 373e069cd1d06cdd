"""The teacher: it reads a raw chunk and says what a careful reader may think at places of it.  It never rewrites text.

Two ways of asking.  *By place*: where the thought stands is known, and each request is for one of them, which small
models manage.  *By chunk*: the places are numbered, and the reply has a line for each chosen one, which takes a
teacher that keeps to a format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from forethought.llm.generate import Style, Writer, Written
from forethought.llm.prompts import Prompt, load
from forethought.records import Chunk, Place, content_id
from forethought.tags import Tags
from forethought.thoughts.checks import Rejection, clean
from forethought.thoughts.places import pieces

HOME = "forethought.thoughts"
BY_PLACE, BY_CHUNK = ("before", "after", "words"), ("text", "count", "words")
"""Fields of the two prompts."""
NUMBERED = re.compile(r"^\W{0,3}(\d{1,4})\W{0,3}\s*(?:[:.)–—-]|\s)\s*(.*)$")
"""A line that begins with the number of a place, whatever stands around it."""


@dataclass(slots=True, kw_only=True)
class Draft:
    """A row in the making."""

    chunk: Chunk
    """What is augmented."""
    places: list[Place]
    """Where a thought may stand, in the order of the text."""
    thoughts: dict[Place, str] = field(default_factory=dict)
    """What was kept so far."""

    @property
    def text(self) -> str:
        """The raw text."""
        return self.chunk.prefix + self.chunk.suffix

    @property
    def open(self) -> list[Place]:
        """Places without a thought."""
        return [place for place in self.places if place not in self.thoughts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One thought that a teacher offered, or one reply that held none."""

    place: Place | None = None
    """Where it is to stand."""
    thought: str = ""
    """What it says."""
    rejection: Rejection | None = None
    """What is wrong with it already."""


class Teacher(Protocol):
    """Something that offers thoughts."""

    @property
    def name(self) -> str:
        """Short name for tables."""
        ...

    @property
    def identity(self) -> str:
        """Hash of the model and of how it is asked."""
        ...

    def ask(self, drafts: Sequence[Draft], attempt: int) -> list[list[Offer]]:
        """Return what is offered for the open places of each draft; a later ``attempt`` draws anew."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How a teacher is asked."""

    writers: Sequence[Writer]
    """One for each attempt: the same model with other random numbers."""
    style: Style
    """How replies are drawn."""
    tags: Tags
    """No reply may hold them."""
    words: int
    """Longest thought."""
    prompt: str | None = None
    """A prompt file of one's own."""

    def identity(self, *more: object) -> str:
        """Return a hash of all that decides a reply."""
        return content_id(*(writer.identity for writer in self.writers), str(self.style), self.words, *more)


class PlaceTeacher:
    """Asks for one thought per place: what was read stands before it, what comes after it."""

    def __init__(self, asking: Asking) -> None:
        self.asking = asking
        self.prompt = load("place", BY_PLACE, path=asking.prompt, home=HOME)

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.asking.writers[0].name

    @property
    def identity(self) -> str:
        """See :class:`Teacher`."""
        return self.asking.identity("by place", self.prompt.text)

    def ask(self, drafts: Sequence[Draft], attempt: int) -> list[list[Offer]]:
        """See :class:`Teacher`."""
        asked = [(index, place) for index, draft in enumerate(drafts) for place in draft.open]
        requests = [_fill_place(self.prompt, drafts[index].text, place, self.asking.words) for index, place in asked]
        replies = self.asking.writers[attempt].write(requests, 1, self.asking.style)
        offers: list[list[Offer]] = [[] for _ in drafts]
        for (index, place), [reply] in zip(asked, replies, strict=True):
            offers[index].append(_offer(place, reply, self.asking.tags))
        return offers


class ChunkTeacher:
    """Shows the chunk with numbered places and takes a line, or a JSON object, for each chosen place."""

    def __init__(self, asking: Asking, count: int) -> None:
        """``count``: thoughts that are asked for."""
        self.asking = asking
        self.count = count
        self.prompt = load("chunk", BY_CHUNK, "thoughts", asking.prompt, HOME)
        self.places = load("chunk", BY_CHUNK, "places", asking.prompt, HOME)

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.asking.writers[0].name

    @property
    def identity(self) -> str:
        """See :class:`Teacher`."""
        return self.asking.identity("by chunk", self.prompt.text, self.places.text, self.count)

    def ask(self, drafts: Sequence[Draft], attempt: int) -> list[list[Offer]]:
        """See :class:`Teacher`."""
        replies = self._replies(self.prompt, drafts, attempt)
        return [_read(draft, reply, self.asking.tags) for draft, reply in zip(drafts, replies, strict=True)]

    def choose(self, drafts: Sequence[Draft], attempt: int) -> list[list[Place]]:
        """Return the places that the teacher names, without thoughts; in the order of the text."""
        replies = self._replies(self.places, drafts, attempt)
        chosen = []
        for draft, reply in zip(drafts, replies, strict=True):
            numbers = {int(number) for number in re.findall(r"\d{1,4}", reply.text or "")}
            chosen.append([place for number, place in enumerate(draft.places, start=1) if number in numbers])
        return chosen

    def _replies(self, prompt: Prompt, drafts: Sequence[Draft], attempt: int) -> list[Written]:
        values = {"count": str(self.count), "words": str(self.asking.words)}
        requests = [prompt.fill(values | {"text": _numbered(draft)}) for draft in drafts]
        return [reply for [reply] in self.asking.writers[attempt].write(requests, 1, self.asking.style)]


def _numbered(draft: Draft) -> str:
    """Return the text with ``[n]`` at place n; a copy for the teacher's eyes, which nothing is taken from."""
    first, *rest = pieces(draft.text, draft.places)
    return first + "".join(f" [{number}]{piece}" for number, piece in enumerate(rest, start=1))


def _fill_place(prompt: Prompt, text: str, place: Place, words: int) -> str:
    values = {"before": text[: place.position], "after": text[place.position :], "words": str(words)}
    return prompt.fill(values)


def _offer(place: Place | None, reply: Written, tags: Tags) -> Offer:
    if reply.text is None:
        return Offer(place=place, rejection=Rejection.NO_REPLY)
    thought = clean(reply.text, tags)
    if isinstance(thought, Rejection):
        return Offer(place=place, rejection=thought)
    return Offer(place=place, thought=thought)


def _read(draft: Draft, reply: Written, tags: Tags) -> list[Offer]:
    """Return one offer for each line of a reply; a reply without any is one offer, rejected."""
    if reply.text is None:
        return [Offer(rejection=Rejection.NO_REPLY)]
    spoken = reply.text.rpartition("</think>")[2] if reply.text.lstrip().startswith("<think>") else reply.text
    if not spoken.strip():
        return [Offer(rejection=Rejection.EMPTY)]
    lines = _objects(spoken)
    if lines is None:
        lines = [(found[1], found[2]) if (found := NUMBERED.match(line)) else None for line in _lines(spoken)]
    offers = []
    for line in lines:
        if line is None:
            offers.append(Offer(rejection=Rejection.MALFORMED))
            continue
        number, thought = int(line[0]), line[1]
        place = draft.places[number - 1] if 1 <= number <= len(draft.places) else None
        if place is None or place in draft.thoughts:
            offers.append(Offer(rejection=Rejection.NO_PLACE))
        else:
            offers.append(_offer(place, Written(thought), tags))
    return offers


def _lines(spoken: str) -> list[str]:
    return [line.strip() for line in spoken.splitlines() if line.strip() and not line.strip().startswith("```")]


def _objects(spoken: str) -> list[tuple[str, str] | None] | None:
    """Return what a JSON list of ``{"place": n, "thought": "..."}`` says, or ``None`` if ``spoken`` is no JSON list."""
    bare = re.sub(r"^```\w*\s*|\s*```$", "", spoken.strip())
    try:
        found = json.loads(bare)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or not found:
        return None
    return [_object(one) for one in found]


def _object(one: object) -> tuple[str, str] | None:
    if not isinstance(one, dict):
        return None
    number, thought = one.get("place"), one.get("thought")
    if not re.fullmatch(r"\d{1,4}", str(number)) or not isinstance(thought, str):
        return None
    return str(number), thought

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
from pathlib import Path
from typing import Protocol

from forethought.config import InterleaveConfig
from forethought.keys import Key
from forethought.llm.cache import CachedGenerator, TextCache
from forethought.llm.generate import GenerationConfig, Generator, Reply, make_generator
from forethought.llm.prompts import PromptTemplate, load_prompt
from forethought.llm.replies import whole_lines
from forethought.models.model import ModelPool
from forethought.records import Chunk, Place, content_id
from forethought.tags import Tags
from forethought.text import words
from forethought.thoughts.checks import Rejection, clean

HOME = "forethought.thoughts"
BY_PLACE, BY_CHUNK = ("before", "after", "words"), ("text", "count", "words")
"""Fields of the two prompts."""
NUMBERED = re.compile(r"^\W{0,3}(\d{1,4})\W{0,3}\s*(?:[:.)–—-]|\s)\s*(.*)$")
"""A line that begins with the number of a place, whatever stands around it."""
STUB_THOUGHTS = (
    "So far this is about {word}. What follows should say more.",
    "Why {word}? There must be a reason.",
    "Then {word} matters here.",
)
"""What the stub says, in turn."""


@dataclass(slots=True, kw_only=True)
class Draft:
    """A row in the making."""

    chunk: Chunk
    places: list[Place]
    """Where a thought may stand, in the order of the text."""
    thoughts: dict[Place, str] = field(default_factory=dict)
    """What was kept so far."""

    @property
    def text(self) -> str:
        return self.chunk.prefix + self.chunk.suffix

    @property
    def open(self) -> list[Place]:
        return [place for place in self.places if place not in self.thoughts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One thought that a teacher proposed, or one reply that held none."""

    place: Place | None = None
    thought: str = ""
    rejection: Rejection | None = None
    """What is wrong with it already."""
    reason: str = ""
    """Why there is no reply."""


class Teacher(Protocol):
    """Proposes thoughts."""

    name: str
    identity: str
    """Hash of the model and of how it is asked."""

    def ask(self, drafts: Sequence[Draft], attempt: int) -> list[list[Proposal]]:
        """Return proposals for the open places of each draft; each ``attempt`` has its own random numbers."""
        ...


def build_teacher(config: InterleaveConfig, pool: ModelPool, cache: Path) -> Teacher:
    """Return the teacher of ``config``, whose replies are kept in the file ``cache``; no weights are loaded yet."""
    if config.teacher.kind == "stand-in":
        return StubTeacher()
    key, replies = Key(seed=pool.compute.seed, purpose="thoughts"), TextCache(cache, "replies")
    # A key for each attempt: asked again under the same one, a model would say the same.
    generators = [
        CachedGenerator(make_generator(config.teacher, pool, key.at(attempt)), replies)
        for attempt in range(config.teacher.retries + 1)
    ]
    return ChunkTeacher(generators, config) if config.positions == "teacher" else PlaceTeacher(generators, config)


class StubTeacher:
    """Names the longest of the last words before a place: a rule without a model, for tests and smoke runs."""

    name = "stand-in"
    identity = content_id("stand-in", STUB_THOUGHTS)

    def ask(self, drafts: Sequence[Draft], attempt: int) -> list[list[Proposal]]:
        def propose(text: str, place: Place, number: int) -> Proposal:
            word = max(words(text[: place.position])[-12:], key=len)
            return Proposal(place=place, thought=STUB_THOUGHTS[number % len(STUB_THOUGHTS)].format(word=word))

        return [[propose(draft.text, place, number) for number, place in enumerate(draft.open)] for draft in drafts]


class _ModelTeacher:
    """What both ways of asking a language model share."""

    def __init__(self, generators: Sequence[Generator], config: InterleaveConfig, longest: int) -> None:
        """``generators`` are one model with other random numbers for each attempt; a reply has ``longest`` thoughts."""
        teacher, most = config.teacher, config.teacher.max_tokens * longest
        self.generators = generators
        self.sampling = GenerationConfig(max_tokens=most, temperature=teacher.temperature, top_p=teacher.top_p)
        self.words, self.tags = config.max_words, Tags(*config.tags)
        self.name = generators[0].name

    def _identity(self, *prompts: object) -> str:
        models = (generator.identity for generator in self.generators)
        return content_id(*models, self.sampling.identity, self.words, *prompts)

    def _replies(self, requests: Sequence[str], attempt: int) -> list[Reply]:
        return [reply for [reply] in self.generators[attempt].generate(requests, 1, self.sampling)]


class PlaceTeacher(_ModelTeacher):
    """Asks for one thought per place: what was read stands before it, what comes after it."""

    def __init__(self, generators: Sequence[Generator], config: InterleaveConfig) -> None:
        super().__init__(generators, config, 1)
        self.prompt = load_prompt("place", BY_PLACE, path=config.teacher.prompt, home=HOME)
        self.identity = self._identity("by place", self.prompt.text)

    def ask(self, drafts: Sequence[Draft], attempt: int) -> list[list[Proposal]]:
        def request(text: str, place: Place) -> str:
            values = {"before": text[: place.position], "after": text[place.position :], "words": str(self.words)}
            return self.prompt.fill(values)

        requests = [request(draft.text, place) for draft in drafts for place in draft.open]
        # One per open place, dealt out below in the order of the requests.
        replies = iter(self._replies(requests, attempt))
        return [[_proposal(place, next(replies), self.tags) for place in draft.open] for draft in drafts]


class ChunkTeacher(_ModelTeacher):
    """Shows the chunk with numbered places and takes a line, or a JSON object, for each chosen place."""

    def __init__(self, generators: Sequence[Generator], config: InterleaveConfig) -> None:
        self.count = config.thoughts[1]
        super().__init__(generators, config, self.count)
        self.prompt = load_prompt("chunk", BY_CHUNK, "thoughts", config.teacher.prompt, HOME)
        self.places = load_prompt("chunk", BY_CHUNK, "places", config.teacher.prompt, HOME)
        self.identity = self._identity("by chunk", self.prompt.text, self.places.text, self.count)

    def ask(self, drafts: Sequence[Draft], attempt: int) -> list[list[Proposal]]:
        replies = self._replies(self._requests(self.prompt, drafts), attempt)
        return [_read(draft, reply, self.tags) for draft, reply in zip(drafts, replies, strict=True)]

    def choose(self, drafts: Sequence[Draft], attempt: int) -> list[list[Place]]:
        """Return the places that the teacher names, without thoughts; in the order of the text."""
        chosen = []
        for draft, reply in zip(drafts, self._replies(self._requests(self.places, drafts), attempt), strict=True):
            found = re.findall(r"(?<!\d)\d{1,4}(?!\d)", reply.answer or "")
            # The last one may be the beginning of another.
            numbers = {int(number) for number in (found[:-1] if reply.cut else found)}
            chosen.append([place for number, place in enumerate(draft.places, start=1) if number in numbers])
        return chosen

    def _requests(self, prompt: PromptTemplate, drafts: Sequence[Draft]) -> list[str]:
        values = {"count": str(self.count), "words": str(self.words)}
        return [prompt.fill(values | {"text": _numbered(draft)}) for draft in drafts]


def _numbered(draft: Draft) -> str:
    """Return the text with ``[n]`` at place n; a copy for the teacher's eyes, which nothing is taken from."""
    text = re.sub(r"\[(\s*\d{1,4}\s*)\]", r"(\1)", draft.text)  # as long as it was; numbers of its own are no places
    for number, place in reversed(list(enumerate(draft.places, start=1))):  # from behind: positions before stay true
        text = f"{text[: place.position]} [{number}]{text[place.position :]}"
    return text


def _proposal(place: Place, reply: Reply, tags: Tags) -> Proposal:
    thought = Rejection.NO_REPLY if reply.text is None else Rejection.CUT if reply.cut else clean(reply.text, tags)
    if isinstance(thought, Rejection):
        return Proposal(place=place, rejection=thought, reason=reply.reason)
    return Proposal(place=place, thought=thought)


def _read(draft: Draft, reply: Reply, tags: Tags) -> list[Proposal]:
    """Return one proposal for each line of a reply; a reply without any is one proposal, rejected."""
    if reply.text is None:
        return [Proposal(rejection=Rejection.NO_REPLY, reason=reply.reason)]
    text = reply.answer
    if text is None:
        return [Proposal(rejection=Rejection.CUT)]
    if not text.strip():
        return [Proposal(rejection=Rejection.EMPTY)]
    open_places = {number: place for number, place in enumerate(draft.places, 1) if place not in draft.thoughts}
    proposals = []
    if reply.cut:  # what stands in its last line is half a thought
        text = whole_lines(text)
        proposals.append(Proposal(rejection=Rejection.CUT))
    for line in _lines(text):
        if line is None:
            proposals.append(Proposal(rejection=Rejection.MALFORMED))
        elif line[0] not in open_places:
            proposals.append(Proposal(rejection=Rejection.NO_PLACE))
        else:
            proposals.append(_proposal(open_places[line[0]], Reply(line[1]), tags))
    return proposals


def _lines(text: str) -> list[tuple[int, str] | None]:
    """Return number and thought of each line, or of each ``{"place": n, "thought": "..."}`` of a JSON list."""
    bare = re.sub(r"^```\w*", "", text.strip()).removesuffix("```")
    try:
        parsed = json.loads(bare)
    except (ValueError, RecursionError):
        parsed = None
    if isinstance(parsed, list) and parsed:
        return [_object(item) for item in parsed]
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("```")]
    return [(int(match[1]), match[2]) if (match := NUMBERED.match(line)) else None for line in lines]


def _object(item: object) -> tuple[int, str] | None:
    if not isinstance(item, dict):
        return None
    number, thought = str(item.get("place")), item.get("thought")
    return (int(number), thought) if re.fullmatch(r"\d{1,4}", number) and isinstance(thought, str) else None

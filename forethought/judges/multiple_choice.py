"""Multiple-choice questions to language models: by the probability of the answer's first token, or in writing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from forethought.engine import Group
from forethought.judges.base import JudgeError
from forethought.llm.base import TRANSPORT
from forethought.llm.endpoint import ChatOptions, Endpoint, Reply
from forethought.llm.generate import Style, Writer, Written
from forethought.llm.local import LocalModel
from forethought.records import content_id

TOP_LOGPROBS = 20
"""Likeliest tokens that a server is asked for; OpenAI's and vLLM's limit."""
KEPT = 2000
"""Characters of a written verdict that are kept."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Questions that begin alike."""

    shared: str
    """What they begin with."""
    branches: tuple[str, ...]
    """How each goes on and ends."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A distribution over the choices, or none."""

    weights: tuple[float, ...] | None
    """One per choice, adding up to 1."""
    said: str = ""
    """What was written, or why there is no answer."""


class Asker(Protocol):
    """Something that answers multiple-choice questions."""

    @property
    def name(self) -> str:
        """Short name for tables."""
        ...

    @property
    def identity(self) -> str:
        """Hash of the model and of how it is asked."""
        ...

    def ask(self, asked: Sequence[Asked], choices: Sequence[str]) -> list[list[Answer]]:
        """Return an answer per branch."""
        ...


class LocalLetterAsker:
    """Compares the probabilities of the choices' first tokens under a model in this process; one forward, no text."""

    def __init__(self, model: LocalModel) -> None:
        self.model = model

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.model.name

    @property
    def identity(self) -> str:
        """Hash of the model."""
        return content_id("letter", self.model.identity)

    def ask(self, asked: Sequence[Asked], choices: Sequence[str]) -> list[list[Answer]]:
        """See :class:`Asker`; what questions share is computed once."""
        forms = choice_ids(self.model, choices)
        head, tail = self.model.frame()
        results: list[list[Answer]] = []
        groups: list[Group] = []
        places: list[tuple[int, list[int]]] = []
        for number, item in enumerate(asked):
            shared = head + self.model.encode(item.shared)
            branches = [self.model.encode(branch) + tail for branch in item.branches]
            room = self.model.context - len(shared)
            reason = f"the question exceeds the judge's context of {self.model.context} tokens"
            results.append([Answer(None, reason)] * len(branches))
            fitting = [index for index, branch in enumerate(branches) if len(branch) <= room]
            if fitting:
                groups.append(Group(prefix=shared, branches=tuple(branches[index] for index in fitting)))
                places.append((number, fitting))
        flat = [token for ids in forms for token in ids]
        ends = np.cumsum([len(ids) for ids in forms])[:-1]
        for (number, fitting), logprobs in zip(places, self.model.scorer.choices(groups, flat), strict=True):
            for index, row in zip(fitting, np.exp(logprobs.astype(np.float64)), strict=True):
                results[number][index] = _answer([float(part.sum()) for part in np.split(row, ends)], "")
        return results


class EndpointLetterAsker:
    """Compares the probabilities of the choices' first tokens as a server lists them."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    @property
    def name(self) -> str:
        """Name of the model, as the server knows it."""
        return self.endpoint.config.model

    @property
    def identity(self) -> str:
        """Hash of address and model."""
        return content_id("letter", self.endpoint.config.base_url, self.endpoint.config.model)

    def ask(self, asked: Sequence[Asked], choices: Sequence[str]) -> list[list[Answer]]:
        """See :class:`Asker`."""
        chats = [[{"role": "user", "content": item.shared + branch}] for item in asked for branch in item.branches]
        replies = iter(self.endpoint.chat(chats, ChatOptions(max_tokens=1, top_logprobs=TOP_LOGPROBS)))
        return [[_from_reply(next(replies), choices) for _ in item.branches] for item in asked]


class WrittenAsker:
    """Lets a model reason and takes the conclusion at the end; of several replies, each counts the same."""

    def __init__(self, writer: Writer, style: Style, repeats: int = 1) -> None:
        self.writer = writer
        self.style = style
        self.repeats = repeats

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.writer.name

    @property
    def identity(self) -> str:
        """Hash of the model, the style and the number of replies."""
        return content_id("written", self.writer.identity, str(self.style), self.repeats)

    def ask(self, asked: Sequence[Asked], choices: Sequence[str]) -> list[list[Answer]]:
        """See :class:`Asker`; replies without a conclusion do not count, and if none has one there is no answer."""
        requests = [item.shared + branch for item in asked for branch in item.branches]
        replies = iter(self.writer.write(requests, self.repeats, self.style))
        return [[_tally(next(replies), choices) for _ in item.branches] for item in asked]


def _tally(replies: Sequence[Written], choices: Sequence[str]) -> Answer:
    votes = [0.0] * len(choices)
    said = []
    for reply in replies:
        found = None if reply.text is None else conclusion(reply.text, choices)
        if found is not None:
            votes[found] += 1
        said.append(reply.reason if reply.text is None else reply.text[-KEPT:])
    if not any(votes):
        first = replies[0]
        return Answer(None, first.reason if first.text is None else f"no conclusion in: {first.text[-KEPT:]}")
    return Answer(tuple(vote / sum(votes) for vote in votes), "\n---\n".join(said))


def conclusion(reply: str, choices: Sequence[str]) -> int | None:
    """Return the index of the choice that the last ``Conclusion: ...`` of ``reply`` names, or ``None``.

    What stands inside ``<think>...</think>`` is not the judge's word; a thought that never ends leaves none.
    """
    spoken = reply.rpartition("</think>")[2]
    if "<think>" in spoken:
        return None
    named = "|".join(re.escape(choice) for choice in choices)
    pattern = rf"conclusion\W*?:\W*(?:option\W*)?({named})\b(?!\W*(?:or|and)\b|\s*[/|])"
    found = re.findall(pattern, spoken, flags=re.IGNORECASE)
    return [choice.casefold() for choice in choices].index(found[-1].casefold()) if found else None


def choice_ids(model: LocalModel, choices: Sequence[str]) -> list[tuple[int, ...]]:
    """Return, per choice, the ids with which it may begin: alone, after a space or after a line end, in any case.

    Tokenizers differ in whether a space or a line end sticks to what follows.  Ids that two choices share (the space
    itself, say) tell nothing and are left out.

    Raises:
        ValueError: when nothing is left for a choice.
    """
    found: list[set[int]] = []
    for choice in choices:
        ids: set[int] = set()
        for form in {choice, choice.lower(), choice.capitalize()}:
            for before in ("", " ", "\n"):
                alone, together = model.encode(before), model.encode(before + form)
                start = len(alone) if before == "\n" and together[: len(alone)] == alone else 0
                ids.update(together[start : start + 1])
        found.append(ids)
    shared = {token for a in range(len(found)) for b in range(a) for token in found[a] & found[b]}
    distinct = [tuple(sorted(ids - shared)) for ids in found]
    for choice, kept in zip(choices, distinct, strict=True):
        if not kept:
            raise JudgeError(f"{model.name}: no token of its own begins the answer {choice!r}: set verdict = 'written'")
    return distinct


def _from_reply(reply: Reply, choices: Sequence[str]) -> Answer:
    if reply.error is not None:
        return Answer(None, TRANSPORT + reply.error)
    # A server that lists no probabilities has still said what it would answer.
    top: Mapping[str, float] = reply.top_logprobs or {reply.text: 0.0}
    shares = [0.0] * len(choices)
    for token, logprob in top.items():
        word = token.strip().casefold()
        matches = [index for index, choice in enumerate(choices) if word and choice.casefold().startswith(word)]
        if len(matches) == 1:
            shares[matches[0]] += math.exp(logprob)
    return _answer(shares, f"none of the likeliest first tokens begins {' or '.join(choices)}: {sorted(top)!r}")


def _answer(shares: Sequence[float], otherwise: str) -> Answer:
    total = sum(shares)
    if not (math.isfinite(total) and total > 0):
        return Answer(None, otherwise or f"the answers' probabilities add up to {total}")
    return Answer(tuple(share / total for share in shares))

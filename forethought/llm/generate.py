"""Language models that write replies to requests, in this process or behind an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from forethought.engine import Prompt, Sampling
from forethought.keys import Key
from forethought.llm.base import TRANSPORT, LanguageError
from forethought.llm.endpoint import ChatOptions, Endpoint, Reply
from forethought.llm.local import LocalModel
from forethought.records import content_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How replies are drawn."""

    max_tokens: int
    """Replies are cut here."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus; a model in this process takes 1 only."""


@dataclass(frozen=True, slots=True)
class Written:
    """A reply, or why there is none."""

    text: str | None
    """What was written."""
    reason: str = ""
    """Why nothing was."""


class Writer(Protocol):
    """Something that replies to requests."""

    @property
    def name(self) -> str:
        """Short name for tables."""
        ...

    @property
    def identity(self) -> str:
        """Hash of the model."""
        ...

    def write(self, requests: Sequence[str], repeats: int, style: Style) -> list[list[Written]]:
        """Return ``repeats`` replies to each request; a draw depends on the request and its number alone."""
        ...


class LocalWriter:
    """A model in this process."""

    def __init__(self, model: LocalModel, key: Key) -> None:
        self.model = model
        self.key = key

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.model.name

    @property
    def identity(self) -> str:
        """Hash of the model, and the key: other draws are other verdicts."""
        return content_id("local", self.model.identity, str(self.key))

    def write(self, requests: Sequence[str], repeats: int, style: Style) -> list[list[Written]]:
        """See :class:`Writer`."""
        if style.top_p != 1.0:
            raise LanguageError(
                f"top_p = {style.top_p}: a model in this process draws without a nucleus. Set top_p = 1"
            )
        head, tail = self.model.frame()
        prompts = [
            Prompt(id=content_id(request), token_ids=head + self.model.encode(request) + tail) for request in requests
        ]
        room = self.model.context - style.max_tokens
        fitting = [index for index, prompt in enumerate(prompts) if len(prompt.token_ids) <= room]
        sampling = Sampling(max_tokens=style.max_tokens, temperature=style.temperature, stop_ids=self.model.stops())
        drawn = self.model.sampler.sample([prompts[index] for index in fitting], repeats, sampling, self.key)
        reason = f"the request and {style.max_tokens} tokens of reply exceed the context of {self.model.context} tokens"
        results = [[Written(None, reason)] * repeats for _ in requests]
        for index, completions in zip(fitting, drawn, strict=True):
            texts = [self.model.tokenizer.decode(c.token_ids, skip_special_tokens=True) for c in completions]
            results[index] = [Written(text) for text in texts]
        return results


class EndpointWriter:
    """A model behind an endpoint."""

    def __init__(self, endpoint: Endpoint, key: Key) -> None:
        self.endpoint = endpoint
        self.key = key

    @property
    def name(self) -> str:
        """Name of the model, as the server knows it."""
        return self.endpoint.config.model

    @property
    def identity(self) -> str:
        """Hash of address, model and key: what a server calls a model says nothing about another server's."""
        config = self.endpoint.config
        return content_id("endpoint", config.base_url, config.model, str(self.key))

    def write(self, requests: Sequence[str], repeats: int, style: Style) -> list[list[Written]]:
        """See :class:`Writer`; the server is told a seed for each reply that is drawn."""
        options = ChatOptions(max_tokens=style.max_tokens, temperature=style.temperature, top_p=style.top_p)
        chats = [[{"role": "user", "content": request}] for request in requests for _ in range(repeats)]
        seeds = None
        if style.temperature > 0:
            # Servers take 32-bit seeds at least.
            seeds = [self.key.integer(content_id(request), k) >> 32 for request in requests for k in range(repeats)]
        replies = iter(self.endpoint.chat(chats, options, seeds))
        return [[_written(next(replies)) for _ in range(repeats)] for _ in requests]


def _written(reply: Reply) -> Written:
    return Written(reply.text) if reply.error is None else Written(None, TRANSPORT + reply.error)

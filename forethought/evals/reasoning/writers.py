"""Who answers: a model in this process, or a server.  Prompts are texts, and answers are cut by their text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from forethought.engine import Group, Prompt, Sampling, Scorer, Thinking, ThinkingSampler
from forethought.engine.sampler import stops
from forethought.evals.reasoning.task import TaskError
from forethought.keys import Key
from forethought.llm.endpoint import Endpoint, TextOptions
from forethought.models.thought_tokens import ThoughtTokens, encode
from forethought.records import StopReason
from forethought.tags import Tags, strip


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A prompt."""

    id: str
    """Names its random numbers."""
    text: str
    """What is continued."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """How answers are drawn."""

    samples: int
    """Answers to each prompt."""
    temperature: float
    """0 is greedy."""
    max_tokens: int
    """Longest answer."""
    thought_tokens: int
    """Longest thought."""
    stops: tuple[str, ...]
    """Text that ends an answer."""
    key: Key
    """Names the random numbers."""
    private: bool = False
    """Whether a server's own words stay out of errors: it may quote what it was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """An answer."""

    text: str
    """Without the thought, and without the text that ended it."""
    truncated: bool
    """Whether it reached the cap."""
    thought: str = ""
    """What was thought first."""


class Writer(Protocol):
    """Someone who answers."""

    def write(self, asked: Sequence[Asked], request: Request, *, thought: bool) -> list[list[Written]]:
        """Return ``request.samples`` answers to each prompt, after a thought if ``thought``."""
        ...

    def bits(self, asked: Sequence[tuple[str, str]]) -> list[float] | None:
        """Return the bits of each (prompt, continuation)'s continuation; ``None`` from one who cannot tell."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalWriter:
    """A model in this process.  The samples of a prompt are branches of one prefix."""

    sampler: ThinkingSampler
    """Writes."""
    scorer: Scorer
    """Scores."""
    tokenizer: Any
    """A transformers tokenizer."""
    bos: tuple[int, ...]
    """Stands before every prompt."""
    forbidden: tuple[int, ...]
    """Ids that stand for no text."""
    tags: Tags
    """What stands around a thought."""

    def write(self, asked: Sequence[Asked], request: Request, *, thought: bool) -> list[list[Written]]:
        """See :meth:`Writer.write`."""
        coded = ThoughtTokens.of(self.tokenizer, self.tags)
        eos = self.tokenizer.eos_token_id
        stop_ids = () if eos is None else (eos,)
        sampling = Sampling(
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            stop_ids=stop_ids,
            forbidden_ids=tuple(sorted(set(self.forbidden) - {*stop_ids, *coded.open, *coded.close})),
            ended=_ended(self.tokenizer, request.stops),
        )
        opened = coded.open if thought else ()
        prompts = [Prompt(id=one.id, token_ids=self._head(one.text) + opened) for one in asked]
        if not thought:
            drawn = self.sampler.sample(prompts, request.samples, sampling, request.key)
            return [
                [self._answer(one.token_ids, one.stop is StopReason.LENGTH, request.stops) for one in row]
                for row in drawn
            ]
        thinking = Thinking(max_tokens=request.thought_tokens, close_ids=coded.close, closed=coded.closed)
        rollouts = self.sampler.think(prompts, request.samples, thinking, sampling, request.key)
        found: list[list[Written]] = []
        for row in rollouts:
            found.append([])
            for one in row:
                said, answer = one.token_ids[: one.thought_tokens], one.token_ids[one.thought_tokens :]
                capped = len(answer) == request.max_tokens and not stops(answer, sampling)
                words = self.tokenizer.decode(list(said)).partition(self.tags.close)[0]
                found[-1].append(self._answer(answer, capped, request.stops, words))
        return found

    def bits(self, asked: Sequence[tuple[str, str]]) -> list[float]:
        """See :meth:`Writer.bits`."""
        groups = [
            Group(prefix=self._head(prompt), branches=(encode(self.tokenizer, after),)) for prompt, after in asked
        ]
        return [float(-rows[0].sum()) / math.log(2) for rows in self.scorer.logprobs(groups)]

    def _head(self, text: str) -> tuple[int, ...]:
        return self.bos + encode(self.tokenizer, text)

    def _answer(self, ids: Sequence[int], truncated: bool, stops: Sequence[str], thought: str = "") -> Written:
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return Written(text=strip(cut(text, stops), self.tags), truncated=truncated, thought=thought)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointWriter:
    """A server's `/completions`.  It shares the prefix of equal prompts if it has a prefix cache."""

    endpoint: Endpoint
    """The server."""
    tags: Tags
    """What stands around a thought."""

    def write(self, asked: Sequence[Asked], request: Request, *, thought: bool) -> list[list[Written]]:
        """See :meth:`Writer.write`.

        Raises:
            TaskError: if the server left a request unanswered; what is missing is not a wrong answer.
        """
        texts = [one.text for one in asked for _ in range(request.samples)]
        seeds = [request.key.integer(one.id, k) % 2**31 for one in asked for k in range(request.samples)]
        thoughts = [""] * len(texts)
        if thought:
            texts = [text + self.tags.open for text in texts]
            thinking = self._ask(texts, request, request.thought_tokens, (self.tags.close,), seeds)
            thoughts = [cut(said, (self.tags.close,)) for said, _ in thinking]
            texts = [text + said + self.tags.close for text, said in zip(texts, thoughts, strict=True)]
        # A server would end at a newline that only separates an answer from the thought before it.
        stops = tuple(stop for stop in request.stops if stop.strip() or not thought)
        written = []
        replies = self._ask(texts, request, request.max_tokens, stops, seeds)
        for (text, capped), said in zip(replies, thoughts, strict=True):
            kept = cut(text, request.stops)
            truncated = capped and kept == text
            written.append(Written(text=strip(kept, self.tags), truncated=truncated, thought=said))
        return [written[start : start + request.samples] for start in range(0, len(written), request.samples)]

    def bits(self, asked: Sequence[tuple[str, str]]) -> None:
        """Return nothing: servers do not agree on how a given text is scored."""
        return None

    def _ask(
        self, texts: list[str], request: Request, most: int, stops: tuple[str, ...], seeds: list[int]
    ) -> list[tuple[str, bool]]:
        options = TextOptions(max_tokens=most, temperature=request.temperature, stop=stops)
        replies = self.endpoint.complete(texts, options, seeds)
        errors = [reply.error for reply in replies if reply.error is not None]
        if errors:
            reason = "its words are left out, for they may quote a problem" if request.private else errors[0]
            raise TaskError(
                f"{self.endpoint.config.base_url}: {len(errors)} of {len(replies)} requests were not answered "
                f"({reason}). What was answered before is kept: run the same command again"
            )
        return [(reply.text, reply.finish == "length") for reply in replies]


def cut(text: str, stops: Sequence[str]) -> str:
    """Return ``text`` up to the first of ``stops``.

    A stop that is white space ends words only: a line that has not begun is not over.
    """
    blank = len(text) - len(text.lstrip())
    places = [place for stop in stops if (place := text.find(stop, 0 if stop.strip() else blank)) >= 0]
    return text[: min(places)] if places else text


def _ended(tokenizer: Any, stops: Sequence[str]) -> Callable[[Sequence[int]], bool]:
    """Return what says of written ids whether one of ``stops`` is now complete.

    The end of the ids is decoded: every token of a stop spells at least one of its bytes.
    """
    most = max((len(stop.encode()) for stop in stops), default=0)

    def ended(ids: Sequence[int]) -> bool:
        end = tokenizer.decode(list(ids[-most:])) if most else ""
        if not any(stop in end for stop in stops):
            return False
        text = tokenizer.decode(list(ids))
        return cut(text, stops) != text

    return ended

"""What a phase of a run costs, and the pieces that all phases are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from forethought.config import Config
from forethought.costs.corpus import chunk_count
from forethought.costs.rates import prefix_tokens
from forethought.costs.work import Rates, Work, decoding, scoring, training
from forethought.models import Shape

REPLY = 0.6
"""Mean length of a reply or an answer, as a share of the longest that is allowed."""
KEPT, THOUGHT, TAGS = 0.7, 0.45, 8
"""Share of thoughts that pass all checks, their mean length as a share of the longest reply, tokens of both tags."""
TRIED = 2.5
"""Temperatures that are tried, on average, until two entropies match; see ``match_temperature``."""
PACKING = 4
"""Copying weights into the layout for decoding, once for each batch, takes as long as 4 decode steps."""
SECONDS_PER_REQUEST, SECONDS_PER_TOKEN = 1.0, 0.02
"""Assumed of every server: for a request and for each token of its answer.  Nothing is sent to find out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What something takes: work of models in this process, and seconds of servers, disks and embeddings."""

    work: tuple[Work, ...] = ()
    seconds: float = 0.0
    requests: int = 0
    """Requests to servers, whose seconds are assumed."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            work=self.work + other.work,
            seconds=self.seconds + other.seconds,
            requests=self.requests + other.requests,
        )

    def times(self, factor: float) -> Cost:
        return Cost(
            work=tuple(replace(one, flops=factor * one.flops, calls=factor * one.calls) for one in self.work),
            seconds=factor * self.seconds,
            requests=math.ceil(factor * self.requests),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One line of the plan: what is done, how much of it in words, and what it takes."""

    name: str
    amount: str
    cost: Cost | None
    """``None`` where the size of a model or of the text is not known."""

    def seconds(self, rates: Rates) -> float | None:
        return None if self.cost is None else self.cost.seconds + sum(map(rates.seconds, self.cost.work))


class UnknownError(Exception):
    """The size of a model or of the text is not known before a download."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A config with the shapes of its models; lengths are typical ones, in tokens."""

    config: Config
    shapes: Mapping[str, Shape | None]
    """By role: ``policy``, ``judge NAME`` and so on."""
    device: str = "cpu"

    def shape(self, role: str) -> Shape:
        found = self.shapes.get(role)
        if found is None:
            raise UnknownError(role)
        return found

    @property
    def policy(self) -> Shape:
        return self.shape("policy")

    @property
    def itemsize(self) -> int:
        """Bytes of a weight that is computed with."""
        return 2 if self.config.dtype == "bfloat16" else 4

    @property
    def prefix(self) -> int:
        return prefix_tokens(self.config)

    @property
    def suffix(self) -> int:
        return self.config.chunk.suffix_tokens

    @property
    def chunk(self) -> int:
        return self.prefix + self.suffix

    @property
    def thoughts(self) -> float:
        """Tokens of a chunk that are thoughts and tags, after stage 2."""
        cfg = self.config.interleave
        return KEPT * cfg.thoughts[1] * (THOUGHT * cfg.teacher.max_tokens + TAGS) if cfg else 0.0

    def chunks(self, share: float, asked: int | None) -> float:
        """Return how many chunks a share of the documents gives, at most those that are asked for."""
        counted = chunk_count(self.config, self.policy.vocabulary)
        if counted is None and asked is None:
            raise UnknownError("the text")
        return min(math.inf if counted is None else share * counted, math.inf if asked is None else asked)

    def heldout(self, asked: int) -> float:
        return self.chunks(self.config.chunk.heldout_share, asked)


def known(cost: Callable[[], Cost]) -> Cost | None:
    try:
        return cost()
    except UnknownError:
        return None


def drawn(model: Shape, prompts: float, k: float, tokens: tuple[float, float], rows: int) -> Cost:
    """Return the cost of ``k`` completions of each prompt; ``rows`` completions are decoded at once.

    ``tokens``: of a prompt, which is computed once, and of a completion.
    """
    before, after = tokens
    batches = max(1, math.ceil(prompts / max(1, rows // max(1, k))))
    steps = decoding(model, prompts * k / batches, after, batches)
    return Cost(work=(scoring(model, prompts * before, prompts, batches), steps, decoding(model, 0, PACKING, batches)))


def scored(model: Shape, groups: float, prefix: float, branches: float, micro_tokens: int) -> Cost:
    """Return the cost of the log-probabilities of ``branches`` tokens behind each of ``groups`` prefixes."""
    tokens = groups * (prefix + branches)
    return Cost(work=(scoring(model, tokens, groups * branches, passes(tokens, micro_tokens)),))


def trained(model: Shape, rows: float, prefix: float, branches: float, steps: float) -> Cost:
    """Return the cost of ``steps`` optimiser steps on ``rows`` prefixes in all, ``branches`` tokens behind each."""
    return Cost(work=(training(model, rows * (prefix + branches), rows * branches, steps),))


def served(requests: float, concurrency: int, tokens: float) -> Cost:
    """Return what a server is assumed to take for requests that it answers with ``tokens`` tokens each."""
    rounds = math.ceil(requests / concurrency)
    return Cost(seconds=rounds * (SECONDS_PER_REQUEST + tokens * SECONDS_PER_TOKEN), requests=math.ceil(requests))


def passes(tokens: float, micro_tokens: int) -> int:
    return max(1, math.ceil(tokens / micro_tokens))


def times(every: int, steps: int) -> int:
    """Return how often something happens that happens at the beginning, every n steps, and at the end."""
    return 1 + (math.ceil(steps / every) if every else 1)

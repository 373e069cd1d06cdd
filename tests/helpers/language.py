"""Language models that say what a test tells them to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from forethought.llm import TRANSPORT
from forethought.llm.generate import GenerationConfig, Reply
from forethought.models.model import Model, Parts
from forethought.testing import BOS_ID, ScriptedSampler, UniformScorer, byte_tokenizer


class ScriptedGenerator:
    """A generator that replies by a rule, ``rule(request, k) -> text``, or ``None`` where the connection fails."""

    name = identity = "scripted"

    def __init__(self, rule: Callable[[str, int], str | None]) -> None:
        self.rule = rule
        self.requests: list[str] = []

    def generate(self, requests: Sequence[str], repeats: int, config: GenerationConfig) -> list[list[Reply]]:
        self.requests.extend(requests)
        replies = [[self.rule(request, k) for k in range(repeats)] for request in requests]
        return [[Reply(None, TRANSPORT + "down") if r is None else Reply(r) for r in row] for row in replies]


def local_model(scorer=None, sampler=None, template: str | None = None, identity: str = "0", **changes) -> Model:
    """Return a model of bytes, with a scorer and a sampler that need no weights; ``changes`` are those of its parts."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    parts = {"scorer": scorer or UniformScorer(), "sampler": sampler or ScriptedSampler(), "bos": (BOS_ID,)}
    return Model("bytes", identity, Parts(tokenizer=tokenizer, **{**parts, **changes}))

"""Language models that say what a test tells them to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from forethought.llm.base import TRANSPORT
from forethought.llm.local import LocalModel

from forethought.llm.generate import Style, Written
from forethought.testing import BOS_ID, ScriptedSampler, UniformScorer, byte_tokenizer


class RuleWriter:
    """A writer that replies by a rule, ``rule(request, k) -> text``, or ``None`` where the connection fails."""

    name = identity = "rule"

    def __init__(self, rule: Callable[[str, int], str | None]) -> None:
        self.rule = rule
        self.requests: list[str] = []

    def write(self, requests: Sequence[str], repeats: int, style: Style) -> list[list[Written]]:
        self.requests.extend(requests)
        replies = [[self.rule(request, k) for k in range(repeats)] for request in requests]
        return [[Written(None, TRANSPORT + "down") if r is None else Written(r) for r in row] for row in replies]


def local_model(scorer=None, sampler=None, template: str | None = None, **changes) -> LocalModel:
    """Return a model of bytes, with a scorer and a sampler that need no weights."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return LocalModel(
        name="bytes",
        tokenizer=tokenizer,
        scorer=scorer or UniformScorer(),
        sampler=sampler or ScriptedSampler(),
        **{"identity": "0", "bos": (BOS_ID,), **changes},
    )

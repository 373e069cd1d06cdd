"""Counts what was tried and what survived, for docs/robustness.md."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

WHOLE = os.environ.get("FORETHOUGHT_ATTACK") == "whole"
"""Whether everything is tried (`make attack`), or the short form that belongs to the test suite."""


@dataclass
class Attack:
    """One class of hostile inputs: a row of docs/robustness.md."""

    kind: str
    tried: int = 0
    failures: list[str] = field(default_factory=list)

    def case(self, what: str, survived: bool) -> None:
        """Count one input; ``what`` names it if it did harm."""
        self.tried += 1
        if not survived:
            self.failures.append(what)


@pytest.fixture
def attack() -> Iterator[Callable[[str], Attack]]:
    """Begins a class of inputs.  At the end of the test none of them may have done harm."""
    begun: list[Attack] = []

    def begin(kind: str) -> Attack:
        begun.append(Attack(kind))
        return begun[-1]

    yield begin
    if table := os.environ.get("FORETHOUGHT_ATTACK_TABLE"):
        with Path(table).open("a", encoding="utf-8") as file:
            for one in begun:
                survived = one.tried - len(one.failures)
                file.write(json.dumps({"kind": one.kind, "tried": one.tried, "survived": survived}) + "\n")
    for one in begun:
        assert one.tried, f"{one.kind}: nothing was tried"
        assert not one.failures, f"{one.kind}: {len(one.failures)} of {one.tried} did harm: {one.failures[:10]}"


@pytest.fixture(scope="session")
def whole() -> bool:
    """Whether everything is tried, or the short form."""
    return WHOLE

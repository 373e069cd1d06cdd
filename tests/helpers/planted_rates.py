"""A machine whose speed is known: rates that tests put in the place of a measurement."""

from __future__ import annotations

import pytest

from forethought.config import Config
from forethought.costs import rates
from forethought.costs.work import Pace, Rates

PLANTED = Rates(
    sample=Pace(rate=1e9, call=1e-3),
    score=Pace(rate=2e9, call=1e-3),
    train=Pace(rate=1.5e9, call=5e-3),
    weights=90_624,
    depth=2,
    device="cpu",
    how="planted",
)
"""Of a machine that is slow enough for tiny models to take a while."""


def plant(monkeypatch: pytest.MonkeyPatch, found: Rates = PLANTED) -> list[str]:
    """Have every measurement find these rates; return the models that were measured, in order."""
    measured: list[str] = []

    def measure(config: Config, *_: object) -> Rates:
        measured.append(config.policy.model)
        return found

    monkeypatch.setattr(rates, "measure", measure)
    return measured

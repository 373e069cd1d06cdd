"""The arms that take part in an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from forethought.models.model import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalArm:
    """An arm that takes part; its weights are loaded when its turn comes."""

    model: Model
    against: tuple[str, ...] = ()
    """Arms that it is compared with; each stands before it."""
    thinks: bool = False
    """Whether it was trained to think."""

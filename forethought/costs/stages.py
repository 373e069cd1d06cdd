"""The phases of every stage."""

from __future__ import annotations

from collections.abc import Sequence

from forethought.costs.base import Phase, Setting
from forethought.costs.loads import converting, loading
from forethought.costs.stage_one import auditing, chunking, controlling, evaluating, improving
from forethought.costs.stage_three import calibrating, examining, rewarding
from forethought.costs.stage_two import evaluating_thoughts, interleaving, tuning
from forethought.graph import REASONING, graph


def phases(at: Setting, pending: Sequence[str] = ()) -> list[Phase]:
    """Return what a run of ``at`` does, line by line; ``pending``: roles whose models are converted first."""
    from forethought.stages.reasoning import Reasoning  # stages import this package

    return [
        *converting(at, pending),
        loading(at),
        *chunking(at),
        *auditing(at),
        *improving(at),
        *controlling(at),
        *evaluating(at),
        *interleaving(at),
        *tuning(at),
        *evaluating_thoughts(at),
        *calibrating(at),
        *rewarding(at),
        *examining(at),
        *(phase for step in graph(at.config) if step.stage == REASONING for phase in Reasoning.cost(at, step)),
    ]

"""The phases of every stage."""

from __future__ import annotations

from collections.abc import Sequence

from forethought.costs.base import Phase, Setting
from forethought.costs.loads import converting, loading
from forethought.costs.stage_one import auditing, chunking, controlling, evaluating, improving
from forethought.costs.stage_three import calibrating, examining, reasoning, rewarding
from forethought.costs.stage_two import evaluating_thoughts, interleaving, tuning


def phases(at: Setting, pending: Sequence[str] = ()) -> list[Phase]:
    """Return what a run of ``at`` does, line by line; ``pending``: roles whose models are converted first."""
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
        *reasoning(at),
    ]

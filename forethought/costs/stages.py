"""The phases of every stage."""

from __future__ import annotations

from collections.abc import Sequence

from forethought.costs.base import Phase, Setting
from forethought.costs.loads import converting, loading
from forethought.costs.stage_one import auditing, chunking, controlling, improving
from forethought.costs.stage_three import calibrating, reasoning, rewarding
from forethought.costs.stage_two import interleaving, tuning
from forethought.graph import graph
from forethought.stages.base import Stage
from forethought.stages.evaluate import Evaluate
from forethought.stages.evaluate_rlmt import EvaluateRLMT
from forethought.stages.evaluate_sft import EvaluateSFT


def phases(at: Setting, pending: Sequence[str] = ()) -> list[Phase]:
    """Return what a run of ``at`` does, line by line; ``pending``: roles whose models are converted first."""
    return [
        *converting(at, pending),
        loading(at),
        *chunking(at),
        *auditing(at),
        *improving(at),
        *controlling(at),
        *_of(Evaluate, at),
        *interleaving(at),
        *tuning(at),
        *_of(EvaluateSFT, at),
        *calibrating(at),
        *rewarding(at),
        *_of(EvaluateRLMT, at),
        *reasoning(at),
    ]


def _of(stage: type[Stage], at: Setting) -> list[Phase]:
    return [phase for step in graph(at.config) if step.stage == stage.name for phase in stage.cost(at, step)]

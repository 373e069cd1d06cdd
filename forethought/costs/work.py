"""Work that models do, in operations, and how long a machine takes for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from forethought.models.size import Shape

Kind = Literal["sample", "score", "train"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Something that a model computes."""

    kind: Kind
    model: Shape
    flops: float
    calls: float = 0.0
    """Decode steps, forward passes or optimiser steps: each reads all weights, whatever else it computes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What one kind of work costs: FLOP/s, and the seconds that each call takes besides, for the measured model."""

    rate: float
    call: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How fast a machine is; a call is a token of every row, a pass over packed groups, or an optimiser step."""

    sample: Pace
    score: Pace
    train: Pace
    weights: int
    """Weights of the model that was measured through which a token passes: its layers and the projection."""
    depth: int
    """Its layers."""
    device: str
    how: str
    """Where the figures are from, in words."""

    def seconds(self, work: Work) -> float:
        """Return how long ``work`` takes.

        What a call costs besides its operations grows with the weights on a CPU, which are read, and with the layers
        on a GPU, each of which starts kernels.
        """
        pace: Pace = getattr(self, work.kind)
        passed = work.model.layers + work.model.head
        other = passed / self.weights if self.device == "cpu" else work.model.depth / self.depth
        return work.flops / pace.rate + work.calls * pace.call * other


def decoding(model: Shape, rows: float, tokens: float, batches: float = 1) -> Work:
    """Return the work of drawing ``tokens`` tokens for each of ``rows`` rows, in ``batches`` batches of rows."""
    steps = batches * tokens
    return Work(kind="sample", model=model, flops=2.0 * (model.layers + model.head) * rows * steps, calls=steps)


def scoring(model: Shape, tokens: float, scored: float, passes: float = 1) -> Work:
    """Return the work of a forward over ``tokens`` tokens, ``scored`` of which are predicted."""
    return Work(kind="score", model=model, flops=2.0 * (model.layers * tokens + model.head * scored), calls=passes)


def training(model: Shape, tokens: float, scored: float, steps: float = 1) -> Work:
    """Return the work of ``steps`` optimiser steps over ``tokens`` tokens in all, ``scored`` of which are predicted.

    The projection to the vocabulary is computed a second time on the way back instead of being kept.
    """
    return Work(kind="train", model=model, flops=6.0 * model.layers * tokens + 8.0 * model.head * scored, calls=steps)

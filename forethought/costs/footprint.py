"""How much memory each stage needs at its peak, from the config alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forethought.costs.base import TAGS, Setting, UnknownError
from forethought.costs.loads import first_loads
from forethought.engine.backends.onednn import MAX_PACKED_BYTES
from forethought.graph import CONTINUED, Step, graph
from forethought.models import Shape

RUNTIME, EMBEDDER = 850 * 2**20, 150 * 2**20
"""Bytes of Python, torch, transformers and a tokenizer, and of a sentence embedder."""
PACKED = 2**30
"""Bytes of weights up to which a copy in the layout of the kernels is kept; a larger model's is made for each batch."""
MASTER, MOMENTS, GRADIENT = 4, 8, 4
"""Bytes for each trained weight, float32: itself, the optimiser's two moments, the gradient."""
FILE = 2
"""Bytes of a weight in the file that a model is read from, which is mapped meanwhile."""
WIDE, INNER = 30, 7
"""Numbers that one token and layer leave for the way back, in multiples of its hidden and its inner width."""
PASSING_WIDE, PASSING_INNER = 8, 3
"""The same of a forward pass alone, which holds one layer's at a time."""
LOGITS = 2**26
"""Logits that are held at once, about; the vocabulary is gone through in stretches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """The memory of one step at its peak; ``parts``: bytes by what they hold."""

    step: str
    parts: Mapping[str, float]

    @property
    def bytes(self) -> float:
        return sum(self.parts.values())


def largest(at: Setting) -> Footprint | None:
    """Return the step that needs most, or ``None`` if the shape of a model is not known."""
    try:
        return max(footprints(at), key=lambda footprint: footprint.bytes)
    except UnknownError:
        return None


def footprints(at: Setting) -> list[Footprint]:
    """Return the memory of every step that runs models, in the order of the graph."""
    loads, kept, found = first_loads(at.config), list[Shape](), []
    embeds = any(match.embeds for match in at.config.match_judges.values())
    for step in graph(at.config):
        new = [at.shape(role) for role in loads[step.name]]
        kept += new
        if step.stage in ("chunk", "calibrate"):
            continue
        parts = _training(at, step) if step.stage in ("improve", "sft", "rlmt") else _evaluation(at, step, kept, new)
        staying = {
            "the program": RUNTIME + EMBEDDER * embeds if at.device == "cpu" else 0.0,
            "the base": _weights(at, at.policy),
            "judges and teachers": sum(_weights(at, shape) for shape in kept),
        }
        found.append(Footprint(step=step.name, parts=staying | parts))
    return found


def _training(at: Setting, step: Step) -> dict[str, float]:
    """Return what training holds besides the models that stay."""
    tokens, branches, references = _step_tokens(at, step)
    model = at.policy
    packed = min(tokens, at.config.improve.micro_tokens)
    activations = packed * model.depth * (WIDE * model.hidden + INNER * model.inner) * at.itemsize
    activations += min(branches, packed) * model.hidden * 8 + 4 * LOGITS
    return {
        "policy and reference": (1 + references) * at.itemsize * model.weights,
        "float32 weights and moments": (MASTER + MOMENTS) * model.weights,
        "copies for the kernels": _copy(at, model),
        "activations, then gradients": max(activations, GRADIENT * model.weights + at.itemsize * model.head),
    }


def _step_tokens(at: Setting, step: Step) -> tuple[float, float, int]:
    """Return the tokens of an optimiser step, those of them that are predicted, and the number of references."""
    improve, sft, rlmt = at.config.improve, at.config.sft, at.config.rlmt
    if step.stage == "improve":
        if step.arm == CONTINUED or improve.objective == "continued":
            return improve.prefixes_per_step * at.chunk, improve.prefixes_per_step * at.chunk, 0
        branches = improve.prefixes_per_step * (2 if improve.compares else 1) * at.suffix
        return improve.prefixes_per_step * at.prefix + branches, branches, int(improve.compares)
    if step.stage == "sft":
        assert sft is not None
        tokens = sft.rows_per_step * (at.chunk + at.thoughts)
        return tokens, tokens, 0
    assert rlmt is not None
    branch = rlmt.thought_tokens + TAGS + (0 if rlmt.thought_only else rlmt.suffix_tokens)
    branches = rlmt.windows_per_step * rlmt.rollouts * branch
    return rlmt.windows_per_step * at.prefix + branches, branches, 1


def _evaluation(at: Setting, step: Step, kept: Sequence[Shape], new: Sequence[Shape]) -> dict[str, float]:
    """Return what scoring and sampling hold besides the models that stay; ``new``: those that this step loads."""
    arms = {"audit": 0, "interleave": 0, "evaluate-sft": 3}.get(step.stage, 1)
    rows, micro = at.config.improve.sample_rows, at.config.improve.micro_tokens
    widest = max([at.policy, *kept], key=lambda shape: shape.inner)
    forward = micro * (PASSING_WIDE * widest.hidden + PASSING_INNER * widest.inner) * at.itemsize + 4 * LOGITS
    caches = rows * at.chunk * at.policy.kept * at.itemsize + rows * at.policy.vocabulary * (at.itemsize + 4)
    passing = [0.0]
    for shape in kept:  # a large model's file while it is read, or the copy on which it writes
        size = at.itemsize * shape.weights
        if size > PACKED:
            copied = at.device == "cpu" and size <= MAX_PACKED_BYTES
            passing.append(max(FILE * shape.weights * (shape in new), size * copied))
    return {
        "arms that are compared": arms * _weights(at, at.policy),
        "a pass, or keys and values": max(forward, caches),
        "the largest model, while it is read or copied": max(passing),
    }


def _weights(at: Setting, model: Shape) -> float:
    return at.itemsize * model.weights + _copy(at, model)


def _copy(at: Setting, model: Shape) -> float:
    """Return the bytes of the copy of a model's weights in the layout of the kernels, where there is one."""
    size = at.itemsize * model.weights
    return size if at.device == "cpu" and at.config.dtype == "bfloat16" and size <= PACKED else 0.0

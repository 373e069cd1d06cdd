"""How much memory each stage needs at its peak, from the config alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from forethought.costs.base import TAGS, Setting
from forethought.costs.loads import first_use, kept_models
from forethought.engine.backends.onednn import MAX_PACKED_BYTES
from forethought.graph import CONTINUED, graph
from forethought.models import Shape

RUNTIME = 850 * 2**20
"""Bytes of Python, torch, transformers and a tokenizer."""
EMBEDDER = 150 * 2**20
"""Bytes of a sentence embedder."""
PACKED = 2**30
"""Bytes of weights up to which a copy in the layout of the kernels is kept; a larger model's is made for each batch."""
MASTER, MOMENTS, GRADIENT = 4, 8, 4
"""Bytes for each trained weight, float32: itself, the optimiser's two moments, the gradient."""
FILE = 2
"""Bytes of a weight in the file that a model is read from, which is mapped meanwhile."""
WIDE, INNER = 30, 7
"""Numbers that one token and layer leave for the way back: so many times its hidden and its inner width."""
PASSING_WIDE, PASSING_INNER = 8, 3
"""The same of a forward pass alone, which holds one layer's at a time."""
LOGITS = 2**26
"""Logits that are held at once, about; the vocabulary is gone through in stretches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """The memory of one step at its peak."""

    step: str
    """The step of the graph."""
    parts: Mapping[str, float]
    """Bytes by what they hold."""

    @property
    def bytes(self) -> float:
        """All of it."""
        return sum(self.parts.values())


def footprints(at: Setting) -> list[Footprint]:
    """Return the memory of every step that runs models, in the order of the graph.

    Raises:
        UnknownError: if the shape of a model is not known.
    """
    made = {"improve": _improve, "sft": _sft, "rlmt": _rlmt}
    evaluations = {"audit", "evaluate", "interleave", "evaluate-sft", "evaluate-rlmt", "reasoning"}
    found = []
    for step in graph(at.config):
        if step.stage in made:
            parts = made[step.stage](at, step.arm)
        elif step.stage in evaluations:
            parts = _evaluation(at, step.stage, _loaded(at, step.name))
        else:
            continue
        found.append(Footprint(step=step.name, parts=_held(at, step.name) | parts))
    return found


def largest(at: Setting) -> Footprint:
    """Return the step that needs most."""
    return max(footprints(at), key=lambda one: one.bytes)


def _loaded(at: Setting, step: str) -> list[tuple[Shape, bool]]:
    """Return the judges and teachers that were needed up to a step, and whether this step is the first to need them."""
    order = [one.name for one in graph(at.config)]
    found = []
    for roles in kept_models(at.config).values():
        first = min((first_use(at.config, role) for role in roles), key=order.index)
        if order.index(first) <= order.index(step):
            found.append((at.shape(roles[0]), first == step))
    return found


def _held(at: Setting, step: str) -> dict[str, float]:
    """Return what stays while a step runs: the program, the base, the judges and teachers that were needed so far."""
    embeds = at.config.rlmt is not None and at.config.rlmt.match.kind == "similarity"
    return {
        "the program": RUNTIME + EMBEDDER * embeds if _on_cpu(at) else 0.0,
        "the base": _bytes(at, at.policy, kept=True),
        "judges and teachers": sum(_bytes(at, shape, kept=True) for shape, _ in _loaded(at, step)),
    }


def _training(at: Setting, tokens: float, branches: float, *, references: int) -> dict[str, float]:
    """Return what training holds; ``tokens``: of the largest step, ``branches``: those of them that are predicted."""
    model, cfg = at.policy, at.config.improve
    size = _size(at)
    packed = min(tokens, cfg.micro_tokens)
    activations = packed * model.depth * (WIDE * model.hidden + INNER * model.inner) * size
    activations += min(branches, packed) * model.hidden * 8 + 4 * LOGITS
    gradients = GRADIENT * model.weights + size * model.head
    return {
        "policy and reference": (1 + references) * size * model.weights,
        "float32 weights and moments": (MASTER + MOMENTS) * model.weights,
        "copies for the kernels": _copy(at, model),
        "activations, then gradients": max(activations, gradients),
    }


def _improve(at: Setting, arm: str) -> dict[str, float]:
    cfg = at.config.improve
    continued = arm == CONTINUED or cfg.objective == "continued"
    branches = at.chunk if continued else (2 if cfg.compares else 1) * at.suffix
    tokens = cfg.prefixes_per_step * ((0 if continued else at.prefix) + branches)
    pairs = cfg.compares and not continued
    return _training(at, tokens, cfg.prefixes_per_step * branches, references=int(pairs))


def _sft(at: Setting, arm: str) -> dict[str, float]:
    assert at.config.sft is not None
    tokens = at.config.sft.rows_per_step * (at.chunk + at.thoughts)
    return _training(at, tokens, tokens, references=0)


def _rlmt(at: Setting, arm: str) -> dict[str, float]:
    cfg = at.config.rlmt
    assert cfg is not None
    branch = cfg.thought_tokens + TAGS + (0 if cfg.thought_only else cfg.suffix_tokens)
    branches = cfg.windows_per_step * cfg.rollouts * branch
    return _training(at, cfg.windows_per_step * at.prefix + branches, branches, references=1)


def _evaluation(at: Setting, stage: str, loaded: list[tuple[Shape, bool]]) -> dict[str, float]:
    """Return what scoring and sampling hold beside the models that stay; ``loaded``: these, and which are new."""
    arms = {"audit": 0, "interleave": 0, "evaluate-sft": 3}.get(stage, 1)
    rows, micro = at.config.improve.sample_rows, at.config.improve.micro_tokens
    widest = max([at.policy, *(shape for shape, _ in loaded)], key=lambda one: one.inner)
    passing = micro * (PASSING_WIDE * widest.hidden + PASSING_INNER * widest.inner) * _size(at) + 4 * LOGITS
    caches = rows * at.chunk * at.policy.kept * _size(at) + rows * at.policy.vocabulary * (_size(at) + 4)
    large = max((_besides(at, shape, new=new) for shape, new in loaded), default=0.0)
    return {
        "arms that are compared": arms * _bytes(at, at.policy, kept=True),
        "a pass, or keys and values": max(passing, caches),
        "the largest model, while it is read or copied": large,
    }


def _bytes(at: Setting, model: Shape, *, kept: bool) -> float:
    return _size(at) * model.weights + (_copy(at, model) if kept else 0.0)


def _besides(at: Setting, model: Shape, *, new: bool) -> float:
    """Return what a large model holds for a while: its file as it is read, or the copy on which it writes."""
    size = _size(at) * model.weights
    if size <= PACKED:
        return 0.0
    return max(FILE * model.weights if new else 0, size if _on_cpu(at) and size <= MAX_PACKED_BYTES else 0)


def _copy(at: Setting, model: Shape) -> float:
    """Return the bytes of the copy of a model's weights in the layout of the kernels, where there is one."""
    small = _size(at) * model.weights <= PACKED
    return _size(at) * model.weights if _on_cpu(at) and at.config.dtype == "bfloat16" and small else 0.0


def _size(at: Setting) -> int:
    return 2 if at.config.dtype == "bfloat16" else 4


def _on_cpu(at: Setting) -> bool:
    return at.device == "cpu"

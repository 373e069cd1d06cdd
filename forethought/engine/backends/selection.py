"""The choice of a backend: best first, each compared with the model's own modules before it is used."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from forethought.engine.backends.amx import AMXBackend
from forethought.engine.backends.onednn import OneDNNBackend
from forethought.engine.backends.plain import Layers, TorchBackend, forward
from forethought.engine.branches import Group, Prompt, pack
from forethought.engine.head import head_of, widest

BEST_FIRST: tuple[type[TorchBackend], ...] = (AMXBackend, OneDNNBackend, TorchBackend)

VARIABLE = "FORETHOUGHT_BACKEND"
"""Names the backend where the config says ``auto``; for tests and for comparing machines."""

MAX_RELATIVE_ERROR = {torch.bfloat16: 0.02, torch.float32: 1e-4}
"""Of a layer or head, by dtype: what rounding explains.  A wrong formula has an error near 1.

The modules round to bfloat16 a few times more than fused kernels do; sums in float32 differ in their order only.
"""

_log = logging.getLogger(__name__)


class BackendError(ValueError):
    """A backend was asked for that this machine or model does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which backend :func:`select` chose."""

    name: str
    error: float
    """Largest relative difference from the model's own modules, over layers and head, on a few tokens."""
    reasons: dict[str, str]  # by name, why a better backend is not used

    def __str__(self) -> str:
        return "; ".join([f"kernels: {self.name}", *(f"{name} not used: {why}" for name, why in self.reasons.items())])


_decided: dict[tuple[Any, ...], Choice] = {}
"""Choices of this process, by what they depend on: models of the same shape share one."""


def select(model: Any, wanted: str = "auto") -> tuple[TorchBackend, Choice]:
    """Return the best backend that computes what the modules of ``model`` do, and why it was chosen.

    ``model`` is a transformers causal LM whose attention is :mod:`forethought.engine.attention`'s; ``wanted`` is
    ``auto``, or the name of a backend, which is used or refused with a :class:`BackendError`.
    """
    if wanted == "auto":
        wanted = os.environ.get(VARIABLE) or "auto"
    kinds = {kind.name: kind for kind in BEST_FIRST}
    if wanted not in {"auto", *kinds}:
        raise BackendError(f"engine.backend = {wanted!r}: choose one of auto, {', '.join(kinds)}")
    shape = {k: value for k, value in model.config.to_dict().items() if not k.startswith(("_", "transformers"))}
    parameter = next(model.parameters())
    key = (json.dumps(shape, sort_keys=True, default=str), parameter.dtype, parameter.device, wanted)
    if key not in _decided:
        _decided[key] = _decide(model, wanted)
        _log.info("%s", _decided[key])
    choice = _decided[key]
    return kinds[choice.name](model), choice


def decided() -> list[str]:
    """Return the names of the backends that this process has chosen, each once, in the order of choice."""
    return list(dict.fromkeys(choice.name for choice in _decided.values()))


def forget() -> None:
    """Forget all choices; for tests, which change what can be chosen."""
    _decided.clear()


def _decide(model: Any, wanted: str) -> Choice:
    reasons: dict[str, str] = {}
    for kind in BEST_FIRST:
        if wanted not in ("auto", kind.name):
            continue
        why = kind.why_unavailable(model) or (kind.why_not_default() if wanted == "auto" else "")
        if not why:
            error = largest_relative_error(kind(model))
            if error < MAX_RELATIVE_ERROR.get(next(model.parameters()).dtype, MAX_RELATIVE_ERROR[torch.float32]):
                return Choice(name=kind.name, error=error, reasons=reasons)
            why = f"on this model its results differ from those of plain torch by {error:.2%}"
        reasons[kind.name] = why
    listed = "; ".join(f"{name}: {why}" for name, why in reasons.items())
    raise BackendError(f'engine.backend: {listed}. Write engine.backend = "auto"')


@torch.inference_mode()
def largest_relative_error(backend: TorchBackend) -> float:
    """Return how much layers and head of ``backend`` differ from the model's own on a few tokens, relative to the norm.

    Each layer is compared by itself, given the same input, on long rows and in decoding; the head by the
    log-probabilities of given and of drawn tokens.
    """
    plain = TorchBackend(backend.model)
    prefix, branch = probe(backend.model)
    prompts = [Prompt(id="", token_ids=prefix), Prompt(id="", token_ids=branch[:7])]
    packed = pack([Group(prefix=prefix, branches=(branch,))], backend.device)
    rows = 2 * len(prompts)
    with relative_errors(backend.layers(None)) as errors:
        hidden_AH = plain.hidden(packed)[packed.sources]
    layers = backend.layers(rows)
    # Both states hold keys and values that the modules computed, each in the layout of its backend.
    (plain_state, _), (state, _) = (side.prefill(prompts, 2, 2, {}) for side in (plain, backend))
    tokens = torch.tensor([branch[-rows:]], device=backend.device)
    with relative_errors(layers, attention_layout=state) as decoding_errors:
        for step in range(2):
            plain_state.length = state.length = step
            forward(backend.model, tokens, plain_state.positions(), plain_state)
    return max([0.0, *errors, *decoding_errors, *_head_errors(backend, hidden_AH, packed.targets)])


def _head_errors(backend: TorchBackend, hidden_AH: Tensor, targets_A: Tensor) -> Iterator[float]:
    plain, drawing, scoring = head_of(backend.model), backend.head(rows=len(hidden_AH)), backend.head()
    yield relative_error(scoring.logprobs(hidden_AH, targets_A), plain.logprobs(hidden_AH, targets_A))
    uniforms_A = torch.linspace(0.1, 0.9, len(hidden_AH), dtype=widest(backend.device), device=backend.device)
    for ids, logprobs in (drawing.greedy(hidden_AH), drawing.draw(hidden_AH, uniforms_A, 1.0)):
        yield relative_error(logprobs, plain.logprobs(hidden_AH, ids))


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Return the norm of the difference over the norm of ``theirs``; infinite if ``ours`` is not finite."""
    difference = (ours - theirs).float().norm() / theirs.float().norm().clamp_min(1e-6)
    return float(difference) if bool(difference.isfinite()) else float("inf")


@contextmanager
def relative_errors(layers: Layers, **overrides: Any) -> Iterator[list[float]]:
    """Collect the relative error of each of ``layers`` whenever the module that it replaces is called.

    ``overrides``: options that the replacements get instead of the modules'.
    """
    errors: list[float] = []

    def compare(call: Callable[..., Tensor]) -> Callable[..., None]:
        def hook(module: Any, given: tuple[Tensor], options: dict[str, Any], output: Tensor) -> None:
            errors.append(relative_error(call(given[0].clone(), **{**options, **overrides}), output))

        return hook

    hooks = [module.register_forward_hook(compare(call), with_kwargs=True) for module, call in layers.items()]
    try:
        yield errors
    finally:
        for hook in hooks:
            hook.remove()


def probe(model: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return a prefix and a branch of 12 token ids each, spread over the vocabulary of ``model``."""
    vocabulary = model.config.get_text_config().vocab_size
    ids = [(7919 * i + 11) % vocabulary for i in range(24)]
    return tuple(ids[:12]), tuple(ids[12:])

"""Linear layers in the layout of the CPU's matrix units, while tokens are decoded.

oneDNN brings a plain weight into its own layout at every product.  With thousands of rows that is nothing; with the
few dozen of a decode step it costs as much as the product itself.  So a sampler packs the weights once per call, and
lets a gated MLP apply its activation and its product inside the matrix kernels.  Where this torch has no such
kernels the model's own modules run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

LARGEST = 4 * 2**30
"""Bytes of linear weights above which a model is not packed: the copy would cost more memory than time."""

_ACTIVATIONS = {"silu": ("swish", ""), "gelu_pytorch_tanh": ("gelu", "tanh")}
"""What transformers calls an activation, and what oneDNN calls it: name, algorithm."""

Forward = Callable[[Tensor], Tensor]


def available(weight: Tensor) -> bool:
    """Return whether this torch can multiply by a packed copy of ``weight``."""
    return weight.device.type == "cpu" and torch.backends.mkldnn.is_available() and weight.dtype == torch.bfloat16


def pack_weight(weight: Tensor, rows: int) -> Tensor:
    """Return ``weight (N, H)`` packed for products with about ``rows`` rows."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
    return packed


def multiply(
    x: Tensor, packed: Tensor, bias: Tensor | None = None, activation: tuple[str, str] = ("none", "")
) -> Tensor:
    """Return ``activation(x W^T + bias)`` for a packed ``W``."""
    name, algorithm = activation
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, name, [], algorithm)
    return out


@contextmanager
def prepacked(decoder: Any, rows: int) -> Iterator[None]:
    """Run ``decoder``'s linear layers on packed weights inside this block.  The weights must not change meanwhile."""
    linears = [m for m in decoder.modules() if type(m) is nn.Linear and available(m.weight)]
    if sum(m.weight.nbytes for m in linears) > LARGEST:
        linears = []
    weights: dict[nn.Module, Tensor] = {module: pack_weight(module.weight, rows) for module in linears}
    forwards: dict[nn.Module, Forward] = {module: _linear(weights[module], module.bias) for module in linears}
    activation = _ACTIVATIONS.get(_activation_name(decoder.config))
    for module in decoder.modules() if activation else ():
        parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
        if activation and all(part in weights and part.bias is None for part in parts if part) and all(parts):
            gate, up, down = (weights[part] for part in parts if part)
            forwards[module] = _gated(gate, up, down, activation)
    for module, forward in forwards.items():
        module.forward = forward  # the instance's attribute hides the class's method
    try:
        yield
    finally:
        for module in forwards:
            del module.forward


def _linear(packed: Tensor, bias: Tensor | None) -> Forward:
    return lambda x: multiply(x, packed, bias)


def _gated(gate: Tensor, up: Tensor, down: Tensor, activation: tuple[str, str]) -> Forward:
    def forward(x: Tensor) -> Tensor:
        gated = multiply(x, gate, activation=activation)
        return multiply(torch.ops.mkldnn._linear_pointwise.binary(x, gated, up, None, "mul"), down)

    return forward


def _activation_name(config: Any) -> str:
    return str(getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", ""))

"""Weights in the layout of the CPU's matrix units.

oneDNN brings a plain weight into its own layout at every product.  With thousands of rows that is nothing; with the
few dozen of a decode step it costs as much as the product itself.  So a sampler packs the weights once per call.
Where this torch has no such kernels nothing is packed.
"""

from __future__ import annotations

import torch
from torch import Tensor


def available(weight: Tensor) -> bool:
    """Return whether this torch can multiply by a packed copy of ``weight``."""
    return weight.device.type == "cpu" and torch.backends.mkldnn.is_available() and weight.dtype == torch.bfloat16


def pack_weight(weight: Tensor, rows: int) -> Tensor:
    """Return ``weight (N, H)`` packed for products with about ``rows`` rows."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
    return packed


def ready(weight: Tensor, rows: int | None) -> Tensor:
    """Return ``weight`` as :func:`multiply` takes it: packed for ``rows`` rows, or for ``None`` itself."""
    return weight.detach() if rows is None else pack_weight(weight, rows)


def multiply(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: tuple[str, str] = ("none", "")
) -> Tensor:
    """Return ``activation(x W^T + bias)`` for a ``W`` that is packed or not."""
    name, algorithm = activation
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm)
    return out

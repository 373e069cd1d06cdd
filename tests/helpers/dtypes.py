"""What this machine computes in, and how far rounding may take a figure: bounds follow the dtype."""

from __future__ import annotations

import torch

from forethought.machine import machine

DTYPES = [torch.float32] if machine().no_bf16("cpu") else [torch.float32, torch.bfloat16]
"""Compute dtypes of this machine's CPU; in any other, torch computes by plain modules alone."""


def closeness(dtype: torch.dtype) -> float:
    """Return how far from the truth rounding may take a log-probability of the tiny models, in nats, on average."""
    return 0.04 if dtype == torch.bfloat16 else 2e-5

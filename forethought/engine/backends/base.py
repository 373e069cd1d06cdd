"""The interface of all kernels: what computes without gradients, for one model on one device.

Shape legend: T packed tokens, A branch tokens, R rows that are decoded, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from forethought.engine.branches import Packed, Prompt


class InferenceHead(Protocol):
    """From hidden states to tokens and their log-probabilities; see :class:`forethought.engine.head.Head`."""

    def greedy(self, hidden_RH: Tensor) -> tuple[Tensor, Tensor]:
        """Return the likeliest token of each row and its log-probability, both ``(R,)``."""
        ...

    def draw(self, hidden_RH: Tensor, uniforms_R: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Return a token drawn for each row and its log-probability at ``temperature``, both ``(R,)``."""
        ...

    def logprobs(self, hidden_AH: Tensor, targets_A: Tensor) -> Tensor:
        """Return the log-probability of each target, float32 ``(A,)``, in nats."""
        ...


class Decoder(Protocol):
    """Branches of prompts that are decoded together, one token of each at a time."""

    @property
    def hidden(self) -> Tensor:
        """The last hidden state of each row's prompt, ``(R, H)``."""
        ...

    def step(self, tokens_R: Tensor) -> Tensor:
        """Take one token per row and return the hidden states ``(R, H)`` after it."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but ``rows``, ascending indices on the device."""
        ...


class Backend(Protocol):
    """Kernels for scoring, prefill, decoding, and the projection to the vocabulary."""

    @property
    def name(self) -> str:
        """``torch``, ``onednn`` or ``amx``."""
        ...

    def hidden(self, packed: Packed) -> Tensor:
        """Return the last hidden states ``(T, H)`` of a packed row."""
        ...

    def decoder(self, prompts: Sequence[Prompt], branches: int, capacity: int) -> Decoder:
        """Compute each prompt once; return the decoder of its ``branches``, each of up to ``capacity`` tokens."""
        ...

    def head(self, forbidden_ids: Sequence[int] = (), rows: int | None = None) -> InferenceHead:
        """Return the projection to the vocabulary: to draw tokens for ``rows`` rows, or for ``None`` to score."""
        ...

    def weights_changed(self) -> None:
        """Forget copies of the weights; called whenever the model's weights have changed."""
        ...

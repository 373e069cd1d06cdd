"""A causal language model as the engine sees it: packed tokens in, hidden states and log-probabilities out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from forethought.engine import attention
from forethought.engine.attention import PackedAttention
from forethought.engine.backends import BackendError, Choice, TorchBackend, select
from forethought.engine.backends.plain import forward
from forethought.engine.backends.selection import probe
from forethought.engine.branches import Group, Packed, pack
from forethought.engine.head import Head, head_of


class Policy:
    """A transformers causal LM behind the shared-prefix attention.

    Constructing one switches the model's attention implementation and checks, on a few tokens, that
    the engine's log-probabilities are the model's own: an architecture that the engine does not know is
    refused instead of trained wrongly.  ``backend``: see :func:`forethought.engine.backends.select`.
    """

    def __init__(self, model: Any, backend: str = "auto") -> None:
        self.model = model
        parameter = next(model.parameters())
        self.device: torch.device = parameter.device
        self.dtype: torch.dtype = parameter.dtype
        self._wanted = backend
        # Once switched, a model cannot compute alone any more: there is nothing left to compare a second policy with.
        if model.config._attn_implementation != attention.NAME:
            expected = _plain_logprobs(model)
            model.set_attn_implementation(attention.NAME)
            prefix, branch = probe(model)
            with torch.no_grad():
                ours = self.logprobs(pack([Group(prefix=prefix, branches=(branch,))], self.device))
            # Random tokens have log-probabilities near -17, where bf16 alone makes a difference of half a percent.
            tolerance = 1e-4 if self.dtype == torch.float32 else 0.03
            difference = float((ours - expected).abs().mean() / expected.abs().mean())
            if not difference < tolerance:  # so that NaN is refused, too
                raise BackendError(
                    f"{type(model).__name__}: the engine's log-probabilities differ from the model's own "
                    f"by {difference:.1%}. Supported and tested: Llama, Qwen2, Qwen3, Gemma3"
                )

    @cached_property
    def _selected(self) -> tuple[TorchBackend, Choice]:
        return select(self.model, self._wanted)

    @property
    def backend(self) -> TorchBackend:
        """What samples and scores without gradients; chosen on first use."""
        return self._selected[0]

    @property
    def kernels(self) -> Choice:
        return self._selected[1]

    def weights_changed(self) -> None:
        """Tell the backend that the model's weights have changed; whoever changes them calls this."""
        # Before the choice there are no copies of weights, and asking for the backend would make it choose.
        if "_selected" in self.__dict__:
            self.backend.weights_changed()

    def head(self, forbidden_ids: Sequence[int] = ()) -> Head:
        """Return the projection to the vocabulary that gives gradients."""
        return head_of(self.model, forbidden_ids)

    def packed_hidden(self, packed: Packed) -> Tensor:
        """Return the last hidden states ``(T, H)`` of packed groups, with gradients if they are enabled."""
        return forward(self.model, packed.tokens, packed.positions, PackedAttention(packed))

    def logprobs(self, packed: Packed, forbidden_ids: Sequence[int] = ()) -> Tensor:
        """Return the log-probability of every branch token, float32 ``(A,)``, with gradients if they are enabled."""
        hidden_AH = self.packed_hidden(packed)[packed.sources]
        return self.head(forbidden_ids).logprobs(hidden_AH, packed.targets)


@torch.no_grad()
def _plain_logprobs(model: Any) -> Tensor:
    """Return the log-probabilities of the probe's branch by transformers alone, ``(A,)``."""
    prefix, branch = probe(model)
    ids = torch.tensor([prefix + branch], device=next(model.parameters()).device)
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[0, len(prefix) - 1 : -1]
    return logits.float().log_softmax(-1).gather(1, ids[0, len(prefix) :, None])[:, 0]

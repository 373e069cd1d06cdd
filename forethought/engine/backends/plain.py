"""The backend that runs everywhere: the model's own modules, with a prefix's keys and values stored once.

Faster backends are made of this one: they put other layers in the place of the modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from forethought.engine.attention import Branching, PackedAttention
from forethought.engine.backends.base import InferenceHead
from forethought.engine.branches import Packed, Prompt, alike, pack
from forethought.engine.decoding import Decoding
from forethought.engine.head import head_of

Layers = Mapping[nn.Module, Callable[..., Tensor]]
"""By module, the forward that is called in its place."""


class TorchBackend:
    """A :class:`~forethought.engine.backends.Backend` on the model's own modules."""

    name: ClassVar[str] = "torch"
    state: ClassVar[type[Decoding]] = Decoding
    """What holds the keys and values of rows that are decoded."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device: torch.device = next(model.parameters()).device

    @classmethod
    def missing(cls, model: Any) -> str:
        """Return why this backend cannot compute ``model`` here; empty if it may be able to."""
        return ""

    @classmethod
    def unsuited(cls) -> str:
        """Return why this backend is not chosen on this processor unless it is asked for; empty if it may be."""
        return ""

    def layers(self, rows: int | None) -> Layers:
        """Return what runs in the place of the decoder's layers: to decode ``rows`` rows, or for ``None`` to take long
        rows of tokens."""
        return {}

    def hidden(self, packed: Packed) -> Tensor:
        """See :meth:`Backend.hidden`."""
        return self._hidden(packed, self.layers(None))

    def decoder(self, prompts: Sequence[Prompt], branches: int, capacity: int) -> TorchDecoder:
        """See :meth:`Backend.decoder`.

        What prompts begin with alike, such as instructions and the text that they ask about, is computed once for them.
        """
        layers = self.layers(len(prompts) * branches)
        state, hidden_GH = self.prefill(prompts, branches, capacity, layers)
        return TorchDecoder(self.model, layers, state, hidden_GH.repeat_interleave(branches, 0))

    def head(self, forbidden_ids: Sequence[int] = (), rows: int | None = None) -> InferenceHead:
        """See :meth:`Backend.head`."""
        return head_of(self.model, forbidden_ids)

    def weights_changed(self) -> None:
        """See :meth:`Backend.weights_changed`."""

    def prefill(
        self, prompts: Sequence[Prompt], branches: int, capacity: int, layers: Layers
    ) -> tuple[Decoding, Tensor]:
        """Return the decoding state of the prompts' branches, and the prompts' last hidden states ``(G, H)``."""
        ids = [prompt.token_ids for prompt in prompts]
        order, groups = alike(ids)
        packed = pack(groups, self.device)
        packed.captured = []
        hidden = self._hidden(packed, layers)
        paths = packed.blocks[-1].keys[torch.tensor(order).argsort().to(self.device)]
        lengths = torch.tensor([len(prompt) for prompt in ids], device=self.device)
        cache = [
            (k[paths].transpose(1, 2).contiguous(), v[paths].transpose(1, 2).contiguous()) for k, v in packed.captured
        ]
        last = hidden[paths.gather(1, lengths[:, None] - 1)[:, 0]]
        return self.state(cache, lengths, branches, capacity), last

    def _hidden(self, packed: Packed, layers: Layers) -> Tensor:
        with in_place(layers):
            return forward(self.model, packed.tokens, packed.positions, PackedAttention(packed, split=True))


class TorchDecoder:
    """Rows that are decoded on the modules of a model, or on what runs in their place."""

    def __init__(self, model: Any, layers: Layers, state: Decoding, hidden_RH: Tensor) -> None:
        self.model, self.layers, self.state, self.hidden = model, layers, state, hidden_RH

    def step(self, tokens_R: Tensor) -> Tensor:
        """See :meth:`Decoder.step`."""
        with in_place(self.layers):
            hidden = forward(self.model, tokens_R[None], self.state.positions(), self.state)
        self.state.length += 1
        return hidden

    def keep(self, rows: Tensor) -> None:
        """See :meth:`Decoder.keep`."""
        self.state.keep(rows)


def forward(model: Any, tokens: Tensor, positions: Tensor, branching: Branching) -> Tensor:
    """Return the last hidden states ``(T, H)`` of one packed row ``(1, T)``."""
    output = model.get_decoder()(input_ids=tokens, position_ids=positions, use_cache=False, branching=branching)
    hidden: Tensor = output.last_hidden_state[0]
    return hidden


@contextmanager
def in_place(layers: Layers) -> Iterator[None]:
    """Run ``layers`` in the place of their modules inside this block."""
    for module, call in layers.items():
        module.forward = call  # the instance's attribute hides the class's method
    try:
        yield
    finally:
        for module in layers:
            del module.forward

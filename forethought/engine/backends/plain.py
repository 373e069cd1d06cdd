"""The backend that runs everywhere: the model's own modules, with a prefix's keys and values stored once.

A backend computes what needs no gradient, for one model on one device: scoring, prefill, decoding and the projection
to the vocabulary.  Faster ones derive from this one: they run other layers in place of the modules, and other heads.

Shape legend: T packed tokens, A branch tokens, G prompts, R rows that are decoded, P prompt positions, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor, nn

from forethought.engine.attention import AttentionLayout, PackedAttention
from forethought.engine.branches import Packed, Prompt, pack, share_prefixes
from forethought.engine.decoding import Decoding
from forethought.engine.head import head_of

Layers = Mapping[nn.Module, Callable[..., Tensor]]
"""By module, the forward that replaces its own."""


class InferenceHead(Protocol):
    """What :class:`forethought.engine.head.Head` does, without gradients."""

    def greedy(self, hidden_RH: Tensor) -> tuple[Tensor, Tensor]: ...

    def draw(self, hidden_RH: Tensor, uniforms_R: Tensor, temperature: float) -> tuple[Tensor, Tensor]: ...

    def logprobs(self, hidden_AH: Tensor, targets_A: Tensor) -> Tensor: ...


class TorchBackend:
    """Computes with the model's own modules; the base class of all backends."""

    name: ClassVar[str] = "torch"
    decoding: ClassVar[type[Decoding]] = Decoding

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device: torch.device = next(model.parameters()).device

    @classmethod
    def why_unavailable(cls, model: Any) -> str:
        """Return why this backend cannot compute ``model`` on this machine; empty if nothing is known against it."""
        return ""

    @classmethod
    def why_not_default(cls) -> str:
        """Return why this processor uses this backend only on request; empty if it may be chosen automatically."""
        return ""

    def layers(self, rows: int | None) -> Layers:
        """Return replacements of the decoder's layers: to decode ``rows`` rows, or with ``None`` for packed rows."""
        return {}

    def hidden(self, packed: Packed) -> Tensor:
        """Return the last hidden states ``(T, H)`` of a packed row."""
        return self._hidden(packed, self.layers(None))

    def decoder(self, prompts: Sequence[Prompt], branches: int, capacity: int) -> TorchDecoder:
        """Compute each prompt once; return the decoder of its ``branches``, each of up to ``capacity`` tokens.

        A common beginning of prompts, such as instructions and the text that they are about, is computed once.
        """
        layers = self.layers(len(prompts) * branches)
        state, hidden_GH = self.prefill(prompts, branches, capacity, layers)
        return TorchDecoder(self.model, layers, state, hidden_GH.repeat_interleave(branches, 0))

    def head(self, forbidden_ids: Sequence[int] = (), rows: int | None = None) -> InferenceHead:
        """Return the projection to the vocabulary: to draw tokens for ``rows`` rows, or for ``None`` to score."""
        return head_of(self.model, forbidden_ids)

    def weights_changed(self) -> None:
        """Forget copies of the weights; called whenever the model's weights have changed."""

    def prefill(
        self, prompts: Sequence[Prompt], branches: int, capacity: int, layers: Layers
    ) -> tuple[Decoding, Tensor]:
        """Return the decoding state of the prompts' branches, and the prompts' last hidden states ``(G, H)``."""
        ids = [prompt.token_ids for prompt in prompts]
        order, groups = share_prefixes(ids)
        packed = pack(groups, self.device)
        packed.captured = []
        hidden_TH = self._hidden(packed, layers)
        # The last block's keys are the paths of whole sequences; bring them to the order of the prompts.
        paths_GP = packed.blocks[-1].keys[torch.tensor(order).argsort().to(self.device)]
        lengths_G = torch.tensor([len(prompt) for prompt in ids], device=self.device)
        cache = [
            (k[paths_GP].transpose(1, 2).contiguous(), v[paths_GP].transpose(1, 2).contiguous())
            for k, v in packed.captured
        ]
        last_GH = hidden_TH[paths_GP.gather(1, lengths_G[:, None] - 1)[:, 0]]
        return self.decoding(cache, lengths_G, branches, capacity), last_GH

    def _hidden(self, packed: Packed, layers: Layers) -> Tensor:
        with replaced(layers):
            return forward(self.model, packed.tokens, packed.positions, PackedAttention(packed, split_attention=True))


class TorchDecoder:
    """Branches of prompts that are decoded together, one token of each at a time."""

    def __init__(self, model: Any, layers: Layers, state: Decoding, hidden_RH: Tensor) -> None:
        self.model, self.layers, self.state = model, layers, state
        self.hidden = hidden_RH  # the last hidden state of each row's prompt

    def step(self, tokens_R: Tensor) -> Tensor:
        """Take one token per row and return the hidden states ``(R, H)`` after it."""
        with replaced(self.layers):
            hidden_RH = forward(self.model, tokens_R[None], self.state.positions(), self.state)
        self.state.length += 1
        return hidden_RH

    def keep(self, rows: Tensor) -> None:
        self.state.keep(rows)


def forward(model: Any, tokens: Tensor, positions: Tensor, layout: AttentionLayout) -> Tensor:
    """Return the last hidden states ``(T, H)`` of one packed row ``(1, T)``."""
    output = model.get_decoder()(input_ids=tokens, position_ids=positions, use_cache=False, attention_layout=layout)
    return cast(Tensor, output.last_hidden_state[0])


@contextmanager
def replaced(layers: Layers) -> Iterator[None]:
    """Run ``layers`` in place of their modules inside this block."""
    for module, call in layers.items():
        module.forward = call  # the instance's attribute hides the class's method
    try:
        yield
    finally:
        for module in layers:
            del module.forward

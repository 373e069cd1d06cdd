"""A causal language model as the engine sees it: packed tokens in, hidden states out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from forethought.engine import attention
from forethought.engine.attention import Branching, PackedAttention
from forethought.engine.branches import Group, Packed, pack
from forethought.engine.fused import FusedLayer, fuse
from forethought.engine.head import Head
from forethought.engine.prepacked import available

LARGEST = 4 * 2**30
"""Bytes of weights above which a model decodes without a packed copy: it would cost more memory than time."""


class UnsupportedModelError(ValueError):
    """A model that the shared-prefix engine would compute wrongly."""


class Policy:
    """A transformers causal LM behind the shared-prefix attention.

    Constructing one switches the model's attention implementation and checks, on a few tokens, that
    the engine's log-probabilities are the model's own, so that an architecture with an unknown twist is
    refused instead of trained wrongly.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        parameter = next(model.parameters())
        self.device: torch.device = parameter.device
        self.dtype: torch.dtype = parameter.dtype
        self._apart = False
        if model.config._attn_implementation != attention.NAME:
            expected = _plain_logprobs(model)
            model.set_attn_implementation(attention.NAME)
            self._verify(expected)

    def head(self, forbidden_ids: Sequence[int] = ()) -> Head:
        """Return the projection to the vocabulary."""
        softcap = getattr(self.model.config, "final_logit_softcapping", None)
        weight = self.model.get_output_embeddings().weight
        forbidden = None
        if forbidden_ids:
            forbidden = torch.zeros(len(weight), dtype=torch.bool, device=self.device)
            forbidden[list(forbidden_ids)] = True
        return Head(weight=weight, softcap=softcap, forbidden=forbidden)

    def hidden(self, tokens: Tensor, positions: Tensor, branching: Branching) -> Tensor:
        """Return the last hidden states ``(T, H)`` of one packed row ``(1, T)``."""
        output = self.model.get_decoder()(
            input_ids=tokens, position_ids=positions, use_cache=False, branching=branching
        )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    @contextmanager
    def fused(self, rows: int | None = None) -> Iterator[None]:
        """Run fused layers inside this block, if this model and machine have them, and let branches attend to their
        prefix apart from themselves; without gradients only.

        ``rows``: decode so many rows, on packed copies of the weights, which must not change meanwhile; ``None``: take
        long rows of tokens, for which the weights are as fast as they are.
        """
        packs = rows is not None and sum(parameter.nbytes for parameter in self._weights) <= LARGEST
        layers = fuse(self.model.get_decoder(), rows if packs else None) if self.fusable else {}
        for layer, forward in layers.items():
            layer.forward = forward  # the instance's attribute hides the class's method
        self._apart = True
        try:
            yield
        finally:
            self._apart = False
            for layer in layers:
                del layer.forward

    @property
    def _weights(self) -> list[Tensor]:
        return [parameter for parameter in self.model.get_decoder().parameters() if parameter.ndim > 1]

    @cached_property
    def fusable(self) -> bool:
        """Whether fused layers compute what the model's own do, seen on a few tokens."""
        if not all(map(available, self._weights)):
            return False
        with torch.inference_mode():
            layers = fuse(self.model.get_decoder(), None)
            return bool(layers) and self._agree(layers)

    def _agree(self, layers: Mapping[Any, FusedLayer]) -> bool:
        prefix, branch = _probe(self.model.config.get_text_config().vocab_size)
        packed = pack([Group(prefix=prefix, branches=(branch,))], self.device)
        seen: list[tuple[Tensor, Tensor]] = []

        def compare(layer: Any, given: tuple[Tensor], options: dict[str, Any], output: Tensor) -> None:
            seen.append((layers[layer](*given, **options), output))

        hooks = [layer.register_forward_hook(compare, with_kwargs=True) for layer in layers]
        self.packed_hidden(packed)
        for hook in hooks:
            hook.remove()
        # What a layer adds is rounded to bf16 a few times more by the modules; a wrong formula is off by its size.
        return all(float((a - b).float().norm() / b.float().norm()) < 0.02 for a, b in seen)

    def packed_hidden(self, packed: Packed) -> Tensor:
        """Return the last hidden states ``(T, H)`` of packed groups."""
        return self.hidden(packed.tokens, packed.positions, PackedAttention(packed, apart=self._apart))

    def logprobs(self, packed: Packed, forbidden_ids: Sequence[int] = ()) -> Tensor:
        """Return the log-probability of every branch token, float32 ``(A,)``, with gradients if they are enabled."""
        hidden = self.packed_hidden(packed)[packed.sources]
        return self.head(forbidden_ids).logprobs(hidden, packed.targets)

    @torch.no_grad()
    def _verify(self, expected: Tensor) -> None:
        prefix, branch = _probe(self.model.config.get_text_config().vocab_size)
        packed = pack([Group(prefix=prefix, branches=(branch,))], self.device)
        found = self.logprobs(packed)
        # Random tokens have log-probabilities near -17, where bf16 alone makes a difference of half a percent.
        tolerance = 1e-4 if self.dtype == torch.float32 else 0.03
        difference = float((found - expected).abs().mean() / expected.abs().mean())
        if not difference < tolerance:
            raise UnsupportedModelError(
                f"{type(self.model).__name__}: the engine's log-probabilities differ from the model's own "
                f"by {difference:.1%}. Supported and tested: Llama, Qwen2, Qwen3, Gemma3"
            )


def _probe(vocabulary: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    ids = [(7919 * i + 11) % vocabulary for i in range(24)]
    return tuple(ids[:12]), tuple(ids[12:])


@torch.no_grad()
def _plain_logprobs(model: Any) -> Tensor:
    prefix, branch = _probe(model.config.get_text_config().vocab_size)
    ids = torch.tensor([prefix + branch], device=next(model.parameters()).device)
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[0, len(prefix) - 1 : -1]
    return logits.float().log_softmax(-1).gather(1, ids[0, len(prefix) :, None])[:, 0]

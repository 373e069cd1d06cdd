"""A causal language model as the engine sees it: packed tokens in, hidden states out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from forethought.engine import attention, native
from forethought.engine.attention import Branching, PackedAttention
from forethought.engine.branches import Group, Packed, Prompt, alike, pack
from forethought.engine.decoding import Decoding
from forethought.engine.fused import fuse
from forethought.engine.head import Head
from forethought.engine.prepacked import available

LARGEST, KEPT = 4 * 2**30, 2**30
"""Bytes of weights above which a model decodes without a packed copy, which would cost more memory than time; and above
which that copy is not kept for the next call, nor made for anything but decoding."""

FAR = 0.02
"""Relative difference of a layer's output from its modules'.  What a layer adds is rounded to bf16 a few times more by
the modules; a wrong formula is off by its size."""


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
        self._packed: dict[str, tuple[object, Any]] = {}
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

    def inference_head(self, forbidden_ids: Sequence[int], rows: int | None = None) -> Head | native.NativeHead:
        """Return a projection that gives no gradients: to draw tokens for ``rows`` rows, or for ``None`` to score."""
        head = self.head(forbidden_ids)
        if native.available(head.weight) and (rows is not None or self._keeps):
            packed = self._once_packed("head", [head.weight], lambda: native.pack(head.weight))
            return native.NativeHead(head, packed)
        return head if rows is None else head.for_decoding(rows)

    def hidden(self, tokens: Tensor, positions: Tensor, branching: Branching) -> Tensor:
        """Return the last hidden states ``(T, H)`` of one packed row ``(1, T)``."""
        output = self.model.get_decoder()(
            input_ids=tokens, position_ids=positions, use_cache=False, branching=branching
        )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    @contextmanager
    def fused(self, rows: int | None = None) -> Iterator[None]:
        """Run native or fused layers inside this block, if this model and machine have them, and let branches attend to
        their prefix apart from themselves; without gradients only.  The weights must not change meanwhile.

        ``rows``: decode so many rows; ``None``: take long rows of tokens.  Inside such a block it changes nothing.
        """
        if self._apart:
            yield
            return
        decoder = self.model.get_decoder()
        layers: Mapping[Any, Any] = {}
        if self.native and (rows is not None or self._keeps):
            layers = self._once_packed("layers", self._weights, lambda: native.layers(decoder))
        elif self.fusable:
            layers = fuse(decoder, rows if self._packs else None)
        for layer, forward in layers.items():
            layer.forward = forward  # the instance's attribute hides the class's method
        self._apart = True
        try:
            yield
        finally:
            self._apart = False
            for layer in layers:
                del layer.forward

    def prefill(self, prompts: Sequence[Prompt], branches: int, capacity: int) -> tuple[Decoding, Tensor]:
        """Compute each prompt once; return the decoding state of its branches and the last hidden states ``(G, H)``.

        What prompts begin with alike, such as instructions and the text that they ask about, is computed once for them.
        """
        kind = native.TiledDecoding if self.native else Decoding
        with self.fused():
            return self._prefill(prompts, branches, capacity, kind)

    def _prefill(
        self, prompts: Sequence[Prompt], branches: int, capacity: int, kind: type[Decoding]
    ) -> tuple[Decoding, Tensor]:
        ids = [prompt.token_ids for prompt in prompts]
        order, groups = alike(ids)
        packed = pack(groups, self.device)
        packed.captured = []
        hidden = self.packed_hidden(packed)
        paths = packed.blocks[-1].keys[torch.tensor(order).argsort().to(self.device)]
        lengths = torch.tensor([len(prompt) for prompt in ids], device=self.device)
        cache = [
            (k[paths].transpose(1, 2).contiguous(), v[paths].transpose(1, 2).contiguous()) for k, v in packed.captured
        ]
        return kind(cache, lengths, branches, capacity), hidden[paths.gather(1, lengths[:, None] - 1)[:, 0]]

    def _once_packed(self, name: str, weights: Sequence[Tensor], pack: Callable[[], Any]) -> Any:
        """Return what ``pack`` makes of ``weights``, kept until one of them changes."""
        state = [(weight.data_ptr(), weight._version) for weight in weights]
        if name not in self._packed or self._packed[name][0] != state:
            self._packed.pop(name, None)  # before another copy is made
            self._packed[name] = state, pack()
        packed = self._packed[name][1]
        if not self._keeps:
            del self._packed[name]
        return packed

    @property
    def _packs(self) -> bool:
        return sum(weight.nbytes for weight in self._weights) <= LARGEST

    @property
    def _keeps(self) -> bool:
        return sum(weight.nbytes for weight in self._weights) <= KEPT

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
            return bool(layers) and max(self._apart_on_long_rows(layers)) < FAR

    @cached_property
    def native(self) -> bool:
        """Whether layers can run on the kernels of ``native.cpp``, and compute there what the model's own do."""
        decoder = self.model.get_decoder()
        if not (self.fusable and self._packs and native.suits(decoder)):
            return False
        prefix, branch = _probe(self.model.config.get_text_config().vocab_size)
        prompts = [Prompt(id="", token_ids=prefix), Prompt(id="", token_ids=branch[:7])]
        with torch.inference_mode():
            layers = native.layers(decoder)
            plain, tiled = (self._prefill(prompts, 2, 2, kind)[0] for kind in (Decoding, native.TiledDecoding))
            with _compared(layers, branching=tiled) as apart:
                for step in range(2):
                    plain.length = tiled.length = step
                    self.hidden(torch.tensor([branch[-4:]]), plain.positions(), plain)
            return max(apart + self._apart_on_long_rows(layers)) < FAR

    def _apart_on_long_rows(self, layers: Mapping[Any, Any]) -> list[float]:
        prefix, branch = _probe(self.model.config.get_text_config().vocab_size)
        with _compared(layers) as apart:
            self.packed_hidden(pack([Group(prefix=prefix, branches=(branch,))], self.device))
        return apart

    def packed_hidden(self, packed: Packed) -> Tensor:
        """Return the last hidden states ``(T, H)`` of packed groups."""
        return self.hidden(packed.tokens, packed.positions, PackedAttention(packed, apart=self._apart))

    def logprobs(self, packed: Packed, forbidden_ids: Sequence[int] = ()) -> Tensor:
        """Return the log-probability of every branch token, float32 ``(A,)``, with gradients if they are enabled."""
        hidden = self.packed_hidden(packed)[packed.sources]
        head = self.inference_head(forbidden_ids) if self._apart else self.head(forbidden_ids)
        return head.logprobs(hidden, packed.targets)

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


@contextmanager
def _compared(layers: Mapping[Any, Any], **instead: Any) -> Iterator[list[float]]:
    """Collect how far each of ``layers`` is from what the module in its place returns, relative to its size.

    ``instead``: options that are given to ours in the place of the module's.
    """
    apart: list[float] = []

    def compare(layer: Any, given: tuple[Tensor], options: dict[str, Any], output: Tensor) -> None:
        ours = layers[layer](given[0].clone(), **{**options, **instead})
        apart.append(float((ours - output).float().norm() / output.float().norm()))

    hooks = [layer.register_forward_hook(compare, with_kwargs=True) for layer in layers]
    try:
        yield apart
    finally:
        for hook in hooks:
            hook.remove()


def _probe(vocabulary: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    ids = [(7919 * i + 11) % vocabulary for i in range(24)]
    return tuple(ids[:12]), tuple(ids[12:])


@torch.no_grad()
def _plain_logprobs(model: Any) -> Tensor:
    prefix, branch = _probe(model.config.get_text_config().vocab_size)
    ids = torch.tensor([prefix + branch], device=next(model.parameters()).device)
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[0, len(prefix) - 1 : -1]
    return logits.float().log_softmax(-1).gather(1, ids[0, len(prefix) :, None])[:, 0]

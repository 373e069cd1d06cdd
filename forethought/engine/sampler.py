"""Sampling K completions of each prompt: the prompt is prefilled once, its keys and values are shared.

A batch of G prompts with K branches each decodes as G*K rows.  Every row's next token comes from one
uniform number of its own key, through the inverse of the distribution function, so that a completion
depends on ``(key, prompt id, k)`` and the weights, not on what else is in the batch.

Shape legend: G prompts, K branches of each, R = G*K rows, P prompt positions, V vocabulary, D head size,
H key-value heads, Q query heads per key-value head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from forethought.engine.branches import Prompt, Sampling, Thinking
from forethought.engine.head import widest
from forethought.engine.policy import Policy
from forethought.keys import Key
from forethought.records import Completion, Rollout, StopReason

R = TypeVar("R")

Row = tuple[list[int], list[float]]
"""Token ids and their log-probabilities."""

WASTE = 8
"""Finished rows leave the batch once they are one in so many: each departure copies what the others have stored."""


class TorchSampler:
    """A :class:`~forethought.engine.Sampler` on a model in this process."""

    def __init__(
        self, policy: Policy, rows: int = 256, on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        self.policy = policy
        self.rows = rows
        self.on_progress = on_progress

    def sample(self, prompts: Sequence[Prompt], k: int, sampling: Sampling, key: Key) -> list[list[Completion]]:
        """See :meth:`forethought.engine.Sampler.sample`."""
        return self._by_batch(prompts, k, lambda batch: self._completions(batch, k, sampling, key))

    def think(
        self, prompts: Sequence[Prompt], k: int, thinking: Thinking, sampling: Sampling, key: Key
    ) -> list[list[Rollout]]:
        """Return ``k`` rollouts of each prompt: a thought, then a suffix, over one computation of the prompt.

        A row whose thought is closed goes on to its suffix while others still think; one that reaches the cap gets
        ``thinking.close_ids`` inserted.  ``sampling`` is the suffix's; temperature and forbidden ids hold for both.
        """
        return self._by_batch(prompts, k, lambda batch: self._rollouts(batch, k, thinking, sampling, key))

    def _by_batch(self, prompts: Sequence[Prompt], k: int, write: Callable[[list[Prompt]], list[R]]) -> list[list[R]]:
        results: list[list[R]] = [[] for _ in prompts]
        done = 0
        for batch in _batches(prompts, max(1, self.rows // k)):
            written = write([prompts[i] for i in batch])
            for place, index in enumerate(batch):
                results[index] = written[place * k : (place + 1) * k]
            done += len(batch)
            self.on_progress(done, len(prompts))
        return results

    def _completions(self, prompts: list[Prompt], k: int, sampling: Sampling, key: Key) -> list[Completion]:
        rows = self._decode(prompts, k, sampling, key, Plain(sampling, len(prompts) * k))
        return [_completion(tokens, logprobs, sampling) for tokens, logprobs in rows]

    def _rollouts(
        self, prompts: list[Prompt], k: int, thinking: Thinking, sampling: Sampling, key: Key
    ) -> list[Rollout]:
        script = ThoughtThenSuffix(thinking, sampling, len(prompts) * k)
        rows = self._decode(prompts, k, sampling, key, script)
        return [script.rollout(row, tokens, logprobs) for row, (tokens, logprobs) in enumerate(rows)]

    @torch.inference_mode()
    def _decode(self, prompts: list[Prompt], k: int, sampling: Sampling, key: Key, script: Script) -> list[Row]:
        """Return the tokens and log-probabilities of every row, prompt by prompt."""
        rows, most, device = len(prompts) * k, script.max_tokens, self.policy.device
        head = self.policy.backend.head(sampling.forbidden_ids, rows)
        uniforms = np.stack([key.uniforms(p.id, i, most) for p in prompts for i in range(k)])
        uniforms_RT = torch.from_numpy(uniforms).to(widest(device)).to(device)
        tokens_RT = torch.zeros(rows, most, dtype=torch.long)
        logprobs_RT = torch.zeros(rows, most)
        lengths = torch.zeros(rows, dtype=torch.long)
        decoded = torch.arange(rows)  # rows that are computed; finished ones leave in batches
        going = torch.ones(rows, dtype=torch.bool)
        decoder = self.policy.backend.decoder(prompts, k, most)
        hidden = decoder.hidden
        for step in range(most):
            if sampling.temperature == 0:
                drawn, logprob = head.greedy(hidden)
            else:
                drawn, logprob = head.draw(hidden, uniforms_RT[decoded.to(device), step], sampling.temperature)
            live = going[decoded]
            tokens = drawn.cpu()
            tokens[live], ended = script.take(decoded[live], tokens[live])
            tokens_RT[decoded, step], logprobs_RT[decoded, step] = tokens, logprob.cpu()
            lengths[decoded[live]] = step + 1
            going[decoded[live][ended]] = False
            if step + 1 == most or not going.any():
                break
            kept = going[decoded].nonzero()[:, 0]
            if len(decoded) - len(kept) >= max(1, len(decoded) // WASTE):
                decoder.keep(kept.to(device))
                decoded, tokens = decoded[kept], tokens[kept]
            hidden = decoder.step(tokens.to(device))
        found = zip(tokens_RT.tolist(), logprobs_RT.tolist(), lengths.tolist(), strict=True)
        return [(tokens[:n], logprobs[:n]) for tokens, logprobs, n in found]


class Script(Protocol):
    """Decides what becomes of what was drawn."""

    @property
    def max_tokens(self) -> int:
        """No row is longer."""
        ...

    def take(self, rows: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Return, for the ``rows`` that still go on, the tokens that they get, and which of them end with these."""
        ...


class Plain:
    """What is drawn stands, until a stop token, a text that ends it, or the cap."""

    def __init__(self, sampling: Sampling, rows: int) -> None:
        self.max_tokens = sampling.max_tokens
        self.stop_ids = torch.tensor(sampling.stop_ids, dtype=torch.long)
        self.ended = sampling.ended
        self._written: list[list[int]] = [[] for _ in range(rows)]

    def take(self, rows: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Script`."""
        stopped = torch.isin(drawn, self.stop_ids)
        if self.ended is not None:
            for row, token in zip(rows.tolist(), drawn.tolist(), strict=True):
                self._written[row].append(token)
            stopped |= torch.tensor([self.ended(self._written[row]) for row in rows.tolist()], dtype=torch.bool)
        return drawn, stopped


class ThoughtThenSuffix:
    """A thought until it is closed or capped, then a suffix."""

    def __init__(self, thinking: Thinking, sampling: Sampling, rows: int) -> None:
        self.thinking, self.sampling = thinking, sampling
        self.max_tokens = thinking.max_tokens + len(thinking.close_ids) + sampling.max_tokens
        self._written: list[list[int]] = [[] for _ in range(rows)]
        self._thought: list[int | None] = [None] * rows  # ids of the finished thought, its closing tag included
        self._closed = [False] * rows

    def take(self, rows: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Script`."""
        taken = [self._take(row, token) for row, token in zip(rows.tolist(), drawn.tolist(), strict=True)]
        return torch.tensor([token for token, _ in taken]), torch.tensor([ended for _, ended in taken])

    def _take(self, row: int, token: int) -> tuple[int, bool]:
        written, cap, close = self._written[row], self.thinking.max_tokens, self.thinking.close_ids
        thought = self._thought[row]
        if thought is not None:
            written.append(token)
            capped = len(written) - thought == self.sampling.max_tokens
            return token, capped or stops(written[thought:], self.sampling)
        if len(written) >= cap:
            token = close[len(written) - cap]
        written.append(token)
        self._closed[row] = len(written) <= cap and self.thinking.closed(written)
        if self._closed[row] or len(written) == cap + len(close):
            self._thought[row] = len(written)
        return token, False

    def rollout(self, row: int, tokens: list[int], logprobs: list[float]) -> Rollout:
        """Return the rollout of ``row``."""
        thought = self._thought[row]
        assert thought is not None
        inserted = 0 if self._closed[row] else len(self.thinking.close_ids)
        drawn = [not thought - inserted <= place < thought for place in range(len(tokens))]
        return Rollout(
            token_ids=tuple(tokens),
            logprobs=tuple(logprobs),
            drawn=tuple(drawn),
            thought_tokens=thought,
            closed=self._closed[row],
        )


def _batches(prompts: Sequence[Prompt], size: int) -> Iterator[list[int]]:
    """Yield indices of prompts in batches of like length, so that little is padded."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].token_ids))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def stops(tokens: Sequence[int], sampling: Sampling) -> bool:
    """Return whether a completion of these ids has ended by itself: by a stop token, or by its text."""
    ended = sampling.ended is not None and sampling.ended(tokens)
    return ended or bool(tokens and tokens[-1] in sampling.stop_ids)


def _completion(tokens: list[int], logprobs: list[float], sampling: Sampling) -> Completion:
    stop = StopReason.STOP if stops(tokens, sampling) else StopReason.LENGTH
    return Completion(token_ids=tuple(tokens), logprobs=tuple(logprobs), stop=stop)

"""Sampling K completions of each prompt: the prompt is prefilled once, its keys and values are shared.

Every row's next token comes from one uniform number of its own key, through the inverse of the distribution function,
so that a completion depends on ``(key, prompt id, k)`` and the weights, not on what else is in the batch.

Shape legend: R = G*K rows of a batch, T tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from forethought.engine.branches import Prompt, Sampling, Thinking
from forethought.engine.head import widest
from forethought.engine.policy import Policy
from forethought.keys import Key
from forethought.records import Completion, Rollout, StopReason

Output = TypeVar("Output", Completion, Rollout, covariant=True)

MIN_FINISHED_SHARE = 8
"""Finished rows are removed once they are one in this many: removing rows copies the caches of all that remain."""


class TorchSampler:
    """A :class:`~forethought.engine.Sampler` on a model in this process."""

    def __init__(
        self, policy: Policy, rows: int = 256, on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        self.policy, self.rows, self.on_progress = policy, rows, on_progress

    def sample(self, prompts: Sequence[Prompt], k: int, sampling: Sampling, key: Key) -> list[list[Completion]]:
        return self._by_batch(prompts, k, sampling, key, lambda rows: CompletionRule(sampling, rows))

    def think(
        self, prompts: Sequence[Prompt], k: int, thinking: Thinking, sampling: Sampling, key: Key
    ) -> list[list[Rollout]]:
        """Return ``k`` rollouts of each prompt: a thought, then a suffix, over one computation of the prompt.

        A row whose thought is closed goes on to its suffix while others still think; one that reaches the cap gets
        ``thinking.close_ids`` inserted.  ``sampling`` is the suffix's; temperature and forbidden ids hold for both.
        """
        return self._by_batch(prompts, k, sampling, key, lambda rows: ThoughtRule(thinking, sampling, rows))

    def _by_batch(
        self, prompts: Sequence[Prompt], k: int, sampling: Sampling, key: Key, rule_for: Callable[[int], Rule[Output]]
    ) -> list[list[Output]]:
        results: list[list[Output]] = [[] for _ in prompts]
        # Prompts of similar length go together: little is padded.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].token_ids))
        size, done = max(1, self.rows // k), 0  # a prompt is never split, so one may exceed `rows`
        for batch in (order[start : start + size] for start in range(0, len(order), size)):
            rule = rule_for(len(batch) * k)
            rows = self._decode([prompts[i] for i in batch], k, sampling, key, rule)
            outputs = [rule.output(row, tokens, logprobs) for row, (tokens, logprobs) in enumerate(rows)]
            for place, index in enumerate(batch):
                results[index] = outputs[place * k : (place + 1) * k]
            done += len(batch)
            self.on_progress(done, len(prompts))
        return results

    @torch.inference_mode()
    def _decode(
        self, prompts: list[Prompt], k: int, sampling: Sampling, key: Key, rule: Rule[Output]
    ) -> list[tuple[list[int], list[float]]]:
        """Return the tokens and log-probabilities of every row, prompt by prompt."""
        rows, max_tokens, device = len(prompts) * k, rule.max_tokens, self.policy.device
        head = self.policy.backend.head(sampling.forbidden_ids, rows)
        # All numbers of a row at once: number t is token t's, whatever leaves the batch; a longer cap begins the same.
        uniforms = np.stack([key.uniforms(prompt.id, i, max_tokens) for prompt in prompts for i in range(k)])
        uniforms_RT = torch.from_numpy(uniforms).to(widest(device)).to(device)
        # This bookkeeping is on the CPU, where the rules read every token.
        tokens_RT = torch.zeros(rows, max_tokens, dtype=torch.long)
        logprobs_RT = torch.zeros(rows, max_tokens)
        lengths_R = torch.zeros(rows, dtype=torch.long)
        unfinished_R = torch.ones(rows, dtype=torch.bool)
        decoded = torch.arange(rows)  # rows that are computed: finished ones are removed several at a time
        decoder = self.policy.backend.decoder(prompts, k, max_tokens)
        hidden_RH = decoder.hidden  # (R, H) of the prompts' last tokens, which predict the first drawn ones
        for step in range(max_tokens):
            if sampling.temperature == 0:
                drawn, logprobs = head.greedy(hidden_RH)
            else:
                drawn, logprobs = head.draw(hidden_RH, uniforms_RT[decoded.to(device), step], sampling.temperature)
            live = unfinished_R[decoded]
            tokens = drawn.cpu()
            # An inserted token is fed on in place of the drawn one, but keeps that one's log-probability: see `drawn`.
            tokens[live], ended = rule.accept(decoded[live], tokens[live])
            # Rows that have finished are written, too; their length cuts that off below.
            tokens_RT[decoded, step], logprobs_RT[decoded, step] = tokens, logprobs.cpu()
            lengths_R[decoded[live]] = step + 1
            unfinished_R[decoded[live][ended]] = False
            if step + 1 == max_tokens or not unfinished_R.any():  # nothing is predicted by the last token
                break
            kept = unfinished_R[decoded].nonzero()[:, 0]  # places among the decoded rows, not row numbers
            if len(decoded) - len(kept) >= max(1, len(decoded) // MIN_FINISHED_SHARE):
                decoder.state.keep(kept.to(device))
                decoded, tokens = decoded[kept], tokens[kept]
            hidden_RH = decoder.step(tokens.to(device))
        results = zip(tokens_RT.tolist(), logprobs_RT.tolist(), lengths_R.tolist(), strict=True)
        return [(tokens[:length], logprobs[:length]) for tokens, logprobs, length in results]


class Rule(Protocol[Output]):
    """What an output consists of, and when it ends."""

    max_tokens: int  # of a row, at most

    def accept(self, rows: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens that the unfinished ``rows`` get, and whether each row ends with its token."""
        ...

    def output(self, row: int, tokens: list[int], logprobs: list[float]) -> Output: ...


class CompletionRule:
    """A row gets what was drawn, until a stop token, a text that ends it, or the cap."""

    def __init__(self, sampling: Sampling, rows: int) -> None:
        self.sampling, self.max_tokens = sampling, sampling.max_tokens
        self.stop_ids = torch.tensor(sampling.stop_ids, dtype=torch.long)
        self._written: list[list[int]] = [[] for _ in range(rows)]

    def accept(self, rows: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        stopped = torch.isin(drawn, self.stop_ids)
        ended = self.sampling.ended
        # Token by token in Python, so only where a text can end a row.
        if ended is not None:
            for row, token in zip(rows.tolist(), drawn.tolist(), strict=True):
                self._written[row].append(token)
            stopped |= torch.tensor([ended(self._written[row]) for row in rows.tolist()], dtype=torch.bool)
        return drawn, stopped

    def output(self, row: int, tokens: list[int], logprobs: list[float]) -> Completion:
        stop = StopReason.STOP if stops(tokens, self.sampling) else StopReason.LENGTH
        return Completion(token_ids=tuple(tokens), logprobs=tuple(logprobs), stop=stop)


class ThoughtRule:
    """A thought until it is closed, by the policy or at the cap, then a suffix."""

    def __init__(self, thinking: Thinking, sampling: Sampling, rows: int) -> None:
        self.thinking, self.sampling = thinking, sampling
        self.max_tokens = thinking.max_tokens + len(thinking.close_ids) + sampling.max_tokens
        self._written: list[list[int]] = [[] for _ in range(rows)]
        self._thought: list[int | None] = [None] * rows  # tokens of the finished thought with its closing tag
        self._closed = [False] * rows  # by the policy itself

    def accept(self, rows: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        tokens, ended = zip(*map(self._accept, rows.tolist(), drawn.tolist()), strict=True)
        return torch.tensor(tokens), torch.tensor(ended)

    def _accept(self, row: int, token: int) -> tuple[int, bool]:
        written, cap, close_ids = self._written[row], self.thinking.max_tokens, self.thinking.close_ids
        thought = self._thought[row]
        if thought is not None:
            written.append(token)
            # The suffix has a cap of its own: what a short thought left over is not added to it.
            truncated = len(written) - thought == self.sampling.max_tokens
            return token, truncated or stops(written[thought:], self.sampling)
        if len(written) >= cap:
            # This step's random number is spent all the same, so that later tokens keep theirs.
            token = close_ids[len(written) - cap]
        written.append(token)
        # A tag that inserted ids complete is not the policy's doing.
        self._closed[row] = len(written) <= cap and self.thinking.closed(written)
        if self._closed[row] or len(written) == cap + len(close_ids):
            self._thought[row] = len(written)
        return token, False

    def output(self, row: int, tokens: list[int], logprobs: list[float]) -> Rollout:
        thought, closed = self._thought[row], self._closed[row]
        assert thought is not None
        inserted = 0 if closed else len(self.thinking.close_ids)
        return Rollout(
            token_ids=tuple(tokens),
            logprobs=tuple(logprobs),
            drawn=tuple(not thought - inserted <= place < thought for place in range(len(tokens))),
            thought_tokens=thought,
            closed=closed,
        )


def stops(tokens: Sequence[int], sampling: Sampling) -> bool:
    """Return whether a completion of these ids has ended by itself: by a stop token, or by its text."""
    ended = sampling.ended is not None and sampling.ended(tokens)
    return ended or bool(tokens and tokens[-1] in sampling.stop_ids)

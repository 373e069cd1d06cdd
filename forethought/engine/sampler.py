"""Sampling K completions of each prompt: the prompt is prefilled once, its keys and values are shared.

A batch of G prompts with K branches each decodes as G*K rows.  Every row's next token comes from one
uniform number of its own key, through the inverse of the distribution function, so that a completion
depends on ``(key, prompt id, k)`` and the weights, not on what else is in the batch.

Shape legend: G prompts, K branches of each, R = G*K rows, P prompt positions, V vocabulary, D head size,
H key-value heads, Q query heads per key-value head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from forethought.engine.attention import QKV
from forethought.engine.branches import Group, Prompt, Sampling, pack
from forethought.engine.policy import Policy
from forethought.keys import Key
from forethought.records import Completion, StopReason


class TorchSampler:
    """A :class:`~forethought.engine.Sampler` on a model in this process."""

    def __init__(
        self, policy: Policy, rows: int = 256, on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        self.policy = policy
        self.rows = rows
        self.on_progress = on_progress

    @torch.inference_mode()
    def sample(self, prompts: Sequence[Prompt], k: int, sampling: Sampling, key: Key) -> list[list[Completion]]:
        """See :meth:`forethought.engine.Sampler.sample`."""
        results: list[list[Completion]] = [[] for _ in prompts]
        done = 0
        for batch in _batches(prompts, max(1, self.rows // k)):
            completions = self._decode([prompts[i] for i in batch], k, sampling, key)
            for index, completion in zip(batch, completions, strict=True):
                results[index] = completion
            done += len(batch)
            self.on_progress(done, len(prompts))
        return results

    def _decode(self, prompts: list[Prompt], k: int, sampling: Sampling, key: Key) -> list[list[Completion]]:
        head = self.policy.head(sampling.forbidden_ids)
        state, hidden_GH = prefill(self.policy, prompts, k, sampling.max_tokens)
        uniforms = np.stack([key.uniforms(p.id, i, sampling.max_tokens) for p in prompts for i in range(k)])
        uniforms_RT = torch.from_numpy(uniforms).to(self.policy.device)
        stop_ids = torch.tensor(sampling.stop_ids, dtype=torch.long, device=self.policy.device)
        rows = len(prompts) * k
        tokens_RT = torch.zeros(rows, sampling.max_tokens, dtype=torch.long)
        logprobs_RT = torch.zeros(rows, sampling.max_tokens)
        lengths = torch.full((rows,), sampling.max_tokens)
        alive = torch.arange(rows)
        hidden = hidden_GH.repeat_interleave(k, 0)
        for step in range(sampling.max_tokens):
            if sampling.temperature == 0:
                drawn, logprob = head.greedy(hidden)
            else:
                drawn, logprob = head.draw(hidden, uniforms_RT[alive, step], sampling.temperature)
            tokens_RT[alive, step], logprobs_RT[alive, step] = drawn.cpu(), logprob.cpu()
            stopped = torch.isin(drawn, stop_ids).cpu()
            lengths[alive[stopped]] = step + 1
            if stopped.any():
                kept = state.keep(~stopped)
                alive, drawn = alive[kept], drawn[kept.to(drawn.device)]
            if step + 1 == sampling.max_tokens or not len(alive):
                break
            hidden = self.policy.hidden(drawn[None], state.positions(), state)
            state.length += 1
        flat = [
            _completion(t[:n], lp[:n], sampling.stop_ids)
            for t, lp, n in zip(tokens_RT.tolist(), logprobs_RT.tolist(), lengths.tolist(), strict=True)
        ]
        return [flat[i * k : (i + 1) * k] for i in range(len(prompts))]


class Decoding:
    """One new token per row: it sees its prompt's keys and values, stored once, and its own branch's."""

    def __init__(self, prompts: list[tuple[Tensor, Tensor]], lengths: Tensor, branches: int, capacity: int) -> None:
        self.prompts = prompts
        """Per layer, keys and values of the prompts: ``(G, H, P, D)``."""
        self.prompt_lengths = lengths
        """``(G,)``."""
        self.group = torch.arange(len(lengths)).repeat_interleave(branches)
        """``(R,)`` on the CPU: which prompt each row continues."""
        self.length = 0
        """Branch tokens stored so far."""
        rows = len(self.group)
        self.branches = [
            (k.new_empty(rows, k.shape[1], capacity, k.shape[3]), v.new_empty(rows, k.shape[1], capacity, k.shape[3]))
            for k, v in prompts
        ]
        """Per layer, keys and values of the branches: ``(R, H, capacity, D)``, preallocated."""
        self._biases: dict[int | None, tuple[int, Tensor]] = {}

    def positions(self) -> Tensor:
        """Return the position of each row's next token, ``(1, R)``."""
        return (self.prompt_lengths[self.group.to(self.prompt_lengths.device)] + self.length)[None]

    def keep(self, wanted: Tensor) -> Tensor:
        """Drop finished rows and return the indices, in the old numbering, of the rows that stay.

        Rows stay in place while every prompt keeps the same number of branches; otherwise the batch
        becomes ragged, and is regrouped as one prompt per row.
        """
        kept = wanted.nonzero()[:, 0]
        device = self.prompt_lengths.device
        rows, group = kept.to(device), self.group[kept]
        self.branches = [(k[rows], v[rows]) for k, v in self.branches]
        counts = torch.bincount(group, minlength=len(self.prompt_lengths))
        live = counts.nonzero()[:, 0]
        if len(set(counts[live].tolist())) > 1:
            live, self.group = group, torch.arange(len(group))
        else:
            self.group = torch.arange(len(live)).repeat_interleave(int(counts[live][0]) if len(live) else 0)
        if len(live) != len(self.prompt_lengths) or not torch.equal(live, torch.arange(len(live))):
            self.prompts = [(k[live.to(device)], v[live.to(device)]) for k, v in self.prompts]
            self.prompt_lengths = self.prompt_lengths[live.to(device)]
        self._biases.clear()
        return kept

    def attend(self, layer: int, qkv: QKV, scaling: float, window: int | None) -> Tensor:
        """See :class:`forethought.engine.attention.Branching`; ``q`` is ``(1, H*Q, R, D)``."""
        q, k, v = qkv
        prompt_k, prompt_v = self.prompts[layer]
        branch_k, branch_v = self.branches[layer]
        G, H, P, D = prompt_k.shape
        R, end = branch_k.shape[0], self.length + 1
        branch_k[:, :, self.length], branch_v[:, :, self.length] = k[0].transpose(0, 1), v[0].transpose(0, 1)
        start = 0 if window is None else max(0, end - window)
        Q = q.shape[1] // H
        rows_q = q[0].view(H, Q, R, D).permute(2, 0, 1, 3) * scaling  # (R, H, Q, D)
        group_q = rows_q.view(G, R // G, H, Q, D).transpose(1, 2).reshape(G, H, R // G * Q, D)
        on_prompt = (group_q @ prompt_k.transpose(2, 3)).view(G, H, R // G, Q, P).transpose(1, 2)
        on_prompt = on_prompt.reshape(R, H, Q, P).float() + self._bias(window)
        on_branch = rows_q @ branch_k[:, :, start:end].transpose(2, 3)
        weights = torch.cat([on_prompt, on_branch.float()], -1).softmax(-1).to(q.dtype)
        from_prompt = weights[..., :P].reshape(G, R // G, H, Q, P).transpose(1, 2).reshape(G, H, R // G * Q, P)
        out = (from_prompt @ prompt_v).view(G, H, R // G, Q, D).transpose(1, 2).reshape(R, H, Q, D)
        out = out + weights[..., P:] @ branch_v[:, :, start:end]
        return out.reshape(1, R, H * Q, D)

    def _bias(self, window: int | None) -> Tensor:
        """Return what is added to a row's scores on its prompt: 0, or -inf for padding and what left the window."""
        cached = self._biases.get(window)
        if cached is not None and (window is None or cached[0] == self.length):
            return cached[1]
        P = self.prompts[0][0].shape[2]
        position = torch.arange(P, device=self.prompt_lengths.device)
        visible = position < self.prompt_lengths[:, None]
        if window is not None:
            visible &= position > self.prompt_lengths[:, None] + self.length - window
        bias = torch.where(visible, 0.0, -torch.inf).repeat_interleave(len(self.group) // len(self.prompt_lengths), 0)
        self._biases[window] = (self.length, bias[:, None, None])
        return bias[:, None, None]


def prefill(policy: Policy, prompts: Sequence[Prompt], branches: int, capacity: int) -> tuple[Decoding, Tensor]:
    """Compute each prompt once; return the decoding state of its branches and the last hidden states ``(G, H)``."""
    packed = pack([Group(prefix=prompt.token_ids, branches=()) for prompt in prompts], policy.device)
    packed.captured = []
    hidden = policy.packed_hidden(packed)
    rows = packed.blocks[0].queries
    lengths = torch.tensor([len(prompt.token_ids) for prompt in prompts], device=policy.device)
    cache = [
        (k[0][:, rows].transpose(0, 1).contiguous(), v[0][:, rows].transpose(0, 1).contiguous())
        for k, v in packed.captured
    ]
    return Decoding(cache, lengths, branches, capacity), hidden[lengths.cumsum(0) - 1]


def _batches(prompts: Sequence[Prompt], size: int) -> Iterator[list[int]]:
    """Yield indices of prompts in batches of like length, so that little is padded."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].token_ids))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _completion(tokens: list[int], logprobs: list[float], stop_ids: tuple[int, ...]) -> Completion:
    stop = StopReason.STOP if tokens and tokens[-1] in stop_ids else StopReason.LENGTH
    return Completion(token_ids=tuple(tokens), logprobs=tuple(logprobs), stop=stop)

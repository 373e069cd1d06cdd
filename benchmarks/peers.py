"""The same interfaces as ours, done the usual way: one padded row per sequence, plain transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from forethought.engine import Group, Prompt, Sampling
from forethought.keys import Key
from forethought.records import Completion, StopReason


class RowScorer:
    """A :class:`~forethought.engine.Scorer` of separate rows: every branch carries its prefix along.

    Rows of like length go together, padded on the right; the head sees only the positions that are asked about.
    """

    def __init__(self, model: Any, rows: int, forbidden_ids: Sequence[int] = ()) -> None:
        self.model = model
        self.rows = rows
        self.forbidden = list(forbidden_ids)

    @torch.inference_mode()
    def logprobs(self, groups: Sequence[Group]) -> list[list[np.ndarray]]:
        """See :meth:`forethought.engine.Scorer.logprobs`."""
        rows = [(group.prefix, branch) for group in groups for branch in group.branches]
        found: list[np.ndarray] = [np.empty(0)] * len(rows)
        for batch in self._batches([len(prefix) + len(branch) for prefix, branch in rows]):
            hidden = self._hidden([rows[i][0] + rows[i][1] for i in batch])
            for place, index in enumerate(batch):
                prefix, branch = rows[index]
                logits = self._logits(hidden[place, len(prefix) - 1 : len(prefix) + len(branch) - 1])
                targets = torch.tensor(branch, device=logits.device)[:, None]
                found[index] = logits.log_softmax(-1).gather(1, targets)[:, 0].cpu().numpy()
        return _regroup(found, groups)

    @torch.inference_mode()
    def choices(self, groups: Sequence[Group], choice_ids: Sequence[int]) -> list[np.ndarray]:
        """See :meth:`forethought.engine.Scorer.choices`."""
        rows = [group.prefix + branch for group in groups for branch in group.branches]
        found: list[np.ndarray] = [np.empty(0)] * len(rows)
        for batch in self._batches([len(row) for row in rows]):
            hidden = self._hidden([rows[i] for i in batch])
            ends = torch.tensor([len(rows[i]) - 1 for i in batch], device=hidden.device)
            last = hidden[torch.arange(len(batch), device=hidden.device), ends]
            logprobs = self._logits(last).log_softmax(-1)[:, list(choice_ids)].cpu().numpy()
            for index, row in zip(batch, logprobs, strict=True):
                found[index] = row
        return [np.stack(some) for some in _regroup(found, groups)]

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        order = sorted(range(len(lengths)), key=lambda i: lengths[i])
        for start in range(0, len(order), self.rows):
            yield order[start : start + self.rows]

    def _hidden(self, rows: Sequence[Sequence[int]]) -> Tensor:
        width = max(map(len, rows))
        device = self.model.device
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = (torch.arange(width, device=device) < lengths[:, None]).long()
        output = self.model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.model.get_output_embeddings()(hidden).float()
        logits[..., self.forbidden] = -torch.inf
        return logits


class GenerateSampler:
    """A :class:`~forethought.engine.Sampler` on ``model.generate``: the prompt is prefilled K times."""

    def __init__(self, model: Any, eos: Sequence[int]) -> None:
        self.model = model
        self.eos = list(eos)

    @torch.inference_mode()
    def sample(self, prompts: Sequence[Prompt], k: int, sampling: Sampling, key: Key) -> list[list[Completion]]:
        """See :meth:`forethought.engine.Sampler.sample`; every completion has ``sampling.max_tokens`` tokens."""
        torch.manual_seed(key.integer() % 2**31)
        width = max(len(prompt.token_ids) for prompt in prompts)
        device = self.model.device
        pads = [width - len(prompt.token_ids) for prompt in prompts]
        ids = torch.tensor([[*[0] * n, *p.token_ids] for n, p in zip(pads, prompts, strict=True)], device=device)
        mask = torch.tensor([[0] * n + [1] * (width - n) for n in pads], device=device)
        suppressed = [i for i in sampling.forbidden_ids if i not in self.eos]
        found = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            temperature=sampling.temperature,
            top_k=0,
            top_p=1.0,
            num_return_sequences=k,
            max_new_tokens=sampling.max_tokens,
            min_new_tokens=sampling.max_tokens,
            eos_token_id=self.eos,
            pad_token_id=self.eos[0],
            suppress_tokens=suppressed or None,
        )[:, width:].tolist()
        rows = [Completion(token_ids=tuple(row), logprobs=(), stop=StopReason.LENGTH) for row in found]
        return [rows[i * k : (i + 1) * k] for i in range(len(prompts))]


def fastest_rows(model: Any, sizes: Sequence[int], attempt: Callable[[RowScorer], float]) -> RowScorer:
    """Return the row scorer whose batch size is the fastest of ``sizes``: the peer gets its best setting."""
    scorers = [RowScorer(model, size) for size in sizes]
    attempt(scorers[0])
    return min(scorers, key=attempt)


def _regroup(found: list[np.ndarray], groups: Sequence[Group]) -> list[list[np.ndarray]]:
    rows = iter(found)
    return [[next(rows) for _ in group.branches] for group in groups]

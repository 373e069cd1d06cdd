"""Attention of decoding: every row sees its prompt, computed and stored once, and its own branch.

Shape legend: G prompts, K branches of each, R rows that are decoded, P prompt positions, H key-value heads, Q query
heads per key-value head, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from forethought.engine.attention import MASKED, QKV, attend_part, merge_parts


class Decoding:
    """The keys and values of rows that are decoded; an :class:`~forethought.engine.attention.AttentionLayout`."""

    def __init__(self, prompts: list[tuple[Tensor, Tensor]], lengths: Tensor, branches: int, capacity: int) -> None:
        self.prompts = prompts  # per layer, keys and values (G, H, P, D)
        self.prompt_lengths = lengths  # (G,)
        self.prompt_of_row = torch.arange(len(lengths), device=lengths.device).repeat_interleave(branches)  # ascending
        self.length = 0  # branch tokens stored so far; the same number for every row
        rows = len(self.prompt_of_row)
        self.branches = [  # per layer, keys and values (R, H, capacity, D)
            (k.new_empty(rows, k.shape[1], capacity, k.shape[3]), v.new_empty(rows, k.shape[1], capacity, k.shape[3]))
            for k, v in prompts
        ]
        self._padded = bool((lengths != lengths[0]).any())  # asked once: on a GPU bool() waits for the device
        self._slots: tuple[int, Tensor, Tensor] | None = None  # None while all prompts have equally many rows
        self._biases: dict[int | None, tuple[int, Tensor | None]] = {}

    def positions(self) -> Tensor:
        """Return the position of each row's next token, ``(1, R)``."""
        return (self.prompt_lengths[self.prompt_of_row] + self.length)[None]

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but ``rows`` (ascending indices on the device), and prompts without rows."""
        # Copies: the old and the new caches of all layers exist at once here.
        self.branches = [(k[rows], v[rows]) for k, v in self.branches]
        kept, self.prompt_of_row, counts = self.prompt_of_row[rows].unique_consecutive(
            return_inverse=True, return_counts=True
        )
        if len(kept) < len(self.prompt_lengths):
            self.prompts = [(k[kept], v[kept]) for k, v in self.prompts]
            self.prompt_lengths = self.prompt_lengths[kept]
        self._biases.clear()
        self._slots = None
        if len(counts) and bool((counts != counts[0]).any()):
            # Attention to the prompts is a batch of (prompt, slot) with equally many slots for every prompt.  A slot
            # without a row computes row 0 again, and its result is not read.
            slots = int(counts.max())
            slot_of_row = torch.cat([torch.arange(int(n), device=rows.device) for n in counts])
            place_of_row = self.prompt_of_row * slots + slot_of_row
            row_of_place = torch.zeros(len(counts) * slots, dtype=torch.long, device=rows.device)
            row_of_place[place_of_row] = torch.arange(len(rows), device=rows.device)
            self._slots = slots, row_of_place, place_of_row

    def attend(self, layer: int, qkv: QKV, scaling: float, window: int | None) -> Tensor:
        """Return the attention output of the rows' new tokens, ``(R, heads * D)``; their keys and values are stored."""
        q, k, v = qkv
        prompt_k, prompt_v = self.prompts[layer]
        branch_k, branch_v = self.branches[layer]
        R, H, _, D = branch_k.shape
        end = self.length + 1  # length itself grows after the last layer
        branch_k[:, :, self.length], branch_v[:, :, self.length] = k, v
        # A window counts the new token, too.
        start = 0 if window is None else max(0, end - window)
        q_RHQD = q.reshape(R, H, -1, D)
        # The Q heads of one key-value head stand where the kernel expects queries, so no key is repeated.
        own, own_lse = attend_part(q_RHQD, branch_k[:, :, start:end], branch_v[:, :, start:end], scaling)
        prompt, prompt_lse = attend_part(self._by_prompt(q_RHQD), prompt_k, prompt_v, scaling, self._bias(window))
        prompt_lse = self._by_row(prompt_lse[..., None], R)[..., 0]  # (R, H, Q)
        return merge_parts(own, own_lse, self._by_row(prompt, R), prompt_lse).reshape(R, -1)

    def _by_prompt(self, rows: Tensor) -> Tensor:
        """``(R, H, Q, D)`` -> ``(G, H, Q * K, D)``."""
        _, H, Q, D = rows.shape
        G = len(self.prompt_lengths)
        if self._slots is not None:
            rows = rows[self._slots[1]]  # (G * K, H, Q, D)
        return rows.reshape(G, -1, H, Q, D).permute(0, 2, 3, 1, 4).reshape(G, H, -1, D)

    def _by_row(self, grouped: Tensor, R: int) -> Tensor:
        """``(G, H, Q * K, D)`` -> ``(R, H, Q, D)``."""
        G, H, _, D = grouped.shape
        K = R // G if self._slots is None else self._slots[0]
        # Q before K, as in _by_prompt.
        rows = grouped.view(G, H, -1, K, D).permute(0, 3, 1, 2, 4).flatten(0, 1)
        return rows if self._slots is None else rows[self._slots[2]]

    def _bias(self, window: int | None) -> Tensor | None:
        """Return what is added to scores of prompt keys, ``(G, 1, 1, P)``: 0, or :data:`MASKED` for padding and keys
        outside of the window; ``None`` if every key is visible."""
        cached = self._biases.get(window)
        # Without a window the bias never changes; with one it moves with every token.
        if cached is not None and (window is None or cached[0] == self.length):
            return cached[1]
        P = self.prompts[0][0].shape[2]
        bias = None
        # P + length is how far the first prompt key is behind the new token.
        if self._padded or (window is not None and P + self.length >= window):
            position = torch.arange(P, device=self.prompt_lengths.device)
            visible = position < self.prompt_lengths[:, None]
            if window is not None:
                visible &= position > self.prompt_lengths[:, None] + self.length - window
            bias = torch.where(visible, 0.0, MASKED).to(self.prompts[0][0].dtype)[:, None, None]
        self._biases[window] = (self.length, bias)
        return bias

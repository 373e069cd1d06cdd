"""Attention of decoding: every row sees its prompt, computed and stored once, and its own branch.

Shape legend: G prompts, K branches of each, R rows that are decoded, P prompt positions, H key-value heads, Q query
heads per key-value head, D head size, B branch positions so far.
"""

from __future__ import annotations

import torch
from torch import Tensor

from forethought.engine.attention import HIDDEN, QKV, merged, part


class Decoding:
    """One new token per row: it sees its prompt's keys and values, stored once, and its own branch's."""

    def __init__(self, prompts: list[tuple[Tensor, Tensor]], lengths: Tensor, branches: int, capacity: int) -> None:
        self.prompts = prompts
        """Per layer, keys and values of the prompts: ``(G, H, P, D)``."""
        self.prompt_lengths = lengths
        """``(G,)``."""
        self.group = torch.arange(len(lengths), device=lengths.device).repeat_interleave(branches)
        """``(R,)``, ascending: which prompt each row continues."""
        self.length = 0
        """Branch tokens stored so far; every row has as many."""
        rows = len(self.group)
        self.branches = [
            (k.new_empty(rows, k.shape[1], capacity, k.shape[3]), v.new_empty(rows, k.shape[1], capacity, k.shape[3]))
            for k, v in prompts
        ]
        """Per layer, keys and values of the branches: ``(R, H, capacity, D)``, preallocated."""
        self._padded = bool((lengths != lengths[0]).any())
        self._slots: tuple[int, Tensor, Tensor] | None = None
        self._biases: dict[int | None, tuple[int, Tensor | None]] = {}

    def positions(self) -> Tensor:
        """Return the position of each row's next token, ``(1, R)``."""
        return (self.prompt_lengths[self.group] + self.length)[None]

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but ``rows`` (ascending indices on the device), and prompts that nobody continues."""
        self.branches = [(k[rows], v[rows]) for k, v in self.branches]
        live, self.group, counts = self.group[rows].unique_consecutive(return_inverse=True, return_counts=True)
        if len(live) < len(self.prompt_lengths):
            self.prompts = [(k[live], v[live]) for k, v in self.prompts]
            self.prompt_lengths = self.prompt_lengths[live]
        self._biases.clear()
        self._slots = None
        if len(counts) and bool((counts != counts[0]).any()):
            # Rows are laid out as (prompt, slot) for the prompts' part: a slot without a row computes row 0 again.
            most = int(counts.max())
            place = self.group * most + torch.cat([torch.arange(int(n), device=rows.device) for n in counts])
            row = torch.zeros(len(counts) * most, dtype=torch.long, device=rows.device)
            row[place] = torch.arange(len(rows), device=rows.device)
            self._slots = most, row, place

    def attend(self, layer: int, qkv: QKV, scaling: float, window: int | None) -> Tensor:
        """See :class:`forethought.engine.attention.Branching`; the new tokens' keys and values are stored."""
        q, k, v = qkv
        prompt_k, prompt_v = self.prompts[layer]
        branch_k, branch_v = self.branches[layer]
        R, H, _, D = branch_k.shape
        end = self.length + 1
        branch_k[:, :, self.length], branch_v[:, :, self.length] = k, v
        start = 0 if window is None else max(0, end - window)
        rows_q = q.reshape(R, H, -1, D)
        near, near_mass = part(rows_q, branch_k[:, :, start:end], branch_v[:, :, start:end], scaling)
        far, far_mass = part(self._by_prompt(rows_q), prompt_k, prompt_v, scaling, self._bias(window))
        far_mass = self._by_row(far_mass[..., None], R)[..., 0]
        return merged(near, near_mass, self._by_row(far, R), far_mass).reshape(R, -1)

    def _by_prompt(self, rows: Tensor) -> Tensor:
        """``(R, H, Q, D)`` -> ``(G, H, Q*K, D)``."""
        _, H, Q, D = rows.shape
        G = len(self.prompt_lengths)
        if self._slots is not None:
            rows = rows[self._slots[1]]
        return rows.reshape(G, -1, H, Q, D).permute(0, 2, 3, 1, 4).reshape(G, H, -1, D)

    def _by_row(self, grouped: Tensor, R: int) -> Tensor:
        """``(G, H, Q*K, D)`` -> ``(R, H, Q, D)``."""
        G, H, _, D = grouped.shape
        K = R // G if self._slots is None else self._slots[0]
        rows = grouped.view(G, H, -1, K, D).permute(0, 3, 1, 2, 4)
        if self._slots is not None:
            return rows.flatten(0, 1)[self._slots[2]]
        return rows.flatten(0, 1)

    def _bias(self, window: int | None) -> Tensor | None:
        """Return what is added to scores on the prompts, ``(G, 1, 1, P)``: 0, or :data:`HIDDEN` for padding and what
        left the window; ``None`` if everything is visible."""
        cached = self._biases.get(window)
        if cached is not None and (window is None or cached[0] == self.length):
            return cached[1]
        P = self.prompts[0][0].shape[2]
        inside = window is None or P + self.length < window
        bias = None
        if self._padded or not inside:
            position = torch.arange(P, device=self.prompt_lengths.device)
            visible = position < self.prompt_lengths[:, None]
            if window is not None:
                visible &= position > self.prompt_lengths[:, None] + self.length - window
            bias = torch.where(visible, 0.0, HIDDEN).to(self.prompts[0][0].dtype)[:, None, None]
        self._biases[window] = (self.length, bias)
        return bias

"""The engine's one data structure: a prefix with its branches, and its packed form.

Everything expensive here is many branches of one prefix: K rollouts, chosen and rejected, a judge's candidates.
:func:`pack` lays groups out as one row of tokens without padding, in which a prefix stands once.

Shape legend: T packed tokens, A scored (branch) tokens, M rows of one attention block, S its queries, L its keys.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

MIN_SHARED_PREFIX = 32
"""Tokens that sequences must share at their beginning to be laid out as branches of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A prefix and the branches that continue it, as token ids of one tokenizer.

    Example: ``Group(prefix=(2, 818, 5511), branches=((563, 496), (563, 711, 9)))``
    """

    prefix: tuple[int, ...]  # at least one id; begins with BOS if the model has one
    branches: tuple[tuple[int, ...], ...]  # at least one id in each

    def __post_init__(self) -> None:
        if not self.prefix:
            raise ValueError("a group needs a prefix of at least one token: it predicts the first branch token")
        if not all(self.branches):
            raise ValueError("a group's branches must not be empty")

    @property
    def tokens(self) -> int:
        """Number of tokens that a packed forward of this group computes."""
        return len(self.prefix) + sum(map(len, self.branches))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Token ids that a sampler continues."""

    id: str
    """Names the random stream of this prompt: the same id, key and k give the same draw."""
    token_ids: tuple[int, ...]  # as in Group.prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn: from the model's own distribution, at a temperature; no top-p, no top-k."""

    max_tokens: int
    temperature: float = 1.0  # divides the logits; 0 is greedy
    stop_ids: tuple[int, ...] = ()  # a completion ends after one of these
    forbidden_ids: tuple[int, ...] = ()  # never drawn; their probability goes to the other tokens
    ended: Callable[[Sequence[int]], bool] | None = None
    """Whether the text of the ids sampled so far ends the completion, for stop strings of several tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """How a thought ends before the suffix begins; the prompt ends with the opening tag."""

    max_tokens: int
    """A thought that has not been closed by then is closed with ``close_ids``."""
    close_ids: tuple[int, ...]  # the closing tag; at least one id
    closed: Callable[[Sequence[int]], bool]
    """Whether the policy has just closed the thought itself, from the ids sampled so far."""


@dataclass(slots=True)
class Block:
    """Attention of M rows: row m's S queries see those of its L keys that are not in their future."""

    queries: Tensor  # (M, S) indices into the packed row
    keys: Tensor  # (M, L) indices into the packed row; a path from the root, so positions ascend along it
    query_positions: Tensor  # (M, S)
    key_positions: Tensor  # (M, L); padding is after everything
    causal: bool  # queries and keys are the same tokens, so that the mask is a plain triangle
    masks: dict[int | None, Tensor] = field(default_factory=dict)  # made so far, by sliding window

    def mask(self, window: int | None) -> Tensor | None:
        """Return the boolean mask ``(M, 1, S, L)`` for a sliding window, or ``None`` where a plain triangle will do."""
        # No path is longer than the window: sliding layers then share the other layers' mask.
        if window is not None and self.keys.shape[1] <= window:
            window = None
        if self.causal and window is None:
            return None
        if window not in self.masks:
            distance = self.query_positions[:, :, None] - self.key_positions[:, None, :]
            visible = distance >= 0
            if window is not None:
                visible &= distance < window
            self.masks[window] = visible[:, None]
        return self.masks[window]


@dataclass(frozen=True, slots=True)
class BranchLayout:
    """Branches grouped by prefix, for split attention: to the prefix, stored once, and to the branch itself.

    G prefixes that have branches, P tokens of the longest of them.
    """

    queries: Tensor  # (G, S) indices into the packed row: the tokens of all branches of a prefix
    keys: Tensor  # (G, P) indices into the packed row: the prefix's tokens
    padding: Tensor | None  # (G, 1, 1, P): which of the keys are padding; None: none
    in_queries: Tensor  # (A,) index of each branch token in the flattened queries
    in_branches: Tensor  # (A,) index of each branch token in the branches' flattened block


@dataclass(slots=True)
class Packed:
    """Groups as one row of tokens, with what attention and losses need to know about it."""

    tokens: Tensor  # (1, T) ids: all prefixes, then all branches
    positions: Tensor  # (1, T); those of a branch continue its prefix's
    blocks: list[Block]  # the prefixes' block, then the branches' block
    inverse: Tensor  # (T,) index of each packed token in the blocks' concatenated, padded outputs
    sources: Tensor  # (A,) index of the token that predicts each scored token
    targets: Tensor  # (A,) ids of the scored tokens: every branch token, in order
    branch: Tensor  # (A,) number of the branch that each scored token belongs to
    branch_lengths: list[int]
    sequences: Tensor
    """``(sequences, 3)``, int32, on the CPU: index of the first token of each prefix and each branch, its number of
    tokens, and the number of the prefix that it continues, or -1."""
    branch_layout: BranchLayout | None = None  # for split attention; None without branches, and off the CPU
    captured: list[tuple[Tensor, Tensor]] | None = None
    """If a list: attention appends every layer's keys and values ``(T, heads, D)``."""

    @property
    def branch_ends(self) -> Tensor:
        """``(branches,)`` index of the last token of each branch."""
        lengths = torch.tensor(self.branch_lengths, dtype=torch.long, device=self.tokens.device)
        return self.tokens.shape[1] - len(self.targets) + lengths.cumsum(0) - 1


def pack(groups: Sequence[Group], device: torch.device) -> Packed:
    """Lay out ``groups`` as one row: every linear layer then runs without padding, every prefix once."""
    tokens: list[int] = []
    positions: list[int] = []

    def put(ids: Sequence[int], first_position: int) -> list[int]:
        """Append ``ids`` to the packed row; return where they stand in it."""
        tokens.extend(ids)
        positions.extend(range(first_position, first_position + len(ids)))
        return list(range(len(tokens) - len(ids), len(tokens)))

    prefix_rows = [put(group.prefix, 0) for group in groups]
    first_branch_token = len(tokens)
    branch_rows = [put(branch, len(group.prefix)) for group in groups for branch in group.branches]
    parents = [number for number, group in enumerate(groups) for _ in group.branches]
    parent_rows = [prefix_rows[parent] for parent in parents]
    # The last token of a prefix predicts the first one of each of its branches.
    sources = [(prefix[-1], *row[:-1]) for prefix, row in zip(parent_rows, branch_rows, strict=True)]
    sequences = [
        (row[0], len(row), parent)
        for row, parent in zip(prefix_rows + branch_rows, [-1] * len(groups) + parents, strict=True)
    ]
    lengths = [len(row) for row in branch_rows]
    position = torch.tensor(positions)
    blocks = [_block(prefix_rows, prefix_rows, position)]
    if branch_rows:
        paths = [prefix + row for prefix, row in zip(parent_rows, branch_rows, strict=True)]
        blocks.append(_block(branch_rows, paths, position))
    packed = Packed(
        tokens=torch.tensor([tokens]),
        positions=position[None],
        blocks=blocks,
        inverse=_inverse([prefix_rows, branch_rows], len(tokens)),
        sources=torch.tensor(list(itertools.chain(*sources)), dtype=torch.long),
        targets=torch.tensor(tokens[first_branch_token:], dtype=torch.long),
        branch=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.long)),
        branch_lengths=lengths,
        sequences=torch.tensor(sequences, dtype=torch.int32),
        branch_layout=_branch_layout(groups, prefix_rows, branch_rows) if branch_rows else None,
    )
    if device.type != "cpu":
        packed.branch_layout = None  # the attention kernel that returns the log-sum-exp is for the CPU only
        holders: list[Packed | Block] = [packed, *packed.blocks]
        for holder in holders:
            for item in fields(holder):
                value = getattr(holder, item.name)
                if isinstance(value, Tensor) and item.name != "sequences":
                    setattr(holder, item.name, value.to(device))
    return packed


def share_prefixes(sequences: Sequence[tuple[int, ...]]) -> tuple[list[int], list[Group]]:
    """Return groups that compute common beginnings of ``sequences`` once, and the index of each path's sequence.

    Of all ways to cut the sorted sequences into runs, this is the one that saves most tokens (dynamic programming).  A
    run of one sequence is a prefix with its last token as the branch.  If nothing is saved, every sequence is a prefix
    without branches.
    """
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    ordered = [sequences[index] for index in order]
    common = [_common_prefix(*pair) for pair in itertools.pairwise(ordered)]
    saved, cuts = [0], [0]  # for the first n sequences: most tokens that can be saved, and where the last run begins
    for end in range(1, len(ordered) + 1):
        # Less one everywhere: a branch needs a token of its own.
        best, start, shared = saved[end - 1], end - 1, len(ordered[end - 1]) - 1
        # What a run shares only shrinks as it grows to the left, so the first run that shares too little is the last.
        for first in range(end - 2, -1, -1):
            shared = min(shared, common[first], len(ordered[first]) - 1)
            if shared < MIN_SHARED_PREFIX:
                break
            best, start = max((best, start), (saved[first] + shared * (end - 1 - first), first))
        saved.append(best)
        cuts.append(start)
    # A sequence of one token cannot be cut into a prefix and a branch.
    if not saved[-1] or min(map(len, sequences)) == 1:
        return list(range(len(sequences))), [Group(prefix=sequence, branches=()) for sequence in sequences]
    groups, end = [], len(ordered)
    while end:
        run = ordered[cuts[end] : end]
        shared = min(_common_prefix(run[0], run[-1]), len(run[0]) - 1)  # sorted: first and last differ earliest
        groups.append(Group(prefix=run[0][:shared], branches=tuple(sequence[shared:] for sequence in run)))
        end = cuts[end]
    return order, groups[::-1]


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    differ = (index for index, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(differ, min(len(a), len(b)))


def micro_batches(groups: Sequence[Group], micro_tokens: int) -> Iterator[list[int]]:
    """Yield runs of indices whose packed size is at most ``micro_tokens``; a larger group is a batch of its own."""
    batch: list[int] = []
    size = 0
    # In the given order: callers append results as they come.
    for index, group in enumerate(groups):
        if batch and size + group.tokens > micro_tokens:
            yield batch
            batch, size = [], 0
        batch.append(index)
        size += group.tokens
    if batch:
        yield batch


def _block(query_rows: list[list[int]], key_rows: list[list[int]], position: Tensor) -> Block:
    (queries, query_real), (keys, key_real) = _padded(query_rows), _padded(key_rows)
    # A padded query attends as position 0 of its row and its output is dropped; a padded key is in the future of all.
    query_positions = torch.where(query_real, position[queries], 0)
    key_positions = torch.where(key_real, position[keys], torch.iinfo(torch.int32).max)
    return Block(queries, keys, query_positions, key_positions, causal=query_rows is key_rows)


def _padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Return the rows, padded with their own first index, and which entries are not padding."""
    width = max(map(len, rows))
    index = torch.tensor([row + row[:1] * (width - len(row)) for row in rows])
    real = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
    return index, real


def _inverse(levels: list[list[list[int]]], tokens: int) -> Tensor:
    """Return the index of each of ``tokens`` tokens in the concatenation of the levels' padded rows."""
    inverse = torch.empty(tokens, dtype=torch.long)
    offset = 0
    for rows in filter(None, levels):
        index, real = _padded(rows)
        inverse[index[real]] = torch.arange(offset, offset + index.numel()).view_as(index)[real]
        offset += index.numel()
    return inverse


def _branch_layout(groups: Sequence[Group], prefix_rows: list[list[int]], branch_rows: list[list[int]]) -> BranchLayout:
    rows = iter(branch_rows)  # each group takes as many as it has branches
    query_rows = [[token for _ in group.branches for token in next(rows)] for group in groups if group.branches]
    keys, real = _padded([row for row, group in zip(prefix_rows, groups, strict=True) if group.branches])
    first, tokens = branch_rows[0][0], branch_rows[-1][-1] + 1
    # Entries of prefix tokens are never set, and are cut off.
    in_queries, in_branches = (_inverse([level], tokens)[first:] for level in (query_rows, branch_rows))
    return BranchLayout(
        queries=_padded(query_rows)[0],
        keys=keys,
        padding=None if real.all() else ~real[:, None, None],
        in_queries=in_queries,
        in_branches=in_branches,
    )

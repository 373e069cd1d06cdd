"""The engine's one data structure: a prefix with its branches, and its packed form.

Everything expensive here is many branches of one prefix: K rollouts, chosen and rejected, a judge's
candidates.  A :class:`Group` says so; :func:`pack` lays groups out as one row of tokens without
padding, in which the prefix stands once and every branch sees it.

Shape legend: T packed tokens, A scored tokens, M rows of one attention block, S its queries, L its keys.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

SHARED = 32
"""Tokens of a common beginning from which on sequences are worth laying out as branches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A prefix and the branches that continue it, as token ids of one tokenizer.

    Example: ``Group(prefix=(2, 818, 5511), branches=((563, 496), (563, 711, 9)))``
    """

    prefix: tuple[int, ...]
    """Ids of the prefix, BOS included if the model has one; at least one id."""
    branches: tuple[tuple[int, ...], ...]
    """Ids of each branch; at least one id in each."""

    def __post_init__(self) -> None:
        if not self.prefix:
            raise ValueError("a group needs a prefix of at least one token: it predicts the first branch token")
        if not all(self.branches):
            raise ValueError("a group's branches must not be empty")

    @property
    def tokens(self) -> int:
        """How many tokens a packed forward of this group computes."""
        return len(self.prefix) + sum(map(len, self.branches))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a sampler continues."""

    id: str
    """Names the random stream of this prompt: the same id, key and k give the same draw."""
    token_ids: tuple[int, ...]
    """Ids of the prompt, BOS included if the model has one; at least one id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn: from the model's own distribution, at a temperature; no top-p, no top-k."""

    max_tokens: int
    """Completions are cut here."""
    temperature: float = 1.0
    """Divides the logits; 0 is greedy."""
    stop_ids: tuple[int, ...] = ()
    """A completion ends after one of these."""
    forbidden_ids: tuple[int, ...] = ()
    """Never drawn; their probability goes to the other tokens."""
    ended: Callable[[Sequence[int]], bool] | None = None
    """Says of the ids written so far whether their text ends the completion, for stop strings of several tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """How a thought ends before the suffix begins; the prompt ends with the opening tag."""

    max_tokens: int
    """A thought without its closing tag is cut here, and closed."""
    close_ids: tuple[int, ...]
    """What closes it then; at least one id."""
    closed: Callable[[Sequence[int]], bool]
    """Says of the ids written so far whether the policy has just closed the thought itself."""


@dataclass(slots=True)
class Block:
    """Attention of M rows: row m's S queries see those of its L keys that are not in their future."""

    queries: Tensor
    """``(M, S)`` indices into the packed row."""
    keys: Tensor
    """``(M, L)`` indices into the packed row; a path from the root, so positions ascend along it."""
    query_positions: Tensor
    """``(M, S)`` positions."""
    key_positions: Tensor
    """``(M, L)`` positions; padding stands after everything."""
    causal: bool
    """Whether queries and keys are the same tokens, so that the mask is a plain triangle."""
    masks: dict[int | None, Tensor | None] = field(default_factory=dict)
    """The mask of each sliding window met so far."""

    def mask(self, window: int | None) -> Tensor | None:
        """Return the boolean mask ``(M, 1, S, L)`` for a sliding window, or ``None`` where a triangle says it all."""
        if window is not None and self.keys.shape[1] <= window:
            window = None
        if window not in self.masks:
            self.masks[window] = self._mask(window)
        return self.masks[window]

    def _mask(self, window: int | None) -> Tensor | None:
        if self.causal and window is None:
            return None
        distance = self.query_positions[:, :, None] - self.key_positions[:, None, :]
        visible = distance >= 0
        if window is not None:
            visible &= distance < window
        return visible[:, None]


@dataclass(frozen=True, slots=True)
class Fork:
    """Where branches leave their prefixes: G groups of branches, for attention to prefix and branch apart."""

    queries: Tensor
    """``(G, S)`` indices into the packed row: the tokens of all branches of a prefix."""
    keys: Tensor
    """``(G, P)`` indices of its own tokens."""
    hidden: Tensor | None
    """``(G, 1, 1, P)``, what of the keys is padding; ``None``: nothing."""
    far: Tensor
    """``(A,)``: where each branch token stands among the queries."""
    near: Tensor
    """``(A,)``: where it stands in the branches' block."""


@dataclass(slots=True)
class Packed:
    """Groups as one row of tokens, with what attention and losses need to know about it."""

    tokens: Tensor
    """``(1, T)`` ids: all prefixes, then all branches."""
    positions: Tensor
    """``(1, T)`` positions: a branch goes on where its prefix ends."""
    blocks: list[Block]
    """The prefixes' block, then the branches' block."""
    inverse: Tensor
    """``(T,)``: where each packed token stands in the blocks' concatenated, padded outputs."""
    sources: Tensor
    """``(A,)`` index of the token that predicts each scored token."""
    targets: Tensor
    """``(A,)`` ids of the scored tokens: every branch token, in order."""
    branch: Tensor
    """``(A,)`` number of the branch that each scored token belongs to."""
    branch_lengths: list[int]
    """Tokens of each branch."""
    paths: Tensor
    """``(sequences, 3)``, int32, on the CPU: where each prefix and each branch begins, how many tokens it has, and the
    number of the prefix before it, or -1."""
    fork: Fork | None = None
    """How the branches can attend in two parts; ``None`` without branches, and off the CPU."""
    captured: list[tuple[Tensor, Tensor]] | None = None
    """If a list: attention leaves every layer's keys and values ``(T, heads, D)`` here."""

    @property
    def branch_ends(self) -> Tensor:
        """``(branches,)`` index of the last token of each branch."""
        lengths = torch.tensor(self.branch_lengths, dtype=torch.long, device=self.tokens.device)
        return self.tokens.shape[1] - len(self.targets) + lengths.cumsum(0) - 1


def pack(groups: Sequence[Group], device: torch.device) -> Packed:
    """Lay out ``groups`` as one row: every linear layer then runs without padding, every prefix once."""
    prefix_rows, branch_rows, path_rows = [], [], []
    tokens: list[int] = []
    positions: list[int] = []
    for group in groups:
        prefix_rows.append(list(range(len(tokens), len(tokens) + len(group.prefix))))
        tokens.extend(group.prefix)
        positions.extend(range(len(group.prefix)))
    sources: list[int] = []
    for group, prefix_row in zip(groups, prefix_rows, strict=True):
        for branch in group.branches:
            row = list(range(len(tokens), len(tokens) + len(branch)))
            branch_rows.append(row)
            path_rows.append(prefix_row + row)
            sources.extend([prefix_row[-1], *row[:-1]])
            tokens.extend(branch)
            positions.extend(range(len(prefix_row), len(prefix_row) + len(branch)))
    first_branch_token = sum(map(len, prefix_rows))
    parents = [-1] * len(groups) + [number for number, group in enumerate(groups) for _ in group.branches]
    paths = [(row[0], len(row), parent) for row, parent in zip(prefix_rows + branch_rows, parents, strict=True)]
    forked = [(row, len(group.branches)) for row, group in zip(prefix_rows, groups, strict=True) if group.branches]
    lengths = [len(row) for row in branch_rows]
    position = torch.tensor(positions)
    blocks = [_block(prefix_rows, prefix_rows, position)]
    if branch_rows:
        blocks.append(_block(branch_rows, path_rows, position))
    packed = Packed(
        tokens=torch.tensor([tokens]),
        positions=position[None],
        blocks=blocks,
        inverse=_inverse([prefix_rows, branch_rows], len(tokens)),
        sources=torch.tensor(sources, dtype=torch.long),
        targets=torch.tensor(tokens[first_branch_token:], dtype=torch.long),
        branch=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.long)),
        branch_lengths=lengths,
        paths=torch.tensor(paths, dtype=torch.int32),
        fork=_fork(forked, branch_rows, first_branch_token) if branch_rows else None,
    )
    return _to(packed, device)


def alike(sequences: Sequence[tuple[int, ...]]) -> tuple[list[int], list[Group]]:
    """Return groups that compute the common beginnings of ``sequences`` once, and which sequence each path is.

    Of all ways to cut the sorted sequences into runs, the one that saves most tokens.  A run of one is its last token
    on a prefix of its own.  If nothing is saved, every sequence is a prefix without branches.
    """
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    ordered = [sequences[index] for index in order]
    common = [_common(*pair) for pair in itertools.pairwise(ordered)]
    saved, cuts = [0], [0]  # of the first n sequences: tokens saved at best, and where their last run begins
    for end in range(1, len(ordered) + 1):
        best, start, shared = saved[end - 1], end - 1, len(ordered[end - 1]) - 1
        for first in range(end - 2, -1, -1):
            shared = min(shared, common[first], len(ordered[first]) - 1)
            if shared < SHARED:
                break
            best, start = max((best, start), (saved[first] + shared * (end - 1 - first), first))
        saved.append(best)
        cuts.append(start)
    if not saved[-1] or min(map(len, sequences)) == 1:
        return list(range(len(sequences))), [Group(prefix=one, branches=()) for one in sequences]
    groups, end = [], len(ordered)
    while end:
        run = ordered[cuts[end] : end]
        shared = min(_common(run[0], run[-1]), len(run[0]) - 1)  # sorted: the outer two differ first
        groups.append(Group(prefix=run[0][:shared], branches=tuple(one[shared:] for one in run)))
        end = cuts[end]
    return order, groups[::-1]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many ids both begin with."""
    differ = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differ, min(len(one), len(other)))


def micro_batches(groups: Sequence[Group], micro_tokens: int) -> Iterator[list[int]]:
    """Yield runs of indices whose packed size stays within ``micro_tokens``; a larger group goes alone."""
    batch: list[int] = []
    size = 0
    for index, group in enumerate(groups):
        if batch and size + group.tokens > micro_tokens:
            yield batch
            batch, size = [], 0
        batch.append(index)
        size += group.tokens
    if batch:
        yield batch


def _block(query_rows: list[list[int]], key_rows: list[list[int]], position: Tensor) -> Block:
    queries, query_real = _padded(query_rows)
    keys, key_real = _padded(key_rows)
    # A padded query attends like position 0 of its row and is dropped; a padded key is in everyone's future.
    query_positions = torch.where(query_real, position[queries], 0)
    key_positions = torch.where(key_real, position[keys], torch.iinfo(torch.int32).max)
    return Block(queries, keys, query_positions, key_positions, causal=query_rows is key_rows)


def _padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    index = torch.tensor([row + row[:1] * (width - len(row)) for row in rows])
    real = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
    return index, real


def _inverse(levels: list[list[list[int]]], tokens: int) -> Tensor:
    inverse = torch.empty(tokens, dtype=torch.long)
    offset = 0
    for rows in levels:
        if not rows:
            continue
        index, real = _padded(rows)
        inverse[index[real]] = torch.arange(offset, offset + index.numel()).view_as(index)[real]
        offset += index.numel()
    return inverse


def _fork(prefixes: list[tuple[list[int], int]], branch_rows: list[list[int]], first: int) -> Fork:
    """``prefixes``: the row of each prefix and how many of ``branch_rows`` are its own; ``first``: the first branch
    token."""
    rows = iter(branch_rows)
    queries = [[token for _ in range(count) for token in next(rows)] for _, count in prefixes]
    keys, real = _padded([row for row, _ in prefixes])
    places = (_inverse([some], first + sum(map(len, queries)))[first:] for some in (queries, branch_rows))
    return Fork(_padded(queries)[0], keys, None if real.all() else ~real[:, None, None], *places)


def _to(packed: Packed, device: torch.device) -> Packed:
    if device.type == "cpu":
        return packed
    for block in packed.blocks:
        for name in ("queries", "keys", "query_positions", "key_positions"):
            setattr(block, name, getattr(block, name).to(device))
    packed.fork = None  # the kernel that gives normalisers is the CPU's
    for name in ("tokens", "positions", "inverse", "sources", "targets", "branch"):
        setattr(packed, name, getattr(packed, name).to(device))
    return packed

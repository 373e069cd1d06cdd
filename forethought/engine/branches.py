"""The engine's one data structure: a prefix with its branches.

Everything expensive here is many branches of one prefix: K rollouts, chosen and rejected, a judge's
candidates.  A :class:`Group` says so, and the prefix is computed once.
"""

from __future__ import annotations

from dataclasses import dataclass


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
            raise ValueError(
                "a group needs a prefix of at least one token: the first branch token is predicted from it"
            )
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

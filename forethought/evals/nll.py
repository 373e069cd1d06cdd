"""Negative log-likelihood of the true suffix: what a policy pays, in the author's own words, for its new taste."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from forethought.engine import Group
from forethought.evals.recorder import Recorder
from forethought.metrics import SUFFIX_NLL, SUFFIX_NLL_CHANGE
from forethought.models.model import Model
from forethought.records import Chunk, Measurement

GROUPS_PER_CALL = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class NLL:
    """NLL of one model on a list of texts, such as the suffixes of chunks; the tuples run in the order of the list."""

    ids: tuple[str, ...]
    nats: tuple[float, ...]
    """Sum over the tokens of a text of ``-log p(token | earlier tokens)``."""
    tokens: tuple[int, ...]
    """Tokens of each text that were scored."""

    @property
    def per_token(self) -> float:
        """Nats per token over all tokens."""
        return sum(self.nats) / sum(self.tokens)

    @property
    def linear(self) -> list[float]:
        """A number for each text whose mean is :attr:`per_token`, of which documents may be the units.

        The ratio of two sums is resampled through its linear form ``R + (nats - R tokens) / mean(tokens)``, whose mean
        is the ratio R itself; with equal lengths it is each text's own nats per token.
        """
        ratio, mean_tokens = self.per_token, sum(self.tokens) / len(self.tokens)
        return [ratio + (n - ratio * t) / mean_tokens for n, t in zip(self.nats, self.tokens, strict=True)]

    @property
    def per_text(self) -> list[float]:
        """Nats per token of each text."""
        # A row may have no token of a kind (no tag, say): its 0 nats stay 0.
        return [nats / max(1, tokens) for nats, tokens in zip(self.nats, self.tokens, strict=True)]

    def paired(self, before: NLL) -> tuple[list[float], list[float]]:
        """Return the linear forms of both, to be compared text by text, which must be the same in the same order."""
        if self.ids != before.ids:
            raise ValueError(
                f"cannot pair the NLL of {len(self.ids)} texts with that of {len(before.ids)}: they are not the same "
                "chunks in the same order. Measure both policies on one list of chunks"
            )
        return self.linear, before.linear


def suffix_nll(
    model: Model, chunks: Sequence[Chunk], progress: Callable[[int, int], None] = lambda done, total: None
) -> NLL:
    """Score the true suffix of each chunk after its prefix; ``progress`` is called with chunks done and in all."""
    if not chunks:
        raise ValueError("suffix NLL needs at least one held-out chunk: raise chunk.heldout_share or add documents")
    groups = [Group(prefix=model.bos + chunk.prefix_ids, branches=(chunk.suffix_ids,)) for chunk in chunks]
    nats: list[float] = []
    for logprobs in branch_logprobs(model, groups):
        # In double precision: the change between two arms is small next to either sum.
        nats.append(-float(logprobs.sum(dtype="float64")))
        progress(len(nats), len(chunks))
    tokens = tuple(len(chunk.suffix_ids) for chunk in chunks)
    return NLL(ids=tuple(chunk.id for chunk in chunks), nats=tuple(nats), tokens=tokens)


def branch_logprobs(model: Model, groups: Sequence[Group]) -> Iterator[np.ndarray]:
    """Yield the log-probabilities of the one branch of each group; float32 ``(len(branch),)``, nats."""
    # In pieces, so that a caller can show progress between them.
    for start in range(0, len(groups), GROUPS_PER_CALL):
        for [logprobs] in model.logprobs(groups[start : start + GROUPS_PER_CALL]):
            yield logprobs


def nll_figures(recorder: Recorder, nll: NLL, before: tuple[str, NLL] | None = None) -> list[Measurement]:
    """Return the suffix NLL of an arm and, given ``(name, nll)`` of another, its change against that one."""
    unit = "nats per token; n suffixes, interval over documents"
    figures = recorder.mean(SUFFIX_NLL, nll.linear, unit)
    if before is not None:
        name, earlier = before
        figures += recorder.versus(name).change(SUFFIX_NLL_CHANGE, nll.paired(earlier), unit)
    return figures

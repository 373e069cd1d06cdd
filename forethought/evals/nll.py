"""Negative log-likelihood of the true suffix: what a policy pays, in the author's own words, for its new taste."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from forethought.engine import Group, Scorer
from forethought.metrics import EVALUATE, SUFFIX_NLL, SUFFIX_NLL_CHANGE
from forethought.records import Chunk, Measurement
from forethought.stats import Interval, bootstrap_mean, paired_bootstrap

GROUPS_PER_CALL = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SuffixNLL:
    """Suffix NLL of one policy on a list of chunks; the tuples run in the order of the chunks."""

    chunk_ids: tuple[str, ...]
    """What was scored."""
    documents: tuple[str, ...]
    """Document of each chunk: the unit of resampling."""
    nats: tuple[float, ...]
    """Sum over the suffix tokens of ``-log p(token | prefix, earlier suffix tokens)``."""
    tokens: tuple[int, ...]
    """Suffix tokens of each chunk."""

    @property
    def per_token(self) -> float:
        """Nats per token over all tokens."""
        return sum(self.nats) / sum(self.tokens)

    def interval(self, seed: int = 0) -> Interval:
        """Return nats per token with a 95% bootstrap interval over documents; ``n`` counts chunks."""
        return bootstrap_mean(self._linearised(), seed, clusters=self.documents)

    def change(self, before: SuffixNLL, seed: int = 0) -> Interval:
        """Return ``self - before`` in nats per token, paired by chunk, with a 95% bootstrap interval over documents.

        Raises:
            ValueError: if the two were not measured on the same chunks in the same order.
        """
        if self.chunk_ids != before.chunk_ids:
            raise ValueError(
                f"cannot pair the suffix NLL of {len(self.chunk_ids)} chunks with that of {len(before.chunk_ids)}: "
                "they are not the same chunks in the same order. Measure both policies on one list of chunks"
            )
        return paired_bootstrap(self._linearised(), before._linearised(), seed, clusters=self.documents)

    def _linearised(self) -> list[float]:
        # The ratio of two sums is resampled through its linear form R + (nats - R tokens) / mean(tokens),
        # whose mean is the ratio itself; with equal lengths it is each chunk's own nats per token.
        ratio = self.per_token
        mean_tokens = sum(self.tokens) / len(self.tokens)
        pairs = zip(self.nats, self.tokens, strict=True)
        return [ratio + (nats - ratio * tokens) / mean_tokens for nats, tokens in pairs]


def suffix_nll(
    scorer: Scorer,
    chunks: Sequence[Chunk],
    bos: tuple[int, ...],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SuffixNLL:
    """Score the true suffix of each chunk after its prefix (``bos`` + prefix ids; ``bos`` may be empty).

    ``progress`` is called with (chunks done, chunks in all).

    Raises:
        ValueError: if there is no chunk.
    """
    if not chunks:
        raise ValueError("suffix NLL needs at least one held-out chunk: raise chunk.heldout_share or add documents")
    nats: list[float] = []
    for start in range(0, len(chunks), GROUPS_PER_CALL):
        part = chunks[start : start + GROUPS_PER_CALL]
        groups = [Group(prefix=bos + chunk.prefix_ids, branches=(chunk.suffix_ids,)) for chunk in part]
        nats += [-float(branches[0].sum(dtype="float64")) for branches in scorer.logprobs(groups)]
        progress(len(nats), len(chunks))
    return SuffixNLL(
        chunk_ids=tuple(chunk.id for chunk in chunks),
        documents=tuple(chunk.document_id for chunk in chunks),
        nats=tuple(nats),
        tokens=tuple(len(chunk.suffix_ids) for chunk in chunks),
    )


def nll_measurements(
    arm: str, identity: str, nll: SuffixNLL, base: tuple[str, SuffixNLL] | None = None, seed: int = 0
) -> list[Measurement]:
    """Return ``suffix_nll`` of an arm and, given ``(name, nll)`` of another, ``suffix_nll_change`` against it."""
    found = [_measurement(arm, identity, SUFFIX_NLL, "", nll.interval(seed))]
    if base is not None:
        name, before = base
        found.append(_measurement(arm, identity, SUFFIX_NLL_CHANGE, name, nll.change(before, seed)))
    return found


def _measurement(arm: str, identity: str, metric: str, against: str, interval: Interval) -> Measurement:
    return Measurement(
        stage=EVALUATE,
        arm=arm,
        against=against,
        metric=metric,
        unit="nats per token; n suffixes, bootstrap over documents",
        subject=identity,
        **dataclasses.asdict(interval),
    )

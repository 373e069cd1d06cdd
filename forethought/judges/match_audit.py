"""What a match judge must tell apart before it may train: planted predictions that are no match, and some that are.

The same scores calibrate its threshold, so each text is judged once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forethought.config import MatchAuditConfig
from forethought.judges.match import Matcher
from forethought.judges.paraphrase import paraphrased
from forethought.judges.planted import corrupted, shuffled
from forethought.keys import Key
from forethought.records import Chunk
from forethought.stats import Interval, wilson

ROLLOUT, UNRELATED = "rollout", "unrelated"
"""Continuations by the untrained policy: of this prefix, and of other documents'."""
COPIES = ("prefix_start", "prefix_end")
NEGATIVE = (*COPIES, "other_document", "same_document", "corrupted", "shuffled")
"""Predictions that must not pass: the prefix copied from either end, the suffix of another document and of another
chunk of the same one, and the true suffix with names and numbers swapped, or with its words shuffled."""
POSITIVE = ("paraphrased", "cut_end", "cut_start")
"""Predictions that should pass: the true suffix in other words, without its last third, without its first words."""

Scores = Mapping[str, Sequence[tuple[str, float]]]
"""By kind: (document, score) of every prediction that was scored."""


def plant(
    chunks: Sequence[Chunk],
    copies: Sequence[tuple[str, str]],
    second: Mapping[str, Chunk],
    tokenizer: Any,
    tokens: int,
    key: Key,
) -> list[dict[str, str]]:
    """Return for each chunk the planted predictions that can be made of it, by kind.

    Args:
        copies: of each chunk, what both ends of its prefix would be as predictions.
        second: another chunk of some of the documents, by document.
        tokens: length of a prediction, hence of the true suffix.
    """
    texts = [chunk.prefix + chunk.suffix for chunk in chunks]
    rows = []
    for index, chunk in enumerate(chunks):
        ids = list(chunk.suffix_ids[:tokens])
        true, other = tokenizer.decode(ids), chunks[(index + 1) % len(chunks)]
        row: dict[str, str | None] = dict(zip(COPIES, copies[index], strict=True))
        if other.document_id != chunk.document_id:
            row["other_document"] = tokenizer.decode(list(other.suffix_ids[:tokens]))
        if chunk.document_id in second:
            row["same_document"] = tokenizer.decode(list(second[chunk.document_id].suffix_ids[:tokens]))
        foreign = [text for place, text in enumerate(texts) if place != index]
        row["corrupted"] = corrupted(chunk.prefix, true, foreign, key.generator(f"corrupted/{chunk.id}"))
        row["shuffled"] = shuffled(true, key.generator(f"shuffled/{chunk.id}"))
        row["paraphrased"] = paraphrased(true)
        row["cut_end"] = tokenizer.decode(ids[: max(1, len(ids) * 2 // 3)])
        row["cut_start"] = tokenizer.decode(ids[len(ids) // 5 :])
        rows.append({kind: text for kind, text in row.items() if text is not None and text.strip()})
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchReport:
    """What the audit of a match judge found."""

    auc: Mapping[str, Interval]
    """By negative kind: share of pairs in which a positive scores above a negative, ties half."""
    passing: Mapping[str, Interval]
    """By kind: share of predictions that reach the threshold, Wilson's interval over documents."""
    failures: tuple[str, ...]
    """Why the judge failed, one sentence each; empty: it passed."""
    notes: tuple[str, ...]
    """What could not be examined."""


def audit(
    matcher: Matcher, scores: Scores, unscored: tuple[int, int], config: MatchAuditConfig, seed: int
) -> MatchReport:
    """Compare what a judge scored with the bars of ``config``; ``unscored``: how many of how many had no verdict."""
    positives = [one for kind in POSITIVE for one in scores.get(kind, ())]
    examined = [kind for kind in NEGATIVE if scores.get(kind)]
    auc = {kind: clustered_auc(positives, scores[kind], seed) for kind in examined} if positives else {}
    passing = {kind: passing_share(matcher, rows) for kind, rows in scores.items() if rows}
    failures = [
        f"AUC against {kind} is {_figure(auc[kind])}, the bar is {bar:.2f}"
        for kind, bar in config.min_auc.items()
        if kind in auc and auc[kind].value < bar
    ]
    failures += [
        f"{_figure(passing[kind])} of {kind} pass, at most {bar:.2f} may"
        for kind, bar in config.max_passing.items()
        if kind in passing and passing[kind].value > bar
    ]
    missing, asked = unscored
    if asked and missing / asked > config.max_unscored:
        failures.append(f"{missing} of {asked} predictions are unscored, the bar is {config.max_unscored:.2f}")
    bars = dict.fromkeys([*config.min_auc, *config.max_passing])
    notes = [f"no {kind} could be planted and scored: not examined" for kind in bars if kind not in examined]
    return MatchReport(auc=auc, passing=passing, failures=tuple(failures), notes=tuple(notes))


def passing_share(matcher: Matcher, rows: Sequence[tuple[str, float]]) -> Interval:
    """Return the mean over documents of the share that passes, with Wilson's interval over documents."""
    by_document: dict[str, list[float]] = {}
    for document, score in rows:
        by_document.setdefault(document, []).append(float(score >= matcher.threshold))
    return wilson(sum(sum(row) / len(row) for row in by_document.values()), len(by_document))


def clustered_auc(
    positives: Sequence[tuple[str, float]], negatives: Sequence[tuple[str, float]], seed: int, resamples: int = 2000
) -> Interval:
    """Return how often a positive scores above a negative, ties half, with an interval bootstrapped over documents.

    Mann & Whitney (1947).  ``n`` is the number of negatives.
    """
    numbers: dict[str, int] = {}
    for document, _ in (*positives, *negatives):
        numbers.setdefault(document, len(numbers))
    ours, theirs = (np.array([numbers[document] for document, _ in rows]) for rows in (positives, negatives))
    a, b = (np.array([score for _, score in rows]) for rows in (positives, negatives))
    above = (a[:, None] > b) + 0.5 * (a[:, None] == b)
    won_DD = np.zeros((len(numbers), len(numbers)))
    np.add.at(won_DD, (ours[:, None], theirs[None, :]), above)
    ours_D, theirs_D = (np.bincount(rows, minlength=len(numbers)) for rows in (ours, theirs))
    # How often each document was drawn; the pairs of two documents count as often as both together.
    drawn_RD = np.random.default_rng(seed).multinomial(len(numbers), [1 / len(numbers)] * len(numbers), size=resamples)
    pairs_R = (drawn_RD @ ours_D) * (drawn_RD @ theirs_D)
    won_R = ((drawn_RD @ won_DD) * drawn_RD).sum(1)
    low, high = np.quantile(won_R[pairs_R > 0] / pairs_R[pairs_R > 0], (0.025, 0.975))
    return Interval(value=float(above.mean()), low=float(low), high=float(high), n=len(negatives))


def _figure(share: Interval) -> str:
    return f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}], n = {share.n}"

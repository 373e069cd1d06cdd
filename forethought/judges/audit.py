"""The audit: a judge that cannot tell planted pairs apart must not train anything."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forethought import metrics, stats
from forethought.config import AuditConfig
from forethought.judges import Judge, tournament
from forethought.judges.planted import Planted
from forethought.records import Measurement, Verdict

RATES = {
    metrics.AUDIT_UNSCORED: "share of verdicts",
    metrics.CONSISTENCY: "share of pairs seen in both orders",
    metrics.FIRST_POSITION: "share of decided verdicts",
    metrics.TIES: "share of pairs",
    metrics.LENGTH_BIAS: "share of wrong pairs of unequal length",
}
"""What the audit measures besides accuracy, and of what it is a share.

A pair is consistent if both orders say the same.  Length bias is how often the text with more characters won.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What the audit found; every figure has its Wilson interval, and is absent where nothing was to count."""

    judge: str
    accuracy: Mapping[str, stats.Interval]
    """By kind: share of scored pairs in which the original wins; a pair whose orders disagree counts half."""
    unscored_pairs: Mapping[str, int]
    """By kind: pairs without a result."""
    rates: Mapping[str, stats.Interval]
    """By metric, those of :data:`RATES`."""
    failures: tuple[str, ...]
    """Why the judge failed, one sentence each; empty: it passed."""
    notes: tuple[str, ...]
    """What could not be examined."""

    @property
    def passed(self) -> bool:
        return not self.failures

    def measurements(self) -> list[Measurement]:
        """Return the figures as records: stage ``audit``, arm the judge's name, condition the kind of pair."""
        figures = [(metrics.ACCURACY, kind, share, "share of pairs") for kind, share in self.accuracy.items()]
        figures += [(metric, "", self.rates[metric], unit) for metric, unit in RATES.items() if metric in self.rates]
        return [
            Measurement(
                stage=metrics.AUDIT,
                arm=self.judge,
                metric=metric,
                condition=condition,
                judge=self.judge,
                **dataclasses.asdict(figure),
                unit=unit,
                subject=self.judge,
            )
            for metric, condition, figure, unit in figures
        ]


def audit(judge: Judge, planted: Sequence[Planted], config: AuditConfig) -> AuditReport:
    """Let ``judge`` rank planted pairs; pairwise judges see both orders, pointwise ones are compared by score."""
    verdicts = judge.rank([pair.request for pair in planted])
    # One share per pair; None, without a result, is neither won nor lost.
    shares = [_share(pair, row) for pair, row in zip(planted, verdicts, strict=True)]
    by_kind: dict[str, list[float | None]] = {}
    for pair, share in zip(planted, shares, strict=True):
        by_kind.setdefault(pair.kind, []).append(share)
    accuracy = {}
    for kind, given in by_kind.items():
        scored = [share for share in given if share is not None]
        if scored:
            accuracy[kind] = stats.wilson(sum(scored), len(scored))
    # Of wrong answers only: where the original won, its quality explains it, whatever its length.
    longer_won = [
        len(pair.request.candidates[1 - pair.original]) > len(pair.request.candidates[pair.original])
        for pair, share in zip(planted, shares, strict=True)
        if share == 0.0 and len({len(text) for text in pair.request.candidates}) == 2
    ]
    counts = tournament.statistics(verdicts)
    parts = {
        metrics.AUDIT_UNSCORED: (counts.unscored, counts.verdicts),
        metrics.CONSISTENCY: (counts.consistent, counts.both_orders),
        metrics.FIRST_POSITION: (counts.first_wins, counts.decided),
        metrics.TIES: (counts.ties, counts.pairs),
        metrics.LENGTH_BIAS: (sum(longer_won), len(longer_won)),
    }
    failures, notes = _compare_with_thresholds(accuracy, by_kind, config)
    if counts.unscored_rate is not None and counts.unscored_rate > config.max_unscored:
        reasons = Counter(verdict.reason[:200] for row in verdicts for verdict in row if verdict.reason)
        reason = reasons.most_common(1)[0][0] if reasons else "no reason given"
        failures.append(
            f"{counts.unscored} of {counts.verdicts} verdicts are unscored ({counts.unscored_rate:.2f}), the threshold "
            f"is {config.max_unscored:.2f}; most often: {reason}"
        )
    return AuditReport(
        judge=judge.name,
        accuracy=accuracy,
        unscored_pairs={kind: given.count(None) for kind, given in by_kind.items()},
        # 0 of 0 is not 0: without a denominator there is no rate.
        rates={metric: stats.wilson(part, whole) for metric, (part, whole) in parts.items() if whole},
        failures=tuple(failures),
        notes=tuple(notes),
    )


def _share(pair: Planted, verdicts: Sequence[Verdict]) -> float | None:
    """Return 1 if the original won, 0 if it lost, 0.5 for a tie, ``None`` without a result."""
    scores = tournament.scores(2, verdicts)
    original, worse = scores[pair.original], scores[1 - pair.original]
    if original is None or worse is None:
        return None
    return 0.5 if original == worse else float(original > worse)


def _compare_with_thresholds(
    accuracy: Mapping[str, stats.Interval], planted: Mapping[str, Sequence[float | None]], config: AuditConfig
) -> tuple[list[str], list[str]]:
    failures, notes = [], []
    for kind, threshold in config.min_accuracy.items():
        share = accuracy.get(kind)
        # What could not be planted is no fault of the judge's; what it could not score is.
        if kind not in planted:
            notes.append(f"no {kind} pair could be planted: the judge was not examined on them")
        elif share is None:
            failures.append(
                f"none of {len(planted[kind])} {kind} pairs was scored, the threshold is accuracy {threshold:.2f}"
            )
        elif share.value < threshold:
            low, high = share.ends
            failures.append(
                f"accuracy on {kind} pairs is {share.value:.2f} "
                f"({low:.2f} to {high:.2f}, n = {share.n}), the threshold is {threshold:.2f}"
            )
    return failures, notes

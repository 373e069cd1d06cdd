"""``Recorder``: numbers of one arm, one for each chunk, row or window, become figures with intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from forethought.metrics import Metric
from forethought.models.model import Model
from forethought.records import Measurement
from forethought.stats import Interval, bootstrap_mean, detectable_n, paired_bootstrap

Values = Sequence[float | None]
"""A number for each unit; ``None`` is unscored, and left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorder:
    """What the figures of one arm share.  Every method returns the figures that can be given: perhaps none."""

    stage: str
    arm: str
    subject: str
    """Hash of what was measured."""
    seed: int
    documents: Sequence[str] = ()
    """The document of each unit: what is resampled."""
    against: str = ""
    judge: str = ""

    @classmethod
    def of(cls, model: Model, stage: str, documents: Sequence[str], seed: int, judge: str = "") -> Recorder:
        """Return the recorder of a model's figures."""
        return cls(stage=stage, arm=model.name, subject=model.identity, seed=seed, documents=documents, judge=judge)

    def versus(self, arm: str) -> Recorder:
        """Return the recorder of comparisons with another arm."""
        return dataclasses.replace(self, against=arm)

    def value(self, metric: str, value: float, n: int, unit: str, condition: str = "") -> list[Measurement]:
        """Return a figure without an interval."""
        return [
            Measurement(
                stage=self.stage,
                arm=self.arm,
                against=self.against,
                metric=metric,
                condition=condition,
                judge=self.judge,
                value=value,
                n=n,
                unit=unit,
                subject=self.subject,
            )
        ]

    def interval(self, metric: str, interval: Interval, unit: str, condition: str = "") -> list[Measurement]:
        """Return a figure whose interval is known."""
        [figure] = self.value(metric, interval.value, interval.n, unit, condition)
        return [dataclasses.replace(figure, low=interval.low, high=interval.high)]

    def mean(self, metric: str, values: Values, unit: str, condition: str = "") -> list[Measurement]:
        """Return the mean of what is known, bootstrapped over documents."""
        known = [(value, document) for value, document in zip(values, self.documents, strict=True) if value is not None]
        if not known:
            return []
        # Units of one document are alike, so whole documents are resampled.
        numbers, owners = zip(*known, strict=True)
        return self.interval(metric, bootstrap_mean(numbers, self.seed, clusters=owners), unit, condition)

    def change(self, metric: str, pair: tuple[Values, Values], unit: str, condition: str = "") -> list[Measurement]:
        """Return the mean of the first less the second over the units that both know, paired."""
        known = self._known(pair)
        if not known:
            return []
        left, right, owners = zip(*known, strict=True)
        return self.interval(metric, paired_bootstrap(left, right, self.seed, clusters=owners), unit, condition)

    def difference(
        self, metric: Metric, pair: tuple[Values, Values], unit: str, condition: str = ""
    ) -> list[Measurement]:
        """Return the paired difference of a metric of windows, and how many windows would resolve it."""
        figures = self.change(metric.difference, pair, unit, condition)
        # A copy, since the list grows in the loop; empty if nothing could be paired.
        for figure in list(figures):
            gaps = [a - b for a, b, _ in self._known(pair)]
            spread = (sum((gap - figure.value) ** 2 for gap in gaps) / max(1, len(gaps) - 1)) ** 0.5
            figures += self.needed(metric, "windows", (figure.value, spread, figure.n), condition)
        return figures

    def needed(
        self, metric: Metric, units: str, measured: tuple[float, float, int], condition: str
    ) -> list[Measurement]:
        """Return how many units would resolve the measured (difference, standard deviation, n), if it is not zero."""
        difference, spread, n = measured
        # No number of units resolves a difference of zero.
        if not (difference and spread):
            return []
        count = float(detectable_n(difference, spread))
        unit = f"{units} that would resolve a difference as large as this one (5% level, 80% power)"
        return self.interval(metric.needed(units), Interval(value=count, low=count, high=count, n=n), unit, condition)

    def _known(self, pair: tuple[Values, Values]) -> list[tuple[float, float, str]]:
        units = zip(*pair, self.documents, strict=True)
        return [(a, b, document) for a, b, document in units if a is not None and b is not None]

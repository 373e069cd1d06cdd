"""``Recorder``: numbers of one arm, one for each chunk, row or window, become figures with intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forethought.metrics import SHARE, Metric
from forethought.models.model import Model
from forethought.records import Measurement
from forethought.stats import Interval, detectable, estimate, gaps, paired

Values = Sequence[float | None]
"""A number for each unit; ``None`` is unscored, and left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorder:
    """What the figures of one arm share.  Every method returns the figures that can be given: perhaps none."""

    stage: str
    arm: str
    subject: str
    """Hash of what was measured."""
    documents: Sequence[str] = ()
    """The document of each unit: intervals are over documents."""
    against: str = ""
    judge: str = ""

    @classmethod
    def of(cls, model: Model, stage: str, documents: Sequence[str], judge: str = "") -> Recorder:
        """Return the recorder of a model's figures."""
        return cls(stage=stage, arm=model.name, subject=model.identity, documents=documents, judge=judge)

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

    def mean(self, metric: Metric, values: Values, unit: str, condition: str = "") -> list[Measurement]:
        """Return the mean of what is known, with its interval over documents."""
        known = [(value, document) for value, document in zip(values, self.documents, strict=True) if value is not None]
        if not known:
            return []
        numbers, owners = zip(*known, strict=True)
        return self.interval(metric, estimate(numbers, owners, share=metric.kind is SHARE), unit, condition)

    def change(self, metric: str, pair: tuple[Values, Values], unit: str, condition: str = "") -> list[Measurement]:
        """Return the mean of the first less the second over the units that both know, paired."""
        known = self._known(pair)
        if not known:
            return []
        left, right, owners = zip(*known, strict=True)
        return self.interval(metric, paired(left, right, owners), unit, condition)

    def difference(
        self, metric: Metric, pair: tuple[Values, Values], unit: str, condition: str = ""
    ) -> list[Measurement]:
        """Return the paired difference of a metric, and the smallest that such a comparison would show."""
        figures = self.change(metric.difference, pair, unit, condition)
        if known := self._known(pair):
            left, right, owners = zip(*known, strict=True)
            figures += self.detectable(metric, gaps(left, right), owners, unit, condition)
        return figures

    def interaction(
        self, metric: Metric, pair: tuple[Values, Values], unit: str, condition: str = ""
    ) -> list[Measurement]:
        """Return how much more the first side changed than the second, paired, and the smallest that would show."""
        figures = self.change(metric.interaction, pair, unit, condition)
        if known := self._known(pair):
            left, right, owners = zip(*known, strict=True)
            figures += self.detectable(metric.interaction, gaps(left, right), owners, unit, condition)
        return figures

    def detectable(
        self,
        metric: Metric,
        gaps: Sequence[float] | np.ndarray,
        owners: Sequence[str] | None,
        unit: str,
        condition: str,
    ) -> list[Measurement]:
        """Return the smallest true difference of ``metric`` that these paired ``gaps`` show, if they are enough."""
        smallest = detectable(gaps, owners)
        shown = f"{unit}; a difference of this size is found four times in five"
        return [] if smallest is None else self.value(metric.detectable, smallest, len(gaps), shown, condition)

    def _known(self, pair: tuple[Values, Values]) -> list[tuple[float, float, str]]:
        units = zip(*pair, self.documents, strict=True)
        return [(a, b, document) for a, b, document in units if a is not None and b is not None]

"""From rows of answers to figures: per task, macro averages, and paired differences between arms.

The unit of resampling is the problem.  Samples of one problem are not independent, so they are averaged first.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from forethought import metrics
from forethought.evals.reasoning.answers import EvalArm
from forethought.evals.reasoning.rows import Row
from forethought.evals.reasoning.task import Task
from forethought.keys import Key
from forethought.metrics import MACRO, PLAIN, REASONING, STRICT, THOUGHT
from forethought.records import Measurement
from forethought.stats import Interval, detectable_n, macro_bootstrap, pass_at_k

Rows = Mapping[str, Mapping[str, Sequence[Row]]]
"""Rows of each arm to each task, by their names."""


@dataclass(frozen=True, slots=True)
class ProblemMetric:
    """A number of each problem."""

    metric: metrics.Metric
    unit: str
    of: Callable[[Row], float | None]
    """Computes it from a problem's row."""
    graded: bool = False
    """Whether a grader has a say in it."""
    strict: bool = False
    """Whether only answers in the form of the examples count."""


def problem_metrics(samples: int, passes: Sequence[int]) -> list[ProblemMetric]:
    """Return what is measured with ``samples`` answers to each problem."""

    def pass_metric(k: int) -> ProblemMetric:
        unit = f"chance that one of {k} answers is right, unbiased"
        return ProblemMetric(
            metrics.PASS.at(k), unit, lambda row: pass_at_k(len(row["right"]), sum(row["right"]), k), graded=True
        )

    mean = metrics.MEAN.at(samples)
    return [
        ProblemMetric(mean, "share of answers that are right", lambda row: _mean(row["right"]), graded=True),
        ProblemMetric(
            mean,
            "share of answers that are right and in the form of the examples",
            lambda row: _mean([a * b for a, b in zip(row["right"], row["formatted"], strict=True)]),
            graded=True,
            strict=True,
        ),
        *map(pass_metric, passes),
        ProblemMetric(
            metrics.MAJORITY.at(samples),
            "share of problems whose most frequent answer is right, ties by lot",
            lambda row: majority(row["votes"]),
            graded=True,
        ),
        ProblemMetric(
            metrics.NO_ANSWER,
            "share of answers without an answer",
            lambda row: _mean([vote is None for vote in row["votes"]]),
        ),
        ProblemMetric(metrics.TRUNCATED, "share of answers cut at the cap", lambda row: _mean(row["truncated"])),
        ProblemMetric(
            metrics.EXTRACTED, "share of answers in the form of the examples", lambda row: _mean(row["formatted"])
        ),
        ProblemMetric(
            metrics.GOLD_BITS, "bits per UTF-8 byte of the worked solution", lambda row: row["gold_bits_per_byte"]
        ),
    ]


def majority(votes: Sequence[int | None]) -> float:
    """Return the chance that the most frequent answer is the right one (number 0), ties drawn by lot."""
    counts = Counter(vote for vote in votes if vote is not None)
    most = max(counts.values(), default=0)
    leading = [vote for vote, count in counts.items() if count == most]
    return leading.count(0) / len(leading) if leading else 0.0


def measure(
    arms: Sequence[EvalArm], rows: Rows, tasks: Sequence[Task], wanted: Sequence[ProblemMetric], seed: int
) -> list[Measurement]:
    """Return all figures of all arms, and how each differs from those that it is compared with.

    A difference is paired by problem: from another arm's answers by the same interface, or by the plain one if the
    other is not asked to think; and from the arm's own plain answers.
    """
    by_name = {arm.name: arm for arm in arms}
    found: list[Measurement] = []
    for arm in arms:
        others = [None, *(by_name[name] for name in arm.against if name in by_name)]
        compared = [(interface, other) for interface in arm.interfaces for other in others]
        for interface, other in [*compared, *([(THOUGHT, arm)] if arm.thinks else [])]:
            for metric in wanted:
                by_task = {task.name: _values(rows[arm.name][task.name], metric, interface) for task in tasks}
                unit = f"{metric.unit}; n problems, bootstrap over problems"
                if other is not None:
                    theirs = PLAIN if other is arm or interface not in other.interfaces else interface
                    for task, values in by_task.items():
                        before = _values(rows[other.name][task], metric, theirs)
                        by_task[task] = {id: value - before[id] for id, value in values.items() if id in before}
                    unit = (
                        f"{metric.unit}: difference, paired by problem, {interface} against {theirs}; "
                        "bootstrap over problems"
                    )
                recorder = _Recorder(arm, other.name if other is not None else "", interface, metric, unit, seed)
                found += recorder.measurements({name: list(values.values()) for name, values in by_task.items()}, tasks)
    return found


def _values(rows: Sequence[Row], metric: ProblemMetric, interface: str) -> dict[str, float]:
    """Return a metric's value for each problem; empty if it was not measured."""
    values = ((row["problem"], metric.of(row)) for row in rows if row["interface"] == interface)
    return {problem: value for problem, value in values if value is not None}


@dataclass(frozen=True, slots=True)
class _Recorder:
    """Builds the measurements of one metric of one arm and interface."""

    arm: EvalArm
    against: str
    interface: str
    metric: ProblemMetric
    unit: str
    seed: int

    def measurements(self, by_task: Mapping[str, Sequence[float]], tasks: Sequence[Task]) -> Iterator[Measurement]:
        """Yield the figure of each task and their macro average; of a difference also how many would resolve it."""
        known = {task: by_task[task.name] for task in tasks if by_task[task.name]}
        for task, values in known.items():
            interval = self._interval([values])
            yield self._measurement(self.metric.metric, task.name, task.grader.name, interval, self.unit)
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            if self.against and interval.value and spread:
                needed = float(detectable_n(interval.value, spread))
                unit = "problems that would resolve a difference as large as this one (5% level, 80% power)"
                interval = Interval(value=needed, low=needed, high=needed, n=interval.n)
                metric = self.metric.metric.needed("problems")
                yield self._measurement(metric, task.name, task.grader.name, interval, unit)
        if known and len(known) == len(tasks):
            interval = self._interval(list(known.values()))
            yield self._measurement(self.metric.metric, MACRO, "each task's", interval, self.unit)

    def _interval(self, strata: Sequence[Sequence[float]]) -> Interval:
        return macro_bootstrap(strata, Key(self.seed, "reasoning intervals").integer() % 2**32)

    def _measurement(self, metric: str, task: str, grader: str, interval: Interval, unit: str) -> Measurement:
        judge = grader + STRICT if self.metric.strict else grader
        return Measurement(
            stage=REASONING,
            arm=self.arm.name,
            against=self.against,
            metric=metric,
            condition=f"{task}/{self.interface}",
            judge=judge if self.metric.graded else "",
            unit=unit,
            subject=self.arm.identity,
            **dataclasses.asdict(interval),
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

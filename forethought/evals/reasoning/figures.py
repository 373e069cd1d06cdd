"""From rows of answers to figures: per task, macro averages, and paired differences between arms.

The unit of resampling is the problem.  Samples of one problem are not independent, so they are averaged first.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from forethought import metrics as names
from forethought.evals.reasoning.run import Entrant, Row
from forethought.evals.reasoning.task import Task
from forethought.keys import Key
from forethought.metrics import EXTRACTED, GOLD_BITS, MACRO, NO_ANSWER, PLAIN, REASONING, STRICT, THOUGHT, TRUNCATED
from forethought.records import Measurement
from forethought.stats import Interval, detectable_n, macro_bootstrap, pass_at_k

Values = dict[str, float]
"""One value for each problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number of each problem."""

    name: names.Metric
    """What it is called."""
    unit: str
    """What it is."""
    of: Callable[[Row], float | None]
    """Computes it from a problem's row."""
    graded: bool = False
    """Whether a grader has a say in it."""
    strict: bool = False
    """Whether only answers in the form of the examples count."""


def metrics(samples: int, passes: Sequence[int]) -> list[Metric]:
    """Return what is measured with ``samples`` answers to each problem."""
    return [
        Metric(
            name=names.MEAN.at(samples),
            unit="share of answers that are right",
            of=lambda r: _mean(r["right"]),
            graded=True,
        ),
        Metric(
            name=names.MEAN.at(samples),
            unit="share of answers that are right and in the form of the examples",
            of=lambda r: _mean([a * b for a, b in zip(r["right"], r["formatted"], strict=True)]),
            graded=True,
            strict=True,
        ),
        *(
            Metric(
                name=names.PASS.at(k),
                unit=f"chance that one of {k} answers is right, unbiased",
                of=lambda r, k=k: pass_at_k(len(r["right"]), sum(r["right"]), k),  # type: ignore[misc]
                graded=True,
            )
            for k in passes
        ),
        Metric(
            name=names.MAJORITY.at(samples),
            unit="share of problems whose most frequent answer is right, ties by lot",
            of=lambda r: majority(r["votes"]),
            graded=True,
        ),
        Metric(
            name=NO_ANSWER,
            unit="share of answers without an answer",
            of=lambda r: _mean([v is None for v in r["votes"]]),
        ),
        Metric(name=TRUNCATED, unit="share of answers cut at the cap", of=lambda r: _mean(r["truncated"])),
        Metric(name=EXTRACTED, unit="share of answers in the form of the examples", of=lambda r: _mean(r["formatted"])),
        Metric(name=GOLD_BITS, unit="bits per UTF-8 byte of the worked solution", of=lambda r: r["gold_bits_per_byte"]),
    ]


def majority(votes: Sequence[int | None]) -> float:
    """Return the chance that the most frequent answer is the right one (number 0), ties drawn by lot."""
    counts = Counter(vote for vote in votes if vote is not None)
    most = max(counts.values(), default=0)
    leading = [vote for vote, count in counts.items() if count == most]
    return leading.count(0) / len(leading) if leading else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """An arm's rows by task."""

    entrant: Entrant
    """The arm."""
    rows: Mapping[str, Sequence[Row]]
    """Its rows of each task."""

    def values(self, metric: Metric, task: str, interface: str) -> Values:
        """Return a metric's value for each problem; empty if it was not measured."""
        found = ((r["problem"], metric.of(r)) for r in self.rows[task] if r["interface"] == interface)
        return {problem: value for problem, value in found if value is not None}


def measure(results: Sequence[Result], tasks: Sequence[Task], wanted: Sequence[Metric], seed: int) -> list[Measurement]:
    """Return all figures of all arms, and how each differs from those that it is compared with."""
    by_name = {result.entrant.name: result for result in results}
    found: list[Measurement] = []
    for result in results:
        entrant = result.entrant
        others = [by_name[name] for name in entrant.against if name in by_name]
        for interface in entrant.interfaces:
            found += _figures(result, interface, tasks, wanted, seed)
            for other in others:
                found += _differences(result, (other, interface), tasks, wanted, seed)
        if entrant.thinks:
            found += _differences(result, (result, THOUGHT), tasks, wanted, seed)
    return found


def _figures(
    result: Result, interface: str, tasks: Sequence[Task], wanted: Iterable[Metric], seed: int
) -> list[Measurement]:
    found = []
    for metric in wanted:
        by_task = {task.name: result.values(metric, task.name, interface) for task in tasks}
        book = _Book(result.entrant, "", interface, metric, f"{metric.unit}; n problems, bootstrap over problems", seed)
        found += book.write({name: list(values.values()) for name, values in by_task.items()}, tasks)
    return found


def _differences(
    result: Result, pair: tuple[Result, str], tasks: Sequence[Task], wanted: Iterable[Metric], seed: int
) -> list[Measurement]:
    """Return how an arm's interface differs from another arm's, or from its own plain one, problem by problem."""
    other, interface = pair
    itself = other is result
    theirs = PLAIN if itself or interface not in other.entrant.interfaces else interface
    found = []
    for metric in wanted:
        pairs = [(result.values(metric, t.name, interface), other.values(metric, t.name, theirs)) for t in tasks]
        by_task = {
            task.name: [left[problem] - right[problem] for problem in left if problem in right]
            for task, (left, right) in zip(tasks, pairs, strict=True)
        }
        note = f"{metric.unit}: difference, paired by problem, {interface} against {theirs}; bootstrap over problems"
        book = _Book(result.entrant, other.entrant.name, interface, metric, note, seed)
        found += book.write(by_task, tasks)
    return found


@dataclass(frozen=True, slots=True)
class _Book:
    """Writes one metric of one arm and interface."""

    entrant: Entrant
    against: str
    interface: str
    metric: Metric
    unit: str
    seed: int

    def write(self, by_task: Mapping[str, Sequence[float]], tasks: Sequence[Task]) -> list[Measurement]:
        """Return the figure of each task and their macro average; of a difference also how many would resolve it."""
        known = {name: values for name, values in by_task.items() if values}
        graders = {task.name: task.grader for task in tasks}
        found: list[Measurement] = []
        for name, values in known.items():
            found += self._one(name, [values], graders[name])
        if known and len(known) == len(by_task):
            found += self._one(MACRO, list(known.values()), "each task's")
        return found

    def _one(self, name: str, strata: Sequence[Sequence[float]], grader: str) -> list[Measurement]:
        judge = (grader + STRICT if self.metric.strict else grader) if self.metric.graded else ""
        interval = macro_bootstrap(strata, Key(self.seed, "reasoning intervals").integer() % 2**32)
        found = [self._filled(self.metric.name, name, judge, interval, self.unit)]
        spread = float(np.std(strata[0], ddof=1)) if len(strata[0]) > 1 else 0.0
        if self.against and name != MACRO and interval.value and spread:
            needed = float(detectable_n(interval.value, spread))
            note = "problems that would resolve a difference as large as this one (5% level, 80% power)"
            whole = Interval(value=needed, low=needed, high=needed, n=interval.n)
            found.append(self._filled(self.metric.name.needed("problems"), name, judge, whole, note))
        return found

    def _filled(self, metric: str, name: str, judge: str, interval: Interval, unit: str) -> Measurement:
        return Measurement(
            stage=REASONING,
            arm=self.entrant.name,
            against=self.against,
            metric=metric,
            condition=f"{name}/{self.interface}",
            judge=judge,
            unit=unit,
            subject=self.entrant.identity,
            **dataclasses.asdict(interval),
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

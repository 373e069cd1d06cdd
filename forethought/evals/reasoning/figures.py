"""From rows of answers to figures: per task, macro averages, and paired differences between arms.

The unit is the problem.  Samples of one problem are not independent, so they are averaged first.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from forethought import metrics
from forethought.config import ReasoningConfig
from forethought.evals.reasoning.answers import EvalArm, Row
from forethought.evals.reasoning.task import Task
from forethought.evals.recorder import Recorder
from forethought.metrics import MACRO, PLAIN, REASONING, STRICT, THOUGHT
from forethought.records import Measurement
from forethought.stats import macro, pass_at_k

Rows = Mapping[str, Mapping[str, Sequence[Row]]]
"""Rows of each arm to each task, by their names."""


class ProblemMetric(NamedTuple):
    """A number of each problem, computed from its row; ``None`` where it was not measured."""

    metric: metrics.Metric
    unit: str
    of: Callable[[Row], float | None]
    judge: str = ""
    """Format of the grader's name, where a grader has a say in it."""

    def values(self, rows: Sequence[Row], interface: str) -> dict[str, float]:
        """Return its value for each problem; empty if it was not measured."""
        values = ((row["problem"], self.of(row)) for row in rows if row["interface"] == interface)
        return {problem: value for problem, value in values if value is not None}


def problem_metrics(samples: int, passes: Sequence[int]) -> list[ProblemMetric]:
    """Return what is measured with ``samples`` answers to each problem, and Pass@k for the k of ``passes``."""

    def strict(row: Row) -> float:
        return _mean([right * formatted for right, formatted in zip(row["right"], row["formatted"], strict=True)])

    def passed(k: int, row: Row) -> float:
        return pass_at_k(len(row["right"]), sum(row["right"]), k)

    mean, majority_at = metrics.MEAN.at(samples), metrics.MAJORITY.at(samples)
    right, form = "share of answers that are right", "in the form of the examples"
    chance = "chance that one of {} answers is right, unbiased"
    most = "share of problems whose most frequent answer is right, ties by lot"
    none, bits = "share of answers without an answer", "bits per UTF-8 byte of the worked solution"
    return [
        ProblemMetric(mean, right, lambda row: _mean(row["right"]), "{}"),
        ProblemMetric(mean, f"{right} and {form}", strict, "{}" + STRICT),
        *(ProblemMetric(metrics.PASS.at(k), chance.format(k), partial(passed, k), "{}") for k in passes),
        ProblemMetric(majority_at, most, lambda row: majority(row["votes"]), "{}"),
        ProblemMetric(metrics.NO_ANSWER, none, lambda row: _mean([vote is None for vote in row["votes"]])),
        ProblemMetric(metrics.TRUNCATED, "share of answers cut at the cap", lambda row: _mean(row["truncated"])),
        ProblemMetric(metrics.EXTRACTED, f"share of answers {form}", lambda row: _mean(row["formatted"])),
        ProblemMetric(metrics.GOLD_BITS, bits, lambda row: row["gold_bits_per_byte"]),
    ]


def majority(votes: Sequence[int | None]) -> float:
    """Return the chance that the most frequent answer is the right one (number 0), ties drawn by lot."""
    counts = Counter(vote for vote in votes if vote is not None)
    most = max(counts.values(), default=0)
    leading = [vote for vote, count in counts.items() if count == most]
    return leading.count(0) / len(leading) if leading else 0.0


def measure(arms: Sequence[EvalArm], rows: Rows, tasks: Sequence[Task], config: ReasoningConfig) -> list[Measurement]:
    """Return all figures of all arms, and how each differs, problem by problem, from those that it is compared with.

    An arm is compared with others by the same interface, or with their plain answers where they are not asked to
    think; and its answers after a thought with its own plain ones.
    """
    by_name = {arm.name: arm for arm in arms}
    wanted = problem_metrics(config.samples, config.passes)
    figures: list[Measurement] = []
    for arm in arms:
        # None: the arm's own figures, without a comparison.
        others = [None, *(by_name[name] for name in arm.against if name in by_name)]
        compared = [(interface, other) for interface in arm.interfaces for other in others]
        compared += [(THOUGHT, arm)] if THOUGHT in arm.interfaces else []
        for interface, other in compared:
            for metric in wanted:
                figures += _figures((arm, interface), other, metric, rows, tasks)
    return figures


def _figures(
    subject: tuple[EvalArm, str],
    other: EvalArm | None,
    metric: ProblemMetric,
    rows: Rows,
    tasks: Sequence[Task],
) -> list[Measurement]:
    """Return the figure of each task and their macro average; of a difference also the smallest that shows."""
    arm, interface = subject
    theirs = interface if other is not None and other is not arm and interface in other.interfaces else PLAIN
    unit = f"{metric.unit}; n problems, interval over problems"
    if other is not None:
        unit = f"{metric.unit}: difference, paired by problem, {interface} against {theirs}; interval over problems"
    against = other.name if other is not None else ""
    recorder = Recorder(stage=REASONING, arm=arm.name, subject=arm.identity, against=against)
    share = metric.metric.kind is metrics.SHARE and other is None
    figures: list[Measurement] = []
    strata: list[list[float]] = []
    for task in tasks:
        by_problem = metric.values(rows[arm.name][task.name], interface)
        if other is not None:
            before = metric.values(rows[other.name][task.name], theirs)
            # Problems that both have: a missing one is not a zero.
            by_problem = {name: value - before[name] for name, value in by_problem.items() if name in before}
        values = list(by_problem.values())
        if not values:
            continue
        strata.append(values)
        mean, condition = macro([values], share=share), f"{task.name}/{interface}"
        recorder = dataclasses.replace(recorder, judge=metric.judge.format(task.grader.name))
        figures += recorder.interval(metric.metric, mean, unit, condition)
        if other is not None:
            figures += recorder.detectable(metric.metric, values, None, unit, condition)
    # An average over fewer tasks could not be compared with another arm's.
    if len(strata) == len(tasks):
        recorder = dataclasses.replace(recorder, judge=metric.judge.format("each task's"))
        figures += recorder.interval(metric.metric, macro(strata, share=share), unit, f"{MACRO}/{interface}")
    return figures


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

"""The graders' own examination: every right answer must be worth 1, every wrong one 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from forethought.evals.reasoning.grading import normalise, number
from forethought.evals.reasoning.task import Problem, Task, Where


class Check(NamedTuple):
    """How the grader of one task graded right answers (the worked solution and the bare answer) and wrong ones."""

    problems: int
    right: int
    """Right answers that were graded as right."""
    asked_right: int
    wrong: int
    """Wrong ones that were graded as right."""
    asked_wrong: int
    failed: tuple[str, ...]
    """Ids of the problems with a grade that is not as it should be."""

    @property
    def passed(self) -> bool:
        return not self.failed


def check(task: Task, where: Where) -> Check:
    """Grade right and wrong answers to all problems of a task; :class:`TaskError` if they could not be read."""
    problems, show = task.load(where), task.grader.show
    right: list[bool] = []
    wrong: list[bool] = []
    failed = []
    for index, problem in enumerate(problems):
        good = [task.grade(problem, text).right for text in (problem.solution, show(problem.gold))]
        bad = [task.grade(problem, show(answer)).right for answer in _wrong_answers(problems, index)]
        right += good
        wrong += bad
        if not all(good) or any(bad):
            failed.append(problem.id)
    return Check(len(problems), sum(right), len(right), sum(wrong), len(wrong), tuple(failed))


def _wrong_answers(problems: Sequence[Problem], index: int) -> Iterator[str]:
    """Yield the answer of the next problem that has another one and, for a number, the next number."""
    gold = problems[index].gold
    for other in (*problems[index + 1 :], *problems[:index]):
        if _value(other.gold) != _value(gold):
            yield other.gold
            break
    value = number(gold)
    if value is not None:
        yield format(value + 1, "f")


def _value(answer: str) -> str:
    """Return what is right of an equals sign: ``x = 5`` is a right way of writing ``5``."""
    return normalise(answer).rpartition("=")[2]

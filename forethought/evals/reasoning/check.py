"""The graders' own examination: every right answer must be worth 1, every wrong one 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from forethought.evals.reasoning.grading import number, plainly
from forethought.evals.reasoning.task import Problem, Task, Where


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What came of the examination of one task."""

    task: str
    """Its name."""
    problems: int
    """How many there are."""
    right: int
    """Right answers that were graded as right: two a problem, its worked solution and the bare answer."""
    asked_right: int
    """How many there were."""
    wrong: int
    """Wrong answers that were graded as right."""
    asked_wrong: int
    """How many there were: another problem's answer, and for numbers the next one."""
    failed: tuple[str, ...]
    """Ids of the problems with a grade that is not as it should be."""

    @property
    def passed(self) -> bool:
        """Whether every right answer is worth 1 and every wrong one 0."""
        return not self.failed and self.right == self.asked_right and not self.wrong


def check(task: Task, where: Where) -> Check:
    """Grade right and wrong answers to all problems of a task.

    Raises:
        TaskError: if its problems cannot be had.
    """
    problems = task.load(where)
    failed: list[str] = []
    right = wrong = asked_wrong = 0
    for index, problem in enumerate(problems):
        good = [task.grade(problem, text).right for text in (problem.solution, task.show(problem.gold))]
        bad = [task.grade(problem, task.show(answer)).right for answer in _wrong(problems, index)]
        right, wrong, asked_wrong = right + sum(good), wrong + sum(bad), asked_wrong + len(bad)
        if not all(good) or any(bad):
            failed.append(problem.id)
    return Check(
        task=task.name,
        problems=len(problems),
        right=right,
        asked_right=2 * len(problems),
        wrong=wrong,
        asked_wrong=asked_wrong,
        failed=tuple(failed),
    )


def _wrong(problems: Sequence[Problem], index: int) -> Iterator[str]:
    gold = problems[index].gold
    others = (problems[(index + step) % len(problems)].gold for step in range(1, len(problems)))
    other = next((one for one in others if _value(one) != _value(gold)), None)
    if other is not None:
        yield other
    value = number(gold)
    if value is not None:
        yield format(value + 1, "f")


def _value(answer: str) -> str:
    """Return what is right of an equals sign: ``x = 5`` is a right way of writing ``5``."""
    return plainly(answer).rpartition("=")[2]

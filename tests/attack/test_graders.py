"""Answers in every way of writing, right and nearly right: a grade that is not the truth is harm."""

from __future__ import annotations

from collections.abc import Callable

from helpers.graded_answers import pairs

from attack.conftest import Attack
from forethought.evals.reasoning.catalogue import TASKS
from forethought.evals.reasoning.task import problem


def test_every_grade_is_the_truth(attack: Callable[[str], Attack], whole: bool) -> None:
    classes: dict[str, Attack] = {}
    # A round has about 150 numbers and letters, and 130 expressions.
    for one in pairs(*((60, 60) if whole else (20, 3))):
        family = one.kind.split(":")[0].split(" ")[0].rstrip(",")
        name = f"answers: {family}, {'right' if one.right else 'wrong'}"
        if name not in classes:
            classes[name] = attack(name)
        asked = problem(one.task, "?", one.gold, one.gold)
        graded = TASKS[one.task].grade(asked, one.completion).right
        classes[name].case(f"{one.gold!r} and {one.completion!r}: {graded}", graded == one.right)
    assert sum(found.tried for found in classes.values()) >= 3000

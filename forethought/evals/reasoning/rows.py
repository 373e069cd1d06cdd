"""One row for each problem: whether its answers are right, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forethought.config import ReasoningConfig
from forethought.evals.reasoning.answers import Answerer, Question
from forethought.evals.reasoning.task import Grade, Problem, Task
from forethought.keys import Key
from forethought.metrics import PLAIN, THOUGHT

Row = dict[str, Any]


def answered(
    answerer: Answerer, task: Task, problems: Sequence[Problem], config: ReasoningConfig, key: Key, interface: str
) -> list[Row]:
    """Have ``problems`` answered by one interface, and return their rows; private ones hold no text.

    Raises:
        TaskError: if a server left some unanswered.
    """
    prompts = [task.prompt(problem, config.shots) for problem in problems]
    questions = [
        Question(id=f"{task.name}/{problem.id}", prompt=prompt)
        for problem, prompt in zip(problems, prompts, strict=True)
    ]
    answers_by_problem = answerer.answer(questions, task, config, key, thought=interface == THOUGHT)
    golds = [" " + problem.solution for problem in problems]
    bits = answerer.bits(list(zip(prompts, golds, strict=True))) if config.gold and interface == PLAIN else None
    rows = []
    for index, (problem, answers) in enumerate(zip(problems, answers_by_problem, strict=True)):
        grades = [task.grade(problem, answer.text) for answer in answers]
        row: Row = {
            "interface": interface,
            "problem": problem.id,
            "right": [int(grade.right) for grade in grades],
            "formatted": [int(grade.reading.formatted) for grade in grades],
            "truncated": [int(answer.truncated) for answer in answers],
            "votes": votes(grades),
            "gold_bits_per_byte": None if bits is None else round(bits[index] / len(golds[index].encode()), 6),
        }
        if not task.private:
            row["answers"] = [answer.text for answer in answers]
            if any(answer.thought for answer in answers):
                row["thoughts"] = [answer.thought for answer in answers]
        rows.append(row)
    return rows


def votes(grades: Sequence[Grade]) -> list[int | None]:
    """Return a number for each answer, equal for equal ones: 0 is the right answer, ``None`` is no answer."""
    numbers = {"right": 0}
    return [None if grade.key is None else numbers.setdefault(grade.key, len(numbers)) for grade in grades]

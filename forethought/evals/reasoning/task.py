"""What a reasoning task is: problems, worked examples, how an answer is read, and when it is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from forethought.keys import Key
from forethought.records import content_id

Where = Literal["auto", "package", "hub"] | Path
"""Where problems may come from: a path is a file of the user's own, with the columns of the hub data set."""


class TaskError(ValueError):
    """A task that cannot be run; the message says which, why, and the way out.  It never holds a problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem of a benchmark."""

    id: str
    """Content hash of the question: the same whatever source it came from, and all that a log says of it."""
    question: str
    """Options included."""
    gold: str
    solution: str
    """A worked solution that ends with the answer in the form that the task asks for."""


class Shot(NamedTuple):
    """A worked example that stands before the problem, written for this project; never a test item."""

    question: str
    solution: str


class Reading(NamedTuple):
    """What was read out of a completion: ``None`` if it holds no answer."""

    answer: str | None
    formatted: bool = False
    """Whether it stands in the form that the examples show."""


class Grade(NamedTuple):
    """What a completion is worth."""

    reading: Reading
    right: bool
    key: str | None
    """Names answers that agree with each other, for the majority vote; ``None`` without an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grader:
    """How answers are read and compared; :mod:`forethought.evals.reasoning.grading` has those that there are."""

    name: str
    """Stands in the measurements, as their judge."""
    read: Callable[[str], Reading]
    """Finds the answer in a completion."""
    same: Callable[[str, str], bool]
    """Whether ``(gold, answer)`` are equal."""
    vote: Callable[[str], str]
    """Names an answer so that equal ones have one name."""
    show: Callable[[str], str]
    """Puts an answer as a completion would, in the form that the examples show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A benchmark.  Example: ``TASKS["gsm8k"].grade(problem, "She has 3 + 4 = 7 pens.\\n#### 7")``."""

    name: str
    paper: str
    licence: str
    """Licence of the problems, as its publisher states it."""
    load: Callable[[Where], list[Problem]]
    shots: tuple[Shot, ...]
    grader: Grader
    layout: str = "Question: {question}\nAnswer:"
    """How a question is put; the answer follows after a space."""
    stops: tuple[str, ...] = ("\nQuestion:",)
    """Text that ends a completion: what would begin the next example."""
    private: bool = False
    """Whether problems, and completions that may quote them, stay out of logs; ids are logged."""

    def prompt(self, problem: Problem, shots: int | None = None) -> str:
        """Return the text that a model continues: ``shots`` worked examples (all by default), then the problem."""
        examples = [f"{self._put(shot.question)} {shot.solution}\n\n" for shot in self.shots[:shots]]
        return "".join(examples) + self._put(problem.question)

    def grade(self, problem: Problem, text: str) -> Grade:
        """Return what a completion is worth."""
        reading = self.grader.read(text)
        if reading.answer is None:
            return Grade(reading=reading, right=False, key=None)
        right = self.grader.same(problem.gold, reading.answer)
        # What is right agrees with the gold answer, however it is written.
        return Grade(reading=reading, right=right, key="right" if right else self.grader.vote(reading.answer))

    def some(self, where: Where, count: int | None) -> list[Problem]:
        """Return ``count`` problems in an order of their own: more problems add to fewer, in every run alike."""
        key = Key(0, f"problems of {self.name}")
        try:
            problems = self.load(where)
        except KeyError as missing:
            raise TaskError(f"{self.name}: its rows have no column {missing}; this is another data set") from None
        return sorted(problems, key=lambda problem: float(key.generator(problem.id).random()))[:count]

    @property
    def identity(self) -> str:
        """Hash of what a prompt and a grade depend on, the problems themselves apart."""
        return content_id([self.name, self.grader.name, self.layout, self.stops, self.shots])

    def _put(self, question: str) -> str:
        return self.layout.replace("{question}", question)


def problem(task: str, question: str, gold: str, solution: str) -> Problem:
    """Return a problem with its id."""
    return Problem(id=content_id(task, question), question=question, gold=gold, solution=solution)

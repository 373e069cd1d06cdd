"""Procedural problems of reasoning-gym: easy and made from a seed, so that no corpus can hold them as a set.

Here small models are off the floor, where a benchmark of word problems says 0 of all of them.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from forethought.evals.reasoning.grading import NUMBER, number, read_number
from forethought.evals.reasoning.task import Problem, Reading, Shot, Task, TaskError, Where, problem

PIP = "reasoning-gym==0.1.25"
SEED = 2_110_014_168
"""Fixed, so that all arms of all runs have the same problems."""
SIZE = 500
"""Problems that are made; repeated ones are dropped."""


@contextmanager
def _without_init(*packages: str) -> Iterator[None]:
    """Let modules of these packages be imported without the packages' own ``__init__``.

    Those import every generator there is, and with them a dozen packages, one of which must be compiled.
    """
    before = set(sys.modules)
    try:
        for package in packages:
            if package not in before:
                spec = importlib.util.find_spec(package)
                assert spec is not None
                sys.modules[package] = importlib.util.module_from_spec(spec)
        yield
    finally:
        # Else a later import would find a package without its content.
        for name in set(sys.modules) - before:
            if name.split(".")[0] == packages[0]:
                del sys.modules[name]


def _generate(task: Task, where: Where, name: str, levels: dict[str, int], around: tuple[str, str]) -> list[Problem]:
    """Return the problems of a generator of reasoning-gym, each once; ``around`` is taken off its questions."""
    if isinstance(where, Path):
        raise TaskError(f"reasoning.paths.{task.name}: its problems are made by a program and read from no file")
    if importlib.util.find_spec("reasoning_gym") is None:
        raise TaskError(f"{task.name}: its problems come from reasoning-gym: pip install --no-deps {PIP}")
    with _without_init("reasoning_gym", "reasoning_gym.arithmetic"):
        module = importlib.import_module(f"reasoning_gym.arithmetic.{name}")
    kind = name.title().replace("_", "")
    generator = getattr(module, f"{kind}Dataset")(getattr(module, f"{kind}Config")(**levels, seed=SEED, size=SIZE))
    problems = {}
    for index in range(SIZE):
        item = generator[index]
        question = item["question"].strip().removeprefix(around[0]).removesuffix(around[1]).strip()
        question = question[:1].upper() + question[1:]
        # By question: the generator repeats itself, and a problem that counts twice is not independent.
        problems[question] = problem(task.name, question, item["answer"], task.grader.show(item["answer"]))
    return list(problems.values())


def _first_line(text: str) -> Reading:
    """Return the number in the first line; in form if there is nothing else."""
    line = text.strip().partition("\n")[0]
    return Reading(answer=read_number(line).answer, formatted=number(line) is not None)


def load_sums(where: Where) -> list[Problem]:
    """Return sums and differences of two numbers of one or two digits."""
    around = ("State the final answer to the following arithmetic problem: ", " =")
    levels = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}
    return _generate(TASK, where, "chain_sum", levels, around)


def load_legs(where: Where) -> list[Problem]:
    """Return questions after the number of legs of one or two kinds of animals, up to five each."""
    levels = {"min_animals": 1, "max_animals": 2, "min_instances": 1, "max_instances": 5}
    before = "Your task is to count how many legs there are in total when given a list of animals.\n\nNow, "
    return _generate(LEG_TASK, where, "leg_counting", levels, (before, ""))


_task = partial(Task, paper="Stojanovski et al. 2025, arXiv 2505.24760", licence="Apache-2.0")

TASK = _task(
    name="procedural",
    load=load_sums,
    # Each has a number of three digits, which no problem has.
    shots=(Shot("100 + 7", "107"), Shot("105 - 102", "3"), Shot("3 + 103", "106"), Shot("120 - 8", "112")),
    grader=dataclasses.replace(NUMBER, read=_first_line, show=str),
    layout="{question} =",
    stops=("\n",),
)

LEG_TASK = _task(
    name="procedural-legs",
    load=load_legs,
    # More of one animal than any problem has.
    shots=(
        Shot("How many legs are there in total if you have 7 goats?", "7 * 4 = 28\n#### 28"),
        Shot("How many legs are there in total if you have 6 hens, 1 goat?", "6 * 2 + 1 * 4 = 12 + 4 = 16\n#### 16"),
    ),
    grader=NUMBER,
)

"""Procedural problems of reasoning-gym: easy and made anew from a seed, so that no corpus can hold them as a set.

Here small models are off the floor, where a benchmark of word problems says 0 of all of them.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from forethought.evals.reasoning.grading import number, read_number, same_number, vote_number
from forethought.evals.reasoning.task import Problem, Reading, Shot, Task, TaskError, Where, problem

PIP = "reasoning-gym==0.1.25"
SEED = 2_110_014_168
"""Fixed, so that all arms of all runs have the same problems."""
SIZE = 500
"""Problems that are made; repeated ones are dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """A generator of reasoning-gym, at one level."""

    module: str
    """Where it is, below ``reasoning_gym``."""
    kind: str
    """Its class; the class of its settings ends with ``Config`` instead of ``Dataset``."""
    level: Mapping[str, Any]
    """Its settings."""
    ask: tuple[str, str]
    """What it puts around the question, which is taken off: before and after."""
    show: str
    """How an answer is written; holds ``{answer}``."""


SUMS = Generator(
    module="arithmetic.chain_sum",
    kind="ChainSumDataset",
    level={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2},
    ask=("State the final answer to the following arithmetic problem: ", " ="),
    show="{answer}",
)
LEGS = Generator(
    module="arithmetic.leg_counting",
    kind="LegCountingDataset",
    level={"min_animals": 1, "max_animals": 2, "min_instances": 1, "max_instances": 5},
    ask=("Your task is to count how many legs there are in total when given a list of animals.\n\nNow, ", ""),
    show="#### {answer}",
)


def generate(task: str, generator: Generator) -> list[Problem]:
    """Return the problems of a generator, each once.

    Raises:
        TaskError: with the command that installs reasoning-gym, if it is missing.
    """
    if importlib.util.find_spec("reasoning_gym") is None:
        raise TaskError(f"{task}: its problems come from reasoning-gym: pip install --no-deps {PIP}")
    with _alone("reasoning_gym", "reasoning_gym.arithmetic"):
        module = importlib.import_module(f"reasoning_gym.{generator.module}")
    settings = getattr(module, generator.kind.removesuffix("Dataset") + "Config")
    made = getattr(module, generator.kind)(settings(**generator.level, seed=SEED, size=SIZE))
    before, after = generator.ask
    found = {}
    for index in range(SIZE):
        item = made[index]
        question = item["question"].strip().removeprefix(before).removesuffix(after).strip()
        question = question[:1].upper() + question[1:]
        gold = item["answer"]
        found[question] = problem(task, question, gold, generator.show.replace("{answer}", gold))
    return list(found.values())


@contextmanager
def _alone(*packages: str) -> Iterator[None]:
    """Let modules of these packages be imported without the packages' own ``__init__``.

    Those import every generator there is, and with them a dozen packages, one of which must be compiled.  What was
    imported meanwhile is taken off the list of modules afterwards, so that nobody finds a package without its content.
    """
    before = dict(sys.modules)
    try:
        for package in packages:
            if package not in sys.modules:
                spec = importlib.util.find_spec(package)
                assert spec is not None
                sys.modules[package] = importlib.util.module_from_spec(spec)
        yield
    finally:
        for name in [one for one in sys.modules if one.split(".")[0] == packages[0].split(".")[0]]:
            if name not in before:
                del sys.modules[name]


def _first_line(text: str) -> Reading:
    """Return the number in the first line; in form if there is nothing else."""
    line = text.strip().partition("\n")[0]
    return Reading(answer=read_number(line).answer, formatted=number(line) is not None)


def load_sums(where: Where) -> list[Problem]:
    """Return sums and differences of two numbers of one or two digits."""
    return generate("procedural", SUMS)


def load_legs(where: Where) -> list[Problem]:
    """Return questions after the number of legs of one or two kinds of animals."""
    return generate("procedural-legs", LEGS)


SUM_SHOTS = tuple(
    Shot(question=question, solution=solution)
    for question, solution in (("100 + 7", "107"), ("105 - 102", "3"), ("3 + 103", "106"), ("120 - 8", "112"))
)
"""Each has a number of three digits, which no problem has."""

LEG_SHOTS = (
    Shot(question="How many legs are there in total if you have 7 goats?", solution="7 * 4 = 28\n#### 28"),
    Shot(
        question="How many legs are there in total if you have 6 hens, 1 goat?",
        solution="6 * 2 + 1 * 4 = 12 + 4 = 16\n#### 16",
    ),
)
"""More of one animal than any problem has."""

_SHARED: dict[str, Any] = {"licence": "Apache-2.0", "grader": "number", "same": same_number, "vote": vote_number}
_PAPER = "Stojanovski et al. 2025, arXiv 2505.24760"

TASK = Task(
    name="procedural",
    title="chain_sum: two numbers of one or two digits",
    source="package reasoning-gym",
    paper=_PAPER,
    load=load_sums,
    shots=SUM_SHOTS,
    layout="{question} =",
    stops=("\n",),
    read=_first_line,
    show=SUMS.show.replace("{answer}", "{}").format,
    **_SHARED,
)

LEG_TASK = Task(
    name="procedural-legs",
    title="leg_counting: up to five each of one or two animals",
    source="package reasoning-gym",
    paper=_PAPER,
    load=load_legs,
    shots=LEG_SHOTS,
    layout="Question: {question}\nAnswer:",
    stops=("\nQuestion:",),
    read=read_number,
    show=LEGS.show.replace("{answer}", "{}").format,
    **_SHARED,
)

"""GSM8K: grade-school word problems with a whole number as answer (test split, 1,319 problems)."""

from __future__ import annotations

import re

from forethought.evals.reasoning.grading import NUMBER
from forethought.evals.reasoning.sources import Hub, Package, rows
from forethought.evals.reasoning.task import Problem, Shot, Task, Where, problem

SHOTS = (
    Shot(
        "A baker fills 6 trays with 8 rolls each. She sells 29 rolls before noon and 11 in the afternoon. "
        "How many rolls are left?",
        "The baker makes 6 * 8 = 48 rolls.\nShe sells 29 + 11 = 40 rolls.\nSo 48 - 40 = 8 rolls are left.\n#### 8",
    ),
    Shot(
        "Tomas reads 15 pages on Monday and twice as many on Tuesday. His book has 120 pages. "
        "How many pages does he still have to read?",
        "On Tuesday he reads 15 * 2 = 30 pages.\nIn both days he reads 15 + 30 = 45 pages.\n"
        "He still has to read 120 - 45 = 75 pages.\n#### 75",
    ),
    Shot(
        "A bus ticket costs $3, and children pay half. What do 2 adults and 4 children pay together, in dollars?",
        "The adults pay 2 * 3 = 6 dollars.\nA child pays 3 / 2 = 1.50 dollars.\n"
        "The children pay 4 * 1.50 = 6 dollars.\nTogether they pay 6 + 6 = 12 dollars.\n#### 12",
    ),
    Shot(
        "A tank holds 200 litres. A pump fills 25 litres a minute, and a leak loses 5 litres a minute. "
        "How many minutes does it take to fill the empty tank?",
        "Each minute the tank gains 25 - 5 = 20 litres.\nIt is full after 200 / 20 = 10 minutes.\n#### 10",
    ),
)


def load(where: Where) -> list[Problem]:
    """Return the test split, without annotations for a calculator: ``<<6*8=48>>``."""
    problems = []
    for row in rows("gsm8k", where, Package(files=("data/gsm8k/test.jsonl",)), Hub(name="openai/gsm8k", config="main")):
        solution = re.sub(r"<<[^>]*>>", "", row["answer"])
        gold = solution.rpartition("####")[2].strip()
        problems.append(problem("gsm8k", row["question"], gold, solution))
    return problems


TASK = Task(
    name="gsm8k", paper="Cobbe et al. 2021, arXiv 2110.14168", licence="MIT", load=load, shots=SHOTS, grader=NUMBER
)

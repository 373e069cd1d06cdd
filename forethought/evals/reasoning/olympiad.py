"""OlympiadBench: text-only English maths and physics with a single answer, from the hub.

Of the open-ended competition subsets those rows are kept whose answer can be graded as an expression: one answer, no
tolerance, no image.  A unit is given with the question, so that a bare number can be right.
"""

from __future__ import annotations

from collections.abc import Iterable

from forethought.evals.reasoning import maths
from forethought.evals.reasoning.sources import Hub, Row, rows
from forethought.evals.reasoning.task import Problem, Task, TaskError, Where, problem

HUBS = tuple(
    Hub(name="Hothan/OlympiadBench", config=f"OE_TO_{subject}_en_COMP", split="train")
    for subject in ("maths", "physics")
)
MOST = 300
"""No answer of a few symbols is longer; longer ones are texts."""


def load(where: Where) -> list[Problem]:
    """Return the rows that can be graded.  No package carries this set."""
    found = select(rows("olympiad", where, None, HUBS))
    if not found:
        raise TaskError("olympiad: no row of the hub data set can be graded; its columns must have changed")
    return found


def select(found: Iterable[Row]) -> list[Problem]:
    """Return the problems of the rows that have one answer, no tolerance and no image."""
    return [_problem(row) for row in found if _usable(row)]


def _usable(row: Row) -> bool:
    answers = row.get("final_answer") or []
    images = any(row.get(f"image_{index}") for index in range(1, 10))
    return (
        len(answers) == 1
        and 0 < len(_bare(answers[0])) <= MOST
        and not row.get("is_multiple_answer")
        and not row.get("error")
        and not images
        and row.get("language") == "English"
    )


def _problem(row: Row) -> Problem:
    gold = _bare(row["final_answer"][0])
    context = f"{row['context']}\n" if row.get("context") else ""
    unit = f" Give the answer in the unit {row['unit']}." if row.get("unit") else ""
    worked = (row.get("solution") or [""])[0].strip()
    solution = f"{worked}\nThe answer is $\\boxed{{{gold}}}$.".strip()
    return problem("olympiad", f"{context}{row['question']}{unit}", gold, solution)


def _bare(answer: str) -> str:
    return answer.strip().rstrip(".").strip("$").strip()


TASK = Task(
    name="olympiad",
    title="OlympiadBench, text-only English maths and physics, one answer",
    source="hub Hothan/OlympiadBench (OE_TO_maths_en_COMP, OE_TO_physics_en_COMP)",
    paper="He et al. 2024, arXiv 2402.14008",
    licence="Apache-2.0, as stated by its authors",
    load=load,
    **maths.FORM,
)

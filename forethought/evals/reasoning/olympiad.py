"""OlympiadBench: text-only English maths and physics with a single answer, from the hub.

Of the open-ended competition subsets those rows are kept whose answer can be graded as an expression: one answer, no
tolerance, no image.  A unit is given with the question, so that a bare number can be right.
"""

from __future__ import annotations

from forethought.evals.reasoning import maths
from forethought.evals.reasoning.sources import Hub, Row, rows
from forethought.evals.reasoning.task import Problem, Task, TaskError, Where, problem

HUBS = tuple(
    Hub(name="Hothan/OlympiadBench", config=f"OE_TO_{subject}_en_COMP", split="train")
    for subject in ("maths", "physics")
)
LONGEST = 300
"""Characters of an answer; longer ones are texts."""


def load(where: Where) -> list[Problem]:
    """Return the rows that can be graded.  No package carries this set."""
    problems = [_problem(row) for row in rows("olympiad", where, None, *HUBS) if _gradable(row)]
    if not problems:
        raise TaskError("olympiad: no row of the hub data set can be graded; its columns must have changed")
    return problems


def _gradable(row: Row) -> bool:
    answers = row.get("final_answer") or []
    return (
        len(answers) == 1
        and 0 < len(_bare(answers[0])) <= LONGEST
        and not row.get("is_multiple_answer")
        and not row.get("error")
        and not any(row.get(f"image_{index}") for index in range(1, 10))
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
    paper="He et al. 2024, arXiv 2402.14008",
    licence="Apache-2.0, as stated by its authors",
    load=load,
    **maths.FORM,
)

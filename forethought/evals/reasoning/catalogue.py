"""All tasks by name.  A new one is a file with a :class:`~forethought.evals.reasoning.task.Task`, and a name here."""

from __future__ import annotations

import difflib

from forethought.evals.reasoning import gpqa, gsm8k, maths, procedural
from forethought.evals.reasoning.task import Task, TaskError

_MATHS = maths.MATH500, maths.OLYMPIAD, maths.AIME, maths.AMC
_TASKS = gsm8k.TASK, *_MATHS, gpqa.TASK, procedural.TASK, procedural.LEG_TASK
TASKS: dict[str, Task] = {task.name: task for task in _TASKS}
"""The tasks that a config may name."""


def task(name: str) -> Task:
    """Return the task of that name, or raise a :class:`TaskError` with the names that there are."""
    if name not in TASKS:
        guess = "".join(f" Did you mean {close}?" for close in difflib.get_close_matches(name, TASKS, n=1))
        raise TaskError(f"no reasoning task is called {name!r}.{guess} There are {', '.join(TASKS)}")
    return TASKS[name]

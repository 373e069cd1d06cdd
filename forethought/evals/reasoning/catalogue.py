"""All tasks by name.  A new one is a file with a :class:`~forethought.evals.reasoning.task.Task`, and a name here."""

from __future__ import annotations

import difflib

from forethought.evals.reasoning import aime, gpqa, gsm8k, math500, olympiad, procedural
from forethought.evals.reasoning.task import Task, TaskError

_MODULES = (gsm8k, math500, gpqa, olympiad, aime, procedural)
TASKS: dict[str, Task] = {task.name: task for task in (*(module.TASK for module in _MODULES), procedural.LEG_TASK)}
"""The tasks that a config may name."""


def task(name: str) -> Task:
    """Return the task of that name.

    Raises:
        TaskError: naming the tasks that there are.
    """
    if name not in TASKS:
        close = difflib.get_close_matches(name, TASKS, n=1)
        guess = f" Did you mean {close[0]}?" if close else ""
        raise TaskError(f"no reasoning task is called {name!r}.{guess} There are {', '.join(TASKS)}")
    return TASKS[name]

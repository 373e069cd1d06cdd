"""A sweep: the same run with several training seeds, on the same chunks, rows, windows and threshold.

::

    <folder>/data       what comes before any training, made once
    <folder>/seed-0     a run that begins as a copy of it; it is resumed, read and exported as any other run
    <folder>/seed-1     ...
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from forethought.config import Config
from forethought.graph import Selection, Step, graph
from forethought.run.files import StoreError, remove, writing
from forethought.run.store import SHARED, Run

RunSteps = Callable[[Config, Path, Selection], None]
"""Does the selected steps of a config in a run folder."""
DATA = "data"


class SweepError(StoreError):
    """A folder that does not belong to the sweep."""


def sweep(
    config: Config,
    place: Path,
    seeds: Sequence[int],
    run_steps: RunSteps,
    *,
    keep_weights: bool,
    say: Callable[[str], None],
) -> list[Path]:
    """Do every seed that is not done, one after the other, and return the run folders.

    Raises:
        SweepError: if a seed's folder holds chunks, rows or a threshold that the others do not have.
    """
    data = place / DATA
    before = data_steps(config)
    run_steps(config.model_copy(update={"training_seed": None}), data, Selection(steps=before))
    folders = []
    for seed in seeds:
        folder = place / f"seed-{seed}"
        say(f"seed {seed}: {folder}")
        _copy(data, folder)
        _check(Run(data), Run(folder), before)
        run_steps(config.model_copy(update={"training_seed": seed}), folder, Selection(steps=tuple(graph(config))))
        if not keep_weights:
            remove_weights(Run(folder))
        folders.append(folder)
    return folders


def data_steps(config: Config) -> tuple[Step, ...]:
    """Return the steps that no training comes before: what all seeds share."""
    names: set[str] = set()
    steps = []
    for step in graph(config):
        if step.arm == SHARED and names.issuperset(step.inputs):
            names.add(step.name)
            steps.append(step)
    return tuple(steps)


def remove_weights(run: Run) -> None:
    """Remove the trained models of a finished run: its figures, logs and texts stay."""
    for folder in run.stages():
        if folder.done:
            remove(folder.checkpoints)


def _copy(data: Path, folder: Path) -> None:
    """Begin a run with the data; a copy that was interrupted is made again."""
    if folder.exists():
        return
    half = folder.with_name(f".{folder.name}.tmp")
    with writing(folder):
        remove(half)
        shutil.copytree(data, half, ignore=shutil.ignore_patterns(".lock", "report.html", "summary.json"))
        half.rename(folder)


def _check(data: Run, run: Run, steps: Sequence[Step]) -> None:
    for step in steps:
        made, here = (of.look(step.arm, step.stage) for of in (data, run))
        if here.manifest() is None or made.identity != here.identity:
            raise SweepError(
                f"{run.path}: {step.name} is not that of {data.path}: seeds that do not share it cannot be compared. "
                "Remove the folder, or choose another --run"
            )

"""The model card of an exported arm: what it is, how it was made, what was measured, all from the run."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from forethought import __version__
from forethought.config import Config
from forethought.export.arms import TRAINS, Trained
from forethought.graph import STEPS, Step, needs
from forethought.metrics import RUN
from forethought.models import TINY_PARAMETERS, packages
from forethought.report.independence import Judges
from forethought.report.page import fill
from forethought.report.tables import build
from forethought.run.store import SHARED, Run

SETTINGS = (
    *("objective", "reward", "advantage", "steps", "prefixes_per_step", "rows_per_step", "windows_per_step"),
    *("rollouts", "thought_tokens", "suffix_tokens", "learning_rate", "beta", "kl_weight", "seed"),
)
"""What a card shows of a stage's settings."""


def card(run: Run, config: Config, arm: Trained, interface: Mapping[str, Any]) -> str:
    """Return README.md of an exported arm, as the Hugging Face hub reads it."""
    base = config.policy.model
    known = {name: model.licence for name, model in packages().items()} | dict.fromkeys(TINY_PARAMETERS, "none needed")
    licence = known.get(base)
    # How long a run took on its machine says nothing of the model.
    figures = [figure for figure in run.measurements() if figure.arm == arm.name and figure.stage != RUN]
    own = [step for step in STEPS if arm.folder and (step.arm, step.stage) == (arm.name, arm.folder.stage)]
    return fill(
        "card.md.j2",
        config=config,
        arm=arm,
        interface=interface,
        splits=((run.look(SHARED, "chunk").manifest() or {}).get("summary", {})).get("splits", {}),
        steps=[(step, *_made(run, step)) for step in (*needs(own, STEPS), *own) if step.stage in TRAINS],
        tables=list(itertools.chain.from_iterable(build(figures, Judges(config)).values())),
        licence=f"`{base}`: {licence}" if licence else f"see the licence of `{base}`",
        version=__version__,
    )


def _made(run: Run, step: Step) -> tuple[str, str]:
    """Return the settings of a step and the identity of what it made."""
    folder = run.look(step.arm, step.stage)
    made = folder.read_json("config") or {}
    values = {**made, **made.get(step.stage, {})}
    shown = ", ".join(f"{key} {values[key]}" for key in SETTINGS if values.get(key) is not None)
    return shown, folder.identity if folder.done else "not done"

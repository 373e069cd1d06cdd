"""``--budget``: the longest schedule of a config that this machine finishes within a given time."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forethought.config import Config, load
from forethought.costs import rates
from forethought.costs.work import Rates
from forethought.models import ModelError
from forethought.pipeline import plan
from forethought.pipeline.runner import settled
from forethought.run.store import Run

_TIME = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")

Say = Callable[[str], None]


class BudgetError(ValueError):
    """A budget that cannot be parsed or does not fit the run; the message says the way out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRequest:
    """The options of a command with ``--budget``."""

    path: Path
    overrides: Sequence[str]
    """``section.key=value``; they win over the schedule."""
    budget: str
    """The time, as written."""
    run: Path | None
    """The run folder; default: ``runs/`` and the name of the config."""

    def place(self, config: Config) -> Path:
        return self.run or Path("runs") / config.name

    def load(self, schedule: str = "") -> Config:
        config = load(self.path, self.overrides, schedule)
        return config.model_copy(update={"budget": self.budget}) if schedule else config


def seconds(text: str) -> float:
    """Return the seconds that ``25m``, ``90s``, ``2h`` or ``1h30m`` mean."""
    match = _TIME.fullmatch(text.strip())
    parts = match.groups(default="0") if match else ()
    total = sum(float(part) * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if not total:
        raise BudgetError(f"--budget {text}: write a time such as 25m, 90s, 2h or 1h30m")
    return total


def choose_schedule(request: BudgetRequest, say: Say) -> Config:
    """Return the config with the schedule that fits the budget, or that the run was started with."""
    wanted, config = seconds(request.budget), request.load()
    if not config.schedules:
        raise BudgetError(
            f"{request.path}: no [schedules.NAME] table for --budget to choose from: add some, or leave --budget out"
        )
    # A run keeps its schedule: on a busier day another one would be chosen halfway.
    started = Run(request.place(config)).config()
    if started is not None:
        return _resumed(request, config, started, say)
    name, line = _fitting(request, config, wanted, functools.partial(rates.here, say=say))
    say(line)
    return request.load(name)


def demo() -> str:
    request = BudgetRequest(path=Path("demo"), overrides=(), budget="25m", run=None)
    config = request.load()
    try:
        _, line = _fitting(request, config, seconds(request.budget), rates.known)
    except ModelError as error:
        return f"not known: {error}"
    return f"{line}; speed {rates.known(settled(config, request.place(config))).how}"


def _resumed(request: BudgetRequest, config: Config, started: Mapping[str, Any], say: Say) -> Config:
    """Return the config that the run was started with; nothing is measured again."""
    place, name, before = request.place(config), started.get("schedule"), started.get("budget")
    if not name or not before:
        raise BudgetError(
            f"{place} was started without --budget: leave --budget out to resume it, or choose another --run"
        )
    if seconds(before) != seconds(request.budget):
        raise BudgetError(
            f"{place} was started with --budget {before}, for which schedule {name} was chosen. "
            f"Use --budget {before} to resume it, or choose another --run for {request.budget}"
        )
    if name not in config.schedules:
        known = ", ".join(config.schedules)
        raise BudgetError(
            f"{place} was started with schedule {name}, which {request.path} no longer has (it has {known}). "
            "Put it back to resume the run, or choose another --run"
        )
    say(f"schedule {name}, which this run was started with")
    return load(request.path, request.overrides, name).model_copy(update={"budget": before})


def _fitting(request: BudgetRequest, config: Config, wanted: float, pace: Callable[[Config], Rates]) -> tuple[str, str]:
    """Return the first schedule that fits, or else the last one, and a line about it; ``pace`` gives the rates."""
    measured: dict[tuple[str, str], Rates] = {}
    names, place = list(config.schedules), request.place(config)
    for name in names:
        scheduled = settled(request.load(name), place)
        computed = str(scheduled.policy), scheduled.dtype
        if computed not in measured:
            measured[computed] = pace(scheduled)
        took = plan.total(scheduled, measured[computed])
        short = plan.too_large(plan.setting(scheduled))
        if took <= wanted and not short:
            break
    last, budget = names[-1], plan.clock(wanted)
    if short:
        return name, f"no schedule fits the memory that is free: {name}, the smallest: {short}"
    if took > wanted:
        over = plan.clock(took - wanted)
        return name, f"no schedule fits {budget}: {name}, the smallest, takes about {plan.clock(took)}, {over} longer"
    line = f"schedule {name}: about {plan.clock(took)} of {budget}"
    if last != name:  # by the rates at hand: it is not worth a measurement of its own
        least = plan.total(settled(request.load(last), place), measured[computed])
        line += f"; {last} would take {plan.clock(least)}"
    return name, line

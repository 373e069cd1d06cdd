"""``--budget``: the longest of a config's schedules that this machine does within a given time."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forethought import rates
from forethought.config import Config, load
from forethought.models import ModelError
from forethought.pipeline import plan
from forethought.pipeline.runner import settled
from forethought.store import Run
from forethought.work import Rates

_TIME = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")

Say = Callable[[str], None]


class BudgetError(ValueError):
    """A budget that cannot be read or kept; the message says the way out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was asked for on the command line."""

    path: Path
    """The config."""
    overrides: Sequence[str]
    """Its overrides, which also override schedules."""
    budget: str
    """The time, as written."""
    run: Path | None
    """The run folder, if it was named."""

    def place(self, config: Config) -> Path:
        """Return the run folder."""
        return self.run or Path("runs") / config.name

    def load(self, schedule: str = "") -> Config:
        """Return the config with a schedule."""
        config = load(self.path, self.overrides, schedule)
        return config.model_copy(update={"budget": self.budget}) if schedule else config


def seconds(text: str) -> float:
    """Return the seconds that ``25m``, ``90s``, ``2h`` or ``1h30m`` mean.

    Raises:
        BudgetError: if it is none of these.
    """
    found = _TIME.fullmatch(text.strip())
    total = (
        sum(float(part or 0) * unit for part, unit in zip(found.groups(), (3600, 60, 1), strict=True)) if found else 0
    )
    if not total:
        raise BudgetError(f"--budget {text}: write a time such as 25m, 90s, 2h or 1h30m")
    return total


def chosen(wish: Wish, say: Say) -> Config:
    """Return the config with the schedule that fits the budget, or that the run folder was begun with.

    Raises:
        BudgetError: if the config has no schedules, or the run was begun with another budget.
    """
    wanted, config = seconds(wish.budget), wish.load()
    if not config.schedules:
        raise BudgetError(
            f"{wish.path}: no [schedules.NAME] table for --budget to choose from: add some, or leave it out"
        )
    place = wish.place(config)
    begun = Run(place).config() if place.is_dir() else None
    if begun is not None:
        return _again(wish, config, begun, say)
    name, line = _fitting(wish, config, wanted, functools.partial(rates.here, say=say))
    say(line)
    return wish.load(name)


def demo() -> str:
    """Return in words what `make demo` would do here, by what is known of this machine without measuring."""
    wish = Wish(path=Path("demo"), overrides=(), budget="25m", run=None)
    config = wish.load()
    try:
        _, line = _fitting(wish, config, seconds(wish.budget), rates.known)
    except ModelError as error:
        return f"not known: {error}"
    return f"{line}; speed {rates.known(settled(config, wish.place(config))).how}"


def _again(wish: Wish, config: Config, begun: Mapping[str, Any], say: Say) -> Config:
    """Return the config as the run was begun; nothing is measured again."""
    place, name, before = wish.place(config), begun.get("schedule"), begun.get("budget")
    if not name or not before:
        raise BudgetError(f"{place} was begun without --budget: leave it out to go on, or choose another --run")
    if seconds(before) != seconds(wish.budget):
        raise BudgetError(
            f"{place} was begun with --budget {before}, for which schedule {name} was chosen. "
            f"Write --budget {before} to go on with it, or choose another --run for {wish.budget}"
        )
    if name not in config.schedules:
        known = ", ".join(config.schedules)
        raise BudgetError(
            f"{place} was begun with schedule {name}, which {wish.path} no longer has (it has {known}). "
            "Put it back to go on, or choose another --run"
        )
    say(f"schedule {name}, as this run was begun")
    return load(wish.path, wish.overrides, name).model_copy(update={"budget": before})


def _fitting(wish: Wish, config: Config, wanted: float, pace: Callable[[Config], Rates]) -> tuple[str, str]:
    """Return the first schedule that fits, or else the last one, and what to say of it; ``pace`` gives the rates."""
    measured: dict[tuple[str, str], Rates] = {}
    names, place = list(config.schedules), wish.place(config)
    took: dict[str, float] = {}
    for name in names:
        one = settled(wish.load(name), place)
        key = str(one.policy), one.dtype
        if key not in measured:
            measured[key] = pace(one)
        took[name] = plan.total(one, measured[key])
        short = plan.too_large(plan.setting(one))
        if took[name] <= wanted and not short:
            break
    last, budget = names[-1], plan.clock(wanted)
    if short:
        return name, f"no schedule fits the memory that is free: {name}, the smallest: {short}"
    if took[name] > wanted:
        over = plan.clock(took[name] - wanted)
        line = f"no schedule fits {budget}: {name}, the smallest, takes about {plan.clock(took[name])}, {over} longer"
        return name, line
    line = f"schedule {name}: about {plan.clock(took[name])} of {budget}"
    if last != name:  # by the rates at hand: it is not worth a measurement of its own
        least = plan.total(settled(wish.load(last), place), measured[key])
        line += f"; {last} would take {plan.clock(least)}"
    return name, line

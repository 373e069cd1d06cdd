"""Several runs of one config that differ in their training seed become one table: the seed is the unit.

Figures of a single run have intervals over documents; they say nothing of how another training would have come out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from forethought import metrics as m
from forethought import seeds
from forethought.graph import ARMS, arm_of
from forethought.records import Measurement
from forethought.report.facts import machines
from forethought.report.independence import judges_of
from forethought.report.page import fill
from forethought.report.tables import Table
from forethought.report.values import interval
from forethought.run.differences import changed
from forethought.run.files import StoreError, atomic_write
from forethought.run.store import SHARED, Run
from forethought.stats import Interval

NAME = "aggregate"
"""Of both files that are written: .json and .html."""
FREE = ("training_seed", "name", "device", "dtype", "engine", "log", "budget", "schedule")
"""Keys in which the runs may differ; machines and dtypes are shown."""
COLUMNS = (m.GATE_REWARD, m.GATE_SCORE)
"""What the gate keeps of every window, by the names in its log: reward, score."""

Key = tuple[str, str, str, str, str, str]
"""Stage, arm, against, metric, condition and judge of a figure."""


class AggregateError(StoreError):
    """Runs that are no repetitions of one another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """One figure over all runs."""

    figure: Measurement
    """Its names and unit; the values are those of one run."""
    values: Mapping[int, float]
    """By training seed, where it was measured."""
    seeds: Interval | None
    """Student's interval over seeds, on these documents; ``None`` for fewer than three."""
    both: Interval | None = None
    """Over seeds and windows, where every window was kept."""
    detectable: float | None = None
    """The smallest true value that so many seeds show four times in five."""

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.values.values())))

    @property
    def widest(self) -> Interval | None:
        """The interval that counts: over seeds and documents where that is known."""
        return self.both or self.seeds

    def row(self) -> dict[str, Any]:
        names = ("stage", "arm", "against", "metric", "condition", "judge", "unit")
        ends = {
            name: None if one is None else [one.low, one.high]
            for name, one in (("over_seeds", self.seeds), ("over_seeds_and_windows", self.both))
        }
        known = {name: getattr(self.figure, name) for name in names}
        return known | {"mean": self.mean, "values": dict(self.values), **ends, "detectable": self.detectable}


class Repetitions:
    """Runs of one config, by training seed."""

    def __init__(self, runs: Sequence[Run]) -> None:
        """Read the configs of the runs.

        Raises:
            AggregateError: if they differ in more than :data:`FREE`, or if two have the same training seed.
        """
        if len(runs) < 2:
            raise AggregateError("one run alone cannot be aggregated: name at least two, better six")
        configs = [(run, run.config()) for run in runs]
        missing = [str(run.path) for run, config in configs if config is None]
        if missing:
            raise AggregateError(f"{', '.join(missing)}: no run.json, so its config is not known: not a run folder?")
        first = _fixed(configs[0][1] or {})
        self.runs: dict[int, Run] = {}
        for run, config in configs:
            other = _fixed(config or {})
            if keys := [key for key, _, _ in changed(first, other)]:
                raise AggregateError(
                    f"{run.path} is no repetition of {runs[0].path}: they differ in {', '.join(keys)}. Only training "
                    "seed and machine may differ; `forethought compare` shows both"
                )
            asked = (config or {})["training_seed"]
            seed = int((config or {})["seed"] if asked is None else asked)
            if seed in self.runs:
                raise AggregateError(f"{run.path} and {self.runs[seed].path} both have training seed {seed}")
            self.runs[seed] = run
        self.config = configs[0][1] or {}
        self.judges = judges_of(runs[0])

    @cached_property
    def figures(self) -> dict[Key, dict[int, Measurement]]:
        found: dict[Key, dict[int, Measurement]] = {}
        for seed, run in self.runs.items():
            for one in run.measurements():
                key = (one.stage, one.arm, one.against, str(one.metric), one.condition, one.judge)
                found.setdefault(key, {})[seed] = one
        return found

    @cached_property
    def windows(self) -> dict[int, dict[tuple[str, str, str], dict[str, Any]]]:
        """By seed, and then by arm, condition and judge: what the gate kept of every window."""
        return {
            seed: {
                (row["arm"], row["condition"], row["judge"]): row
                for row in run.look(SHARED, m.EVALUATE_RLMT).read("windows")
            }
            for seed, run in self.runs.items()
        }

    def pooled(self) -> list[Pooled]:
        """Return every figure that at least two seeds have; not what a stage took, nor what one run would detect."""
        rows = []
        for key, by_seed in self.figures.items():
            metric = m.find(key[0], key[3])
            smallest = metric is not None and metric.of is not None and metric == metric.of.detectable
            if key[0] == m.RUN or smallest or len(by_seed) < 2:
                continue
            values = {seed: one.value for seed, one in by_seed.items()}
            listed = list(values.values())
            # What no training enters is the same in all runs: there is nothing to estimate.
            varies = len(set(listed)) > 1
            table_SW = self.table(next(iter(by_seed.values()))) if varies else None
            rows.append(
                Pooled(
                    figure=next(iter(by_seed.values())),
                    values=values,
                    seeds=seeds.over_seeds(listed) if varies else None,
                    both=None if table_SW is None else seeds.crossed(table_SW),
                    detectable=seeds.detectable(listed) if varies else None,
                )
            )
        return rows

    def table(self, figure: Measurement) -> np.ndarray | None:
        """Return a gate figure by seed and window, ``(S, W)``, or ``None`` where windows were not kept."""
        metric = m.of(figure)
        base = metric.of or metric
        if figure.stage != m.EVALUATE_RLMT or base not in COLUMNS:
            return None
        column = "reward" if base == m.GATE_REWARD else "score"
        rows = []
        for seed in self.runs:
            kept = self.windows[seed]

            def of(arm: str, kept: Mapping[tuple[str, str, str], dict[str, Any]] = kept) -> np.ndarray:
                row = kept[arm, figure.condition, figure.judge]
                return np.array([np.nan if value is None else value for value in row[column]])

            try:
                rows.append(_combined(of, figure, metric))
            except KeyError:  # an arm or a condition that this run does not have
                return None
        if len({len(row) for row in rows}) != 1:
            return None
        table_SW = np.stack(rows)
        whole: np.ndarray = table_SW[:, np.isfinite(table_SW).all(axis=0)]
        return whole if whole.size else None


def _combined(of: Callable[[str], np.ndarray], figure: Measurement, metric: m.Metric) -> np.ndarray:
    """Return a level, a difference or a difference of differences, window by window."""
    if metric == (metric.of or metric).interaction:
        a, b = (of(arm) - of(arm_of(arm).lineage) for arm in (figure.arm, figure.against))
        return np.asarray(a - b)
    return of(figure.arm) - of(figure.against) if figure.against else of(figure.arm)


def _fixed(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in FREE}


def find_primary(repetitions: Repetitions, rows: Sequence[Pooled]) -> list[Pooled]:
    """Return the primary endpoint by each judge that measured it, or by the one that is named; empty without one.

    Judges that had no part in the training come first, and of them the least favourable.
    """
    asked = repetitions.config.get("primary")
    if not asked:
        return []
    names = ("stage", "metric", "arm", "against", "condition")
    found = [row for row in rows if all(getattr(row.figure, name) == asked[name] for name in names)]
    found = [row for row in found if not asked["judge"] or asked["judge"] in row.figure.judge]

    def order(row: Pooled) -> tuple[bool, float]:
        low, high = row.widest.ends if row.widest else (row.mean, row.mean)
        took_part = not repetitions.judges.of(row.figure.judge, row.figure.stage).independent(row.figure.stage)
        return took_part, -high if m.of(row.figure).better == m.DOWN else low

    return sorted(found, key=order)


def verdict(row: Pooled) -> str:
    """Return what a pooled difference shows."""
    if row.widest is None:
        return f"{len(row.values)} seeds are too few to tell"
    form, count = m.form(row.figure), len(row.values)
    low, high = row.widest.ends
    if low > 0 or high < 0:
        return f"{'above' if low > 0 else 'below'} zero over {count} seeds"
    least = "" if row.detectable is None else f", which show {form(row.detectable)} four times in five"
    return f"inside the noise of {count} seeds{least}"


def shown(row: Pooled, ends: Interval | None) -> str:
    """Return the mean with an interval, or nothing where there is none."""
    return "" if ends is None else interval(row.mean, ends.low, ends.high, m.form(row.figure))


def tables(repetitions: Repetitions) -> list[Table]:
    """Return the primary endpoint, the gate at equal entropy, and all that differs between seeds."""
    rows = repetitions.pooled()
    head = ("figure", "mean over seeds", "over seeds and windows", "over seeds", "by seed", "what it shows")
    primary = Table("Primary endpoint; first by the least favourable judge that had no part in the training", head)
    gate = Table(
        "Reward gate at equal entropy", ("arm", "metric", "judge", "mean", "over seeds and windows", "by seed")
    )
    rest = Table("Exploratory: all paired differences that training changes", head)
    chosen = find_primary(repetitions, rows)
    for row in chosen:
        primary.rows.append(_cells(row))
    known = {row.figure.judge: repetitions.judges.of(row.figure.judge, row.figure.stage) for row in chosen}
    primary.note = "; ".join(f"{judge}: {one.text}" for judge, one in known.items() if one.known)
    order = {arm.name: place for place, arm in enumerate(ARMS)}
    for row in sorted(rows, key=lambda row: order.get(row.figure.arm, 99)):
        one = row.figure
        if (one.stage, one.condition, one.against) == (m.EVALUATE_RLMT, m.MATCHED, "") and one.metric in COLUMNS:
            mean = m.form(one)(row.mean)
            gate.rows.append((one.arm, one.metric, one.judge, mean, shown(row, row.both), by_seed(row)))
    for row in rows:
        metric = m.of(row.figure)
        if row.figure.against and metric.of is not None and row not in chosen and row.seeds is not None:
            rest.rows.append(_cells(row))
    return [table for table in (primary, gate, rest) if table.rows]


def by_seed(row: Pooled) -> str:
    form = m.form(row.figure)
    return ", ".join(form(value) for value in row.values.values())


def _cells(row: Pooled) -> tuple[str, ...]:
    one = row.figure
    against = f" against {one.against}" if one.against else ""
    where = ", ".join(filter(None, (one.condition, one.judge)))
    name = f"{one.metric} of {one.arm}{against}\n{where}"
    return name, m.form(row.figure)(row.mean), shown(row, row.both), shown(row, row.seeds), by_seed(row), verdict(row)


def notes(repetitions: Repetitions) -> list[str]:
    """Return what a reader must know: machines, seeds that miss figures, and how far a sign test can go."""
    kinds = {seed: machines(run) for seed, run in repetitions.runs.items()}
    lines = [f"training seeds {', '.join(map(str, repetitions.runs))}; chunks, rows, windows and threshold are shared"]
    distinct = list(dict.fromkeys(line for rows in kinds.values() for line in rows))
    lines.append(f"computed in: {'; '.join(distinct)}")
    if len({tuple(rows) for rows in kinds.values()}) > 1:
        lines.append("the seeds were computed on different machines or in different dtypes, which adds to their spread")
    short = [str(seed) for seed, run in repetitions.runs.items() if not run.look(SHARED, m.EVALUATE_RLMT).done]
    if short and repetitions.config.get("rlmt"):
        lines.append(f"not finished, and left out where a figure is missing: seed {', '.join(short)}")
    return lines


def content(repetitions: Repetitions) -> dict[str, Any]:
    """Return what ``aggregate.json`` holds: the whole table, small enough to be committed."""
    rows = repetitions.pooled()
    chosen = find_primary(repetitions, rows)
    return {
        "config": repetitions.config | {"training_seed": None},
        "training_seeds": list(repetitions.runs),
        "notes": notes(repetitions),
        "primary": [row.row() | {"sign_flip_p": seeds.sign_flip(list(row.values.values()))} for row in chosen],
        "figures": [row.row() for row in rows],
    }


def _one_figure_a_line(data: Mapping[str, Any]) -> str:
    """Return the content as JSON that is small, and whose changes git shows figure by figure."""

    def text(value: Any) -> str:
        return json.dumps(_rounded(value), ensure_ascii=False)

    parts = []
    for key, value in data.items():
        lines = ",\n".join(map(text, value)) if key in ("primary", "figures") else None
        parts.append(f"{json.dumps(key)}: " + (text(value) if lines is None else f"[\n{lines}\n]"))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _rounded(value: Any) -> Any:
    """Return the value with eight significant digits in its numbers: no seed resolves more."""
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def write(repetitions: Repetitions, place: Path) -> list[Path]:
    """Write ``aggregate.json`` and ``aggregate.html`` into a folder and return their paths."""
    data = _one_figure_a_line(content(repetitions))
    page = fill(
        "aggregate.html.j2",
        title=f"{repetitions.config['name']}: {len(repetitions.runs)} training seeds",
        notes=notes(repetitions),
        tables=[dataclasses.replace(table) for table in tables(repetitions)],
    )
    paths = [place / f"{NAME}.json", place / f"{NAME}.html"]
    for path, text in zip(paths, (data, page), strict=True):
        atomic_write(path, text.encode("utf-8", "replace"))
    return paths

"""The table at the end of a run, and ``summary.json``: views of the run's measurements and training metrics.

Every rate is shown with its denominator and every figure with its 95% interval, where it has one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from forethought.progress import clock_time
from forethought.records import Measurement, to_dict
from forethought.report.cells import (
    Format,
    figure,
    interval,
    percent,
    plain,
    short,
    signed,
    sparkline,
    stack,
    stacked,
    titled,
    whole,
)
from forethought.report.facts import facts
from forethought.report.midtraining import tables as thinking_tables
from forethought.report.reasoning import tables as reasoning_tables
from forethought.report.thoughts import tables as thought_tables
from forethought.stats import Interval, bootstrap_mean
from forethought.store import Run, atomic_write

Rows = Sequence[Mapping[str, Any]]
Curves = Mapping[str, Rows]
"""Rows of ``metrics.jsonl`` of the stage that trained an arm, by arm."""

STAGES = ("improve", "sft", "rlmt")
"""Stages that train."""

WINDOW = 10
"""The two ends of a curve are means over up to so many steps."""

_COURSE = 16
_SECONDS = re.compile(r"\bseconds[_/](\w+)$")


Place = tuple[str, str, str, str, str]
"""Arm, against, condition, judge, metric: what names a figure within its stage."""

_CURVES: tuple[tuple[str, str, Format], ...] = (
    ("improve/selection_rate", "chosen is a rollout (of pairs)", percent),
    ("improve/selection_null", "  null K/(K+1)", percent),
    ("improve/margin", "DPO margin without beta, nats", signed),
    ("improve/margin_beta", "DPO margin with beta, nats", signed),
    ("improve/repetition", "repeated 4-grams of rollouts", percent),
    ("improve/distinct_2", "distinct-2 of rollouts", percent),
    ("improve/tie_rate", "prefixes without a preference", percent),
    ("improve/unscored_rate", "unscored verdicts", percent),
    ("improve/suffix_nll", "suffix NLL, nats per token", plain),
    ("sft/loss", "loss on the rows, nats per token", plain),
    ("sft/thought_nll", "held-out thought NLL, nats per token", plain),
    ("sft/tag_nll", "held-out tag NLL, nats per token", plain),
    ("sft/text_nll", "held-out text NLL, nats per token", plain),
    ("rlmt/reward", "reward", signed),
    ("rlmt/heldout_reward", "  on held-out windows", signed),
    ("rlmt/blank_reward", "  after a blank thought", signed),
    ("rlmt/reward_variance", "variance of the reward within a group", plain),
    ("rlmt/dead_rate", "groups without variance", percent),
    ("rlmt/unscored_rate", "unscored suffixes", percent),
    ("rlmt/thought_tokens", "tokens of a thought", short),
    ("rlmt/close_rate", "thoughts that the policy closes itself", percent),
    ("rlmt/entropy", "entropy, nats per token", short),
    ("rlmt/kl", "divergence from the SFT model, nats per token", plain),
    ("rlmt/distinct_thoughts", "different thoughts of a group", percent),
    ("rlmt/copied_to_suffix", "3-grams of suffixes that the thought has", percent),
    ("rlmt/copied_from_prefix", "3-grams of thoughts that the prefix has", percent),
)

_SIDE_METRICS: tuple[tuple[str, str, Format], ...] = (
    ("entropy", "nats per token", short),
    ("repetition", "repeated 4-grams", percent),
    ("distinct_2", "distinct-2", percent),
    ("characters", "characters", whole),
)


@dataclass(frozen=True, slots=True)
class Trend:
    """A curve in three figures and a line."""

    first: Interval
    """Mean over the first steps."""
    last: Interval
    """Mean over the last steps."""
    points: tuple[float, ...]
    """All of it."""


def trend(rows: Rows, key: str) -> Trend | None:
    """Return the two ends of the curve ``key``, or ``None`` if no row has it.

    Each end is a mean over :data:`WINDOW` steps (half of the curve if it is shorter), with a bootstrap
    interval over steps.  What is measured on a fixed slice (NLL) is not averaged.
    """
    points = tuple(float(row[key]) for row in rows if row.get(key) is not None)
    if not points:
        return None
    window = 1 if key.endswith("_nll") else max(1, min(WINDOW, len(points) // 2))
    return Trend(first=bootstrap_mean(points[:window], 0), last=bootstrap_mean(points[-window:], 0), points=points)


def read_curves(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Return the metrics of the stage that trained each arm of ``run``, in the order of their steps."""
    found = {folder.arm: list(folder.read("metrics")) for folder in run.stages() if folder.stage in STAGES}
    return {arm: sorted(rows, key=lambda row: row["step"]) for arm, rows in found.items() if rows}


def summarise(measurements: Iterable[Measurement], curves: Curves) -> dict[str, Any]:
    """Return the content of ``summary.json``: all figures, both ends of every curve, seconds by phase."""
    return {
        "measurements": [to_dict(figure) for figure in measurements],
        "curves": {
            arm: {
                key: {"first": to_dict(ends.first), "last": to_dict(ends.last), "steps": len(ends.points)}
                for key, _, _ in _CURVES
                if (ends := trend(rows, key)) is not None
            }
            for arm, rows in curves.items()
        },
        "seconds": {arm: phase_seconds(rows) for arm, rows in curves.items()},
    }


def write_summary(run: Run) -> dict[str, Any]:
    """Write ``summary.json`` of ``run`` and return its content: figures, curves, cost, config, versions, durations."""
    content = summarise(run.measurements(), read_curves(run)) | facts(run)
    data = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    atomic_write(run.path / "summary.json", data.encode("utf-8"))
    return content


def phase_seconds(rows: Rows) -> dict[str, float]:
    """Return the seconds of each phase, summed over the steps: keys ``improve/seconds_<phase>``."""
    total: dict[str, float] = {}
    for row in rows:
        for key, value in row.items():
            if found := _SECONDS.search(key):
                total[found[1]] = total.get(found[1], 0.0) + float(value)
    return total


def render(measurements: Sequence[Measurement], curves: Curves) -> RenderableType:
    """Return the run's tables for the terminal, 100 columns wide; what was not measured is left out."""
    tables = (
        *_comparisons(measurements),
        _nll(measurements),
        *thought_tables(measurements),
        *thinking_tables(measurements),
        *reasoning_tables(measurements),
        *(_training(arm, rows) for arm, rows in curves.items()),
        _audit(measurements),
        _durations(measurements, curves),
    )
    shown = [table for table in tables if table.row_count]
    return Group(*shown) if shown else Text("Nothing was measured yet.")


def sections(measurements: Sequence[Measurement], curves: Curves) -> dict[str, list[Table]]:
    """Return the same tables by their subject: ``improve``, ``sft``, ``rlmt``, ``reasoning``, ``audit``, ``run``."""
    tables = {
        "improve": [*_comparisons(_of(measurements, "evaluate")), _nll(measurements)],
        "sft": [*_comparisons(_of(measurements, "evaluate-sft")), *thought_tables(measurements)],
        "rlmt": thinking_tables(measurements),
        "reasoning": reasoning_tables(measurements),
        "audit": [_audit(measurements)],
        "run": [_durations(measurements, curves)],
    }
    for arm, rows in curves.items():
        tables[stage_of(rows)].append(_training(arm, rows))
    return {stage: [table for table in some if table.row_count] for stage, some in tables.items()}


def stage_of(rows: Rows) -> str:
    """Return the training stage that wrote these metrics."""
    names = {key.partition("/")[0] for row in rows for key in row}
    return next((stage for stage in STAGES if stage in names), STAGES[0])


def _of(measurements: Sequence[Measurement], stage: str) -> list[Measurement]:
    return [one for one in measurements if one.stage == stage]


def _comparisons(measurements: Sequence[Measurement]) -> list[Table]:
    """Return two tables per pair of arms: who won, and what both sides wrote."""
    found = {_place(one): one for one in measurements if one.stage in ("evaluate", "evaluate-sft")}
    pairs = dict.fromkeys((one.arm, one.against) for one in found.values() if one.metric == "unscored_rate")
    return [build(pair, found) for pair in pairs for build in (_wins, _sides)]


def _wins(pair: tuple[str, str], found: Mapping[Place, Measurement]) -> Table:
    arm, against = pair
    table = titled(f"{arm} against {against}, held-out: prefixes won, ties half, with 95% intervals")
    for column in ("condition", "judge", "won", "ties", "sign test", "unscored"):
        table.add_column(column)
    for one in found.values():
        if one.metric != "unscored_rate" or (one.arm, one.against) != pair:
            continue
        won, ties, p_value = (found.get((*_place(one)[:4], name)) for name in ("win_rate", "tie_rate", "sign_test_p"))
        table.add_row(
            one.condition + _matching(one.condition, pair, found),
            one.judge,
            _rate(won) if won else "nothing scored",
            _rate(ties) if ties else "",
            f"p = {p_value.value:.2g}\nof {p_value.n}" if p_value else "",
            _rate(one),
        )
    return table


def _sides(pair: tuple[str, str], found: Mapping[Place, Measurement]) -> Table:
    table = titled("What both wrote, means per text with 95% intervals")
    for column in ("condition", "writer", *(title for _, title, _ in _SIDE_METRICS), "texts"):
        table.add_column(column)
    for one in found.values():
        if one.metric != "repetition" or (one.arm, one.against) not in (pair, pair[::-1]):
            continue
        metrics = [(found.get((*_place(one)[:4], name)), form) for name, _, form in _SIDE_METRICS]
        cells = [stacked(other, form) if other else "–" for other, form in metrics]
        gap = found.get((*pair, one.condition, "", "entropy_gap"))
        condition = one.condition + (f"\nentropy gap {signed(gap.value)}" if gap and one.arm == pair[0] else "")
        table.add_row(condition, one.arm, *cells, str(one.n))
    return table


def _nll(measurements: Sequence[Measurement]) -> Table:
    table = titled("Suffix NLL on held-out text, nats per token, with 95% intervals")
    for column in ("arm", "suffix NLL", "change", "against", "suffixes"):
        table.add_column(column)
    for one in measurements:
        if one.stage != "evaluate" or one.metric != "suffix_nll":
            continue
        changes = [other for other in measurements if other.metric == "suffix_nll_change" and other.arm == one.arm]
        shown = "\n".join(figure(other, signed) for other in changes)
        table.add_row(one.arm, figure(one, plain), shown, "\n".join(o.against for o in changes), str(one.n))
    return table


def _training(arm: str, rows: Rows) -> Table:
    table = titled(f"Training of {arm}: means of the first and the last steps with 95% intervals")
    for column in ("curve", "first", "last", "points", "course"):
        table.add_column(column)
    for key, title, form in _CURVES:
        ends = trend(rows, key)
        if ends is not None:
            first, last = (stack(interval(end.value, end.low, end.high, form)) for end in (ends.first, ends.last))
            table.add_row(title, first, last, f"{ends.first.n} of {len(ends.points)}", sparkline(ends.points, _COURSE))
    return table


def _audit(measurements: Sequence[Measurement]) -> Table:
    table = titled("Audit of the judges, shares with 95% intervals")
    for column in ("judge", "figure", "share", "of"):
        table.add_column(column)
    for one in measurements:
        if one.stage == "audit":
            what = f"{one.metric}, {one.condition}" if one.condition else one.metric
            table.add_row(one.judge, what, figure(one, percent), f"{one.n} {one.unit.removeprefix('share of ')}")
    return table


def _durations(measurements: Sequence[Measurement], curves: Curves) -> Table:
    table = titled("Time (h:mm:ss) and memory")
    for column in ("what", "how much"):
        table.add_column(column)
    for one in measurements:
        if one.stage == "run" and one.metric == "seconds":
            table.add_row(" ".join(filter(None, (one.arm, one.condition))), clock_time(one.value))
    for arm, rows in curves.items():
        phases = phase_seconds(rows)
        total = sum(phases.values())
        for phase, seconds in phases.items():
            share = percent(seconds / total) if total else "0%"
            table.add_row(f"{arm}, training: {phase}", f"{clock_time(seconds)} ({share} of {clock_time(total)})")
    for one in measurements:
        if one.stage == "run" and one.metric == "peak_memory_bytes":
            what = " ".join(filter(None, ("peak memory", one.arm, one.condition)))
            table.add_row(what, f"{one.value / 2**30:.2f} GiB")
    return table


def _place(one: Measurement) -> Place:
    return one.arm, one.against, one.condition, one.judge, one.metric


def _matching(condition: str, pair: tuple[str, str], found: Mapping[Place, Measurement]) -> str:
    matched = found.get((*pair, condition, "", "matching_temperature"))
    return f"\n{matched.against} at T = {matched.value:.3f}" if matched else ""


def _rate(one: Measurement) -> str:
    """Return a share over its interval, with the denominator: ``62.5% of 64`` and ``[50.2, 73.4]``."""
    kind = " documents" if "of documents" in one.unit else ""
    return stacked(one, percent).replace("%", f"% of {one.n}{kind}", 1)

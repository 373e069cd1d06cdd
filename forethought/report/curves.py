"""The logs of training: which curves there are, their two ends, and how many seconds each phase took."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forethought.metrics import UNKNOWN, Format, clock_time, percent, plain, short, signed
from forethought.report.facts import phases_of
from forethought.report.tables import OTHER, Table
from forethought.run.store import Run
from forethought.stats import Interval

Rows = Sequence[Mapping[str, Any]]
Curves = Mapping[str, Rows]
"""Rows of ``metrics.jsonl`` of the stage that trained an arm, by arm."""

BLOCKS = "▁▂▃▄▅▆▇█"
WINDOW = 10
"""The two ends of a curve are means over at most this many steps."""
_BOOKKEEPING = re.compile(r"/(seconds_|tokens_per_second_|peak_memory)")


@dataclass(frozen=True, slots=True)
class Curve:
    """A metric of a training log, ``<stage>/<name>``, and whether it has a panel (``plot``).

    ``dotted`` and ``null`` are curves drawn in the same panel, the second as a level to be compared with.
    """

    key: str
    label: str
    form: Format = UNKNOWN.level
    plot: bool = False
    dotted: str = ""
    null: str = ""
    note: str = ""


_CHANCE = "improve/selection_null"
CURVES: tuple[Curve, ...] = (
    Curve("improve/selection_rate", "chosen is a rollout (of pairs)", percent, True, null=_CHANCE, note="dashed: "
          "chance, K/(K+1)"),
    Curve(_CHANCE, "  null K/(K+1)", percent),
    Curve("improve/margin", "DPO margin without beta, nats", signed, True),
    Curve("improve/margin_beta", "DPO margin with beta, nats", signed),
    Curve("improve/score_rollout", "score of rollouts", signed, True, "improve/score_corpus",
          note="dotted: original suffixes"),
    Curve("improve/repetition", "repeated 4-grams of rollouts", percent, True),
    Curve("improve/distinct_2", "distinct-2 of rollouts", percent, True),
    Curve("improve/tie_rate", "prefixes without a preference", percent),
    Curve("improve/unscored_rate", "unscored verdicts", percent),
    Curve("improve/suffix_nll", "held-out suffix NLL, nats per token", plain, True),
    Curve("sft/loss", "loss on the rows, nats per token", plain),
    Curve("sft/thought_nll", "held-out thought NLL, nats per token", plain, True),
    Curve("sft/tag_nll", "held-out tag NLL, nats per token", plain, True),
    Curve("sft/text_nll", "held-out text NLL, nats per token", plain, True),
    Curve("rlmt/reward", "reward", signed, True, "rlmt/heldout_reward", note="dotted: on held-out windows"),
    Curve("rlmt/heldout_reward", "  on held-out windows", signed),
    Curve("rlmt/blank_reward", "  after a blank thought", signed),
    Curve("rlmt/reward_variance", "variance of the reward within a group", plain),
    Curve("rlmt/dead_rate", "groups without variance", percent, True),
    Curve("rlmt/unscored_rate", "unscored suffixes", percent),
    Curve("rlmt/thought_tokens", "tokens of a thought", short, True),
    Curve("rlmt/close_rate", "thoughts that the policy closes itself", percent, True),
    Curve("rlmt/entropy", "entropy, nats per token", short),
    Curve("rlmt/kl", "divergence from the SFT model, nats per token", plain, True),
    Curve("rlmt/distinct_thoughts", "different thoughts of a group", percent),
    Curve("rlmt/copied_to_suffix", "3-grams of suffixes that the thought has", percent, True, "rlmt/copied_from_prefix",
          note="dotted: 3-grams of thoughts that the prefix has"),
    Curve("rlmt/copied_from_prefix", "3-grams of thoughts that the prefix has", percent),
)  # fmt: skip
STAGES = tuple(dict.fromkeys(curve.key.partition("/")[0] for curve in CURVES))
"""Training stages whose curves are chosen here, which are sections of the page; of any other everything is shown."""


@dataclass(frozen=True, slots=True)
class Trend:
    """A curve and the means of its two ends, over steps."""

    first: Interval
    last: Interval
    points: tuple[float, ...]


def trend(rows: Rows, key: str) -> Trend | None:
    """Return the two ends of the curve ``key``, or ``None`` if no row has it.

    Each end is a mean over :data:`WINDOW` steps (half of the curve if it is shorter).  It describes the curve and has
    no interval: steps depend on those before them, and the policy learns within the first ones, too.  What is measured
    on a fixed slice (NLL) is not averaged.
    """
    points = tuple(float(row[key]) for row in rows if row.get(key) is not None)
    if not points:
        return None
    window = 1 if key.endswith("_nll") else max(1, min(WINDOW, len(points) // 2))
    first, last = (
        Interval(value=math.fsum(end) / window, low=None, high=None, n=window)
        for end in (points[:window], points[-window:])
    )
    return Trend(first, last, points)


def read_curves(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Return the metrics of the stage that trained each arm of ``run``, in the order of their steps."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for folder in run.stages():
        if rows := [row for row in folder.read("metrics") if "step" in row]:
            curves.setdefault(folder.arm, []).extend(rows)
    return {arm: sorted(rows, key=lambda row: row["step"]) for arm, rows in curves.items()}


def chosen(curves: Curves) -> Iterator[Curve]:
    """Yield the curves that are shown: those chosen above, and every number that an unknown stage logs."""
    yield from CURVES
    for key in dict.fromkeys(key for rows in curves.values() for row in rows for key in row):
        if "/" in key and key.partition("/")[0] not in STAGES and not _BOOKKEEPING.search(key):
            yield Curve(key, key, plot=True)


def phase_seconds(rows: Rows) -> dict[str, float]:
    """Return the seconds of each phase, summed over the steps."""
    return {name: phase["seconds"] for name, phase in phases_of(rows).items()}


def section_of(keys: Iterable[str]) -> str:
    """Return the section of what a training stage logged: ``improve`` of ``improve/margin``."""
    stage = next((key.partition("/")[0] for key in keys if "/" in key), "")
    return stage if stage in STAGES else OTHER


def curve_table(arm: str, rows: Rows) -> Table:
    """Return both ends and the course of every curve of an arm."""
    title = f"Training of {arm}: means of the first and the last steps"
    table = Table(title, ("curve", "first", "last", "points", "course"))
    for curve in chosen({arm: rows}):
        if ends := trend(rows, curve.key):
            cells = [curve.form(end.value) for end in (ends.first, ends.last)]
            counts = f"{ends.first.n} of {len(ends.points)}"
            table.rows.append((curve.label, *cells, counts, sparkline(ends.points, 16)))
    return table


def phase_table(curves: Curves) -> Table:
    """Return the seconds of each phase of training, and their share of all."""
    table = Table("Training by phase (h:mm:ss)", ("what", "how much"))
    for arm, rows in curves.items():
        seconds = phase_seconds(rows)
        total = sum(seconds.values())
        for phase, taken in seconds.items():
            share = percent(taken / total) if total else "0%"
            table.rows.append((f"{arm}, training: {phase}", f"{clock_time(taken)} ({share} of {clock_time(total)})"))
    return table


def sparkline(values: Sequence[float], width: int) -> str:
    """Return ``values`` as at most ``width`` block characters, each the mean of a stretch if there are more."""
    count = min(width, len(values))
    edges = [len(values) * i // count for i in range(count + 1)] if count else []
    means = [math.fsum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((mean - low) * scale)] for mean in means)

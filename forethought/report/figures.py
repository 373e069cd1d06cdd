"""The plots of the report: training curves and intervals, in small panels that stand beside or below each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forethought.graph import IMPROVED
from forethought.records import Measurement
from forethought.report.cells import percent, points, signed
from forethought.report.svg import COLOURS, Styles, inline, new, printable, styled
from forethought.store import BASE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curves = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows of ``metrics.jsonl`` by arm."""

SMOOTHED = 40
"""Curves of more points get a running mean over a tenth of them; the points stay visible behind it."""

_WIDTH, _HEIGHT = 300.0, 175.0
_BROAD, _LEFT, _LETTER = 350.0, 42.0, 4.7
"""Points: of a panel of curves, of one of intervals, left of curves, and of a letter of a label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """What a panel of curves shows."""

    title: str
    """Above it, with its unit."""
    keys: tuple[str, ...]
    """Keys of the metrics; the first is drawn solid, the second dotted."""
    share: bool = False
    """Whether it is a share, shown in percent."""
    note: str = ""
    """What the dotted line is."""
    null: str = ""
    """Key of a level to be compared with."""


PANELS: Mapping[str, tuple[Panel, ...]] = {
    "improve": (
        Panel(
            title="Pairs whose chosen side is a rollout",
            keys=("improve/selection_rate",),
            share=True,
            null="improve/selection_null",
            note="dashed: chance, K/(K+1)",
        ),
        Panel(title="Held-out suffix NLL, nats per token", keys=("improve/suffix_nll",)),
        Panel(title="DPO margin without beta, nats", keys=("improve/margin",)),
        Panel(
            title="Score of rollouts and of original suffixes",
            keys=("improve/score_rollout", "improve/score_corpus"),
            note="dotted: original suffixes",
        ),
        Panel(title="Repeated 4-grams of rollouts", keys=("improve/repetition",), share=True),
        Panel(title="Distinct 2-grams of rollouts", keys=("improve/distinct_2",), share=True),
    ),
    "sft": (
        Panel(title="Held-out thought NLL, nats per token", keys=("sft/thought_nll",)),
        Panel(title="Held-out tag NLL, nats per token", keys=("sft/tag_nll",)),
        Panel(title="Held-out text NLL, nats per token", keys=("sft/text_nll",)),
    ),
    "rlmt": (
        Panel(
            title="Reward",
            keys=("rlmt/reward", "rlmt/heldout_reward"),
            share=True,
            note="dotted: on held-out windows",
        ),
        Panel(title="Tokens of a thought", keys=("rlmt/thought_tokens",)),
        Panel(title="Dead groups: no difference in reward", keys=("rlmt/dead_rate",), share=True),
        Panel(title="Thoughts that the policy closes itself", keys=("rlmt/close_rate",), share=True),
        Panel(title="Divergence from SFT, nats per token", keys=("rlmt/kl",)),
        Panel(
            title="Copied 3-grams",
            keys=("rlmt/copied_to_suffix", "rlmt/copied_from_prefix"),
            share=True,
            note="solid: from thought to suffix; dotted: from prefix to thought",
        ),
    ),
}
"""Panels of each training stage."""


def tone(arm: str) -> str:
    """Return the name of an arm's colour: that of its lineage."""
    if arm.startswith(IMPROVED):
        return "improved"
    if arm.startswith(BASE):
        return "base"
    return "continued"


@styled
def curve(panel: Panel, curves: Curves, styles: Styles) -> str:
    """Return the SVG of a panel, or ``""`` if no arm has its first metric."""
    drawn = {arm: rows for arm, rows in curves.items() if _points(rows, panel.keys[0])[0]}
    if not drawn:
        return ""
    figure, axes = new(_WIDTH, _HEIGHT, _LEFT, 30)
    if panel.null:
        for rows in drawn.values():
            steps, levels = _points(rows, panel.null)
            axes.plot(steps, levels, color=COLOURS["null"], linestyle=(0, (4, 3)), linewidth=1.1)
    for arm, rows in drawn.items():
        for number, key in enumerate(panel.keys):
            _line(axes, *_points(rows, key), arm, dotted=bool(number))
    _finish(axes, panel.share)
    return inline(figure, f"{panel.title}: {', '.join(drawn)}", styles)


def _line(axes: Axes, steps: list[float], values: list[float], arm: str, dotted: bool) -> None:
    raw = arm.endswith("-raw")
    style: dict[str, Any] = {
        "color": COLOURS[tone(arm)],
        "linestyle": (0, (1, 2)) if dotted else (0, (5, 2)) if raw else "-",
    }
    few: dict[str, Any] = {"marker": "o", "markersize": 2.8} if len(steps) <= 12 else {}
    if len(values) <= SMOOTHED:
        axes.plot(steps, values, linewidth=1.7, **few, **style)
        return
    window = len(values) // 10
    smooth = [sum(values[max(0, i - window + 1) : i + 1]) / min(i + 1, window) for i in range(len(values))]
    axes.plot(steps, values, linewidth=0.8, alpha=0.35, **style)
    axes.plot(steps, smooth, linewidth=1.8, **style)


def _finish(axes: Axes, share: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlabel("step", fontsize=8.5)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.margins(y=0.12)
    if share:
        low, high = axes.get_ylim()
        high = min(1.03, max(high, 0.05))
        axes.set_ylim(max(-0.05 * high, low), high)  # no share lies below nothing or above everything
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, percent)))
    axes.grid(axis="y", color=COLOURS["line"], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    found = [(float(row["step"]), float(row[key])) for row in rows if row.get(key) is not None]
    finite = [(step, value) for step, value in found if math.isfinite(value)]
    return [step for step, _ in finite], [value for _, value in finite]


def _tick(value: float, form: Callable[[float], str]) -> str:
    """Return a number of an axis as short as it can be, in the way of ``form``: in percent, with its sign."""
    share, sign = form in (percent, points), "+" if form in (points, signed) and value > 0 else ""
    number = f"{100 * value if share else value:.4g}".replace("-", "\N{MINUS SIGN}")
    return sign + number + ("%" if form is percent else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A figure and its interval in an interval plot."""

    label: str
    """Left of it."""
    measured: Measurement
    """What is drawn."""
    tone: str
    """Name of its colour in :data:`~forethought.report.svg.COLOURS`."""
    hollow: bool = False
    """Whether its point is a ring: a judge that trained the policy."""


@styled
def intervals(
    title: str, lines: Sequence[Line], reference: float | None, form: Callable[[float], str], styles: Styles
) -> str:
    """Return the SVG of an interval plot: one line for each figure, and a dashed one at ``reference``."""
    widest = max(len(line.label) for line in lines)
    figure, axes = new(_BROAD, 28 + 19.0 * len(lines), min(_BROAD / 2, 14 + _LETTER * widest), 18)
    if reference is not None:
        axes.axvline(reference, color=COLOURS["null"], linestyle=(0, (4, 3)), linewidth=1)
    for place, line in enumerate(lines):
        one, paint = line.measured, COLOURS[line.tone]
        if one.low is not None and one.high is not None:
            axes.plot([one.low, one.high], [place, place], color=paint, linewidth=2.2, alpha=0.55)
        face: dict[str, Any] = {"markerfacecolor": "none"} if line.hollow else {}
        axes.plot([one.value], [place], "o", color=paint, markersize=5, markeredgewidth=1.4, **face)
    _finish_intervals(axes, [line.label for line in lines], form)
    return inline(figure, title, styles)


def _finish_intervals(axes: Axes, labels: Sequence[str], form: Callable[[float], str]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_yticks(range(len(labels)), [printable(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"], length=0)
    axes.tick_params(axis="x", length=0)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, form)))
    axes.grid(axis="x", color=COLOURS["line"], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)

"""Curves and intervals as images in two themes, which a page holds as ``data:`` addresses.

An image runs no script and cannot style the page, whatever the names in it say.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forethought.graph import CONTINUED, IMPROVED, arm_of
from forethought.metrics import Format, percent, points
from forethought.report.curves import Curve, Curves, Rows
from forethought.report.tables import Series
from forethought.run.store import BASE
from forethought.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

THEMES = {
    "ink": ("#20242b", "#e8e6e1"),
    "faint": ("#686e7a", "#9a9fa9"),
    "line": ("#e6e2da", "#30343c"),
    "null": ("#9a9fa8", "#7d838e"),
    BASE: ("#2f6da8", "#7db4ec"),
    IMPROVED: ("#c4561c", "#f2a06a"),
    CONTINUED: ("#7b8088", "#a3a8b2"),
}
"""Colours, light and dark; no two are equal in the light, so that a drawing can be turned dark."""
LIGHT = {name: light for name, (light, _) in THEMES.items()}

SMOOTHED = 40
"""Curves of more points get a running mean over a tenth of them; the points stay visible behind it."""
_NOT_DRAWN = re.compile("[\u2400-\u2421\ufffe\uffff]")
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "forethought",
    "text.parse_math": False,  # names of judges and arms are no formulas
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": LIGHT["line"],
    "axes.labelcolor": LIGHT["faint"],
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "grid.color": LIGHT["line"],
    "grid.linewidth": 0.6,
    "text.color": LIGHT["ink"],
    "xtick.labelcolor": LIGHT["faint"],
    "ytick.labelcolor": LIGHT["faint"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "savefig.transparent": True,
}


@dataclass(frozen=True, slots=True)
class Image:
    """A drawing with what stands above and below it; ``label`` is for who cannot see it."""

    title: str
    label: str
    light: str
    dark: str
    note: str = ""


def curve(spec: Curve, curves: Curves) -> Image | None:
    """Return the panel of a curve, or ``None`` if no arm has it."""
    drawn = {arm: rows for arm, rows in curves.items() if _points(rows, spec.key)[0]}
    if not drawn:
        return None

    from matplotlib.ticker import MaxNLocator

    def paint(figure: Figure) -> None:
        axes = _axes(figure, left=42, below=30)
        for arm, rows in drawn.items():
            axes.plot(*_points(rows, spec.null), color=LIGHT["null"], linestyle=(0, (4, 3)), linewidth=1.1)
            style = "--" if arm_of(arm).control and arm_of(arm).lineage != CONTINUED else "-"
            _line(axes, *_points(rows, spec.key), color=_colour(arm), linestyle=style)
            _line(axes, *_points(rows, spec.dotted), color=_colour(arm), linestyle=":")
        axes.set_xlabel("step")
        if spec.form is percent:  # no share lies below nothing or above everything
            low, high = axes.get_ylim()
            axes.set_ylim(max(-0.05 * high, low), min(1.03, max(high, 0.05)))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        _number(axes.yaxis, spec.form)

    return _draw((300, 175), spec.label.strip(), f"{spec.label}: {', '.join(drawn)}", paint, spec.note)


def intervals(series: Series) -> Image:
    """Return an interval plot: a line for each figure; a point is a ring where its judge had a part in the training."""
    width, lines = 350, series.lines
    left = min(width / 2, 14 + 4.7 * max(len(label) for label, _ in lines))
    # XML cannot hold every character that a name may have, nor has the font a sign for each.
    labels = [_NOT_DRAWN.sub("\N{REPLACEMENT CHARACTER}", printable(label)) for label, _ in lines]

    def paint(figure: Figure) -> None:
        axes = _axes(figure, left=left, below=18)
        if series.reference is not None:
            axes.axvline(series.reference, color=LIGHT["null"], linestyle=(0, (4, 3)), linewidth=1)
        for y, (_, measured) in enumerate(lines):
            ink = _colour(measured.arm)
            if measured.low is not None and measured.high is not None:
                axes.plot([measured.low, measured.high], [y, y], color=ink, linewidth=2.2, alpha=0.55)
            face = "none" if measured in series.partial else ink
            axes.plot([measured.value], [y], "o", color=ink, markersize=5, markeredgewidth=1.4, markerfacecolor=face)
        axes.set_yticks(range(len(lines)), labels, color=LIGHT["ink"])
        axes.set_ylim(len(lines) - 0.4, -0.6)
        _number(axes.xaxis, series.form)

    return _draw((width, 28 + 19.0 * len(lines)), series.title, series.title, paint, series.note)


def _draw(size: tuple[float, float], title: str, label: str, paint: Callable[[Figure], None], note: str) -> Image:
    """Return what ``paint`` draws on a figure of ``size`` points, as two SVG images."""
    import matplotlib
    from matplotlib.figure import Figure

    written = io.StringIO()
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(size[0] / 72, size[1] / 72))
        paint(figure)
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    light = dark = written.getvalue()
    for before, after in THEMES.values():
        dark = dark.replace(before, after)
    light, dark = (
        "data:image/svg+xml;base64," + base64.b64encode(svg.encode("utf-8", "replace")).decode("ascii")
        for svg in (light, dark)
    )
    return Image(title, label, light, dark, note)


def _colour(arm: str) -> str:
    return LIGHT.get(arm_of(arm).lineage, LIGHT["null"])


def _axes(figure: Figure, left: float, below: float) -> Axes:
    """Return axes at fixed margins, in points: plots of a row line up."""
    width, height = 72 * figure.get_size_inches()
    return figure.add_axes((left / width, below / height, 1 - (left + 12) / width, 1 - (below + 8) / height))


def _line(axes: Axes, steps: list[float], values: list[float], **style: Any) -> None:
    if len(values) <= SMOOTHED:
        axes.plot(steps, values, linewidth=1.7, marker="o" if len(steps) <= 12 else None, markersize=2.8, **style)
        return
    window = len(values) // 10
    smooth = [sum(values[max(0, i - window + 1) : i + 1]) / min(i + 1, window) for i in range(len(values))]
    axes.plot(steps, values, linewidth=0.8, alpha=0.35, **style)
    axes.plot(steps, smooth, linewidth=1.8, **style)


def _points(rows: Rows, key: str) -> tuple[list[float], list[float]]:
    finite = [row for row in rows if row.get(key) is not None and math.isfinite(row[key])]
    return [float(row["step"]) for row in finite], [float(row[key]) for row in finite]


def _number(axis: Axis, form: Format) -> None:
    """Write the numbers of the value axis as short as they can be: shares in percent."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    factor, unit = 100 if form in (percent, points) else 1, "%" if form is percent else ""
    axis.set_major_locator(MaxNLocator(4))
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{factor * value:.4g}".replace("-", "\N{MINUS SIGN}") + unit)
    )
    axis.grid(True)

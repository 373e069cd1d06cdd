"""The graph of a run as boxes and arrows: every step that it has, what it reads, and the main figures of each arm."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forethought import graph, metrics
from forethought.graph import arm_of
from forethought.report.drawing import LIGHT, Image, colour, draw, printable
from forethought.report.values import Figures, text
from forethought.store import BASE, SHARED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, GAP = 156, 26
"""Points: of a box, and between boxes."""
_SIZES = {"name": ("ink", 9.5, "bold", 15), "value": ("ink", 8.5, "normal", 13), "more": ("faint", 8, "normal", 12)}
"""Colour, size, weight and height of the lines of a box."""


@dataclass(slots=True, kw_only=True)
class Box:
    """A step, or the base: what it ``reads`` are names of boxes, and ``trained`` those whose model it goes on from."""

    name: str
    arm: str
    stage: str
    state: str
    reads: set[str]
    trained: set[str]
    column: int
    """Right of all that it reads."""
    lines: Sequence[tuple[str, str]] = ()
    """Kind and text of each."""
    x: float = 0.0
    y: float = 0.0

    @property
    def lane(self) -> str:
        return SHARED if self.arm == SHARED else arm_of(self.arm).lineage or self.arm

    @property
    def height(self) -> float:
        """Points."""
        return 14 + sum(_SIZES[kind][3] for kind, _ in self.lines)


def boxes(figures: Figures, states: Mapping[str, str]) -> list[Box]:
    """Return the boxes of the base and of the steps whose ``states`` are given, each after those that it reads.

    A step that the graph does not have, as its folder may be of another version, reads nothing.
    """
    steps = {step.name: step for step in graph.STEPS}
    drawn: dict[str, Box] = {}
    # Folders of an arm's answers to one task are no steps: the step that reads them all is in the graph.
    for name in (BASE, *(name for name in states if f"/{graph.REASONING}-" not in name)):
        arm, _, stage = name.partition("/")
        start = arm_of(arm).start if arm_of(arm).stage == stage else ""
        trained = {arm_of(start).step or start} & drawn.keys()
        reads = {*(steps[name].inputs + steps[name].gates if name in steps else ()), *trained} & drawn.keys()
        column = max((drawn[read].column + 1 for read in reads), default=0)
        state = states.get(name, "done")
        drawn[name] = Box(name=name, arm=arm, stage=stage, state=state, reads=reads, trained=trained, column=column)
    for box in drawn.values():
        box.lines = list(_lines(box, drawn, figures))
    tops: dict[str, list[Box]] = {lane: [] for lane in (SHARED, *(arm.lineage for arm in graph.ARMS))}
    for box in drawn.values():
        tops.setdefault(box.lane, []).append(box)
    top = 2.0
    for lane in tops.values():  # boxes of one lane and column stand below each other
        ends: dict[int, float] = {}
        for box in lane:
            box.x, box.y = 2 + box.column * (WIDTH + GAP), ends.get(box.column, top)
            ends[box.column] = box.y + box.height + 10
        top = max(ends.values(), default=top - 10) + 10
    return list(drawn.values())


def arrows(drawn: Mapping[str, Box]) -> list[tuple[Box, Box]]:
    """Return what reads what, without what follows from the rest (the transitive reduction)."""
    above: dict[str, set[str]] = {}
    for name, box in drawn.items():
        above[name] = box.reads.union(*(above[read] for read in box.reads))
    return [
        (drawn[name], box)
        for box in drawn.values()
        for name in sorted(box.reads)
        if name in box.trained or not any(name in above[other] for other in box.reads)
    ]


def diagram(figures: Figures, states: Mapping[str, str]) -> Image:
    """Return the drawing; ``states`` is where each step stands, by ``arm/stage``."""
    drawn = boxes(figures, states)
    width, height = max(box.x for box in drawn) + WIDTH + 4, max(box.y + box.height for box in drawn) + 4
    label = "; ".join(f"{box.name} reads {', '.join(sorted(box.reads)) or 'nothing'}" for box in drawn)

    def paint(figure: Figure) -> None:
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        for source, box in arrows({box.name: box for box in drawn}):
            if _has_arrow(source, box):
                _arrow(axes, source, box)
        for box in drawn:
            _box(axes, box)

    return draw((width, height), "What reads what", label, paint)


def _lines(box: Box, drawn: Mapping[str, Box], figures: Figures) -> Iterator[tuple[str, str]]:
    arm, shared = arm_of(box.arm), box.arm == SHARED
    makes_arm = arm.stage == box.stage
    yield "name", box.stage if shared else box.arm
    if not shared:
        yield "more", (makes_arm and arm.label) or box.stage
    if box.state != "done":
        yield "more", box.state
    written = [source for source, reader in arrows(drawn) if reader is box and not _has_arrow(source, box)]
    names = ", ".join(source.stage if source.arm == SHARED else source.arm for source in written)
    for line in textwrap.wrap(names and f"reads {names}", 30, break_on_hyphens=False):
        yield "more", line
    for label, value in _figures(box.arm, figures) if makes_arm else ():
        number, bracket, ends = value.partition(" [")
        yield "value", f"{label} {number}"
        if bracket:
            yield "more", f"[{ends}"


def _figures(arm: str, figures: Figures) -> list[tuple[str, str]]:
    """Return labels and texts of the figures of an arm that say most, two at most."""
    wins = {"against": BASE, "judge": figures.independent_judge(metrics.EVALUATE, arm, BASE)}
    named: tuple[tuple[str, str, str, dict[str, str]], ...] = (
        ("wins, equal entropy", metrics.EVALUATE, metrics.WIN_RATE, {"condition": metrics.MATCHED, **wins}),
        ("wins, greedy", metrics.EVALUATE, metrics.WIN_RATE, {"condition": metrics.GREEDY, **wins}),
        ("thought NLL", metrics.EVALUATE_SFT, metrics.NLL["thought"], {"condition": metrics.PER_TOKEN}),
        ("held-out reward", metrics.EVALUATE_RLMT, metrics.GATE_REWARD, {}),
        ("suffix NLL", metrics.EVALUATE, metrics.SUFFIX_NLL, {}),
    )
    known = ((label, figures.get(stage, arm, metric, **names)) for label, stage, metric, names in named)
    return [(label, text(figure)) for label, figure in known if figure is not None][:2]


def _has_arrow(source: Box, box: Box) -> bool:
    """Return whether an arrow is drawn: inside a lane, and where a model goes on from another; the rest is written."""
    return source.lane == box.lane or source.name in box.trained


def _arrow(axes: Axes, source: Box, box: Box) -> None:
    goes_on = source.name in box.trained
    axes.annotate(
        "",
        (box.x, box.y + min(24, box.height / 2)),
        (source.x + WIDTH, source.y + min(24, source.height / 2)),
        arrowprops={
            "arrowstyle": "-|>",
            "shrinkA": 0,
            "shrinkB": 1,
            "color": colour(box.arm) if goes_on else LIGHT["null"],
            "linewidth": 2 if goes_on else 0.9,
        },
        zorder=1,
    )


def _box(axes: Axes, box: Box) -> None:
    from matplotlib.patches import FancyBboxPatch

    outline = FancyBboxPatch(
        (box.x + 5, box.y + 5),
        WIDTH - 10,
        box.height - 10,
        boxstyle="round,pad=5,rounding_size=7",
        facecolor=LIGHT["card"],
        edgecolor=LIGHT["null"] if box.arm == SHARED else colour(box.arm),
        linestyle="-" if box.state == "done" else (0, (4, 3)),
        linewidth=1.2,
        zorder=2,
    )
    axes.add_patch(outline)
    y = box.y + 7.0
    for kind, words in box.lines:
        ink, size, weight, height = _SIZES[kind]
        axes.text(box.x + 9, y + height / 2, printable(words), color=LIGHT[ink], fontsize=size, weight=weight,
                  va="center", zorder=3)  # fmt: skip
        y += height

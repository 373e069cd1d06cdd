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

Lines = tuple[tuple[str, str], ...]
"""Kind and text of each line."""


@dataclass(slots=True, kw_only=True)
class Box:
    """A step, or the base: what it ``reads`` are names of boxes, and ``trained`` those whose model it goes on from."""

    name: str
    arm: str
    lane: str
    done: bool
    reads: frozenset[str]
    trained: frozenset[str]
    lines: Lines = ()
    column: int = 0
    x: float = 0.0
    y: float = 0.0

    @property
    def height(self) -> float:
        """Points."""
        return 14 + sum(_SIZES[kind][3] for kind, _ in self.lines)


def boxes(figures: Figures, states: Mapping[str, str]) -> list[Box]:
    """Return the boxes of the base and of the steps whose ``states`` are given, each after those that it reads.

    A step that the graph does not have, as its folder may be of another version, reads nothing.
    """
    steps = {step.name: step for step in graph.STEPS}
    found: dict[str, Box] = {}
    for name in (BASE, *(name for name in states if not _of_one_task(name))):
        arm, _, stage = name.partition("/")
        made = arm_of(arm)
        makes = made.stage == stage
        start = made.past[:1] if makes else ()
        trained = {arm_of(one).step or BASE for one in start}
        reads = {*(steps[name].inputs + steps[name].gates if name in steps else ()), *trained} & found.keys()
        lane = SHARED if arm == SHARED else made.lineage or arm
        box = Box(name=name, arm=arm, lane=lane, done=states.get(name, "done") == "done", reads=frozenset(reads),
                  trained=frozenset(trained & found.keys()))  # fmt: skip
        box.column = max((found[one].column + 1 for one in reads), default=0)
        found[name] = box
    for name, box in found.items():
        box.lines = tuple(_lines(box, found, figures, states.get(name, "done")))
    _place(list(found.values()))
    return list(found.values())


def _of_one_task(name: str) -> bool:
    """Return whether a folder holds an arm's answers to one task: the step that reads them all is in the graph."""
    return name.partition("/")[2].startswith(f"{graph.REASONING}-")


def _lines(box: Box, found: Mapping[str, Box], figures: Figures, state: str) -> Iterator[tuple[str, str]]:
    stage, made = box.name.partition("/")[2], arm_of(box.arm)
    yield "name", stage if box.arm == SHARED else box.arm
    makes = made.stage == stage
    labels = [] if box.arm == SHARED else [made.label if makes and made.label else stage]
    yield from (("more", label) for label in (*labels, *([] if state == "done" else [state])))
    read = [one for one, other in arrows(found) if other is box and not _drawn(one, box)]
    names = ", ".join(one.name.partition("/")[2] if one.arm == SHARED else one.arm for one in read)
    yield from (("more", line) for line in textwrap.wrap(names and f"reads {names}", 30, break_on_hyphens=False))
    for label, value in _figures(box.arm, figures) if makes else ():
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
    found = ((label, figures.get(stage, arm, metric, **names)) for label, stage, metric, names in named)
    return [(label, text(figure)) for label, figure in found if figure is not None][:2]


def _place(found: Sequence[Box]) -> None:
    """Put each box right of all that it reads, in the lane of its lineage; boxes of one place below each other."""
    lanes: dict[str, list[Box]] = {name: [] for name in (SHARED, *(arm.lineage for arm in graph.ARMS))}
    for box in found:
        lanes.setdefault(box.lane, []).append(box)
    top = 2.0
    for lane in lanes.values():
        ends: dict[int, float] = {}
        for box in lane:
            box.x, box.y = 2 + box.column * (WIDTH + GAP), ends.get(box.column, top)
            ends[box.column] = box.y + box.height + 10
        top = max(ends.values(), default=top - 10) + 10


def arrows(found: Mapping[str, Box]) -> list[tuple[Box, Box]]:
    """Return what reads what, without what follows from the rest (the transitive reduction)."""
    above: dict[str, set[str]] = {}
    for name, box in found.items():
        above[name] = set(box.reads).union(*(above[one] for one in box.reads))
    return [
        (found[name], box)
        for box in found.values()
        for name in sorted(box.reads)
        if name in box.trained or not any(name in above[other] for other in box.reads)
    ]


def _drawn(one: Box, other: Box) -> bool:
    """Return whether an arrow is drawn: inside a lane, and where a model goes on from another; the rest is written."""
    return one.lane == other.lane or one.name in other.trained


def diagram(figures: Figures, states: Mapping[str, str]) -> Image:
    """Return the drawing; ``states`` is where each step stands, by ``arm/stage``."""
    found = boxes(figures, states)
    size = max(box.x for box in found) + WIDTH + 4, max(box.y + box.height for box in found) + 4
    label = "; ".join(f"{box.name} reads {', '.join(sorted(box.reads)) or 'nothing'}" for box in found)

    def paint(figure: Figure) -> None:
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, size[0]), ylim=(size[1], 0))
        axes.set_axis_off()
        for one, other in arrows({box.name: box for box in found}):
            if _drawn(one, other):
                _arrow(axes, one, other)
        for box in found:
            _box(axes, box)

    return draw(size, "What reads what", label, paint)


def _arrow(axes: Axes, one: Box, other: Box) -> None:
    goes_on = one.name in other.trained
    axes.annotate(
        "",
        (other.x, other.y + min(24, other.height / 2)),
        (one.x + WIDTH, one.y + min(24, one.height / 2)),
        arrowprops={
            "arrowstyle": "-|>",
            "shrinkA": 0,
            "shrinkB": 1,
            "color": colour(other.arm) if goes_on else LIGHT["null"],
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
        linestyle="-" if box.done else (0, (4, 3)),
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

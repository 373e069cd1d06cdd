"""The graph of a run: every step that it has, where it stands among the others, what it reads, and its main figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from forethought import graph, metrics
from forethought.graph import arm_of
from forethought.report.values import Figures, Value
from forethought.run.store import BASE, SHARED


@dataclass(slots=True, kw_only=True)
class Box:
    """A step, or the base, on a grid: right of all that it reads, in rows of its lineage."""

    name: str
    arm: str
    stage: str
    state: str
    lane: str
    column: int
    row: int = 0
    reads: set[str]
    """Names of boxes."""
    direct: set[str]
    """Those of ``reads`` that do not follow from the others (the transitive reduction), and what it goes on from."""
    trained: set[str]
    """The box whose model it goes on from, if any."""
    arrows: list[Box] = field(default_factory=list)
    """What it reads directly that stands in its row; the rest is written in the box."""
    notes: list[str] = field(default_factory=list)
    figures: list[tuple[str, Value]] = field(default_factory=list)


def boxes(figures: Figures, states: Mapping[str, str]) -> list[Box]:
    """Return the boxes of the base and of the steps whose ``states`` are given, each after those that it reads.

    A step that the graph does not have, as its folder may be of another version, reads nothing.
    """
    steps = {step.name: step for step in graph.STEPS}
    drawn: dict[str, Box] = {}
    above: dict[str, set[str]] = {}
    # Folders of an arm's answers to one task are no steps: the step that reads them all is in the graph.
    for name in (BASE, *(name for name in states if f"/{graph.REASONING}-" not in name)):
        arm_name, _, stage = name.partition("/")
        arm = arm_of(arm_name)
        start = arm.start if arm.stage == stage else ""
        trained = {arm_of(start).step or start} & drawn.keys()
        reads = {*(steps[name].inputs + steps[name].gates if name in steps else ()), *trained} & drawn.keys()
        above[name] = reads.union(*(above[read] for read in reads))
        drawn[name] = Box(
            name=name,
            arm=arm_name,
            stage=stage,
            state=states.get(name, "done"),
            lane=SHARED if arm_name == SHARED else arm.lineage or arm_name,
            column=max((drawn[read].column + 1 for read in reads), default=0),
            reads=reads,
            direct={read for read in reads if read in trained or not any(read in above[other] for other in reads)},
            trained=trained,
            figures=_figures(arm_name, figures) if arm.stage == stage else [],
        )
    lanes: dict[str, list[Box]] = {lane: [] for lane in (SHARED, *(arm.lineage for arm in graph.ARMS))}
    for box in drawn.values():
        lanes.setdefault(box.lane, []).append(box)
    first, taken = 0, set[tuple[int, int]]()
    for lane in lanes.values():
        # What is trained stands in the row of what it goes on from, if there is room; evaluations find theirs below.
        for box in sorted(lane, key=lambda box: bool(box.stage and not box.trained)):
            box.row = next((drawn[name].row for name in box.trained if drawn[name].lane == box.lane), first)
            while (box.row, box.column) in taken:
                box.row += 1
            taken.add((box.row, box.column))
        first = max((box.row + 1 for box in lane), default=first)
    for box in drawn.values():
        sources = [drawn[name] for name in sorted(box.direct)]
        box.arrows = [source for source in sources if source.row == box.row]
        box.notes = _notes(box, [source for source in sources if source.row != box.row])
    return list(drawn.values())


def _notes(box: Box, written: list[Box]) -> list[str]:
    arm = arm_of(box.arm)
    label = arm.label if arm.stage == box.stage else ""
    names = {source.name: source.stage if source.arm == SHARED else source.arm for source in written}
    starts = [f"goes on from {names[name]}" for name in names if name in box.trained]
    reads = ", ".join(names[name] for name in names if name not in box.trained)
    return [
        *([label or box.stage] if box.arm != SHARED else []),
        *([box.state] if box.state != "done" else []),
        *starts,
        *([f"reads {reads}"] if reads else []),
    ]


def _figures(arm: str, figures: Figures) -> list[tuple[str, Value]]:
    """Return the figures of an arm that say most, with their labels, two at most."""
    wins = {"against": BASE}
    named: tuple[tuple[str, str, metrics.Metric, dict[str, str]], ...] = (
        ("wins, equal entropy", metrics.EVALUATE, metrics.WIN_RATE, {"condition": metrics.MATCHED, **wins}),
        ("wins, greedy", metrics.EVALUATE, metrics.WIN_RATE, {"condition": metrics.GREEDY, **wins}),
        ("thought NLL", metrics.EVALUATE_SFT, metrics.NLL["thought"], {"condition": metrics.PER_TOKEN}),
        ("reward, equal entropy", metrics.EVALUATE_RLMT, metrics.GATE_REWARD, {"condition": metrics.MATCHED}),
        ("reward, T = 1", metrics.EVALUATE_RLMT, metrics.GATE_REWARD, {}),
        ("suffix NLL", metrics.EVALUATE, metrics.SUFFIX_NLL, {}),
    )
    known = ((label, figures.least(stage, arm, metric, **names)) for label, stage, metric, names in named)
    return [(label, Value(figure)) for label, figure in known if figure is not None][:2]

"""The two lineages as boxes and arrows, from what the run holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from forethought.graph import CONTINUED, IMPROVED, LINEAGES
from forethought.report.cells import Shown, percent, plain, shown, signed
from forethought.report.found import Found
from forethought.store import BASE

DONE, PART, ABSENT = "done", "unfinished", "not run"

_SIZES = {False: (252, 88, 32, 34), True: (178, 122, 14, 30)}
"""Width and height of a box and the gaps, of the wide and of the tall one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One arm."""

    arm: str
    """Its name."""
    made_by: str
    """The stage that made it."""
    state: str
    """Done, unfinished or not run."""
    figures: tuple[tuple[str, Shown], ...]
    """What was measured of it: labels and figures, two at most."""
    x: float
    """Left end."""
    y: float
    """Upper end."""
    tone: str
    """Its lineage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagram:
    """Boxes, and arrows between them as SVG paths."""

    boxes: tuple[Box, ...]
    """The arms."""
    arrows: tuple[str, ...]
    """Paths."""
    width: float
    """Of the whole."""
    height: float
    """Of the whole."""
    box_width: float
    """Of one box."""
    box_height: float
    """Of one box."""


_MADE_BY = {
    BASE: "the start",
    IMPROVED: "stage 1: online DPO",
    CONTINUED: "control: next tokens",
    "think": "stage 2: SFT on thoughts",
    "raw": "control: SFT on raw text",
    "rlmt": "stage 3: RL mid-training",
}
_WIDE = {
    BASE: (0, 0),
    IMPROVED: (1, 1),
    "base-think": (2, 0),
    "self-improved-think": (2, 1),
    "base-rlmt": (3, 0),
    "self-improved-rlmt": (3, 1),
    CONTINUED: (1, 2),
    "base-raw": (2, 2),
    "self-improved-raw": (3, 2),
}
_TALL = {
    BASE: (0, 0),
    IMPROVED: (1, 1),
    "base-think": (0, 2),
    "self-improved-think": (1, 2),
    "base-rlmt": (0, 3),
    "self-improved-rlmt": (1, 3),
    CONTINUED: (0, 4),
    "base-raw": (0, 5),
    "self-improved-raw": (1, 5),
}
_LINKS = (
    (BASE, IMPROVED),
    (BASE, "base-think"),
    (IMPROVED, "self-improved-think"),
    ("base-think", "base-rlmt"),
    ("self-improved-think", "self-improved-rlmt"),
)
_STAGE = {"think": "sft", "raw": "sft", "rlmt": "rlmt"}


def diagram(found: Found, states: Mapping[tuple[str, str], bool], *, tall: bool = False) -> Diagram:
    """Return the diagram of a run.

    Args:
        found: its figures.
        states: whether a stage of an arm is done, by arm and stage; stages that never began are absent.
        tall: for a narrow screen: stages below each other.
    """
    places = _TALL if tall else _WIDE
    width, height, gap_x, gap_y = _SIZES[tall]
    boxes = []
    for arm, (column, row) in places.items():
        state = _state(arm, states)
        if state == ABSENT and arm in (CONTINUED, *(f"{lineage}-raw" for lineage in LINEAGES)):
            continue
        x, y = 2 + column * (width + gap_x), 2 + row * (height + gap_y)
        boxes.append(_box(arm, state, found, (x, y)))
    by_arm = {box.arm: box for box in boxes}
    arrows = tuple(_arrow(by_arm[one], by_arm[other], (width, height)) for one, other in _LINKS)
    return Diagram(
        boxes=tuple(boxes),
        arrows=arrows,
        width=max(box.x for box in boxes) + width + 2,
        height=max(box.y for box in boxes) + height + 2,
        box_width=width,
        box_height=height,
    )


def _state(arm: str, states: Mapping[tuple[str, str], bool]) -> str:
    if arm == BASE:
        return DONE
    stage = _STAGE.get(arm.rpartition("-")[2], "improve")
    done = states.get((arm, stage))
    return ABSENT if done is None else DONE if done else PART


def _box(arm: str, state: str, found: Found, place: tuple[float, float]) -> Box:
    kind = arm if arm in (BASE, IMPROVED, CONTINUED) else arm.rpartition("-")[2]
    return Box(
        arm=arm,
        made_by=_MADE_BY[kind],
        state=state,
        figures=_figures(arm, kind, found)[:2],
        x=place[0],
        y=place[1],
        tone="improved" if arm.startswith(IMPROVED) else "continued" if arm == CONTINUED else "base",
    )


def _figures(arm: str, kind: str, found: Found) -> tuple[tuple[str, Shown], ...]:
    """Return the figures of an arm that say most, the most telling one first."""
    judge = found.outsider("evaluate", arm, BASE)
    wins = {
        way: found.one("evaluate", arm, "win_rate", against=BASE, condition=way, judge=judge)
        for way in ("entropy-matched", "greedy")
    }
    named = {
        "wins, greedy": (wins["greedy"], percent),
        "wins, equal entropy": (wins["entropy-matched"], percent),
        "thought NLL": (found.one("evaluate-sft", arm, "thought NLL", condition="per token"), plain),
        "held-out reward": (found.one("evaluate-rlmt", arm, "gate reward"), percent),
        "suffix NLL": (found.one("evaluate", arm, "suffix_nll"), plain),
        "NLL change": (found.one("evaluate", arm, "suffix_nll_change", against=BASE), signed),
    }
    order = {
        BASE: ("suffix NLL", "held-out reward"),
        IMPROVED: ("wins, equal entropy", "wins, greedy", "held-out reward"),
        CONTINUED: ("NLL change", "wins, greedy"),
    }.get(kind, ("thought NLL", "held-out reward") if kind != "rlmt" else ("held-out reward",))
    return tuple((label, shown(one, form)) for label in order for one, form in [named[label]] if one is not None)


def _arrow(one: Box, other: Box, size: tuple[float, float]) -> str:
    """Return a path from a box to the one that is made from it: beside it, below it, or both."""
    width, height = size
    if one.y == other.y:
        return f"M{one.x + width} {one.y + height / 2} H{other.x - 5}"
    if one.x == other.x:
        return f"M{one.x + width / 2} {one.y + height} V{other.y - 5}"
    if other.y - one.y < 1.5 * height and other.x - one.x < 1.2 * width:
        return _corner(one, other, size)
    return f"M{one.x + width / 2} {one.y + height} V{other.y + height / 2} H{other.x - 5}"


def _corner(one: Box, other: Box, size: tuple[float, float]) -> str:
    width, height = size
    return f"M{one.x + width} {one.y + height / 2} H{other.x + width / 2} V{other.y - 5}"

"""What the sentences of the answer are made of: verdicts, figures of every lineage, judges by what they did."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from forethought import metrics as m
from forethought.graph import LINEAGES
from forethought.metrics import Metric
from forethought.records import Measurement
from forethought.report.values import Figures, Value, sign

Part = str | Value

YES, PARTLY, UNCLEAR, NO, NONE = "yes", "in part", "not shown", "no", "not run"
"""What a sentence says of its question."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """An answer: ``verdict`` says it in a word, ``parts`` are words and figures."""

    question: str
    verdict: str
    parts: Sequence[Part]

    @property
    def text(self) -> str:
        return "".join(part if isinstance(part, str) else part.text for part in self.parts)


def each(
    figures: Figures, kind: str, metric: Metric, condition: str = "", against: Callable[[str], str] = lambda _: ""
) -> dict[str, Measurement]:
    """Return a figure of the arm ``<lineage>-<kind>`` of every lineage that has it; ``against`` is told the lineage."""
    [stage] = metric.stages
    asked = {
        lineage: figures.least(stage, f"{lineage}-{kind}", metric, condition=condition, against=against(lineage))
        for lineage in LINEAGES
    }
    return {lineage: figure for lineage, figure in asked.items() if figure is not None}


def listed(items: Iterable[Sequence[Part]]) -> list[Part]:
    """Return items with commas between them, and ``and`` before the last."""
    items = list(items)
    parts: list[Part] = []
    for number, item in enumerate(items):
        parts += ["" if not number else " and " if number == len(items) - 1 else ", ", *item]
    return parts


def told(found: Mapping[str, Measurement], up: str = "", down: str = "", unit: str = "") -> list[Part]:
    """Return the figures of all lineages, and in words which way they point, if there are words for it."""
    parts = listed(
        [Value(figure), f"{'' if number else unit} in the {lineage} {'one' if number else 'lineage'}"]
        for number, (lineage, figure) in enumerate(found.items())
    )
    if not up:
        return parts
    ways = {
        lineage: "too few to tell" if figure.low is None else ("nothing beyond the noise", up, down)[sign(figure)]
        for lineage, figure in found.items()
    }
    if len(set(ways.values())) == 1:
        count = {1: "", 2: " in both"}.get(len(ways), " in all")
        return [*parts, f": {next(iter(ways.values()))}{count}"]
    return [*parts, ": " + ", ".join(f"{way} in the {lineage} one" for lineage, way in ways.items())]


def judge(figures: Figures, figure: Measurement) -> str:
    """Return a figure's judge with what it did in this run and shares with those that trained."""
    standing = figures.judges.of(figure.judge, figure.stage)
    return f"{standing.name} ({standing.text})"


def by_whom(figures: Figures, figure: Measurement) -> str:
    """Return which judge a figure is of, and of how many it is the least favourable."""
    names = {"arm": figure.arm, "against": figure.against, "condition": figure.condition}
    asked = [one for one in figures.select(figure.stage, figure.metric, **names) if figures.independent(one)]
    if not asked:
        return f"{judge(figures, figure)}, for want of a judge that trained nothing"
    if len(asked) == 1:
        return judge(figures, figure)
    return f"{judge(figures, figure)}, the least favourable of {len(asked)} judges that had no part in this"


def copied(figures: Figures, arms: Iterable[str], of: str) -> list[Part]:
    """Return what to say where a copy of the prefix matches as often as predictions of ``arms``, by the judge ``of``.

    A match judge that likes copies cannot tell a prediction from one, so nothing that it says is a gain then.
    """
    names = {"condition": "", "judge": of}
    rows = [figures.get(m.EVALUATE_RLMT, row, m.GATE_REWARD, **names) for row in (m.PREFIX_START, m.PREFIX_END)]
    copies = [row for row in rows if row is not None]
    if not copies:
        return []
    most = max(copies, key=lambda row: row.value)
    top = most.value if most.high is None else most.high
    for arm in arms:
        rate = figures.get(m.EVALUATE_RLMT, arm, m.GATE_REWARD, **names)
        if rate is not None and (rate.value if rate.low is None else rate.low) <= top:
            which = "start" if most.arm == m.PREFIX_START else "end"
            parts: list[Part] = [f"; repeating the prefix's {which} matches as often, ", Value(most), " against "]
            return [*parts, Value(rate), f" of {arm}: a match is no prediction here"]
    return []

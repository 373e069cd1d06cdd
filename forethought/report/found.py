"""The figures of a run by their names, for whoever picks a few of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from forethought import graph
from forethought.records import Measurement

ARMS = tuple(arm.name for arm in graph.ARMS if not arm.control)
"""The six arms, in the order of their making."""

_TRAINING = "(training)"


class Found:
    """Measurements by stage, arm, metric, against, condition and judge."""

    def __init__(self, measurements: Iterable[Measurement]) -> None:
        self.all = list(measurements)

    def one(self, stage: str, arm: str, metric: str, **names: str) -> Measurement | None:
        """Return one figure, or ``None``; of whichever judge comes first if ``judge`` is not named.

        ``against`` and ``condition`` are none unless they are named.
        """
        asked = {"against": "", "condition": "", **names}
        return next(self.some(stage, metric, arm=arm, **asked), None)

    def some(self, stage: str, metric: str | None = None, **names: str) -> Iterator[Measurement]:
        """Yield the figures that agree with all that is named: ``arm``, ``against``, ``condition``, ``judge``."""
        asked = names if metric is None else {"metric": metric, **names}
        for figure in self.all:
            if figure.stage == stage and all(getattr(figure, name) == value for name, value in asked.items()):
                yield figure

    def outsider(self, stage: str, arm: str, against: str) -> str:
        """Return the first judge of the comparison that did not train the policy, else the one that did; or ``""``."""
        judges = dict.fromkeys(one.judge for one in self.some(stage, "win_rate", arm=arm, against=against))
        return next((name for name in judges if not trained(name)), next(iter(judges), ""))


def trained(judge: str) -> bool:
    """Return whether a judge's name says that it trained the policy."""
    return judge.endswith(_TRAINING)

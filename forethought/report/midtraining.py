"""The tables of stage 3: the threshold, the reward gate, and whether thoughts matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from forethought.records import Measurement
from forethought.report.cells import Format, figure, percent, plain, short, signed, stacked, titled

Found = Mapping[tuple[str, str, str, str], Measurement]
"""Figures by arm, against, metric and condition."""

FOREIGN = "own against thought about another window"
"""The probe's condition that says whether it matters what a thought says."""
FEWEST = 10
"""A bootstrap over fewer windows gives intervals that are too narrow to be called anything."""


def tables(measurements: Sequence[Measurement]) -> list[Table]:
    """Return the tables, empty where nothing was measured."""
    found = {
        (one.arm, one.against, one.metric, one.condition): one for one in measurements if one.stage == "evaluate-rlmt"
    }
    makers = (_gate, _gate_changes, _probe, _probe_changes, _trained)
    return [_calibration(measurements), *(make(found) for make in makers)]


def judgement(change: Measurement, needed: Measurement | None, units: str = "windows") -> str:
    """Return in words what a paired difference shows, and how many units would show it where it shows nothing.

    Example: ``inside the noise of 24 windows; about 310 would resolve it``
    """
    if change.low == change.high:
        return f"no difference in any of {change.n} {units}"
    if change.n < FEWEST:
        return f"{change.n} {units} are too few to tell"
    if change.low is not None and change.low > 0:
        return "above zero"
    if change.high is not None and change.high < 0:
        return "below zero"
    noise = f"inside the noise of {change.n} {units}"
    return noise if needed is None else f"{noise}; about {needed.value:,.0f} would resolve it"


def _calibration(measurements: Sequence[Measurement]) -> Table:
    shown = titled("Match judge: what reaches its threshold on held-out text, with 95% intervals")
    for column in ("judge", "threshold", "base rollouts", "unrelated suffixes"):
        shown.add_column(column)
    found = {one.metric: one for one in measurements if one.stage == "calibrate"}
    if "threshold" in found:
        bar = found["threshold"]
        rates = (found.get(name) for name in ("base rollouts that pass", "unrelated suffixes that pass"))
        shown.add_row(bar.judge, plain(bar.value), *(_cell(one, percent, count=True) for one in rates))
    return shown


def _gate(found: Found) -> Table:
    shown = titled("Reward gate: all arms on the same held-out windows, with 95% intervals")
    arms = list(dict.fromkeys(arm for arm, _, metric, _ in found if metric == "gate reward"))
    oracle = next((metric for _, _, metric, _ in found if metric.startswith("oracle@")), "oracle")
    columns: tuple[tuple[str, Format], ...] = (
        ("gate reward", percent),
        (oracle, percent),
        ("gate score", plain),
        ("close rate", percent),
        ("thought tokens", short),
        ("gate unscored", percent),
    )
    for column in ("arm", "reward", oracle, "score", "closes itself", "tokens", "unscored", "windows"):
        shown.add_column(column)
    for arm in arms:
        cells = [found.get((arm, "", metric, "")) for metric, _ in columns]
        forms = [form for _, form in columns]
        filled = (_cell(one, form) for one, form in zip(cells, forms, strict=True))
        shown.add_row(arm, *filled, str(found[arm, "", "gate reward", ""].n))
    return shown


def _gate_changes(found: Found) -> Table:
    shown = titled("Reward gate: differences, paired by window, with 95% intervals")
    for column in ("arm", "reward", "score"):
        shown.add_column(column)
    for arm, against, metric, _ in found:
        if metric == "gate reward difference":
            cells = _changes(found, (arm, against), ("gate reward", "gate score"))
            shown.add_row(f"{arm}\n  against {against}", *cells)
    return shown


def _probe(found: Found) -> Table:
    shown = titled("Thought-use probe: what stands between prefix and suffix, with 95% intervals")
    for column in ("arm", "condition", "reward", "score", "gain, nats per token", "copied"):
        shown.add_column(column)
    columns: tuple[tuple[str, Format], ...] = (
        ("probe reward", percent),
        ("probe score", plain),
        ("probe gain", signed),
        ("probe copied", percent),
    )
    last = ""
    for arm, _, metric, condition in found:
        if metric == "probe reward":
            cells = [_cell(found.get((arm, "", name, condition)), form) for name, form in columns]
            shown.add_row(arm if arm != last else "", condition, *cells)
            last = arm
    return shown


def _probe_changes(found: Found) -> Table:
    shown = titled("Thought-use probe: own thoughts against each condition, paired by window, with 95% intervals")
    for column in ("arm", "condition", "reward", "score", "gain, nats per token"):
        shown.add_column(column)
    last = ""
    for arm, _, metric, condition in found:
        if metric == "probe reward difference":
            cells = _changes(found, (arm, ""), ("probe reward", "probe score", "probe gain"), condition)
            shown.add_row(arm if arm != last else "", condition, *cells)
            last = arm
    return shown


def _trained(found: Found) -> Table:
    shown = titled("Thought-use probe: what training changed, nats per token, paired by window, with 95% intervals")
    for column in ("arm", "gain of own thoughts", "gain of own thoughts above those about another window"):
        shown.add_column(column)
    for arm, against, metric, condition in found:
        if metric == "probe gain difference" and against:
            gain = _changes(found, (arm, against), ("probe gain",), condition)
            specific = _changes(found, (arm, against), ("probe specific gain",))
            shown.add_row(f"{arm}\n  against {against}", *gain, *specific)
    return shown


def _changes(found: Found, pair: tuple[str, str], metrics: Sequence[str], condition: str = "") -> list[str]:
    """Return a cell for each metric: the difference over what it shows."""
    cells = []
    for metric in metrics:
        change = found.get((*pair, f"{metric} difference", condition))
        needed = found.get((*pair, f"{metric} windows needed", condition))
        cells.append(f"{figure(change, signed)}\n{judgement(change, needed)}" if change else "–")
    return cells


def _cell(one: Measurement | None, form: Format, *, count: bool = False) -> str:
    if one is None:
        return "–"
    return stacked(one, form) + (f"\nof {one.n}" if count else "")

"""Every figure that README prints in bold stands in a committed result: a summary, a benchmark or their tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
BOLD = re.compile(r"\*\*(.+?)\*\*", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])[-+\N{MINUS SIGN}]?\d[\d,]*(?:\.\d+)?(?![\w]|\.\d)")
INTERVAL = re.compile(rf"({NUMBER.pattern})%?(?: points)? \[({NUMBER.pattern}), ({NUMBER.pattern})\]")
NAMES = re.compile(r"\bStages?\b[\d, and]*|\b(?:Qwen|SmolLM|Gemma|Llama|K =|arXiv)[\w.-]*(?: \d[\w.]*)?")
"""Numbers that are no figures: of stages, models and papers."""


def bold(text: str) -> Iterator[tuple[str, ...]]:
    """Yield the figures in bold: a number, or a number with both ends of its interval."""
    for span in BOLD.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        words = NAMES.sub(" ", " ".join(span.split()))
        yield from (found.groups() for found in INTERVAL.finditer(words))
        yield from ((number,) for number in NUMBER.findall(INTERVAL.sub(" ", words)))


def known() -> list[tuple[float, ...]]:
    """Return all committed figures: (value, low, high) of measurements and curves, and values without an interval."""
    found: list[tuple[float, ...]] = []
    for path in sorted(RESULTS.glob("*/summary.json")):
        found += _figures(json.loads(path.read_text()))
    for path in sorted(RESULTS.glob("*/aggregate.json")):
        for row in json.loads(path.read_text())["figures"]:
            ends = row["over_seeds_and_windows"] or row["over_seeds"]
            found.append((row["mean"], *ends) if ends else (row["mean"],))
    for row in json.loads((ROOT / "docs" / "benchmarks.json").read_text()):
        numbers = (row.get(key) for key in ("ratio", "ours", "peer"))
        found += [tuple(one) if isinstance(one, list) else (one,) for one in numbers if one is not None]
    # Tables hold what was computed from several figures, such as counts.
    for path in (*sorted(RESULTS.glob("*/README.md")), ROOT / "docs" / "benchmarks.md"):
        lines = (line for line in path.read_text().splitlines() if line.startswith("|"))
        found += [(_number(number),) for line in lines for number in NUMBER.findall(line)]
    return found


def _figures(data: Any) -> Iterable[tuple[float, ...]]:
    if isinstance(data, dict):
        if "value" in data and "n" in data:
            ends = (data.get("low"), data.get("high"))
            yield (data["value"],) if None in ends else (data["value"], *ends)
        else:
            yield from (one for value in data.values() for one in _figures(value))
    elif isinstance(data, list):
        yield from (one for value in data for one in _figures(value))


def _number(text: str) -> float:
    return float(text.replace(",", "").replace("\N{MINUS SIGN}", "-"))


def stands(figure: tuple[str, ...], among: Iterable[tuple[float, ...]]) -> bool:
    """Return whether one committed figure reads as ``figure`` once it is rounded alike, as it is or in percent."""
    wanted = [_number(text) for text in figure]
    decimals = [len(text.partition(".")[2]) for text in figure]
    signed = [text[0] in "-+\N{MINUS SIGN}" for text in figure]

    def reads(value: float, place: int, factor: int) -> bool:
        size = value if signed[place] else abs(value)
        return abs(factor * size - wanted[place]) <= 0.5000001 * 10 ** -decimals[place]

    return any(
        all(reads(value, place, factor) for place, value in enumerate(one[: len(figure)]))
        for one in among
        if len(one) >= len(figure)
        for factor in (1, 100)
    )


@pytest.fixture(scope="module")
def committed() -> list[tuple[float, ...]]:
    return known()


def test_bold_figures_of_the_readme_are_committed(committed: list[tuple[float, ...]]) -> None:
    figures = set(bold((ROOT / "README.md").read_text()))
    assert {figure for figure in figures if not stands(figure, committed)} == set()


def test_the_test_can_fail(committed: list[tuple[float, ...]]) -> None:
    text = (
        "**Stage 1** won **4.00 [3.53, 4.10]** and **12.5** times, or **64.1% [57.1, 71.5]**; 3% and **Qwen2.5 1.5B**."
    )
    figures = list(bold(text))
    assert figures == [("4.00", "3.53", "4.10"), ("12.5",), ("64.1", "57.1", "71.5")]
    assert [stands(figure, committed) for figure in figures] == [True, True, False]
    assert not stands(("98,765.4",), committed)
    assert not stands(("-64.1",), [(0.641,)])

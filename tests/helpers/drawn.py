"""What graded answers are made of: draws, and ways of writing a number."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

THOUSANDS = ("{,}", "\\,", "\\;", "\\ ", "~", ",\\!", "\u2009", "\u202f", "\u00a0", ",")
MINUS = ("-", "\u2212", "\u2013", "\uff0d", "\ufe63", "\u2011", "\u2010", "\u2012")
WIDE = str.maketrans("0123456789", "".join(chr(0xFF10 + digit) for digit in range(10)))


class Pair(NamedTuple):
    """A completion, what it is graded against, and whether it is right."""

    kind: str
    task: str
    gold: str
    completion: str
    right: bool


def draw(rng: np.random.Generator, low: int, high: int, *but: int) -> int:
    """Return a number from ``low`` to ``high`` that is none of ``but``."""
    while (value := int(rng.integers(low, high + 1))) in but:
        pass
    return value


def pick(rng: np.random.Generator, items: tuple[str, ...]) -> str:
    return items[int(rng.integers(len(items)))]


def grouped(value: int, mark: str) -> str:
    return f"{value:,}".replace(",", mark)


def digit_changed(rng: np.random.Generator, value: int) -> int:
    """Return ``value`` with another first, middle or last digit."""
    digits = list(str(value))
    place = int(rng.integers(len(digits)))
    digits[place] = str(draw(rng, 1, 9, int(digits[place])))
    return int("".join(digits))

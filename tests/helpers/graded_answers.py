"""Right and wrong answers by the thousand, whose truth is known because a program made them.

None of them is an item of a benchmark: golds are drawn, right answers are the same value written in another way,
wrong ones are near misses (sign, order, one digit, unit, a list for a number, another letter).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from helpers.drawn import MINUS, THOUSANDS, WIDE, Pair, digit_changed, draw, grouped, pick
from helpers.graded_expressions import expressions


def pairs(rounds: int, with_expressions: int) -> Iterator[Pair]:
    """Yield the pairs of numbers and letters of ``rounds`` rounds, and expressions in the first ``with_expressions``.

    Expressions take Math-Verify milliseconds each.
    """
    for index in range(rounds):
        rng = np.random.default_rng([17, index])
        yield from numbers(rng)
        yield from letters(rng)
        if index < with_expressions:
            yield from expressions(rng)


def numbers(rng: np.random.Generator) -> Iterator[Pair]:
    size = draw(rng, 1001, 998_998)
    negative = bool(rng.integers(2))
    minus = pick(rng, MINUS) if negative else ""
    gold = f"{'-' if negative else ''}{size}"
    other = digit_changed(rng, size)
    mark = pick(rng, THOUSANDS)
    right = [
        *(f"{minus}{text}" for text in (f"{size}", f"{size:,}", f"{size}.00", f"{size}.", str(size).translate(WIDE))),
        f"{minus}{grouped(size, mark)}",
        f"{minus}${size}",
        f"**{minus}{size}**",
        f"{minus}{size} of them",
        f"{minus}{size // 10}{size % 10}e0",
    ]
    flipped = f"{'' if negative else pick(rng, MINUS)}"
    wrong = [
        f"{flipped}{size}",
        f"{flipped}{grouped(size, mark)}",
        f"{minus}{other}",
        f"{minus}{size + 1}",
        f"{minus}{size}0",
        f"{minus}.{size}",
        f"{minus}{size}.5",
        f"{minus}{size}, {other}",
        f"{minus}{size} or {minus}{other}",
        f"{minus}{size}/7",
        f"{minus}{size}-{size + 5}",
        f"{minus}{size}e2",
        f"{minus}{str(size)[:2]},{str(size)[2:]}{'0' if len(str(size)) == 5 else ''}",
        f"{minus}{' '.join(str(size))}",
    ]
    for kind, answers, truth in (("same value", right, True), ("near miss", wrong, False)):
        for answer in answers:
            yield Pair(f"number behind ####: {kind}", "gsm8k", gold, f"We count them.\n#### {answer}", truth)
            yield Pair(f"number in words: {kind}", "gsm8k", gold, f"We count. The answer is {answer}.", truth)
            yield Pair(f"number in a box: {kind}", "gsm8k", gold, f"So $\\boxed{{{answer.replace('$', '')}}}$.", truth)
            if "of them" not in answer and "**" not in answer:
                yield Pair(f"number alone on a line: {kind}", "procedural", gold, f" {answer}", truth)


# {0} is the right letter, {2} another, {1} and {3} are the same in lower case; <( )> are wide.
_RIGHT_LETTERS = r"""
The answer is ({0}).
the answer is ({1}).
The answer is ( {0} ).
The answer is <({0})>.
The answer is **({0})**.
The answer is **{0}**.
The answer is \text{{({0})}}.
The answer is $\mathbf{{{0}}}$.
The answer is: ({0}) {n} m
The answer is option ({0}).
The answer is ({0}), not ({2}).
The answer is {0}) {n} m.
The answer is ({0}), because ({2}) would give {n}.
\boxed{{{0}}}
\boxed{{{1}}}
\boxed{{({0})}}
\boxed{{\text{{({0})}}}}
\boxed{{\textbf{{{0}}}}}
\boxed{{{0}. {n} m}}
\boxed{{({0}) {n} \text{{ m}}}}
\boxed{{\text{{Option {0}}}}}
\boxed{{{0}}} and so \boxed{{}}
\boxed{{{2}}}, no: \boxed{{{0}}}
First $\boxed{{{2} = {n} \text{{ eV}}}}$. The answer is ({0}).
The answer is ({2}). No, the answer is ({0}).
""".strip().splitlines()
_WRONG_LETTERS = r"""
The answer is ({2}).
\boxed{{{2}}}
The answer is **{2}**.
\boxed{{\text{{({2})}}}}
({0}) is tempting.
The answer is ({0}) or ({2}).
The answer is ({2}) or ({0}).
The answer is ({0}), ({2}).
The answer is ({0})/({2}).
The answer is ({0}) and ({2}).
\boxed{{{0}, {2}}}
\boxed{{{0} or {2}}}
\boxed{{{0}{2}}}
\boxed{{({0}) and ({2})}}
The answer is **{0}** or **{2}**.
The answer is either ({0}) or ({2}).
The answer is not ({0}).
\boxed{{{0} = {n} \text{{ cm}}}}
\boxed{{{0} = {n}}}. The answer is ({2}).
\boxed{{{0} decrease by {n}}}
\boxed{{\text{{{0} rise}}}}
\boxed{{{0} > {2}}}
\boxed{{{1} + {n}}}
\boxed{{{0}_{{{n}}}}}
\boxed{{{0}^{{{n}}}}}
\boxed{{{0}({3}) = {n}}}
{0} {n}
The answer is {0} longer wave.
\boxed{{{0} \approx {n}}}
\boxed{{-{0}}}
""".strip().splitlines()


def letters(rng: np.random.Generator) -> Iterator[Pair]:
    gold = "ABCD"[draw(rng, 0, 3)]
    other = chr(ord(gold) + (1 if gold == "A" or (gold != "D" and rng.integers(2)) else -1))
    names = (gold, gold.lower(), other, other.lower())
    for kind, forms, truth in (("spelling of it", _RIGHT_LETTERS, True), ("no such answer", _WRONG_LETTERS, False)):
        for form in forms:
            text = form.format(*names, n=draw(rng, 2, 90)).replace("<(", "\uff08").replace(")>", "\uff09")
            yield Pair(f"letter: {kind}", "gpqa", gold, text, truth)

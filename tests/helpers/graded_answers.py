"""Right and wrong answers by the thousand, whose truth is known because a program made them.

None of them is an item of a benchmark: golds are drawn, right answers are the same value written in another way,
wrong ones are near misses (sign, order, one digit, unit, a list for a number, another letter).
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
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


def pairs(rounds: int, expressions: int) -> Iterator[Pair]:
    """Yield the pairs of numbers and letters of ``rounds`` rounds; the first ``expressions`` have expressions, too.

    Expressions take Math-Verify milliseconds each.
    """
    for index in range(rounds):
        rng = np.random.default_rng([17, index])
        yield from _numbers(rng)
        yield from _letters(rng)
        if index < expressions:
            yield from _expressions(rng)


def _expressions(rng: np.random.Generator) -> Iterator[Pair]:
    for sort in (_integers, _fractions, _radicals, _lists, _intervals, _matrices, _polynomials, _units, _scientific):
        gold, right, wrong = sort(rng)
        for kind, answers, truth in (("same value", right, True), ("near miss", wrong, False)):
            for answer in answers:
                text = f"So it is $\\boxed{{{answer}}}$."
                yield Pair(f"maths, {sort.__name__[1:]}: {kind}", "math500", gold, text, truth)


def _draw(rng: np.random.Generator, low: int, high: int, *but: int) -> int:
    """Return a number from ``low`` to ``high`` that is none of ``but``."""
    while (value := int(rng.integers(low, high + 1))) in but:
        pass
    return value


def _pick(rng: np.random.Generator, items: tuple[str, ...]) -> str:
    return items[int(rng.integers(len(items)))]


def _grouped(value: int, mark: str) -> str:
    return f"{value:,}".replace(",", mark)


def _digit_changed(rng: np.random.Generator, value: int) -> int:
    """Return ``value`` with another first, middle or last digit."""
    digits = list(str(value))
    place = int(rng.integers(len(digits)))
    digits[place] = str(_draw(rng, 1, 9, int(digits[place])))
    return int("".join(digits))


def _numbers(rng: np.random.Generator) -> Iterator[Pair]:
    size = _draw(rng, 1001, 998_998)
    negative = bool(rng.integers(2))
    minus = _pick(rng, MINUS) if negative else ""
    gold = f"{'-' if negative else ''}{size}"
    other = _digit_changed(rng, size)
    mark = _pick(rng, THOUSANDS)
    right = [
        *(f"{minus}{text}" for text in (f"{size}", f"{size:,}", f"{size}.00", f"{size}.", str(size).translate(WIDE))),
        f"{minus}{_grouped(size, mark)}",
        f"{minus}${size}",
        f"**{minus}{size}**",
        f"{minus}{size} of them",
        f"{minus}{size // 10}{size % 10}e0",
    ]
    flipped = f"{'' if negative else _pick(rng, MINUS)}"
    wrong = [
        f"{flipped}{size}",
        f"{flipped}{_grouped(size, mark)}",
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


def _letters(rng: np.random.Generator) -> Iterator[Pair]:
    gold = "ABCD"[_draw(rng, 0, 3)]
    other = chr(ord(gold) + (1 if gold == "A" or (gold != "D" and rng.integers(2)) else -1))
    names = (gold, gold.lower(), other, other.lower())
    for kind, forms, truth in (("spelling of it", _RIGHT_LETTERS, True), ("no such answer", _WRONG_LETTERS, False)):
        for form in forms:
            text = form.format(*names, n=_draw(rng, 2, 90)).replace("<(", "\uff08").replace(")>", "\uff09")
            yield Pair(f"letter: {kind}", "gpqa", gold, text, truth)


Sort = tuple[str, list[str], list[str]]


def _integers(rng: np.random.Generator) -> Sort:
    size, minus = _draw(rng, 1001, 99_999), _pick(rng, MINUS)
    mark, other = _pick(rng, THOUSANDS), _digit_changed(rng, size)
    right = [f"{minus}{size}", f"{minus}{_grouped(size, mark)}", f"x = -{size}", f"-{size}.0", f"\\mathbf{{-{size}}}"]
    right += [f"-{size - 3} - 3", f"\\frac{{-{2 * size}}}{{2}}", f"-{str(size).translate(WIDE)}", f"{{-{size}}}"]
    wrong = [
        f"{size}",
        f"-{other}",
        f"-.{size}",
        f"-{size},{other}",
        f"-{' '.join(str(size))}",
        f"-{size}0",
        f"\\pm {size}",
    ]
    wrong += [
        f"-{size}, -{size + 1}",
        f"-{size} \\text{{ or }} -{other}",
        f"-{','.join(str(size))}",
        f"-{size}x",
        f"-{size}i",
    ]
    return f"-{size}", right, wrong


def _fractions(rng: np.random.Generator) -> Sort:
    value = Fraction(_draw(rng, 11, 97), _draw(rng, 3, 9))
    while value.denominator == 1:
        value += Fraction(1, 7)
    top, bottom = value.numerator, value.denominator
    k = _draw(rng, 2, 5)
    right = [
        f"\\dfrac{{{top}}}{{{bottom}}}",
        f"{top}/{bottom}",
        f"\\frac{{{k * top}}}{{{k * bottom}}}",
        f"{top}\u2044{bottom}",
    ]
    right += [
        f"\\tfrac{{{top}}}{{{bottom}}}",
        f"\\left(\\frac{{{top}}}{{{bottom}}}\\right)",
        f"y=\\frac{{{top}}}{{{bottom}}}",
    ]
    right += [f"{value // 1}\\frac{{{top % bottom}}}{{{bottom}}}"] if top > bottom else []
    wrong = [
        f"-\\frac{{{top}}}{{{bottom}}}",
        f"\\frac{{{bottom}}}{{{top}}}",
        f"\\frac{{{top + 1}}}{{{bottom}}}",
        f"{top}",
    ]
    wrong += [
        f"{top},{bottom}",
        f"{top}{bottom}",
        f"\\frac{{{top}}}{{{bottom + 1}}}",
        f"{top}.{bottom}",
        f"\u2212{top}/{bottom}",
    ]
    return f"\\frac{{{top}}}{{{bottom}}}", right, wrong


def _radicals(rng: np.random.Generator) -> Sort:
    k, root = _draw(rng, 2, 9), int(_pick(rng, ("2", "3", "5", "7", "11", "13")))
    right = [
        f"\\sqrt{{{k * k * root}}}",
        f"{k} \\cdot \\sqrt{{{root}}}",
        f"{k}\u221a{root}",
        f"\\sqrt{{{root}}} \\cdot {k}",
    ]
    right += [f"{k}{{\\sqrt{{{root}}}}}", f"{k}\u00b7\u221a{root}", f"\\frac{{{k * root}}}{{\\sqrt{{{root}}}}}"]
    wrong = [
        f"-{k}\\sqrt{{{root}}}",
        f"{k}\\sqrt{{{root + 1}}}",
        f"{k + 1}\\sqrt{{{root}}}",
        f"{k * root}",
        f"\\sqrt{{{k * root}}}",
    ]
    wrong += [
        f"{root}\\sqrt{{{k}}}" if k != root else f"{k}",
        f"{k}+\\sqrt{{{root}}}",
        f"\\sqrt[3]{{{k * k * root}}}",
        f"\u2212{k}\u221a{root}",
    ]
    return f"{k}\\sqrt{{{root}}}", right, wrong


def _lists(rng: np.random.Generator) -> Sort:
    first = _draw(rng, 2, 30)
    second, third = _draw(rng, 31, 60), _draw(rng, 61, 99)
    fused = f"{first}{second}{third}"
    if rng.integers(2):  # in any order
        gold = f"{first}, {second}, {third}"
        right = [
            f"{first},{second},{third}",
            f"{third},{first},{second}",
            f"\\{{{second}, {first}, {third}\\}}",
            f"{first},\\ {second},\\ {third}",
        ]
        wrong = [
            fused,
            f"{first},{second}{third}",
            f"{first}{second},{third}",
            f"{first},{second}",
            f"{first}",
            f"{first},{second},{third + 1}",
        ]
        return (
            gold,
            right,
            [*wrong, f"-{first},{second},{third}", f"{first} {second} {third}{third}", f"{first}+{second}+{third}"],
        )
    gold = f"({first}, -{second}, {third})"
    right = [
        f"({first},-{second},{third})",
        f"\\left({first},\\,\u2212{second},\\,{third}\\right)",
        f"({first}.0, -{second}, {third})",
    ]
    wrong = [
        f"(-{second}, {first}, {third})",
        f"({first}, {second}, {third})",
        f"({first}, -{second})",
        f"({first}, -{second}{third})",
        fused,
    ]
    wrong += [
        f"({first}, -{second}, {third + 1})",
        f"({third}, -{second}, {first})",
        f"{first}",
        f"({first}.{second}, {third})",
    ]
    return gold, right, wrong


def _intervals(rng: np.random.Generator) -> Sort:
    low, high = _draw(rng, 1, 20), _draw(rng, 21, 50)
    right = [f"[-{low}, {high})", f"\\left[-{low},\\ {high}\\right)", f"[\u2212{low},{high})", f"[-{low}.0,{high})"]
    wrong = [
        f"(-{low},{high})",
        f"[-{low},{high}]",
        f"(-{low},{high}]",
        f"[{low},{high})",
        f"[-{low},{high + 1})",
        f"[-{high},{low})",
    ]
    wrong += [f"[-{low},\\infty)", f"-{low}", f"-{low}{high}", f"[-{low},{high})\\cup[{high + 1},{high + 2})"]
    return f"[-{low},{high})", right, wrong


def _matrices(rng: np.random.Generator) -> Sort:
    a, b, c, d = _draw(rng, 1, 9), _draw(rng, 10, 19), _draw(rng, 20, 29), _draw(rng, 30, 39)

    def matrix(*cells: int | str, shape: str = "pmatrix") -> str:
        return "\\begin{{{}}} {} & {} \\\\ {} & {} \\end{{{}}}".format(shape, *cells, shape)

    right = [matrix(a, b, c, d, shape="bmatrix"), matrix(a, b, c, d).replace(" & ", "&"), matrix(f"{a}.0", b, c, d)]
    wrong = [
        matrix(a, c, b, d),
        matrix(a, b, c, -d),
        matrix(a, b, c, d + 1),
        matrix(d, c, b, a),
        f"{a}",
        f"({a},{b},{c},{d})",
    ]
    wrong += [
        f"\\begin{{pmatrix}} {a} & {b} \\end{{pmatrix}}",
        f"\\begin{{pmatrix}} {a}{b} \\\\ {c}{d} \\end{{pmatrix}}",
    ]
    return matrix(a, b, c, d), right, wrong


def _polynomials(rng: np.random.Generator) -> Sort:
    a, b = _draw(rng, 1, 9), _draw(rng, 10, 19)
    gold = f"x^2 + {a + b}x + {a * b}"
    right = [
        f"(x+{a})(x+{b})",
        f"{a * b} + {a + b}x + x^2",
        f"x\u00b2+{a + b}x+{a * b}",
        f"x^{{2}}+{a + b} x+{a * b}",
        f"(x+{b})(x+{a})",
    ]
    wrong = [
        f"x^2 - {a + b}x + {a * b}",
        f"x^2 + {a + b}x - {a * b}",
        f"x2 + {a + b}x + {a * b}",
        f"x^2 + {a * b}x + {a + b}",
    ]
    wrong += [
        f"x^2 + {a + b + 1}x + {a * b}",
        f"y^2 + {a + b}y + {a * b}",
        f"x^3 + {a + b}x + {a * b}",
        f"(x-{a})(x-{b})",
        f"{a * b}",
    ]
    return gold, right, wrong


_UNIT = (
    ("cm", "centimeters", "m"),
    ("kg", "kilograms", "g"),
    ("s", "seconds", "h"),
    ("m/s", "m/s", "km/s"),
    ("m", "meters", "km"),
)


def _units(rng: np.random.Generator) -> Sort:
    value = _draw(rng, 11, 99)
    if rng.integers(2):
        right = [
            f"{value}\u00b0",
            f"{value}",
            f"{value}^{{\\circ}}",
            f"{value}\\text{{ degrees}}",
            f"{value}.0^\\circ",
            f"{value}\u00ba",
        ]
        return (
            f"{value}^\\circ",
            right,
            [f"{value + 1}\u00b0", f"-{value}\u00b0", f"{value}^2", f"{value}\\text{{ radians}}", f"{value}0^\\circ"],
        )
    unit, name, other = _UNIT[_draw(rng, 0, len(_UNIT) - 1)]
    right = [
        f"{value}",
        f"{value}\\,\\mathrm{{{unit}}}",
        f"{value} \\text{{ {name}}}",
        f"{value}.0\\text{{ {unit}}}",
        f"{value}\\;\\text{{{unit}}}",
    ]
    wrong = [
        f"{value}\\text{{ {other}}}",
        f"{value}\\,\\mathrm{{{other}}}",
        f"{value + 1}\\text{{ {unit}}}",
        f"-{value} \\text{{ {unit}}}",
    ]
    return (
        f"{value} \\text{{ {unit}}}",
        right,
        [*wrong, f"{value}0\\text{{ {unit}}}", f"{value}, {value + 2} \\text{{ {unit}}}"],
    )


def _scientific(rng: np.random.Generator) -> Sort:
    digits, power = _draw(rng, 2, 9), _draw(rng, 4, 9)
    tail = _draw(rng, 1, 9)
    raised = "".join("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"[int(one)] for one in str(power))
    right = [
        f"{digits}.{tail}e{power}",
        f"{digits}.{tail}E+{power}",
        f"{digits}.{tail}\u00d710{raised}",
        f"{digits}{tail} \\times 10^{{{power - 1}}}",
    ]
    right += [f"{digits}{tail}{'0' * (power - 1)}", f"{digits}.{tail} \\cdot 10^{power}", f"{digits}.{tail}*10^{power}"]
    wrong = [
        f"{digits}.{tail}e{power + 1}",
        f"{digits}.{tail}e-{power}",
        f"{digits}.{tail}",
        f"{digits}.{tail} \\times 10^{{-{power}}}",
    ]
    wrong += [
        f"-{digits}.{tail}e{power}",
        f"{digits}{tail} \\times 10^{{{power}}}",
        f"{tail}.{digits}e{power}" if tail != digits else "1",
        f"{digits}.{tail} \\times {power}",
    ]
    return f"{digits}.{tail} \\times 10^{{{power}}}", right, wrong

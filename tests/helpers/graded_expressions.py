"""Expressions of mathematics, the same ones written otherwise, and near misses of them."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from helpers.drawn import MINUS, THOUSANDS, WIDE, Pair, digit_changed, draw, grouped, pick

Sort = tuple[str, list[str], list[str]]


def _integers(rng: np.random.Generator) -> Sort:
    size, minus = draw(rng, 1001, 99_999), pick(rng, MINUS)
    mark, other = pick(rng, THOUSANDS), digit_changed(rng, size)
    right = [f"{minus}{size}", f"{minus}{grouped(size, mark)}", f"x = -{size}", f"-{size}.0", f"\\mathbf{{-{size}}}"]
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
    value = Fraction(draw(rng, 11, 97), draw(rng, 3, 9))
    while value.denominator == 1:
        value += Fraction(1, 7)
    top, bottom = value.numerator, value.denominator
    k = draw(rng, 2, 5)
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
    k, root = draw(rng, 2, 9), int(pick(rng, ("2", "3", "5", "7", "11", "13")))
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
    first = draw(rng, 2, 30)
    second, third = draw(rng, 31, 60), draw(rng, 61, 99)
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
    low, high = draw(rng, 1, 20), draw(rng, 21, 50)
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
    a, b, c, d = draw(rng, 1, 9), draw(rng, 10, 19), draw(rng, 20, 29), draw(rng, 30, 39)

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
    a, b = draw(rng, 1, 9), draw(rng, 10, 19)
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
    value = draw(rng, 11, 99)
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
    unit, name, other = _UNIT[draw(rng, 0, len(_UNIT) - 1)]
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
    digits, power = draw(rng, 2, 9), draw(rng, 4, 9)
    tail = draw(rng, 1, 9)
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


def _small(rng: np.random.Generator) -> Sort:
    size, power = draw(rng, 101, 998), draw(rng, 5, 9)
    mantissa, other = f"{size / 100:.2f}", f"{(size + 1) / 100:.2f}"
    right = [f"{mantissa}e-{power}", f"{mantissa} \\times 10^{{-{power}}} \\text{{ m}}", f"0.{'0' * (power - 1)}{size}"]
    right += [f"{mantissa} \\cdot 10^{{\u2212{power}}}", f"{size / 10:.1f} \\times 10^{{-{power + 1}}}\\,\\mathrm{{m}}"]
    wrong = [
        f"{other}e-{power}",
        f"{other} \\times 10^{{-{power}}} \\text{{ m}}",
        f".{'0' * (power - 1)}{size + 1}",
        "0",
    ]
    wrong += [
        f"{mantissa}e{power}",
        f"-{mantissa}e-{power}",
        f"0.{'0' * power}{size}",
        f"0.{'0' * (power - 1)}{size + 1}\\text{{ m}}",
    ]
    return f"{mantissa} \\times 10^{{-{power}}}", right, wrong


def expressions(rng: np.random.Generator) -> Iterator[Pair]:
    for sort in (
        _integers,
        _fractions,
        _radicals,
        _lists,
        _intervals,
        _matrices,
        _polynomials,
        _units,
        _scientific,
        _small,
    ):
        gold, right, wrong = sort(rng)
        for kind, answers, truth in (("same value", right, True), ("near miss", wrong, False)):
            for answer in answers:
                text = f"So it is $\\boxed{{{answer}}}$."
                yield Pair(f"maths, {sort.__name__[1:]}: {kind}", "math500", gold, text, truth)

"""How answers are read out of completions and compared with the right ones.

Rules that hold in every reader: a box is matched brace by brace, a letter counts only inside a box or as
"answer is (X)", and nothing is read out of a completion that holds no answer.  A list, a range or a sum where one
answer belongs is read as a whole, so it equals no single answer.
"""

from __future__ import annotations

import functools
import re
from decimal import Decimal

from forethought.evals.reasoning.task import Grader, Reading
from forethought.evals.reasoning.verifier import LONGEST, Verifier
from forethought.evals.reasoning.writing import boxes, plain, unstyled

# Thousands are grouped by threes, or it is a list: 4,911 is a number, 49,11 is not.
_DIGITS = r"(?:[1-9]\d{0,2}(?:,\d{3})+(?![\d]|,\d)|\d+)"
_UNSIGNED = rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{{1,3}}(?!\w))?"
_NUMBER = rf"(?:(?<![\w.)\]}}%])-)?(?:\$-?)?{_UNSIGNED}"
_NUMBERS = re.compile(_NUMBER)
_WHOLE = re.compile(
    r"(?P<sign>[-+]?)(?P<digits>[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d{0,2}(?: \d{3})+|\d+|(?=\.\d))(?P<decimals>\.\d*)?"
    r"(?:[eE](?P<e>[-+]?\d{1,3})|\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*\{?\s*(?P<power>[-+]?\d{1,3})\s*\}?)?"
)
# Behind a number: that it is one of several, or a part of something larger.
_JOINT = r"(?:[,;/:^*+&x-]|\\(?:times|cdot|div|pm|frac)\b\{?|(?:and|or|to)\b)"
_CONTINUED = re.compile(rf"\s*{_JOINT}\s*[-$(]*\.?\d|(?:\s+[a-z]+){{1,3}},?\s+or\s+[-$]*\.?\d|\s+\d+/\d")
_LIST = re.compile(rf"\W*{_NUMBER}(?:\s*(?:[,;/&]|and\b|or\b)+\s*{_NUMBER})+\W*")
_HASHES = re.compile(r"####\s*(?P<line>[-+*$(]*\.?\d[^\n]*)")
_ANSWER_IS = re.compile(r"answer\s+is\b[\s:]*(?P<line>[^\s:][^\n]*)", re.IGNORECASE)
_END = re.compile(r"[.?][*_$]*(?:\s|$)|,?\s+(?:because|since|as|so|for|which|where|but)\b|\s*\\boxed\{\s*\}")
_SPAN = re.compile(r"\$+([^$]+)\$+|\\\((.+?)\\\)")
_LETTER_BOX = re.compile(
    r"[\s.:*]*(?:(?:option|choice|answer)\b[\s:]*)?(?:\((?P<marked>[A-Z])\)|(?P<bare>[A-Z])(?:\W*$|[.):](?=\s)))(?P<rest>.*)",
    re.DOTALL | re.IGNORECASE,
)
_LETTER_IS = re.compile(
    r"answer\s+is\b[\s:]*(?:(?:option|choice)\s+)?\(?(?<=[\s:(])([A-Z])\)(?=(?P<rest>[^\n]*))", re.IGNORECASE
)
_EQUATION = re.compile(r"\s*(?:[=<>+*/^_~]|-\S|\\(?:approx|sim|to|cdot|times|le|ge|ne|in|cup|cap)\b)")
_REASONS = re.compile(r"[.\n]|\b(?:because|since|as|for|while|whereas|not|but|rather|instead|so|which|where|unlike)\b")
_ANOTHER = re.compile(
    r"(?:^\s*|(?:\bor|\band|\bto|[,/&;])\s*)(?:(?:option|choice|possibly|perhaps|maybe|even|also)\s+)?(?:\([A-Z]\)|\b[A-Z][.):]?(?=\s*$)|\b[A-Z][.):]\s)"
    r"(?!\s*(?:is|are|was|would|can|cannot|has|does)\b)",
    re.IGNORECASE,
)
_SEVERAL = re.compile(r"\W*[A-Z]\W*(?:(?:\b(?:and|or)\b|[,/&;+])\W*[A-Z]\W*)+")
_LETTER_STYLES = (
    re.compile(r"(?:\*\*|__)\s*\(?([A-Za-z])(?:[.:)]\)?)?\s*(?:\*\*|__)"),
    re.compile(r"\\(?:text|math)(?:bf|rm|it|sf)?\s*\{\s*\(?\s*([A-Za-z])\s*\)?[.:]?\s*\}"),
    re.compile(r"(?:\\left)?[(\[]\s*([A-Za-z])\s*(?:\\right)?[)\]]"),
    re.compile(r"(?:\$|\\\()\s*\(?([A-Za-z])\)?\s*(?:\$|\\\))"),
)
_DROPPED = re.compile(r"\\(?:left|right|displaystyle|,|!|;|:|quad|\s)|\^\{?\\circ\}?|\\degree|\$|\\%|%|\s+")


def last_box(text: str) -> str | None:
    """Return what the last whole ``\\boxed{...}`` that is not empty holds; ``None`` if there is none."""
    found = boxes(text)
    return found[-1] if found else None


def number(text: str) -> Decimal | None:
    """Return the number that ``text`` is: ``$1,200.50``, ``-3.``, ``3e8``; ``None`` if it is something else."""
    if len(text) > LONGEST:
        return None
    cleaned = unstyled(plain(text)).strip("$ ").replace("$", "", 1)
    cleaned = re.sub(r"(?:\s*(?:\\?%|\^\{?\\circ\s*\}?|\\degree|\\[,!;: ]))+$", "", cleaned.rstrip(".")).strip()
    while cleaned.startswith("{") and cleaned.endswith("}"):
        cleaned = cleaned[1:-1].strip()
    found = _WHOLE.fullmatch(cleaned)
    if found is None:
        return None
    digits = re.sub("[, ]", "", found["digits"]) + (found["decimals"] or "").rstrip(".")
    return Decimal(f"{found['sign']}{digits}e{found['e'] or found['power'] or 0}")


def same_number(gold: str, answer: str) -> bool:
    """Return whether both are the same number, however written: ``18``, ``$18.00``."""
    first, second = number(gold), number(answer)
    return first is not None and first == second


def read_number(text: str) -> Reading:
    """Return the number after ``####``, else after "the answer is" (both in form), else in a box, else the last one."""
    text = plain(text)
    # The first one: a model that runs on writes further problems, with answers of their own.
    for pattern in (_HASHES, _ANSWER_IS):
        said = pattern.search(text)
        if said and (one := _one_number(_sentence(said["line"]))):
            return Reading(answer=one, formatted=True)
    if (boxed := last_box(text)) and (one := _one_number(boxed)):
        return Reading(answer=one)
    numbers = _NUMBERS.findall(text)
    if len(numbers) > 1 and len(text) <= LONGEST and _LIST.fullmatch(text):
        return Reading(answer=text.strip())
    return Reading(answer=numbers[-1] if numbers else None)


def _one_number(text: str) -> str | None:
    """Return the number that ``text`` gives as its answer; the whole text if it gives several, or a calculation."""
    text = text.strip().strip("*_")
    sides = [text] if number(text) is not None else text.split("=")
    for side in reversed(sides):
        if number(side) is not None:
            return side.strip()
    first = _NUMBERS.search(sides[-1])
    if first is None:
        return None
    return text if _CONTINUED.match(sides[-1][first.end() :].lstrip("*_")) else first[0]


def _sentence(line: str) -> str:
    """Return ``line`` up to the end of its first sentence, or to a reason for what it says."""
    return _END.split(line, maxsplit=1)[0].strip()


def read_maths(text: str) -> Reading:
    """Return what the last box holds (in form), else what stands after "the answer is"."""
    text = plain(text)
    if boxed := last_box(text):
        return Reading(answer=boxed.strip(), formatted=True)
    said = [_sentence(found["line"]) for found in _ANSWER_IS.finditer(text)]
    if not said:
        return Reading(answer=None)
    spans = _SPAN.findall(said[-1])
    return Reading(
        answer="".join(spans[0]) if len(spans) == 1 else unstyled(said[-1].replace("$", "")).strip("*_") or None
    )


def read_letter(text: str) -> Reading:
    """Return the letter in the last box that holds one, else the one after "answer is" in parentheses.

    A bare letter in words is never read, and neither is one of several.
    """
    text = plain(text)
    for boxed in reversed(boxes(text)):
        inside = _marked(boxed)
        if _SEVERAL.fullmatch(re.sub(r"[()]", " ", inside)):
            return Reading(answer=None)
        found = _LETTER_BOX.fullmatch(inside)
        if found and not _EQUATION.match(found["rest"]):
            letter = found["marked"] or found["bare"]
            return Reading(answer=None) if _several(found["rest"]) else Reading(letter.upper(), True)
    text = _marked(text)
    if alone := re.fullmatch(r"\W*\(([A-Za-z])\)\W*", text):
        return Reading(answer=alone[1].upper())
    said = list(_LETTER_IS.finditer(text))
    if not said or _several(said[-1]["rest"]) or _EQUATION.match(said[-1]["rest"]):
        return Reading(answer=None)
    return Reading(answer=said[-1][1].upper(), formatted=True)


def _marked(text: str) -> str:
    """Return ``text`` with ``(B)`` for a letter that is set apart in another way: bold, in brackets, as LaTeX."""
    for style in _LETTER_STYLES:
        text = style.sub(r"(\1)", text)
    return unstyled(text).replace("((", "(").replace("))", ")")


def _several(rest: str) -> bool:
    """Return whether a letter goes on with another one: ``(A) or (B)``; reasons may name others."""
    return _ANOTHER.search(_REASONS.split(rest, maxsplit=1)[0]) is not None


def normalise(text: str) -> str:
    """Return an expression without what changes its looks only: spaces, dollars, ``\\left``, ``\\text{}``."""
    shown = unstyled(plain(text)).rstrip(". ")
    shown = re.sub(r"\\[dt]frac", r"\\frac", shown)
    shown = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", shown)
    # Numbers that stand next to each other stay two.
    shown = re.sub(r"(?<=\d)(?:\\[,!;: ]|\\quad|\s)+(?=\d)", "~", shown)
    return _DROPPED.sub("", shown).replace("{,}", ",").replace("\\le(", "(")


def same_maths(gold: str, answer: str) -> bool:
    """Return whether two expressions are equal: as written, as numbers, or as Math-Verify says."""
    first, second = number(gold), number(answer)
    if first is not None and first == second:
        return True
    if (first is None) == (second is None):
        if normalise(gold) == normalise(answer):
            return True
        # Plain numbers are compared here: asking the other process takes far longer. A share may be written as 50%.
        if first is not None and "%" not in gold + answer:
            return False
    elif first is not None and _separated(answer):
        return False  # Math-Verify reads 5, 5 as the set of 5
    return _verified(plain(gold), plain(answer))


def _separated(text: str) -> bool:
    """Return whether ``text`` is a list that no brackets hold together."""
    return bool(re.search(r"(?<!\\)[,;]", re.sub(r"[(\[{][^()\[\]{}]*[)\]}]", "", text)))


def vote_number(answer: str) -> str:
    """Return a name that all ways of writing a number share."""
    value = number(answer)
    return normalise(answer) if value is None else format(value.normalize(), "f")


_VERIFIER = Verifier()


@functools.lru_cache(maxsize=65536)
def _verified(gold: str, answer: str) -> bool:
    return _VERIFIER.same(gold, answer)


NUMBER = Grader(name="number", read=read_number, same=same_number, vote=vote_number, show="#### {}".format)
MATHS = Grader(name="math-verify", read=read_maths, same=same_maths, vote=vote_number, show="$\\boxed{{{}}}$.".format)
LETTER = Grader(name="letter", read=read_letter, same=str.__eq__, vote=str, show="The answer is ({}).".format)

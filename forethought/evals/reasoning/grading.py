"""How answers are read out of completions and compared with the right ones.

Rules that hold in every reader: a box is matched brace by brace, a letter counts only inside a box or as
"answer is (X)", and nothing is read out of a completion that holds no answer.
"""

from __future__ import annotations

import functools
import re
from decimal import Decimal

from forethought.evals.reasoning.task import Grader, Reading
from forethought.evals.reasoning.verifier import Verifier

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)|\\boxed\s+(?=[^\s{])")
_NUMBER = r"(?:(?<![\w.)\]])-\s?)?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
_NUMBERS = re.compile(_NUMBER)
_HASHES = re.compile(rf"####\s*(-?\s?{_NUMBER})")
_ANSWER_IS = re.compile(r"answer\s+is\s*:?\s*(?P<answer>\S.*?)(?:\.\s|\.?\s*$)", re.IGNORECASE | re.MULTILINE)
_LETTER_BOX = re.compile(r"\(?([A-Z])\)?[.:]?(?:\s.*)?", re.DOTALL)
_LETTER_IS = re.compile(r"answer\s+is\s*:?\s*\**\(([A-Z])\)", re.IGNORECASE)
_WRAPPERS = re.compile(r"\\(?:text|textbf|mathrm|mathbf|textit|operatorname)\s*\{([^{}]*)\}")
_DROPPED = re.compile(r"\\(?:left|right|displaystyle|,|!|;|:|quad|\s)|\^\{?\\circ\}?|\\degree|[\s$]|\\[%$]|%")


def last_box(text: str) -> str | None:
    """Return what the last whole ``\\boxed{...}`` holds, matched brace by brace; ``None`` if there is none."""
    for box in reversed(list(_BOX.finditer(text))):
        start = box.end()
        if text[start] != "{":
            return text[start]
        depth = 0
        for place in range(start, len(text)):
            if text[place - 1] == "\\" and (place < 2 or text[place - 2] != "\\"):
                continue  # an escaped brace is a character
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                return text[start + 1 : place]
    return None


def number(text: str) -> Decimal | None:
    """Return the number that ``text`` is: ``$1,200.50``, ``-3.``; ``None`` if it is something else."""
    cleaned = text.replace(",", "").replace("$", "").replace("\\", "").replace(" ", "").rstrip(".%")
    return Decimal(cleaned) if re.fullmatch(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)", cleaned) else None


def same_number(gold: str, answer: str) -> bool:
    """Return whether both are the same number, however written: ``18``, ``$18.00``."""
    first, second = number(gold), number(answer)
    return first is not None and first == second


def read_number(text: str) -> Reading:
    """Return the number after ``####``, else after "the answer is" (both in form), else the last number."""
    # The first one: a model that runs on writes further problems, with answers of their own.
    hashes = _HASHES.search(text)
    if hashes:
        return Reading(answer=hashes[1], formatted=True)
    said = _ANSWER_IS.search(text)
    if said and (inside := _NUMBERS.search(said["answer"])):
        return Reading(answer=inside[0], formatted=True)
    numbers = _NUMBERS.findall(text)
    return Reading(answer=numbers[-1] if numbers else None)


def read_maths(text: str) -> Reading:
    """Return what the last box holds (in form), else what stands after "the answer is"."""
    boxed = (last_box(text) or "").strip()
    if boxed:
        return Reading(answer=boxed, formatted=True)
    said = list(_ANSWER_IS.finditer(text))
    return Reading(answer=said[-1]["answer"].strip().strip("$") or None if said else None)


def read_letter(text: str) -> Reading:
    """Return the letter in the last box, else the one after "answer is" in parentheses; never a bare one."""
    inside = _LETTER_BOX.fullmatch(_WRAPPERS.sub(r"\1", last_box(text) or "").strip())
    if inside:
        return Reading(answer=inside[1], formatted=True)
    said = _LETTER_IS.findall(text)
    return Reading(answer=said[-1].upper() if said else None, formatted=bool(said))


def normalise(text: str) -> str:
    """Return an expression without what changes its looks only: spaces, dollars, ``\\left``, ``\\text{}``."""
    shown = _WRAPPERS.sub(r"\1", text.strip().strip("."))
    shown = re.sub(r"\\[dt]frac", r"\\frac", shown)
    shown = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", shown)
    return _DROPPED.sub("", shown).replace("{,}", ",").replace("\\le(", "(")


def same_maths(gold: str, answer: str) -> bool:
    """Return whether two expressions are equal: as written, as numbers, or as Math-Verify says."""
    if normalise(gold) == normalise(answer):
        return True
    # Plain numbers are compared here: asking the other process takes far longer.
    if number(gold) is not None and number(answer) is not None:
        return same_number(gold, answer)
    return _verified(gold, answer)


def vote_number(answer: str) -> str:
    """Return a name that all ways of writing a number share."""
    value = number(answer)
    return normalise(answer) if value is None else format(value.normalize(), "f")


_VERIFIER = Verifier()


@functools.lru_cache(maxsize=65536)
def _verified(gold: str, answer: str) -> bool:
    return _VERIFIER.same(gold, answer)


NUMBER = Grader(name="number", read=read_number, same=same_number, vote=vote_number, show="#### {}".format)
MATHS = Grader(name="math-verify", read=read_maths, same=same_maths, vote=normalise, show="$\\boxed{{{}}}$.".format)
LETTER = Grader(name="letter", read=read_letter, same=str.__eq__, vote=str, show="The answer is ({}).".format)

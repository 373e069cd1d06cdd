"""What a teacher's thought must pass.  Every rejection has one reason, and every reason is counted.

The checks read words and letters only.  They find what is wrong on its face: they cannot say whether a thought is true.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from forethought.config import InterleaveConfig
from forethought.llm.replies import answer_of, reasons
from forethought.records import Place
from forethought.tags import Tags
from forethought.text import ngrams, words


class Rejection(enum.StrEnum):
    """Why a thought was not kept; the first check that it fails names it."""

    NO_REPLY = "no reply"
    EMPTY = "empty"
    MALFORMED = "malformed reply"
    NO_PLACE = "no such place"
    CUT = "cut at max_tokens"
    LONG = "too long"
    BOILERPLATE = "chat boilerplate"
    LANGUAGE = "wrong language"
    LEAK = "quotes the coming text"
    REPEAT = "repeats an earlier thought"
    OFF = "not about the place"
    SURPLUS = "one too many"


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """What surrounds a place, and the other thoughts of its row."""

    before: str
    after: str
    others: Sequence[str] = ()

    @classmethod
    def at(cls, place: Place, text: str, others: Sequence[str] = ()) -> Passage:
        return cls(before=text[: place.position], after=text[place.position :], others=others)


_BOILERPLATE = re.compile(
    r"^(?:sure|certainly|of course|absolutely|okay|great|here(?:'s|’s| is| are)|i(?:'m|’m| am) (?:sorry|unable|an? )|"
    r"i (?:can(?:'t|’t|not)|won(?:'t|’t)) |as an? (?:ai|assistant|language)|(?:the )?(?:reader's )?thought\s*\d*\s*:|"
    r"the reader\b|(?:the|this) (?:text|passage|author) (?:says|describes|discusses|continues|introduces)|note:)"
    r"|\b(?:as an ai|language model|let me know|i hope this|(?:ignore|disregard) (?:all|any|the|previous|your))\b|```",
    re.IGNORECASE,
)
"""How a chat assistant talks to its user, and how text talks to an assistant."""
_QUOTES = "\"'“”„‘’«»`* "
_UNSEEN = {"Cc", "Cs", "Co", "Cn"}
"""Control characters, halves of surrogate pairs, private and unassigned ones: no thought is written with them."""
_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of what follows them, the text after the thought included."""
_SAME_WORDS = 0.8
"""Two thoughts that share this much of their words say the same."""
_STEM = 4
"""Words with this many equal first letters are about the same thing."""
_AROUND = 400
"""Characters on both sides of a place that a thought there is about."""


def clean(reply: str, tags: Tags) -> str | Rejection:
    """Return the thought that ``reply`` holds, on one line and without quotation marks, or why it holds none."""
    # Reasoning that does not stand first is a thought that talks about thinking.
    answer = answer_of(reply) if reply.lstrip()[:1] in ("<", "[") else reply
    if answer is None:
        return Rejection.MALFORMED
    thought = " ".join(answer.split()).strip(_QUOTES)
    if not thought:
        return Rejection.EMPTY
    # Letters that show nothing or turn the direction of writing.
    odd = any(unicodedata.category(letter) in _UNSEEN or letter in _OVERRIDES for letter in thought)
    if odd or tags.inside(thought) or reasons(thought) or thought[0] in "[{":
        return Rejection.MALFORMED
    return thought


def check(thought: str, passage: Passage, config: InterleaveConfig) -> Rejection | None:
    """Return why ``thought`` must not stand at ``passage``, or ``None``."""
    own = words(thought)
    if not any(word[0].isalnum() for word in own):
        return Rejection.EMPTY
    # Characters, too: not all scripts have spaces between words.
    if len(thought.split()) > config.max_words or len(thought) > 12 * config.max_words:
        return Rejection.LONG
    if _BOILERPLATE.search(thought):
        return Rejection.BOILERPLATE
    if _script(thought) != _script(passage.before + passage.after):
        return Rejection.LANGUAGE
    if leak(thought, passage) > config.max_leak:
        return Rejection.LEAK
    distinct = set(own)
    others = [set(words(other)) for other in passage.others]
    # Share of the shorter one's words: a repetition with an addition is a repetition.
    if any(len(distinct & other) >= _SAME_WORDS * min(len(distinct), len(other)) for other in others):
        return Rejection.REPEAT
    around = passage.before[-_AROUND:] + passage.after[:_AROUND]
    return None if _stems(own) & _stems(words(around)) else Rejection.OFF


def leak(thought: str, passage: Passage) -> float:
    """Return the share of the thought's word 3-grams that stand after the place and not before it, in [0, 1].

    A thought of one or two words leaks if the words follow the place at once.
    """
    own = words(thought)
    size = min(3, len(own))
    if size < 3:
        return float(bool(own) and own == words(passage.after[:200])[:size])
    grams = ngrams(own, size)
    coming = set(ngrams(words(passage.after), size)) - set(ngrams(words(passage.before), size))
    return sum(gram in coming for gram in grams) / len(grams)


def _stems(own: Sequence[str]) -> set[str]:
    """Return the beginnings of the longer words; of scripts that are written without spaces, pairs of letters."""
    stems = {word[:_STEM] for word in own if len(word) >= _STEM}
    unspaced = "".join(word for word in own if ord(word[0]) > 0x2E80)
    return stems | {unspaced[start : start + 2] for start in range(len(unspaced) - 1)}


def _script(text: str) -> str:
    """Return the script of most letters: ``LATIN``, ``CYRILLIC``, ``ARABIC``, ...; kana and ideographs are one."""
    names = Counter(unicodedata.name(letter, "?").split()[0] for letter in text if letter.isalpha())
    for name in ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"):
        names["CJK"] += names.pop(name, 0)
    return max(names, key=lambda name: names[name]) if names.total() else ""

"""What can be counted in text without a judge, repetition and diversity, and how text is shown.  Pure functions.

A win rate must be read together with these: a judge may prefer text because it repeats itself.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

from forethought.stats import Z95, Interval

_WORD = re.compile(r"\w+|[^\w\s]")
_HIDDEN = re.compile(
    "\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff"  # controls; halves of a character
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the direction of writing
    "\u180e\u200b\u2028\u2029\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"  # unseen
)


def printable(text: str) -> str:
    """Return ``text`` as it may be shown in a terminal, an error, a log or a page, as long as it was.

    Characters that command a terminal, turn the direction of writing or cannot be seen or encoded are replaced, one
    by one, by a sign: U+241B for escape, U+FFFD where there is none.  For showing only: data stay as they are.
    """
    return text if text.isprintable() else _HIDDEN.sub(_sign, text)


def _sign(match: re.Match[str]) -> str:
    code = ord(match[0])
    return (
        chr(0x2400 + code) if code < 0x20 else "\N{SYMBOL FOR DELETE}" if code == 0x7F else "\N{REPLACEMENT CHARACTER}"
    )


def words(text: str) -> list[str]:
    """Return the words of ``text`` in lower case; every punctuation mark is a word, so ``"...."`` repeats itself."""
    return _WORD.findall(text.lower())


def ngrams(items: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    """Return the ``n``-grams of ``items`` in order; none if there are fewer than ``n`` items."""
    return [tuple(items[start : start + n]) for start in range(len(items) - n + 1)]


def repetition(items: Sequence[Hashable], n: int = 4) -> float:
    """Return the share of ``n``-grams that already occurred earlier in the same sequence, in [0, 1].

    This is seq-rep-n of Welleck et al. (2020): ``1 - unique / all``.  A sequence that is too short
    to have two ``n``-grams cannot repeat one and gives 0.
    """
    grams = ngrams(items, n)
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def distinct_n(sequences: Iterable[Sequence[Hashable]], n: int) -> float:
    """Return distinct-n (Li et al., 2016): unique ``n``-grams of all sequences together over all of their ``n``-grams.

    Pooled, so that the same sentence after every prefix shows.  It falls with the amount of text:
    compare equal amounts only.  Without any ``n``-gram it is 0.
    """
    counts = Counter(gram for sequence in sequences for gram in ngrams(sequence, n))
    return len(counts) / counts.total() if counts else 0.0


def distinct_interval(sequences: Sequence[Sequence[Hashable]], n: int, clusters: Sequence[Hashable]) -> Interval:
    """Return :func:`distinct_n` with a 95% interval by the delete-one-cluster jackknife.

    A bootstrap would count every text that is drawn twice as a repetition.  ``Interval.n`` counts sequences.
    """
    groups: dict[Hashable, Counter[tuple[Hashable, ...]]] = {}
    for sequence, cluster in zip(sequences, clusters, strict=True):
        groups.setdefault(cluster, Counter()).update(ngrams(sequence, n))
    total = Counter[tuple[Hashable, ...]]()
    for group in groups.values():
        total.update(group)
    value = len(total) / total.total() if total else 0.0
    left_out = []
    for group in groups.values():
        lost = sum(1 for gram, count in group.items() if total[gram] == count)
        left = total.total() - group.total()
        left_out.append((len(total) - lost) / left if left else 0.0)
    mean = sum(left_out) / len(left_out) if left_out else 0.0
    spread = sum((value_without - mean) ** 2 for value_without in left_out)
    error = math.sqrt(spread * (len(left_out) - 1) / len(left_out)) if left_out else 0.0
    low, high = max(0.0, value - Z95 * error), min(1.0, value + Z95 * error)
    return Interval(value=value, low=low, high=high, n=len(sequences))


def copied(text: str, source: str, n: int = 3) -> float:
    """Return the share of the word ``n``-grams of ``text`` that occur in ``source``, in [0, 1]; 0 if there are none."""
    grams = ngrams(words(text), n)
    known = set(ngrams(words(source), n))
    return sum(gram in known for gram in grams) / len(grams) if grams else 0.0

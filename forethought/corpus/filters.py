"""Which documents are used, and in which split.  Filters remove what is not text; they do not judge style."""

from __future__ import annotations

import hashlib
import itertools
import unicodedata

from forethought.config import ChunkConfig, CorpusConfig
from forethought.records import Split

MAX_BAD_CHARACTERS, MIN_LETTERS, MAX_REPEATED_LINES = 0.01, 0.5, 0.5  # shares; see rejection()

_WHITESPACE_CONTROLS = frozenset("\t\n\v\f\r\x1c\x1d\x1e\x1f\x85")


def rejection(text: str, config: CorpusConfig) -> str | None:
    """Return why ``text`` is not used, or ``None``.

    ``too_short``: fewer than ``min_characters`` without surrounding space.  ``bad_characters``: a lone
    surrogate (no UTF-8 has one), or more than 1% control, unassigned and replacement characters.
    ``not_prose``: fewer than half of the visible characters are letters.  ``repeated_lines``: more than
    half of the text is in lines that repeat an earlier one.
    """
    if not text.strip() or len(text.strip()) < config.min_characters:
        return "too_short"
    if _has_bad_characters(text):
        return "bad_characters"
    visible, letters = len("".join(text.split())), sum(map(str.isalpha, text))
    if letters < MIN_LETTERS * visible:  # combining marks are counted only where they could matter: it is slow
        letters += sum(unicodedata.category(character)[0] == "M" for character in text)
    if letters / visible < MIN_LETTERS:
        return "not_prose"
    if _repeated_share(text) > MAX_REPEATED_LINES:
        return "repeated_lines"
    return None


def fingerprint(text: str) -> bytes:
    """Return a 16-byte hash that is equal for texts that differ only in case, spacing or Unicode form."""
    normal = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.sha256(normal.encode("utf-8", "surrogatepass")).digest()[:16]


def title_key(title: str) -> str:
    """Return the split key of a title: equal for spellings that differ only in case, spacing or underscores."""
    return "title:" + " ".join(unicodedata.normalize("NFKC", title).casefold().replace("_", " ").split())


def split_of(split_key: str, config: ChunkConfig) -> Split:
    """Return the split of a document: a function of its key and the shares alone.

    The order of the corpus, other documents and the seed do not matter.  The held-out share comes first, so that
    other shares may change without training on documents that were held out before.
    """
    digest = hashlib.sha256(f"split\x1f{split_key}".encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    shares = ((Split.HELDOUT, config.heldout_share), (Split.SFT, config.sft_share), (Split.RLMT, config.rlmt_share))
    bounds = itertools.accumulate(share for _, share in shares)
    return next((split for (split, _), bound in zip(shares, bounds, strict=True) if place < bound), Split.IMPROVE)


def _has_bad_characters(text: str) -> bool:
    # The fast way for many texts: printable text has no control or unassigned character.
    if text.isprintable():
        return "\ufffd" in text and text.count("\ufffd") > MAX_BAD_CHARACTERS * len(text)
    bad = 0
    for character in text:
        if character == "\ufffd" or not (character.isprintable() or character in _WHITESPACE_CONTROLS):
            category = unicodedata.category(character)
            if category == "Cs":
                return True
            bad += category in ("Cc", "Cn", "Co") or character == "\ufffd"
    return bad > MAX_BAD_CHARACTERS * len(text)


def _repeated_share(text: str) -> float:
    seen: set[str] = set()
    repeated = total = 0
    for line in text.splitlines():
        line = line.strip()
        total += len(line)
        repeated += len(line) if line in seen else 0
        seen.add(line)
    return repeated / total if total else 0.0

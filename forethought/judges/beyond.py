"""The default match judge: how much of what the true suffix adds to its prefix a prediction says.

Likeness alone rewards a copy of the prefix, which speaks of the same things.  Here only the part of the true suffix's
embedding counts that no piece of the prefix explains; words that both texts have must stand in the same order, and
where both say the same, names and numbers must be the same.  Compared with other scores in docs/log.md, 2026-11-26.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from forethought.judges.base import Question, QuestionJudge
from forethought.judges.match import true_suffix
from forethought.judges.planted import Span, names, numbers
from forethought.models.embedding import Embedder
from forethought.records import Axis, JudgeRequest, Verdict

WORD = re.compile(r"\w+(?:[’']\w+)*")
LEAST_NEW = 0.05
"""Squared length below which what is new in a suffix, of an embedding of length 1, counts as this much."""
SAME_DIRECTION = 0.1
"""Directions of the prefix's pieces with singular values below this share of the largest one count as noise."""
AGREED_PAIRS = 6
"""Pairs of words in agreement that every text is credited with: two shared words in another order say little."""
ALIKE = 4
"""Letters with which two forms of one name begin."""
LONGEST_PLACE = 6
"""Words of a place in which a prediction names other facts than the true text; a longer one is another sentence."""


class BeyondPrefixJudge(QuestionJudge):
    """Scores about 0 for a copy of the prefix and 1 for the true suffix; less than 0 for what leads away from it.

    With unit embeddings p of the prediction and t of the true suffix, and r = t less its projection on the embeddings
    of the prefix and of its pieces, the score is ``(p . r) / max(r . r, 0.05)``.  If it is above 0, it is multiplied by
    :func:`order`, and is 0 where the prediction :func:`contradicts` the true suffix.
    """

    axis = Axis.MATCH

    def __init__(self, embedder: Embedder) -> None:
        rules = [LEAST_NEW, SAME_DIRECTION, AGREED_PAIRS, ALIKE, LONGEST_PLACE]
        super().__init__(f"beyond-prefix-{embedder.name}", "beyond prefix", embedder.identity, rules)
        self.embedder = embedder

    def answer(self, requests: Sequence[JudgeRequest], questions: Sequence[Sequence[Question]]) -> list[list[Verdict]]:
        """Score each prediction; an empty one says nothing and scores -1, less than any other."""
        pieces = [pieces_of(request.prefix, len(WORD.findall(true_suffix(request)))) for request in requests]
        pairs = list(zip(requests, questions, strict=True))
        predicted = [request.candidates[first] for request, row in pairs for first, _ in row]
        # Each text once: the predictions for a window share its prefix and its true text.
        texts = list(dict.fromkeys([*map(true_suffix, requests), *itertools.chain(*pieces), *predicted]))
        vectors = dict(zip(texts, self.embedder.embed(texts), strict=True)) if texts else {}

        def score(request: JudgeRequest, new_D: np.ndarray, text: str) -> float:
            if not text.strip():
                return -1.0
            reached = float(vectors[text] @ new_D)
            if reached <= 0:
                return max(-1.0, reached)
            if contradicts(true_suffix(request), text):
                return 0.0
            return reached * order(true_suffix(request), text)

        verdicts = []
        for (request, row), some in zip(pairs, pieces, strict=True):
            new_D = direction(vectors[true_suffix(request)], np.stack([vectors[piece] for piece in some]))
            verdicts.append([self.scored(q, score(request, new_D, request.candidates[q[0]])) for q in row])
        return verdicts


def pieces_of(prefix: str, words: int) -> list[str]:
    """Return ``prefix`` and its pieces of ``words`` words, one at every half of that and one at the end."""
    places = [match.span() for match in WORD.finditer(prefix)]
    words = max(1, words)
    starts = range(0, len(places) - words, max(1, words // 2))
    ends = [len(places) - words] if len(places) > words else []
    cut = [prefix[places[start][0] : places[start + words - 1][1]] for start in (*starts, *ends)]
    return list(dict.fromkeys([prefix, *cut]))


def direction(true_D: np.ndarray, known_ND: np.ndarray) -> np.ndarray:
    """Return the direction of what ``true_D`` adds to ``known_ND``, so long that its product with ``true_D`` is 1.

    The rows of ``known_ND`` are the pieces of the prefix.  The product is less where nearly all of the true suffix is
    known: there is too little left to measure by.
    """
    weights_N = np.linalg.lstsq(known_ND.T, true_D, rcond=SAME_DIRECTION)[0]
    new_D = true_D - known_ND.T @ weights_N
    scaled: np.ndarray = new_D / max(float(new_D @ new_D), LEAST_NEW)
    return scaled


def order(true: str, text: str) -> float:
    """Return how far words that stand once in both texts stand in the same order, from 0 to 1.

    Kendall's tau (1938) over pairs of these words, with :data:`AGREED_PAIRS` more in agreement, and 0 for less.
    """
    both = [[match.group().lower() for match in WORD.finditer(one)] for one in (true, text)]
    counts = [Counter(words) for words in both]
    here, there = ({word: place for place, word in enumerate(words)} for words in both)
    shared = [word for word in here if counts[0][word] == counts[1][word] == 1]
    pairs = len(shared) * (len(shared) - 1) // 2
    turned = sum(there[a] > there[b] for a, b in itertools.combinations(shared, 2))
    return max(0.0, (pairs - 2 * turned + AGREED_PAIRS) / (pairs + AGREED_PAIRS))


def contradicts(true: str, text: str) -> bool:
    """Return whether ``text`` says what ``true`` says with another name or number in a place.

    A place is a few words between words that both have.  Names that begin alike are one name ("Java", "Javanese"), and
    so is one that was cut off at the end of its text.
    """
    ours, theirs = (_words(one) for one in (true, text))
    aligned = difflib.SequenceMatcher(None, [word for word, _ in ours], [word for word, _ in theirs], autojunk=False)
    for kind, a, b, c, d in aligned.get_opcodes():
        if kind != "replace" or not (a and c) or max(b - a, d - c) > LONGEST_PLACE:
            continue
        # With the ends of the texts, where either may stop in the middle of a word.
        facts = [(word, at == len(ours) - 1) for at, (word, fact) in enumerate(ours[a:b], a) if fact]
        others = [(word, at == len(theirs) - 1) for at, (word, fact) in enumerate(theirs[c:d], c) if fact]
        if facts and any(not any(_alike(fact, other) for fact in facts) for other in others):
            return True
    return False


def _alike(one: tuple[str, bool], other: tuple[str, bool]) -> bool:
    (a, a_ends), (b, b_ends) = one, other
    same = a.isalpha() and b.isalpha() and a[:ALIKE] == b[:ALIKE] and min(len(a), len(b)) >= ALIKE
    return a == b or same or (a_ends and b.startswith(a)) or (b_ends and a.startswith(b))


def _words(text: str) -> list[tuple[str, bool]]:
    """Return the words of a text in lower case, and whether each is of a name or a number."""
    # As if a sentence began with it: a first word has a capital whatever it is.
    facts: list[Span] = [*numbers(text), *names("", text)]
    return [
        (match.group().lower(), any(span.start < match.end() and match.start() < span.end for span in facts))
        for match in WORD.finditer(text)
    ]

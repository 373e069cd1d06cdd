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
RULES = 1
"""Goes up with every change of what is computed, so that no old threshold is taken for a new one."""
LEAST_NEW = 0.05
"""Squared length below which what is new in a suffix, of an embedding of length 1, counts as this much."""
SAME_DIRECTION = 0.1
"""Directions of the prefix's pieces with singular values below this share of the largest one count as noise."""
AGREED_PAIRS = 6
"""Pairs of words in agreement that every text is credited with: two shared words in another order say little."""
ALIKE = 4
"""Letters with which two forms of one name begin."""
FACT, CUT = "<fact>", "<cut>"
"""What stands for a name or a number when texts are aligned, and for the end of a text in the middle of a word."""
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
        rules = [RULES, LEAST_NEW, SAME_DIRECTION, AGREED_PAIRS, ALIKE, LONGEST_PLACE]
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
    ours, theirs = _units(true), _units(text)
    shown = [[FACT if fact else words[0] for words, fact in units] for units in (ours, theirs)]
    for kind, a, b, c, d in difflib.SequenceMatcher(None, shown[0], shown[1], autojunk=False).get_opcodes():
        if kind == "equal":
            # Between two words that both texts have, or after one at the end of a text.
            last = b - a if b == len(ours) or d == len(theirs) else b - a - 1
            places = [(ours[a + at : a + at + 1], theirs[c + at : c + at + 1]) for at in range(1, last)]
        elif kind == "replace" and a and c and max(b - a, d - c) <= LONGEST_PLACE:
            places = [(ours[a:b], theirs[c:d])]
        else:
            continue
        if any(_differ(*place) for place in places):
            return True
    return False


Unit = tuple[list[str], bool]
"""The words of a name, a number, or one other word; and whether it is a name or a number."""


def _differ(ours: Sequence[Unit], theirs: Sequence[Unit]) -> bool:
    """Return whether both have names or numbers, and the second one that the first has not."""
    facts, others = ([words for words, fact in units if fact] for units in (ours, theirs))
    return bool(facts) and any(not any(_alike(fact, other) for fact in facts) for other in others)


def _units(text: str) -> list[Unit]:
    """Return the words of a text in lower case, those of one name together."""
    # As if a sentence began with it: a first word has a capital whatever it is.
    facts: list[Span] = sorted([*numbers(text), *names("", text)])
    units: list[Unit] = []
    end = 0
    for match in WORD.finditer(text):
        span = next((span for span in facts if span.start < match.end() and match.start() < span.end), None)
        if span is None:
            units.append(([match.group().lower()], False))
        elif units and match.start() < end:
            units[-1][0].append(match.group().lower())
        else:
            units.append(([match.group().lower()], True))
            end = span.end
    if units and text and text[-1].isalnum():
        units[-1][0].append(CUT)
    return units


def _alike(one: list[str], other: list[str]) -> bool:
    """Return whether two names or numbers have a word in common, in whatever form."""
    ends = one[-1] == CUT, other[-1] == CUT
    ours, theirs = ([word for word in words if word != CUT] for words in (one, other))
    for place, a in enumerate(ours):
        for spot, b in enumerate(theirs):
            forms = a.isalpha() and b.isalpha() and min(len(a), len(b)) >= ALIKE and a[:ALIKE] == b[:ALIKE]
            a_cut, b_cut = ends[0] and place == len(ours) - 1, ends[1] and spot == len(theirs) - 1
            if a == b or forms or (a_cut and b.startswith(a)) or (b_cut and a.startswith(b)):
                return True
    return False

"""A teacher without a language model: a rule that makes a thought of the last words.  For tests and smoke runs."""

from __future__ import annotations

from collections.abc import Sequence

from forethought.records import Place, content_id
from forethought.text import words
from forethought.thoughts.teacher import Draft, Offer

FORMS = (
    "So far this is about {word}. What follows should say more.",
    "Why {word}? There must be a reason.",
    "Then {word} matters here.",
)
"""What it says, in turn."""


class StandInTeacher:
    """Names the longest of the last words before a place."""

    name = "stand-in"
    identity = content_id("stand-in", FORMS)

    def ask(self, drafts: Sequence[Draft], attempt: int) -> list[list[Offer]]:
        """See :class:`~forethought.thoughts.teacher.Teacher`."""
        return [[_offer(draft, place, number) for number, place in enumerate(draft.open)] for draft in drafts]


def _offer(draft: Draft, place: Place, number: int) -> Offer:
    last = words(draft.text[: place.position])[-12:]
    return Offer(place=place, thought=FORMS[number % len(FORMS)].format(word=max(last, key=len)))

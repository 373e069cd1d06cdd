"""From chunks to rows with thoughts: rounds of asking, checks with counted reasons, statistics.

Every thought that is offered ends in exactly one place of the :class:`Ledger`: accepted, or rejected for one reason.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from forethought import metrics
from forethought.records import Chunk, Measurement, Place, ThoughtRow, content_id
from forethought.stats import Interval, bootstrap_mean, wilson
from forethought.tags import Tags, raw, spans
from forethought.thoughts.checks import Passage, Rejection, Rules, check, leak
from forethought.thoughts.teacher import Draft, Offer, Teacher

HOLDS_TAGS, FEW_PLACES, FEW_THOUGHTS = "the text holds a tag", "too few places", "too few thoughts"
"""Why a chunk gives no row."""


@dataclass(slots=True)
class Ledger:
    """What became of everything."""

    offered: int = 0
    """Thoughts that the teacher offered, and replies that held none."""
    accepted: int = 0
    """Thoughts that passed all checks."""
    rejected: Counter[str] = field(default_factory=Counter)
    """The others, by reason."""
    chunks: int = 0
    """Chunks that were tried."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Chunks that gave no row, by reason."""
    lost: int = 0
    """Accepted thoughts of dropped chunks."""

    def plain(self) -> dict[str, object]:
        """Return the counts as builtins."""
        return {
            "offered": self.offered,
            "accepted": self.accepted,
            "rejected": dict(sorted(self.rejected.items())),
            "chunks": self.chunks,
            "dropped": dict(sorted(self.dropped.items())),
            "lost": self.lost,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How many thoughts a row has."""

    fewest: int
    """A row with fewer is dropped."""
    most: int
    """Thoughts beyond these are rejected."""
    gap: int
    """Characters between two places."""
    attempts: int
    """Rounds of asking."""


def usable(chunk: Chunk, places: Sequence[Place], tags: Tags, fewest: int, ledger: Ledger) -> bool:
    """Return whether a chunk can become a row, and count it if not.

    A text that spells a tag itself could not be told from a thought once it is rendered: it is left alone.
    """
    ledger.chunks += 1
    if tags.inside(chunk.prefix + chunk.suffix):
        ledger.dropped[HOLDS_TAGS] += 1
        return False
    if len(places) < fewest:
        ledger.dropped[FEW_PLACES] += 1
        return False
    return True


def augment(drafts: Sequence[Draft], teacher: Teacher, rules: Rules, wanted: Wanted, ledger: Ledger) -> None:
    """Ask ``teacher`` for thoughts, at most ``wanted.attempts`` times, and keep what passes in the drafts."""
    for attempt in range(wanted.attempts):
        needy = [draft for draft in drafts if len(draft.thoughts) < min(wanted.most, len(draft.places))]
        if not needy:
            break
        for draft, offers in zip(needy, teacher.ask(needy, attempt), strict=True):
            for offer in offers:
                settle(draft, offer, rules, wanted, ledger)


def settle(draft: Draft, offer: Offer, rules: Rules, wanted: Wanted, ledger: Ledger) -> None:
    """Keep an offered thought or reject it for one reason, and count it either way."""
    ledger.offered += 1
    reason = offer.rejection or _objection(draft, offer, rules, wanted)
    if reason is None and offer.place is not None:
        draft.thoughts[offer.place] = offer.thought
        ledger.accepted += 1
    else:
        ledger.rejected[str(reason or Rejection.NO_PLACE)] += 1


def finished(draft: Draft, wanted: Wanted, ledger: Ledger) -> ThoughtRow | None:
    """Return the draft as a row, or ``None``, counted, if too few thoughts survived."""
    if len(draft.thoughts) < wanted.fewest:
        ledger.dropped[FEW_THOUGHTS] += 1
        ledger.lost += len(draft.thoughts)
        return None
    places = sorted(draft.thoughts, key=lambda place: place.position)
    return row(draft.chunk, places, [draft.thoughts[place] for place in places])


def row(chunk: Chunk, places: Sequence[Place], thoughts: Sequence[str] = ()) -> ThoughtRow:
    """Return the row of a chunk, with its text as it is."""
    return ThoughtRow(
        id=content_id(chunk.id, [place.position for place in places], list(thoughts)),
        chunk_id=chunk.id,
        document_id=chunk.document_id,
        split=chunk.split,
        text=chunk.prefix + chunk.suffix,
        places=tuple(places),
        thoughts=tuple(thoughts),
    )


def statistics(rows: Sequence[ThoughtRow], chunks: Sequence[Chunk], ledger: Ledger, seed: int) -> dict[str, Interval]:
    """Return what the rows look like, with 95% intervals; a rate's ``n`` is its denominator.

    ``exact_preservation`` joins every row's text spans and compares them with the chunk that the row came from.
    """
    texts = {chunk.id: chunk.prefix + chunk.suffix for chunk in chunks}
    exact = sum(raw(spans(one)) == texts[one.chunk_id] for one in rows)
    found: dict[str, Interval] = {metrics.ROWS: _count(len(rows), ledger.chunks)}
    if rows:
        owners = [one.document_id for one in rows]
        found[metrics.EXACT] = wilson(exact, len(rows))
        places = [float(len(one.places)) for one in rows]
        found[metrics.PLACES] = bootstrap_mean(places, seed, clusters=owners)
        relative = [(place.position / len(one.text), one.document_id) for one in rows for place in one.places]
        found[metrics.POSITION] = bootstrap_mean([at for at, _ in relative], seed, clusters=[o for _, o in relative])
    said = [(thought, one, place) for one in rows for thought, place in zip(one.thoughts, one.places, strict=False)]
    if said:
        owners = [one.document_id for _, one, _ in said]
        lengths = [float(len(thought.split())) for thought, _, _ in said]
        found[metrics.WORDS] = bootstrap_mean(lengths, seed, clusters=owners)
        passages = [(t, Passage(before=o.text[: p.position], after=o.text[p.position :])) for t, o, p in said]
        found[metrics.KEPT_LEAK] = bootstrap_mean([leak(*one) for one in passages], seed, clusters=owners)
    if ledger.offered:
        found[metrics.ACCEPTED] = wilson(ledger.accepted, ledger.offered)
        found[metrics.LEAK_RATE] = wilson(ledger.rejected[str(Rejection.LEAK)], ledger.offered)
    return found


UNITS: dict[str, str] = {
    metrics.ROWS: "rows; n chunks that were tried",
    metrics.EXACT: "share of rows whose text spans join to the raw chunk; Wilson",
    metrics.PLACES: "per row; n rows, bootstrap over documents",
    metrics.POSITION: "share of the text before the place; n places, bootstrap over documents",
    metrics.WORDS: "words; n thoughts, bootstrap over documents",
    metrics.KEPT_LEAK: "share of a kept thought's word 3-grams that only the coming text has; n thoughts, bootstrap",
    metrics.ACCEPTED: "share of offered thoughts; Wilson",
    metrics.LEAK_RATE: "share of offered thoughts; Wilson",
}
"""What the figures of :func:`statistics` are measured in."""


def measurements(found: dict[str, Interval], ledger: Ledger, blank: Measurement) -> list[Measurement]:
    """Return ``found`` and the ledger's reasons as figures; ``blank`` says whose."""
    figures = [_filled(blank, metric, interval, UNITS[metric]) for metric, interval in found.items()]
    for reason, count in sorted(ledger.rejected.items()):
        named = dataclasses.replace(blank, condition=reason)
        figures.append(
            _filled(named, metrics.REJECTED, wilson(count, ledger.offered), "share of offered thoughts; Wilson")
        )
    for reason, count in sorted(ledger.dropped.items()):
        named = dataclasses.replace(blank, condition=reason)
        figures.append(_filled(named, metrics.DROPPED, wilson(count, ledger.chunks), "share of chunks; Wilson"))
    return figures


def _filled(blank: Measurement, metric: str, interval: Interval, unit: str) -> Measurement:
    return dataclasses.replace(blank, metric=metric, unit=unit, **dataclasses.asdict(interval))


def _objection(draft: Draft, offer: Offer, rules: Rules, wanted: Wanted) -> Rejection | None:
    place = offer.place
    if place is None or place in draft.thoughts:
        return Rejection.NO_PLACE
    if len(draft.thoughts) >= wanted.most or any(
        abs(place.position - other.position) < wanted.gap for other in draft.thoughts
    ):
        return Rejection.SURPLUS
    text = draft.text
    others = list(draft.thoughts.values())
    passage = Passage(before=text[: place.position], after=text[place.position :], others=others)
    return check(offer.thought, passage, rules)


def _count(count: int, of: int) -> Interval:
    return Interval(value=float(count), low=float(count), high=float(count), n=of)

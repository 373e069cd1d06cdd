"""From chunks to rows with thoughts: rounds of asking, checks with counted reasons, statistics.

Every proposed thought is counted once in :class:`ThoughtCounts`: as accepted, or as rejected for one reason.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from forethought import metrics
from forethought.config import InterleaveConfig
from forethought.records import Chunk, Measurement, Place, ThoughtRow, content_id
from forethought.stats import Interval, estimate, wilson
from forethought.tags import Tags, raw, spans
from forethought.thoughts.checks import Passage, Rejection, check, leak
from forethought.thoughts.teacher import Draft, Teacher

HOLDS_TAGS, FEW_PLACES, FEW_THOUGHTS = "the text holds a tag", "too few places", "too few thoughts"
"""Why a chunk gives no row."""
KEPT_REASONS = 5
"""Reasons of requests without a reply that are kept: servers may put numbers of their own into each."""


@dataclass(slots=True)
class ThoughtCounts:
    """What became of every thought that a teacher proposed, and of every chunk that was tried."""

    offered: int = 0
    """Thoughts that the teacher proposed, and replies that held none."""
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    """The others, by reason."""
    unanswered: Counter[str] = field(default_factory=Counter)
    """Requests without a reply, by what was said of them."""
    chunks: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """Chunks that gave no row, by reason."""
    lost: int = 0
    """Accepted thoughts of dropped chunks."""

    def to_dict(self) -> dict[str, object]:
        return {
            "offered": self.offered,
            metrics.ACCEPTED: self.accepted,
            "rejected": dict(sorted(self.rejected.items())),
            **({"unanswered": dict(self.unanswered.most_common(KEPT_REASONS))} if self.unanswered else {}),
            "chunks": self.chunks,
            "dropped": dict(sorted(self.dropped.items())),
            "lost": self.lost,
        }


def usable(chunk: Chunk, places: Sequence[Place], config: InterleaveConfig, counts: ThoughtCounts) -> bool:
    """Return whether a chunk can become a row, and count it if not.

    A text that spells a tag itself could not be told from a thought once it is rendered: it is left alone.
    """
    counts.chunks += 1
    holds_tags = Tags(*config.tags).inside(chunk.prefix + chunk.suffix)
    if holds_tags or len(places) < config.thoughts[0]:
        counts.dropped[HOLDS_TAGS if holds_tags else FEW_PLACES] += 1
        return False
    return True


def augment(drafts: Sequence[Draft], teacher: Teacher, config: InterleaveConfig, counts: ThoughtCounts) -> None:
    """Ask ``teacher`` for thoughts, once and ``retries`` times more, and keep what passes the checks in the drafts."""
    for attempt in range(config.teacher.retries + 1):
        unfinished = [draft for draft in drafts if len(draft.thoughts) < min(config.thoughts[1], len(draft.places))]
        if not unfinished:
            break
        for draft, proposals in zip(unfinished, teacher.ask(unfinished, attempt), strict=True):
            for proposal in proposals:  # a proposal is checked against those that were kept before it
                counts.offered += 1
                reason = proposal.rejection or _objection(draft, proposal.place, proposal.thought, config)
                if reason is None and proposal.place is not None:
                    draft.thoughts[proposal.place] = proposal.thought
                    counts.accepted += 1
                else:
                    counts.rejected[str(reason)] += 1
                    if proposal.reason:
                        counts.unanswered[proposal.reason] += 1


def _objection(draft: Draft, place: Place | None, thought: str, config: InterleaveConfig) -> Rejection | None:
    kept = draft.thoughts
    if place is None or place in kept:
        return Rejection.NO_PLACE
    if len(kept) >= config.thoughts[1] or any(abs(place.position - other.position) < config.gap for other in kept):
        return Rejection.SURPLUS
    return check(thought, Passage.at(place, draft.text, list(kept.values())), config)


def finished_row(draft: Draft, config: InterleaveConfig, counts: ThoughtCounts) -> ThoughtRow | None:
    """Return the draft as a row, or ``None``, counted, if too few thoughts survived."""
    if len(draft.thoughts) < config.thoughts[0]:
        counts.dropped[FEW_THOUGHTS] += 1
        counts.lost += len(draft.thoughts)
        return None
    places = sorted(draft.thoughts, key=lambda place: place.position)
    return make_row(draft.chunk, places, [draft.thoughts[place] for place in places])


def make_row(chunk: Chunk, places: Sequence[Place], thoughts: Sequence[str] = ()) -> ThoughtRow:
    return ThoughtRow(
        id=content_id(chunk.id, [place.position for place in places], list(thoughts)),
        chunk_id=chunk.id,
        document_id=chunk.document_id,
        split=chunk.split,
        text=chunk.prefix + chunk.suffix,
        places=tuple(places),
        thoughts=tuple(thoughts),
    )


def statistics(rows: Sequence[ThoughtRow], chunks: Sequence[Chunk], counts: ThoughtCounts) -> dict[str, Interval]:
    """Return what the rows look like, with 95% intervals; a rate's ``n`` is its denominator.

    ``exact_preservation`` joins every row's text spans and compares them with the chunk that the row came from.
    """
    figures: dict[str, Interval] = {}

    def mean(name: metrics.Metric, values: Sequence[tuple[float, ThoughtRow]]) -> None:
        documents = [row.document_id for _, row in values]
        figures[name] = estimate([value for value, _ in values], documents, share=name.kind is metrics.SHARE)

    kept = float(len(rows))
    figures[metrics.ROWS] = Interval(value=kept, low=kept, high=kept, n=counts.chunks)
    if rows:
        texts = {chunk.id: chunk.prefix + chunk.suffix for chunk in chunks}
        figures[metrics.EXACT] = wilson(sum(raw(spans(row)) == texts[row.chunk_id] for row in rows), len(rows))
        mean(metrics.PLACES, [(float(len(row.places)), row) for row in rows])
        mean(metrics.POSITION, [(place.position / len(row.text), row) for row in rows for place in row.places])
    # Not strict: some rows have places without thoughts.
    thoughts = [(text, row, place) for row in rows for text, place in zip(row.thoughts, row.places, strict=False)]
    if thoughts:
        mean(metrics.WORDS, [(float(len(text.split())), row) for text, row, _ in thoughts])
        mean(metrics.KEPT_LEAK, [(leak(text, Passage.at(place, row.text)), row) for text, row, place in thoughts])
    if counts.offered:
        figures[metrics.ACCEPTED] = wilson(counts.accepted, counts.offered)
        figures[metrics.LEAK_RATE] = wilson(counts.rejected[str(Rejection.LEAK)], counts.offered)
    return figures


UNITS: dict[str, str] = {
    metrics.ROWS: "rows; n chunks that were tried",
    metrics.EXACT: "share of rows whose text spans join to the raw chunk; Wilson",
    metrics.PLACES: "per row; n rows, interval over documents",
    metrics.POSITION: "share of the text before the place; n places, interval over documents",
    metrics.WORDS: "words; n thoughts, interval over documents",
    metrics.KEPT_LEAK: "share of a kept thought's word 3-grams only in the coming text; n thoughts, over documents",
    metrics.ACCEPTED: "share of offered thoughts; Wilson",
    metrics.LEAK_RATE: "share of offered thoughts; Wilson",
}
"""What the figures of :func:`statistics` are measured in."""


def measurements(figures: dict[str, Interval], counts: ThoughtCounts, blank: Measurement) -> list[Measurement]:
    """Return ``figures`` and the counted reasons as measurements; ``blank`` says whose."""
    rows = [(metric, "", interval, UNITS[metric]) for metric, interval in figures.items()]
    for metric, reasons, total, unit in (
        (metrics.REJECTED, counts.rejected, counts.offered, "share of offered thoughts; Wilson"),
        (metrics.DROPPED, counts.dropped, counts.chunks, "share of chunks; Wilson"),
    ):
        rows += [(metric, reason, wilson(count, total), unit) for reason, count in sorted(reasons.items())]
    return [
        dataclasses.replace(blank, metric=metric, condition=reason, unit=unit, **dataclasses.asdict(interval))
        for metric, reason, interval, unit in rows
    ]

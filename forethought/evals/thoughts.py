"""Whether SFT installed the interface: NLL of thoughts, tags and text apart, and what the policy does with it.

Everything is measured on held-out rows, before and after, for every arm, paired by row; intervals are bootstrapped
over documents.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forethought import metrics
from forethought.engine import Group, Prompt, Sampler, Sampling, Scorer
from forethought.evals.nll import SuffixNLL
from forethought.keys import Key
from forethought.metrics import NOTHING, OWN, PER_ROW, PER_TOKEN, RAW_TEXT, TAGGED, TEACHER
from forethought.models.thought_tokens import ThoughtTokens, as_group, plain
from forethought.records import Chunk, Measurement, SpanKind, ThoughtRow
from forethought.stats import Interval, bootstrap_mean, paired_bootstrap
from forethought.tags import Tags, parse

ROWS_PER_CALL = 64

KindNLL = Mapping[str, SuffixNLL]
"""NLL by kind of token, of :data:`TAGGED` and of :data:`RAW_TEXT`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinker:
    """An arm, as this evaluation needs it."""

    name: str
    """Its name in the run."""
    identity: str
    """Hash of its weights."""
    sampler: Sampler
    """Writes."""
    scorer: Scorer
    """Scores."""
    codec: ThoughtTokens
    """Thoughts to ids, under its own tokenizer."""
    bos: tuple[int, ...]
    """Stands before every text."""
    forbidden: tuple[int, ...]
    """Never drawn; no tag is among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """What every arm is asked."""

    rows: Sequence[ThoughtRow]
    """Held-out rows with the teacher's thoughts."""
    chunks: Mapping[str, Chunk]
    """Their chunks by id."""
    tags: Tags
    """What stands around a thought."""
    free_tokens: int
    """Length of a free continuation."""
    thought_tokens: int
    """Longest thought that is asked for."""
    text_tokens: int
    """Tokens that are scored after a place."""
    prefixes: int
    """Prefixes that are continued freely."""
    seed: int
    """Seed of sampling and of the bootstrap."""

    def documents(self) -> list[str]:
        """Return the document of each row."""
        return [row.document_id for row in self.rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What one arm did."""

    nll: KindNLL
    """By kind of token."""
    opened: tuple[float, ...]
    """Per free continuation: 1 if it opens a thought."""
    closed: tuple[float, ...]
    """Per free continuation: share of its thoughts that it closes; 0 if it opens none."""
    well_formed: tuple[float, ...]
    """Per free continuation: 1 if it opens a thought and makes no mistake with the tags."""
    closed_when_asked: tuple[float, ...]
    """Per row: 1 if a thought that was opened for the policy is closed within the budget."""
    after: Mapping[str, tuple[float, ...]]
    """Per row: nats per token of the text after a place, given nothing, the own thought, the teacher's."""
    examples: tuple[dict[str, Any], ...] = ()
    """What it wrote."""


def examine(thinker: Thinker, exam: Exam) -> Answers:
    """Return what one arm does with held-out rows.

    Raises:
        ValueError: if there is no held-out row.
    """
    if not exam.rows:
        raise ValueError("thoughts cannot be evaluated without held-out rows: raise interleave.heldout_rows")
    continuations = _continue(thinker, exam)
    parsed = [parse(text, exam.tags) for text in continuations]
    asked, after, thoughts = _think(thinker, exam)
    rows = exam.rows[: exam.prefixes]
    return Answers(
        nll=nll_by_kind(thinker, exam),
        opened=tuple(float(one.opened > 0) for one in parsed),
        closed=tuple(one.closed / one.opened if one.opened else 0.0 for one in parsed),
        well_formed=tuple(float(one.opened > 0 and not one.faults) for one in parsed),
        closed_when_asked=asked,
        after=after,
        examples=tuple(
            {"row": row.id, "prefix": exam.chunks[row.chunk_id].prefix, "continuation": text, "thought": thought}
            for row, text, thought in zip(rows, continuations, thoughts, strict=False)
        ),
    )


def nll_by_kind(thinker: Thinker, exam: Exam) -> dict[str, SuffixNLL]:
    """Return the NLL of text, tags and thoughts in the held-out rows, and of the same text without thoughts."""
    augmented = [thinker.codec.tokens(row, exam.chunks[row.chunk_id]) for row in exam.rows]
    raw = [plain(row, exam.chunks[row.chunk_id]) for row in exam.rows]
    kinds = {kind: (kind.value, TAGGED) for kind in SpanKind} | {SpanKind.TEXT: (SpanKind.TEXT.value,)}
    found = {name: ([0.0] * len(raw), [0] * len(raw)) for name in (RAW_TEXT, TAGGED, *SpanKind)}
    for rows, named in ((augmented, kinds), (raw, dict.fromkeys(SpanKind, (RAW_TEXT,)))):
        groups = [as_group(row.ids, thinker.bos) for row in rows]
        for index, (row, logprobs) in enumerate(zip(rows, _logprobs(thinker.scorer, groups), strict=True)):
            for kind, logprob in zip(row.kinds[-len(logprobs) :], logprobs, strict=True):
                for name in named[kind]:
                    nats, tokens = found[name]
                    nats[index] -= logprob
                    tokens[index] += 1
    return {
        name: SuffixNLL(
            chunk_ids=tuple(row.id for row in exam.rows),
            documents=tuple(exam.documents()),
            nats=tuple(nats),
            tokens=tuple(tokens),
        )
        for name, (nats, tokens) in found.items()
    }


def until_close(ids: Sequence[int], tokenizer: Any, tags: Tags) -> tuple[tuple[int, ...], bool]:
    """Return ``ids`` up to the one that completes the closing tag, and whether there is one.

    The ids are those that were drawn: nothing is decoded and made anew.
    """
    for end in range(1, len(ids) + 1):
        if tags.close in tokenizer.decode(list(ids[:end])):
            return tuple(ids[:end]), True
    return tuple(ids), False


def figures(arm: Thinker, answers: Answers, exam: Exam) -> list[Measurement]:
    """Return what one arm did as figures."""
    blank = _blank(arm)
    owners, seed = exam.documents(), exam.seed
    found = []
    for name, nll in answers.nll.items():
        found.append(_filled(blank, metrics.NLL[name], PER_TOKEN, nll.interval(seed)))
        found.append(_filled(blank, metrics.NLL[name], PER_ROW, bootstrap_mean(_per_row(nll), seed, clusters=owners)))
    gap = answers.nll[SpanKind.TEXT.value].change(answers.nll[RAW_TEXT], seed)
    found.append(_filled(blank, metrics.NLL[SpanKind.TEXT].change, metrics.AMONG_THOUGHTS, gap))
    free = owners[: len(answers.opened)]
    writers = [index for index, opened in enumerate(answers.opened) if opened]
    rates = [
        (metrics.OPENS, answers.opened, free, "share of free continuations that open a thought"),
        (
            metrics.WELL_FORMED,
            _picked(answers.well_formed, writers),
            _picked(free, writers),
            "share of those that open one",
        ),
        (
            metrics.CLOSES,
            _picked(answers.closed, writers),
            _picked(free, writers),
            "share of the thoughts that they open",
        ),
        (metrics.CLOSES_WHEN_ASKED, answers.closed_when_asked, owners, "share of thoughts that were opened for it"),
    ]
    for metric, values, clusters, unit in rates:
        if values:
            interval = bootstrap_mean(values, seed, clusters=clusters)
            found.append(_filled(blank, metric, "", interval, f"{unit}; bootstrap over documents"))
    for condition, values in answers.after.items():
        found.append(_filled(blank, metrics.NEXT_TEXT, condition, bootstrap_mean(values, seed, clusters=owners)))
        if condition != NOTHING:
            change = paired_bootstrap(values, answers.after[NOTHING], seed, clusters=owners)
            found.append(_filled(blank, metrics.NEXT_TEXT.change, metrics.against_nothing(condition), change))
    return found


def changes(arm: tuple[Thinker, Answers], other: tuple[Thinker, Answers], exam: Exam) -> list[Measurement]:
    """Return what changed in NLL from ``other`` to ``arm``, paired by row.

    Tags that are tokens of their own in one arm only are left out: their nats are of other tokens.
    """
    (thinker, answers), (before, answers_before) = arm, other
    blank = dataclasses.replace(_blank(thinker), against=before.name)
    found = []
    for name, nll in answers.nll.items():
        old = answers_before.nll[name]
        if nll.tokens != old.tokens:
            continue
        found.append(_filled(blank, metrics.NLL[name].change, PER_TOKEN, nll.change(old, exam.seed)))
        per_row = paired_bootstrap(_per_row(nll), _per_row(old), exam.seed, clusters=exam.documents())
        found.append(_filled(blank, metrics.NLL[name].change, PER_ROW, per_row))
    return found


def _continue(thinker: Thinker, exam: Exam) -> list[str]:
    """Return one free continuation of each row's prefix, at temperature 1."""
    chunks = [exam.chunks[row.chunk_id] for row in exam.rows[: exam.prefixes]]
    prompts = [Prompt(id=chunk.id, token_ids=thinker.bos + chunk.prefix_ids) for chunk in chunks]
    sampling = Sampling(max_tokens=exam.free_tokens, forbidden_ids=thinker.forbidden)
    drawn = thinker.sampler.sample(prompts, 1, sampling, Key(exam.seed, "free thoughts"))
    return [thinker.codec.tokenizer.decode(list(one.token_ids)) for [one] in drawn]


def _think(thinker: Thinker, exam: Exam) -> tuple[tuple[float, ...], dict[str, tuple[float, ...]], list[str]]:
    """Ask for a thought at the first place of each row, and score the text after it with and without.

    Returns whether each thought was closed, nats per token by condition, and the thoughts.
    """
    codec, prompts = thinker.codec, []
    heads, nexts, taught = [], [], []
    for row in exam.rows:
        chunk, place = exam.chunks[row.chunk_id], row.places[0]
        ids = chunk.prefix_ids + chunk.suffix_ids
        heads.append(thinker.bos + ids[: place.token])
        nexts.append(ids[place.token :][: exam.text_tokens])
        taught.append(codec.open + codec.thought(row.thoughts[0]) + codec.close)
        prompts.append(Prompt(id=row.id, token_ids=heads[-1] + codec.open))
    sampling = Sampling(max_tokens=exam.thought_tokens, forbidden_ids=thinker.forbidden)
    drawn = thinker.sampler.sample(prompts, 1, sampling, Key(exam.seed, "asked thoughts"))
    cut = [until_close(one.token_ids, codec.tokenizer, exam.tags) for [one] in drawn]
    own = [codec.open + ids + (() if closed else codec.close) for ids, closed in cut]
    inserts: dict[str, list[tuple[int, ...]]] = {NOTHING: [()] * len(own), OWN: own, TEACHER: taught}
    after = {}
    for condition, thoughts in inserts.items():
        groups = [Group(prefix=h + t, branches=(n,)) for h, t, n in zip(heads, thoughts, nexts, strict=True)]
        after[condition] = tuple(-sum(one) / len(one) for one in _logprobs(thinker.scorer, groups))
    said = [codec.tokenizer.decode(list(ids)) for ids, _ in cut]
    return tuple(float(closed) for _, closed in cut), after, said


def _logprobs(scorer: Scorer, groups: Sequence[Group]) -> list[list[float]]:
    found = []
    for start in range(0, len(groups), ROWS_PER_CALL):
        found += [
            branch.astype("float64").tolist() for [branch] in scorer.logprobs(groups[start : start + ROWS_PER_CALL])
        ]
    return found


def _per_row(nll: SuffixNLL) -> list[float]:
    return [nats / max(1, tokens) for nats, tokens in zip(nll.nats, nll.tokens, strict=True)]


def _picked(values: Sequence[Any], indices: Sequence[int]) -> list[Any]:
    return [values[index] for index in indices]


def _blank(arm: Thinker) -> Measurement:
    return Measurement(
        stage=metrics.EVALUATE_SFT, arm=arm.name, metric="", value=0.0, n=0, unit="", subject=arm.identity
    )


def _filled(
    blank: Measurement,
    metric: str,
    condition: str,
    interval: Interval,
    unit: str = "nats per token; n rows, bootstrap over documents",
) -> Measurement:
    return dataclasses.replace(
        blank,
        metric=metric,
        condition=condition,
        unit=unit,
        **dataclasses.asdict(interval),
    )

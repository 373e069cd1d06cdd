"""Whether SFT installed the interface: NLL of thoughts, tags and text apart, and what the policy does with it.

Everything is measured on held-out rows, before and after, for every arm, paired by row; intervals are bootstrapped
over documents.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forethought import metrics
from forethought.engine import Group, Prompt
from forethought.evals.nll import NLL, branch_logprobs
from forethought.evals.recorder import Recorder
from forethought.keys import Key
from forethought.metrics import NOTHING, OWN, PER_ROW, PER_TOKEN, RAW_TEXT, TAGGED, TEACHER
from forethought.models.model import Model
from forethought.models.thought_tokens import ThoughtTokens, as_group, plain
from forethought.records import Chunk, Measurement, SpanKind, ThoughtRow
from forethought.tags import parse

KindNLL = Mapping[str, NLL]
"""NLL by kind of token, of :data:`TAGGED` and of :data:`RAW_TEXT`."""

OVER_ROWS = "nats per token; n rows, bootstrap over documents"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThoughtEval:
    """What every arm is asked."""

    rows: Sequence[ThoughtRow]
    """Held-out rows with the teacher's thoughts."""
    chunks: Mapping[str, Chunk]
    free_tokens: int
    thought_tokens: int
    """Longest thought that is asked for."""
    text_tokens: int
    """Tokens that are scored after a place."""
    prefixes: int
    """Prefixes that are continued freely."""
    seed: int

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("thoughts cannot be evaluated without held-out rows: raise interleave.heldout_rows")

    def recorder(self, model: Model) -> Recorder:
        documents = [row.document_id for row in self.rows]
        return Recorder.of(model, metrics.EVALUATE_SFT, documents, self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What one arm did."""

    nll: KindNLL
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


def examine(model: Model, evaluation: ThoughtEval) -> Answers:
    """Return what one arm does with held-out rows; its model has tags."""
    tags = model.thoughts.tags
    continuations = _continue(model, evaluation)
    parsed = [parse(text, tags) for text in continuations]
    asked, after, thoughts = _think(model, evaluation)
    return Answers(
        nll=nll_by_kind(model, evaluation),
        opened=tuple(float(tagged.opened > 0) for tagged in parsed),
        closed=tuple(tagged.closed / tagged.opened if tagged.opened else 0.0 for tagged in parsed),
        well_formed=tuple(float(tagged.opened > 0 and not tagged.faults) for tagged in parsed),
        closed_when_asked=asked,
        after=after,
        examples=tuple(
            {"row": row.id, "prefix": evaluation.chunks[row.chunk_id].prefix, "continuation": text, "thought": thought}
            # Not strict: only the first rows are continued freely.
            for row, text, thought in zip(evaluation.rows, continuations, thoughts, strict=False)
        ),
    )


def nll_by_kind(model: Model, evaluation: ThoughtEval) -> dict[str, NLL]:
    """Return the NLL of thoughts, tags and text in the held-out rows, and of the same text without thoughts."""
    chunks = [evaluation.chunks[row.chunk_id] for row in evaluation.rows]
    pairs = list(zip(evaluation.rows, chunks, strict=True))
    augmented = [model.thoughts.tokens(row, chunk) for row, chunk in pairs]
    raw = [plain(row, chunk) for row, chunk in pairs]
    # Under which names a token of each kind counts.
    kinds = {kind: (kind.value, TAGGED) for kind in SpanKind} | {SpanKind.TEXT: (SpanKind.TEXT.value,)}
    # In the order of the table: words, tags beside them, and what mixes both last.
    sums = {name: ([0.0] * len(raw), [0] * len(raw)) for name in metrics.NLL}
    for rows, named in ((augmented, kinds), (raw, dict.fromkeys(SpanKind, (RAW_TEXT,)))):
        scored = branch_logprobs(model, [as_group(row.ids, model.bos) for row in rows])
        for index, (row, logprobs) in enumerate(zip(rows, scored, strict=True)):
            # Without BOS the first token is not scored, so kinds are aligned at their end.
            for kind, logprob in zip(row.kinds[-len(logprobs) :], _floats(logprobs), strict=True):
                for name in named[kind]:
                    nats, tokens = sums[name]
                    nats[index] -= logprob
                    tokens[index] += 1
    ids = tuple(row.id for row in evaluation.rows)
    return {name: NLL(ids=ids, nats=tuple(nats), tokens=tuple(tokens)) for name, (nats, tokens) in sums.items()}


def until_close(ids: Sequence[int], tokens: ThoughtTokens) -> tuple[tuple[int, ...], bool]:
    """Return the drawn ``ids`` up to the one that completes the closing tag, and whether there is one."""
    # Id by id: tokens may spell a tag in several ways, and end within or after it.
    for end in range(1, len(ids) + 1):
        if tokens.tags.close in tokens.tokenizer.decode(list(ids[:end])):
            return tuple(ids[:end]), True
    return tuple(ids), False


def figures(recorder: Recorder, answers: Answers) -> list[Measurement]:
    """Return what one arm did as figures."""
    measurements: list[Measurement] = []
    for name, nll in answers.nll.items():
        measurements += recorder.mean(metrics.NLL[name], nll.linear, OVER_ROWS, PER_TOKEN)
        measurements += recorder.mean(metrics.NLL[name], nll.per_text, OVER_ROWS, PER_ROW)
    gap = answers.nll[SpanKind.TEXT.value].paired(answers.nll[RAW_TEXT])
    measurements += recorder.change(metrics.NLL[SpanKind.TEXT].change, gap, OVER_ROWS, metrics.AMONG_THOUGHTS)
    free = dataclasses.replace(recorder, documents=recorder.documents[: len(answers.opened)])
    over = "bootstrap over documents"
    measurements += free.mean(metrics.OPENS, answers.opened, f"share of free continuations that open a thought; {over}")
    for metric, values, unit in (
        (metrics.WELL_FORMED, answers.well_formed, "share of those that open one"),
        (metrics.CLOSES, answers.closed, "share of the thoughts that they open"),
    ):
        # A continuation without a thought is not badly formed: it is left out.
        of_openers = [value if opened else None for value, opened in zip(values, answers.opened, strict=True)]
        measurements += free.mean(metric, of_openers, f"{unit}; {over}")
    asked = f"share of thoughts that were opened for it; {over}"
    measurements += recorder.mean(metrics.CLOSES_WHEN_ASKED, answers.closed_when_asked, asked)
    for condition, after in answers.after.items():
        measurements += recorder.mean(metrics.NEXT_TEXT, after, OVER_ROWS, condition)
        if condition != NOTHING:
            pair, versus = (after, answers.after[NOTHING]), metrics.against_nothing(condition)
            measurements += recorder.change(metrics.NEXT_TEXT.change, pair, OVER_ROWS, versus)
    return measurements


def changes(recorder: Recorder, answers: Answers, before: Answers) -> list[Measurement]:
    """Return what changed in NLL, paired by row, since the arm that ``recorder`` compares with.

    Tags that are tokens of their own in one arm only are left out: their nats are of other tokens.
    """
    measurements: list[Measurement] = []
    for name, nll in answers.nll.items():
        old = before.nll[name]
        if nll.tokens != old.tokens:
            continue
        measurements += recorder.change(metrics.NLL[name].change, nll.paired(old), OVER_ROWS, PER_TOKEN)
        measurements += recorder.change(metrics.NLL[name].change, (nll.per_text, old.per_text), OVER_ROWS, PER_ROW)
    return measurements


def _continue(model: Model, evaluation: ThoughtEval) -> list[str]:
    """Return one free continuation of each row's prefix, at temperature 1, thoughts included."""
    chunks = [evaluation.chunks[row.chunk_id] for row in evaluation.rows[: evaluation.prefixes]]
    prompts = [Prompt(id=chunk.id, token_ids=model.bos + chunk.prefix_ids) for chunk in chunks]
    drawn = model.sample(prompts, max_tokens=evaluation.free_tokens, key=Key(evaluation.seed, "free thoughts"))
    return [model.decode(completion.token_ids) for [completion] in drawn]


def _think(model: Model, evaluation: ThoughtEval) -> tuple[tuple[float, ...], dict[str, tuple[float, ...]], list[str]]:
    """Ask for a thought at the first place of each row, and score the text after it with and without.

    Returns whether each thought was closed, nats per token by condition, and the thoughts.
    """
    tokens, prompts = model.thoughts, []
    heads, nexts, taught = [], [], []
    for row in evaluation.rows:
        chunk, place = evaluation.chunks[row.chunk_id], row.places[0]
        ids = chunk.prefix_ids + chunk.suffix_ids
        heads.append(model.bos + ids[: place.token])
        nexts.append(ids[place.token :][: evaluation.text_tokens])
        taught.append(tokens.between_tags(row.thoughts[0]))
        prompts.append(Prompt(id=row.id, token_ids=heads[-1] + tokens.open))
    drawn = model.sample(prompts, max_tokens=evaluation.thought_tokens, key=Key(evaluation.seed, "asked thoughts"))
    cut = [until_close(completion.token_ids, tokens) for [completion] in drawn]
    # A thought that ran out of tokens is closed for the policy, so that text follows in every row.
    own = [tokens.open + ids + (() if closed else tokens.close) for ids, closed in cut]
    inserts: dict[str, list[tuple[int, ...]]] = {NOTHING: [()] * len(own), OWN: own, TEACHER: taught}
    after = {}
    for condition, thoughts in inserts.items():
        groups = [Group(prefix=h + t, branches=(n,)) for h, t, n in zip(heads, thoughts, nexts, strict=True)]
        scored = map(_floats, branch_logprobs(model, groups))
        after[condition] = tuple(-sum(logprobs) / len(logprobs) for logprobs in scored)
    return tuple(float(closed) for _, closed in cut), after, [model.decode(ids) for ids, _ in cut]


def _floats(logprobs: np.ndarray) -> list[float]:
    # Sums of rows are taken in double precision, token by token.
    floats: list[float] = logprobs.astype("float64").tolist()
    return floats

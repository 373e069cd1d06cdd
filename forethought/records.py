"""What flows through the package: frozen records, which are what the lines of a run's logs hold.

``Document -> Chunk -> Candidate -> Verdict -> Preference -> checkpoint -> Measurement``

Records are immutable and keyword-only; new state means a new record.  Ids are content hashes, so that the same
text has the same id on every machine.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

R = TypeVar("R", bound="Record")


class RecordError(ValueError):
    """Data that is not the record it should be; the message names the record and the keys."""


class Record:
    """Base of all records: unknown keys are errors when one is read."""

    __slots__ = ()
    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 (pydantic reads it by this name)


def content_id(*parts: object) -> str:
    """Return a 16-hex-digit id of ``parts``: sha256 over their JSON, so ("ab", "c") != ("a", "bc")."""
    payload = json.dumps(parts, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(payload.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Split(enum.StrEnum):
    """Which part of the lifecycle may read a document.  Documents, not chunks, are split."""

    IMPROVE = "improve"
    SFT = "sft"
    RLMT = "rlmt"
    HELDOUT = "heldout"


class Origin(enum.StrEnum):
    """Who wrote a candidate.  A judge never sees it."""

    CORPUS = "corpus"
    REWRITE = "rewrite"
    ROLLOUT = "rollout"


class StopReason(enum.StrEnum):
    """Why a completion ended."""

    LENGTH = "length"
    STOP = "stop"


class Outcome(enum.StrEnum):
    """What a judge said.  ``UNSCORED`` is never a zero and never a vote."""

    SCORED = "scored"
    PREFERRED = "preferred"
    TIE = "tie"
    UNSCORED = "unscored"


class Axis(enum.StrEnum):
    """What a verdict is about (Tan et al. 2026, section 1.2.2; likelihood is ours)."""

    LIKELIHOOD = "likelihood"
    QUALITY = "quality"
    SAFETY = "safety"
    FACTUALITY = "factuality"
    LENGTH = "length"
    MATCH = "match"


class SpanKind(enum.StrEnum):
    """What a piece of an augmented text is: the author's words, a tag, or a teacher's or policy's thought."""

    TEXT = "text"
    TAG = "tag"
    THOUGHT = "thought"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document(Record):
    """One text of a corpus, before anything is cut from it."""

    id: str
    text: str
    source: str
    split_key: str
    """What is hashed to choose the split: the title where there is one (so that two versions of an
    article land in the same split), else the id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk(Record):
    """A prefix and its true suffix: ``text[start:][:len(prefix + suffix)]`` of one document."""

    id: str
    """Content hash of document id, start, prefix and suffix."""
    document_id: str
    split: Split
    start: int
    """Offset of the prefix in the document's text, in characters."""
    prefix: str
    suffix: str
    prefix_ids: tuple[int, ...]
    """Token ids of the prefix under the policy's tokenizer, without BOS."""
    suffix_ids: tuple[int, ...]
    """Token ids of the suffix; they decode to ``suffix``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion(Record):
    """Tokens sampled from a policy after a prompt."""

    token_ids: tuple[int, ...]
    """The sampled ids; the stop token, if there was one, is the last of them."""
    logprobs: tuple[float, ...]
    """Log-probability of each id under the distribution it was drawn from (nats)."""
    stop: StopReason
    text: str = ""
    """What a judge of free continuations reads; without thoughts, if the model writes any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout(Record):
    """A thought and then a suffix, sampled from a policy after a prompt that ends with the opening tag."""

    token_ids: tuple[int, ...]
    """All ids in order: thought, closing tag, suffix."""
    logprobs: tuple[float, ...]
    """Log-probability of what was drawn at each place (nats); of an inserted id it says nothing."""
    drawn: tuple[bool, ...]
    """Whether the policy drew the id; the harness inserted the others, and they are never trained."""
    thought_tokens: int
    """How many of the ids are the thought with its closing tag."""
    closed: bool
    """Whether the policy closed the thought itself."""
    thought: str = ""
    text: str = ""
    """What a judge reads: the suffix as it was written, tags and words of a second thought included."""

    @classmethod
    def of(cls, completion: Completion) -> Rollout:
        """Return a completion as a rollout without a thought."""
        return cls(
            token_ids=completion.token_ids,
            logprobs=completion.logprobs,
            drawn=(True,) * len(completion.token_ids),
            thought_tokens=0,
            closed=True,
            text=completion.text,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate(Record):
    """One continuation of a chunk's prefix that a judge may rank."""

    id: str
    """Content hash of chunk id, origin and token ids."""
    chunk_id: str
    origin: Origin
    text: str
    """What the judge reads."""
    token_ids: tuple[int, ...]
    """What the policy is trained on: the sampled ids themselves, or the suffix's ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeRequest(Record):
    """What a judge is shown: a prefix and unlabelled candidate texts, in an order that says nothing about origin."""

    prefix: str
    candidates: tuple[str, ...]
    original: str | None = None
    """The author's own suffix, for axes that judge against it (factuality)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Record):
    """What a judge said about one candidate (``second is None``) or one ordered pair of a request."""

    outcome: Outcome
    axis: Axis
    first: int
    """Index in the request of the candidate judged, or of the one shown first."""
    second: int | None = None
    """Index of the candidate shown second; ``None`` for a pointwise verdict."""
    score: float | None = None
    winner: int | None = None
    """Index of the preferred candidate when, and only when, the outcome is ``preferred``."""
    reason: str = ""
    """Why it is unscored, or what the judge wrote."""
    judge: str
    """Identity of the judge: model, settings and prompt, hashed."""

    def __post_init__(self) -> None:
        if (self.score is not None) != (self.outcome is Outcome.SCORED):
            raise ValueError(f"a verdict has a score exactly when it is scored, got {self!r}")
        if (self.winner is not None) != (self.outcome is Outcome.PREFERRED):
            raise ValueError(f"a verdict has a winner exactly when it is preferred, got {self!r}")
        if self.winner is not None and self.winner not in (self.first, self.second):
            raise ValueError(f"the winner must be one of the pair, got {self!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference(Record):
    """The best and the worst candidate of one chunk: one pair for DPO."""

    chunk_id: str
    chosen: Candidate
    rejected: Candidate
    chosen_score: float
    rejected_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Place(Record):
    """Where a thought stands in an untouched text: between two tokens, at the end of a sentence or a clause."""

    position: int
    """Characters of the text before it."""
    token: int
    """Tokens of the text before it, under the policy's tokenizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThoughtRow(Record):
    """A chunk's whole text, and the thoughts that stand in it: spans of the text are slices of it."""

    id: str
    """Content hash of chunk id, places and thoughts."""
    chunk_id: str
    document_id: str
    split: Split
    text: str
    places: tuple[Place, ...]
    thoughts: tuple[str, ...]
    """One thought for each place; none at all where the policy is to write them (RL mid-training)."""

    def __post_init__(self) -> None:
        positions = [0, *(place.position for place in self.places), len(self.text)]
        if any(a >= b for a, b in itertools.pairwise(positions)) and self.places:
            raise ValueError(f"places must ascend inside of the text, got {positions[1:-1]} in {len(self.text)}")
        if self.thoughts and len(self.thoughts) != len(self.places):
            raise ValueError(f"{len(self.thoughts)} thoughts for {len(self.places)} places: each place has one")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement(Record):
    """One figure.  The table, the report and ``summary.json`` are views of these; nothing else holds a figure."""

    stage: str
    arm: str
    against: str = ""
    """The arm it is compared with, if any; ``condition`` is ``sampled``, ``greedy``, ``entropy-matched``, ..."""
    metric: str
    condition: str = ""
    judge: str = ""
    value: int | float  # not float alone: what was written as an integer is read as one
    low: int | float | None = None
    """Lower end of its 95% interval."""
    high: int | float | None = None
    n: int
    """The denominator: how many prefixes, pairs or tokens."""
    unit: str
    """What ``n`` counts, and what the value is measured in: ``share of prefixes``, ``nats per token``."""
    subject: str
    """Hash of what was measured: a checkpoint or a judge."""


def to_dict(record: Any) -> dict[str, Any]:
    """Return ``record`` as JSON-ready builtins (tuples become lists, enums their values)."""
    return {field.name: _plain(getattr(record, field.name)) for field in dataclasses.fields(record)}


def from_dict(kind: type[R], data: Mapping[str, Any]) -> R:
    """Build a record of ``kind`` from what :func:`to_dict` made.

    Raises:
        RecordError: naming the record and every key that is missing, unknown or of another type.
    """
    try:
        return _adapter(kind).validate_python(data)  # type: ignore[arg-type]
    except ValidationError as error:
        raise RecordError(f"not a {kind.__name__}: {'; '.join(map(_problem, error.errors()))}") from None


def from_json(kind: type[R], line: bytes) -> R:
    """Build a record of ``kind`` from a line of a log; see :func:`from_dict`."""
    try:
        return _adapter(kind).validate_json(line)  # type: ignore[arg-type]
    except ValidationError:  # Python's decoder also takes half a surrogate pair, which a log may hold
        return from_dict(kind, json.loads(line))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


_adapter = functools.cache(TypeAdapter)  # compiling one takes longer than reading a log


def _problem(error: Mapping[str, Any]) -> str:
    known = {"missing": "missing key", "unexpected_keyword_argument": "unknown key"}
    key = ".".join(map(str, error["loc"]))
    said = known.get(error["type"]) or f"{error['msg']}, got {str(error['input'])[:80]!r}"
    return f"{key}: {said}" if key else said

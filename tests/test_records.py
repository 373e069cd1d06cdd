"""Records survive JSON, refuse what cannot be, and have ids that depend on content alone."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forethought.keys import Key
from forethought.records import (
    Axis,
    Candidate,
    Chunk,
    Measurement,
    Origin,
    Outcome,
    Preference,
    Split,
    Verdict,
    content_id,
    from_dict,
    from_json,
    to_dict,
)

CANDIDATE = Candidate(id="a", chunk_id="c", origin=Origin.CORPUS, text="🐋 é", token_ids=(1, 2))
RECORDS = [
    CANDIDATE,
    Chunk(
        id="c",
        document_id="d",
        split=Split.HELDOUT,
        start=3,
        prefix="a",
        suffix=" b",
        prefix_ids=(7,),
        suffix_ids=(8, 9),
    ),
    Verdict(outcome=Outcome.PREFERRED, axis=Axis.QUALITY, first=3, second=0, winner=0, judge="j"),
    Preference(chunk_id="c", chosen=CANDIDATE, rejected=CANDIDATE, chosen_score=1.0, rejected_score=0.5),
    Measurement(stage="s", arm="a", metric="m", value=1.0, low=None, high=2.0, n=3, unit="u", subject="h"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_records_survive_json_and_are_frozen(record: object) -> None:
    line = json.dumps(to_dict(record))
    assert from_dict(type(record), json.loads(line)) == from_json(type(record), line.encode()) == record
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, dataclasses.fields(record)[0].name, "other")  # type: ignore[arg-type]


def test_missing_and_unknown_keys_are_named() -> None:
    row = to_dict(CANDIDATE) | {"score": 1}
    del row["text"]
    with pytest.raises(ValueError, match=r"not a Candidate: text: missing key; score: unknown key"):
        from_dict(Candidate, row)


def test_a_nested_record_is_checked_too() -> None:
    row = to_dict(RECORDS[3])
    row["chosen"] |= {"origin": "nobody", "score": 1}
    with pytest.raises(ValueError, match=r"not a Preference: chosen\.origin: .*'nobody'; chosen\.score: unknown key"):
        from_json(Preference, json.dumps(row).encode())


def test_an_impossible_verdict_is_not_read() -> None:
    row = to_dict(RECORDS[2]) | {"winner": 5}
    with pytest.raises(ValueError, match=r"not a Verdict: .*the winner must be one of the pair"):
        from_dict(Verdict, row)


def test_integers_among_figures_stay_integers() -> None:
    row = to_dict(RECORDS[4]) | {"value": 3}
    assert json.dumps(to_dict(from_dict(Measurement, row))) == json.dumps(row)


@pytest.mark.parametrize(
    "fields",
    [
        {"outcome": Outcome.SCORED},
        {"outcome": Outcome.UNSCORED, "score": 0.0},
        {"outcome": Outcome.PREFERRED, "second": 1},
        {"outcome": Outcome.TIE, "second": 1, "winner": 1},
        {"outcome": Outcome.PREFERRED, "second": 1, "winner": 2},
    ],
)
def test_a_verdict_says_one_thing(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"verdict|winner"):
        Verdict(axis=Axis.QUALITY, first=0, judge="j", **fields)  # type: ignore[arg-type]


@given(st.lists(st.text()), st.lists(st.text()))
def test_content_ids_tell_contents_apart(a: list[str], b: list[str]) -> None:
    assert (content_id(*a) == content_id(*b)) == (a == b)
    assert len(content_id(*a)) == 16


def test_a_key_is_its_own_stream() -> None:
    key = Key(0, "rollouts")
    draw = key.uniforms("item", 3, 8)
    assert np.array_equal(draw, Key(0, "rollouts").uniforms("item", 3, 8))
    assert np.array_equal(draw[:5], key.uniforms("item", 3, 5))
    others = [
        Key(1, "rollouts").uniforms("item", 3, 8),
        Key(0, "order").uniforms("item", 3, 8),
        key.at(1).uniforms("item", 3, 8),
        key.uniforms("item2", 3, 8),
        key.uniforms("item", 4, 8),
        key.uniforms("item\x1f3", 3, 8),
    ]
    assert all(not np.array_equal(draw, other) for other in others)
    assert 0 <= draw.min() <= draw.max() < 1


@given(st.integers(0, 50), st.text(max_size=5))
def test_integers_are_63_bits(step: int, item: str) -> None:
    assert 0 <= Key(0, "x", step).integer(item) < 2**63

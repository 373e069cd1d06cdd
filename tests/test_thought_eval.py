"""The evaluation after SFT: what an arm does with thoughts is counted, and NLL is paired by row."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from helpers.records import chunk

from forethought import metrics
from forethought.evals.thoughts import ThoughtEval, changes, examine, figures, until_close
from forethought.models.model import Model, Parts
from forethought.models.thought_tokens import ThoughtTokens
from forethought.records import Place
from forethought.tags import Tags
from forethought.testing import BOS_ID, ScriptedSampler, UniformScorer, byte_tokenizer
from forethought.thoughts.dataset import make_row

THINK = Tags("<think>", "</think>")
TEXTS = ["The whale is big. It sings, too.", "Paris lies on the Seine. Über £ 3 was paid.", "A bridge stands. Why not?"]


CHUNKS = {f"c{number}": chunk(text[:8], text[8:], number=number) for number, text in enumerate(TEXTS)}
ROWS = [
    make_row(one, [Place(position=place, token=len(text[:place].encode()))], ["And then?"])
    for text, one in zip(TEXTS, CHUNKS.values(), strict=True)
    for place in [text.index(".") + 1]
]


def model_of(scripts: dict[str, list[tuple[int, ...]]], name: str = "arm", scorer: Any = None) -> Model:
    sampler = ScriptedSampler(scripts)
    parts = Parts(tokenizer=byte_tokenizer(), sampler=sampler, scorer=scorer or UniformScorer(), bos=(BOS_ID,))
    return Model(name, name, parts, THINK)


EVALUATION = ThoughtEval(
    rows=ROWS,
    chunks=CHUNKS,
    free_tokens=40,
    thought_tokens=16,
    text_tokens=4,
    prefixes=3,
    seed=0,
)


def test_what_an_arm_does_with_thoughts_is_counted() -> None:
    scripts = {
        "c0": [tuple(b"big.<think>Why?</think> It")],
        "c1": [tuple(b"on it.<think>Hm. <think>")],
        "c2": [tuple(b"stands there")],
        ROWS[0].id: [tuple(b"It may.</think> ")],
        ROWS[1].id: [tuple(b"never ends")],
        ROWS[2].id: [tuple(b"</think>")],
    }
    arm = model_of(scripts)
    answers = examine(arm, EVALUATION)
    assert answers.opened == (1.0, 1.0, 0.0)
    assert answers.closed == (1.0, 0.0, 0.0)
    assert answers.well_formed == (1.0, 0.0, 0.0)
    assert answers.closed_when_asked == (1.0, 0.0, 1.0)
    assert answers.after["none"] == pytest.approx([math.log(259)] * 3)
    found = {(one.metric, one.condition): one for one in figures(EVALUATION.recorder(arm), answers)}
    assert (found["opens", ""].value, found["opens", ""].n) == (pytest.approx(2 / 3), 3)
    assert (found["well-formed", ""].value, found["well-formed", ""].n) == (0.5, 2)
    assert (found["closes", ""].value, found["closes", ""].n) == (0.5, 2)
    assert (found["closes when asked", ""].value, found["closes when asked", ""].n) == (pytest.approx(2 / 3), 3)
    assert found["thought NLL", "per token"].value == pytest.approx(math.log(259), rel=1e-5)
    assert answers.examples[1]["continuation"] == "on it.<think>Hm. <think>"
    assert answers.examples[0]["thought"] == "It may.</think>"


def test_fewer_prefixes_than_rows_are_continued() -> None:
    evaluation = dataclasses.replace(EVALUATION, prefixes=2)
    arm = model_of({"c0": [tuple(b"<think>Why?</think>")], "c1": [tuple(b"no")]})
    answers = examine(arm, evaluation)
    assert answers.opened == (1.0, 0.0)
    found = {one.metric: one.n for one in figures(evaluation.recorder(arm), answers) if not one.condition}
    assert found == {"opens": 2, "well-formed": 1, "closes": 1, "closes when asked": 3}


def test_nll_is_summed_by_kind_of_token_and_paired_by_row() -> None:
    nll_of = examine(model_of({}), EVALUATION).nll
    assert nll_of["thought"].tokens == (9, 9, 9)
    assert nll_of["tag"].tokens == (15, 15, 15)
    assert nll_of["thought with tags"].tokens == (24, 24, 24)
    assert nll_of["thought with tags"].nats == pytest.approx([24 * math.log(259)] * 3, rel=1e-5)
    assert nll_of["text"].tokens == tuple(len(text.encode()) for text in TEXTS)
    assert nll_of["raw text"].tokens == nll_of["text"].tokens
    before, after = model_of({}, "before"), model_of({}, "after")
    worse, recorder = examine(before, EVALUATION), EVALUATION.recorder(after).versus("before")
    found = changes(recorder, examine(after, EVALUATION), worse)
    kinds = ("thought", "tag", "thought with tags", "text", "raw text")
    assert {one.metric for one in found} == {f"{kind} NLL change" for kind in kinds}
    assert all(one.value == 0.0 and one.against == "before" for one in found)


def test_the_words_of_thoughts_come_first_and_what_mixes_them_with_tags_last() -> None:
    found = list(examine(model_of({}), EVALUATION).nll)
    assert found == list(metrics.NLL) == ["thought", "tag", "text", "raw text", "thought with tags"]
    assert metrics.NLL["thought"].label == "words of thoughts"


def test_an_own_thought_is_scored_by_the_ids_that_were_drawn() -> None:
    seen: list[Any] = []

    class Watching(UniformScorer):
        def logprobs(self, groups):
            seen.extend(groups)
            return UniformScorer.logprobs(self, groups)

    examine(model_of({ROWS[0].id: [tuple(b"a</think>b c d")]}, scorer=Watching()), EVALUATION)
    head = (BOS_ID, *b"The whale is big.")
    branches = {group.prefix: group.branches for group in seen}
    assert branches[(*head, *b"<think>a</think>")] == (tuple(b" It "),)
    assert branches[(*head, *b"<think>And then?</think>")] == (tuple(b" It "),)
    assert branches[head] == (tuple(b" It "),)


def test_thoughts_are_not_evaluated_without_rows() -> None:
    with pytest.raises(ValueError, match="without held-out rows"):
        dataclasses.replace(EVALUATION, rows=[])


@pytest.mark.parametrize(
    ("text", "kept", "closed"),
    [(b"a</think>b", b"a</think>", True), (b"a</thin", b"a</thin", False), (b"", b"", False)],
)
def test_until_close(text: bytes, kept: bytes, closed: bool) -> None:
    assert until_close(tuple(text), ThoughtTokens.of(byte_tokenizer(), THINK)) == (tuple(kept), closed)

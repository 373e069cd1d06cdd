"""Judges and teachers from configs, on tiny models and on one real one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from forethought.llm.shelf import Shelf
from helpers.records import chunk

from forethought.config import AuditConfig, EndpointConfig, JudgeConfig, ModelConfig, RewriteConfig
from forethought.judges import tournament
from forethought.judges.audit import audit
from forethought.judges.build import build, build_rewriter
from forethought.judges.cache import CachedJudge
from forethought.judges.planted import plant
from forethought.keys import Key
from forethought.llm.endpoint import EndpointError
from forethought.models import ModelError
from forethought.records import Chunk, JudgeRequest, Outcome, Split, content_id
from forethought.testing import byte_tokenizer

TINY = ModelConfig(model="tiny-llama")
CONTEST = JudgeRequest(
    prefix="The whale is a", candidates=(" fish.", " marine mammal.", " stone"), original=" marine mammal."
)


@pytest.fixture(scope="module")
def shelf() -> Shelf:
    return Shelf(torch.device("cpu"), torch.float32, seed=0)


@pytest.mark.parametrize(
    ("settings", "verdicts"),
    [
        ({"normalise": "byte", "contrast": {"model": "tiny-qwen3"}}, 3),
        ({"kind": "pairwise"}, 6),
        ({"kind": "pairwise", "tournament": "pivot"}, 4),
        ({"kind": "pairwise", "verdict": "written", "max_tokens": 4}, 6),
        ({"kind": "pointwise", "axis": "safety"}, 3),
        ({"kind": "pointwise", "axis": "factuality"}, 3),
    ],
)
def test_every_kind_of_judge_ranks_and_says_the_same_from_its_cache(shelf, tmp_path: Path, settings, verdicts):
    judge = build(JudgeConfig(model=TINY, **settings), shelf, tmp_path / "verdicts.sqlite")
    assert isinstance(judge, CachedJudge)
    first = judge.rank([CONTEST])
    assert [len(row) for row in first] == [verdicts]
    again = build(JudgeConfig(model=TINY, **settings), shelf, tmp_path / "verdicts.sqlite")
    again.judge.answer = lambda contests, questions: list(contests)  # breaks if there is a contest left to judge
    assert again.rank([CONTEST]) == first
    # Random weights conclude nothing in writing, but always have a likelier letter.
    expected = {Outcome.UNSCORED} if settings.get("verdict") == "written" else {Outcome.SCORED, Outcome.PREFERRED}
    assert {verdict.outcome for verdict in first[0]} <= expected


def test_a_model_is_loaded_once(shelf):
    assert shelf.model(TINY) is shelf.model(ModelConfig(model="tiny-llama"))


def test_the_likelihood_of_a_contest_is_that_of_its_candidates_alone(shelf):
    judge = build(JudgeConfig(model=TINY), shelf)
    together = tournament.scores(3, judge.rank([CONTEST])[0])
    alone = [judge.rank([JudgeRequest(prefix=CONTEST.prefix, candidates=(c,))])[0][0].score for c in CONTEST.candidates]
    assert together == pytest.approx(alone, abs=1e-4)


def test_a_tiny_teacher_writes_something_of_the_right_length(shelf):
    text, suffix = "The whale is a", " marine mammal that sings"
    source = chunk(text, suffix)
    teacher = build_rewriter(RewriteConfig(model=TINY, temperature=1.0), shelf, byte_tokenizer())
    [found] = teacher.rewrite([source])
    assert (found is None) == (sum(teacher.failures.values()) == 1)  # a rewrite or a counted failure, never both
    assert len((found or "").encode()) <= len(suffix)
    assert teacher.rewrite([source]) == [found]


def test_an_endpoint_that_is_not_there_is_named(shelf):
    endpoint = EndpointConfig(base_url="http://127.0.0.1:9/v1", model="m", retries=0)
    for verdict in ("letter", "written"):
        judge = build(JudgeConfig(kind="pairwise", endpoint=endpoint, verdict=verdict), shelf)
        with pytest.raises(EndpointError, match=r"127\.0\.0\.1:9"):
            judge.rank([CONTEST])


TEXTS = [
    (
        "The Rhine is a river that rises in the",
        " Swiss Alps, flows through Germany and the Netherlands, and ends in the North Sea.",
    ),
    (
        "Charles Darwin was an English naturalist,",
        " best known for his theory of evolution by natural selection, published in 1859.",
    ),
    (
        "Photosynthesis is the process by which",
        " green plants and some bacteria turn sunlight, water and carbon dioxide into sugar.",
    ),
    (
        "In chess, the queen is the most powerful",
        " piece: it moves any number of squares along a row, a column or a diagonal.",
    ),
]


@pytest.mark.model
def test_likelihood_under_a_real_model_tells_an_author_from_shuffled_words_and_foreign_text(shelf):
    config = ModelConfig(model="smollm2-135m-instruct")
    try:
        shelf.model(config)
    except ModelError as error:
        pytest.skip(str(error))
    chunks = [
        Chunk(
            id=content_id(prefix),
            document_id=content_id(prefix),
            split=Split.IMPROVE,
            start=0,
            prefix=prefix,
            suffix=suffix,
            prefix_ids=(1,),
            suffix_ids=(1,),
        )
        for prefix, suffix in TEXTS
    ]
    pairs = [p for p in plant(chunks, [], Key(seed=0, purpose="t")).pairs if p.kind in ("shuffled", "other_document")]
    report = audit(build(JudgeConfig(model=config), shelf), pairs, AuditConfig())
    assert {kind: found.value for kind, found in report.accuracy.items()} == {"other_document": 1.0, "shuffled": 1.0}
    assert report.passed

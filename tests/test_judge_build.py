"""Judges and teachers from configs, on tiny models and on one real one."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from forethought.config import (
    AuditConfig,
    EndpointConfig,
    InterleaveConfig,
    JudgeConfig,
    MatchConfig,
    ModelConfig,
    RewriteConfig,
)
from forethought.judges import tournament
from forethought.judges.audit import audit
from forethought.judges.build import build, build_matcher, build_rewriter
from forethought.judges.cache import CachedJudge
from forethought.judges.planted import plant
from forethought.keys import Key
from forethought.llm.endpoint import EndpointError
from forethought.models import ModelError
from forethought.models.model import Compute, ModelPool
from forethought.records import Chunk, JudgeRequest, Outcome, Split, content_id
from forethought.testing import byte_tokenizer
from forethought.thoughts.teacher import build_teacher
from forethought.user_code import UserCodeError
from forethought_offline import EMBEDDERS

TINY = ModelConfig(model="tiny-llama")
REQUEST = JudgeRequest(
    prefix="The whale is a", candidates=(" fish.", " marine mammal.", " stone"), original=" marine mammal."
)


@pytest.fixture(scope="module")
def pool() -> ModelPool:
    return ModelPool(Compute(device="cpu", dtype="float32"))


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
def test_every_kind_of_judge_ranks_and_says_the_same_from_its_cache(pool, tmp_path: Path, settings, verdicts):
    judge = build(JudgeConfig(model=TINY, **settings), pool, tmp_path / "verdicts.sqlite")
    assert isinstance(judge, CachedJudge)
    first = judge.rank([REQUEST])
    assert [len(row) for row in first] == [verdicts]
    again = build(JudgeConfig(model=TINY, **settings), pool, tmp_path / "verdicts.sqlite")
    assert again.rank([REQUEST]) == first
    assert again.misses == 0
    # Random weights conclude nothing in writing, but always have a likelier letter.
    expected = {Outcome.UNSCORED} if settings.get("verdict") == "written" else {Outcome.SCORED, Outcome.PREFERRED}
    assert {verdict.outcome for verdict in first[0]} <= expected


def test_a_model_is_loaded_once(pool):
    assert pool.model(TINY) is pool.model(ModelConfig(model="tiny-llama"))


def test_the_likelihood_of_a_request_is_that_of_its_candidates_alone(pool):
    judge = build(JudgeConfig(model=TINY), pool)
    together = tournament.scores(3, judge.rank([REQUEST])[0])
    alone = [judge.rank([JudgeRequest(prefix=REQUEST.prefix, candidates=(c,))])[0][0].score for c in REQUEST.candidates]
    assert together == pytest.approx(alone, abs=1e-4)


def test_a_tiny_teacher_writes_something_of_the_right_length(pool):
    text, suffix = "The whale is a", " marine mammal that sings"
    chunk = Chunk(
        id="c",
        document_id="d",
        split=Split.IMPROVE,
        start=0,
        prefix=text,
        suffix=suffix,
        prefix_ids=tuple(text.encode()),
        suffix_ids=tuple(suffix.encode()),
    )
    teacher = build_rewriter(RewriteConfig(model=TINY, temperature=1.0), pool, byte_tokenizer())
    [found] = teacher.rewrite([chunk])
    assert found is not None or sum(teacher.failures.values()) == 1
    assert len((found or "").encode()) <= len(suffix)
    assert teacher.rewrite([chunk]) == [found]


def test_an_endpoint_that_is_not_there_is_named(pool):
    endpoint = EndpointConfig(base_url="http://127.0.0.1:9/v1", model="m", retries=0)
    for verdict in ("letter", "written"):
        judge = build(JudgeConfig(kind="pairwise", endpoint=endpoint, verdict=verdict), pool)
        with pytest.raises(EndpointError, match=r"127\.0\.0\.1:9"):
            judge.rank([REQUEST])


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
def test_likelihood_under_a_real_model_tells_an_author_from_shuffled_words_and_foreign_text(pool):
    config = ModelConfig(model="smollm2-135m-instruct")
    try:
        pool.model(config).tokenizer  # noqa: B018  loads it
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
    report = audit(build(JudgeConfig(model=config), pool), pairs, AuditConfig())
    assert {kind: found.value for kind, found in report.accuracy.items()} == {"other_document": 1.0, "shuffled": 1.0}
    assert report.passed


def test_a_judge_is_built_and_named_without_weights(pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = build(JudgeConfig(model=TINY), pool).name
    monkeypatch.setattr("forethought.models.model.load_parts", lambda *arguments: pytest.fail("weights were loaded"))
    monkeypatch.setattr("forethought.models.embedding._bert", lambda *arguments: pytest.fail("weights were loaded"))
    cold = ModelPool(Compute(device="cpu", dtype="float32"))
    assert build(JudgeConfig(model=TINY), cold).name == named
    for kind in ({"kind": "pairwise"}, {"kind": "pointwise", "axis": "safety", "verdict": "written"}):
        assert "tiny-llama@" in build(JudgeConfig(model=TINY, **kind), cold).name
    for match in (MatchConfig(kind="likelihood-gain", model=TINY), MatchConfig(kind="llm", model=TINY)):
        assert "tiny-llama@" in build_matcher(match, cold, tmp_path / "v.sqlite").name
    if EMBEDDERS["all-minilm-l6-v2"].file() is not None:
        assert build_matcher(MatchConfig(), cold, tmp_path / "v.sqlite").name.startswith("beyond-prefix-all-minilm")
    interleave = InterleaveConfig(teacher={"model": TINY})
    assert build_teacher(interleave, cold, tmp_path / "r.sqlite").name == "tiny-llama"


JUDGES = """
from forethought.judges.base import QuestionJudge
from forethought.records import Axis, Outcome, Verdict


class Vowels(QuestionJudge):
    axis = Axis.QUALITY

    def __init__(self, vowels="aeiou"):
        super().__init__("vowels", vowels)
        self.vowels = vowels

    def answer(self, requests, questions):
        return [
            [self.scored(q, sum(map(request.candidates[q[0]].count, self.vowels)) / 100) for q in row]
            for request, row in zip(requests, questions)
        ]


class Plain:
    name = "plain"

    def rank(self, requests):
        return [
            [
                Verdict(outcome=Outcome.SCORED, axis=Axis.MATCH, first=i, score=float(text == r.original), judge="?")
                for i, text in enumerate(r.candidates)
            ]
            for r in requests
        ]


class Broken(Plain):
    def rank(self, requests):
        return requests[0].candidates[99]


class Silent(Plain):
    def rank(self, requests):
        return ["good"]


class Deaf(Vowels):
    def answer(self, requests):
        return []


def nothing():
    return 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """Writes a module of judges into the current directory and returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = "own_" + re.sub(r"\W", "_", request.node.name)

    def write(text: str = JUDGES) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write


def test_a_judge_of_ones_own_ranks_and_its_name_follows_source_and_options(own, pool, tmp_path: Path) -> None:
    path = f"{own()}:Vowels"
    judge = build(JudgeConfig(kind="custom", path=path), pool, tmp_path / "v.sqlite", "judges.mine")
    [verdicts] = judge.rank([REQUEST])
    assert tournament.scores(3, verdicts) == [0.01, 0.05, 0.02]
    assert judge.name.startswith("vowels@")
    assert {verdict.judge for verdict in verdicts} == {judge.name}
    again = build(JudgeConfig(kind="custom", path=path), pool, tmp_path / "v.sqlite", "judges.mine")
    assert again.rank([REQUEST]) == [verdicts]
    assert (again.name, again.judge.misses) == (judge.name, 0)
    other = build(JudgeConfig(kind="custom", path=path, options={"vowels": "a"}), pool, tmp_path / "v.sqlite")
    assert tournament.scores(3, other.rank([REQUEST])[0]) == [0.0, 0.03, 0.0]
    own(JUDGES + "\n# changed\n")
    changed = build(JudgeConfig(kind="custom", path=path), pool, tmp_path / "v.sqlite")
    assert len({judge.name, other.name, changed.name}) == 3


def test_a_match_judge_of_ones_own_passes_what_reaches_the_threshold(own, pool, tmp_path: Path) -> None:
    matcher = build_matcher(MatchConfig(kind="custom", path=f"{own()}:Plain"), pool, tmp_path / "v.sqlite", 0.5)
    assert matcher.name.startswith("plain@")
    [scores] = matcher.scores([REQUEST])
    assert [matcher.passes(score) for score in scores] == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("attribute", "options", "message"),
    [
        ("Broken", {}, r"judges\.mine\.path = .*\.py:\d+ in rank: IndexError"),
        ("Silent", {}, r"rank returned \['good'\]; expected, for each of 1 requests, a list of Verdict"),
        ("nothing", {}, r"a judge has `name` \(text\) and `rank\(requests\)`; 3 has name = None"),
        ("Vowels", {"n": 2}, r"Vowels is called as Vowels\(n=2\), but its signature is Vowels\(vowels='aeiou'\)"),
        (
            "Deaf",
            {},
            r"Deaf.answer is called as Deaf.answer\(requests, questions\), but its signature is .*\(requests\)",
        ),
        ("Consonants", {}, "has no Consonants. Its public names: .*Plain"),
    ],
)
def test_what_is_wrong_with_a_judge_of_ones_own_is_named(
    own, pool, attribute: str, options: dict[str, int], message: str
) -> None:
    config = JudgeConfig(kind="custom", path=f"{own()}:{attribute}", options=options)
    with pytest.raises(UserCodeError, match=message):
        build(config, pool, None, "judges.mine").rank([REQUEST])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "custom"}, "needs `path`"),
        ({"kind": "shorter", "path": "a:b"}, "takes no `path`"),
        ({"model": TINY, "options": {"n": 1}}, "takes no `path` and no `options`"),
    ],
)
def test_path_and_options_belong_to_custom_judges(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JudgeConfig(**settings)

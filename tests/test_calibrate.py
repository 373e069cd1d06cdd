"""Calibration and audit of match judges: on documents, once, and before anything is trained by them."""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.records import chunk
from helpers.smoke_runs import CONFIG, SMALL
from helpers.stages import GivenContext, run_stage, stage_of

from forethought import config
from forethought.algorithms.windows import prefix_copies
from forethought.config import ConfigError, MatchAuditConfig
from forethought.judges.base import Question, QuestionJudge
from forethought.judges.beyond import BeyondPrefixJudge, contradicts, direction, order, pieces_of
from forethought.judges.match import Matcher, SimilarityJudge
from forethought.judges.match_audit import COPIES, NEGATIVE, POSITIVE, audit, clustered_auc, plant
from forethought.judges.paraphrase import REPLACED, paraphrased
from forethought.keys import Key
from forethought.records import Axis, Chunk, JudgeRequest, Measurement, Verdict
from forethought.stages.base import JudgeFailedError, StageError
from forethought.testing import byte_tokenizer

PREFIX = (
    "In 1815 the old town on the river was sold to Karl, who built a mill, a bridge and several small houses there."
)
SUFFIX = (
    " Later the largest mill was moved to Lyon by Marie, because it was located near a road with many carts in 1902."
)


class WordEmbedder:
    """Counts words: similar texts have the same words."""

    name = identity = "words"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.zeros((len(texts), 512), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                row[zlib.crc32(word.encode()) % 512] += 1
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


class Recorded(QuestionJudge):
    """Judges by letters, and keeps what it was asked; so all like copies of the prefix better than most."""

    axis = Axis.MATCH

    def __init__(self) -> None:
        super().__init__("recorded", "recorded")
        self.asked: list[JudgeRequest] = []

    def answer(self, requests: Sequence[JudgeRequest], questions: Sequence[Sequence[Question]]) -> list[list[Verdict]]:
        self.asked += requests
        return SimilarityJudge(WordEmbedder()).answer(requests, questions)


def invented(document: int, part: int) -> list[str]:
    """Return six words that no other chunk has, of as many letters."""
    generator = np.random.default_rng([document, part])
    return ["".join(generator.choice(list("abdeginorstu"), 7)) for _ in range(6)]


def chunks(documents: int, of_each: int = 1) -> list[Chunk]:
    rows = []
    for number in range(documents):
        for part in range(of_each):
            a, b, c, d, e, f = invented(number, part)
            after = f" Later the {a} {b} was moved near {c.title()} by {d.title()}, as many {e} {f} it in 1{number:03}."
            one = chunk(f"{number} {part} {PREFIX}", after, number=number)
            rows.append(dataclasses.replace(one, id=f"c{number}-{part}", document_id=f"d{number}"))
    return rows


def context(place: Path, *overrides: str, documents: int = 40, of_each: int = 1, **given: Any) -> GivenContext:
    small = (*SMALL, "rlmt.suffix_tokens=90", "rlmt.match.calibration_chunks=256", "rlmt.match.max_copies=0.01")
    settings = config.load(CONFIG, (*small, "rlmt.match.audit.allow_failing=false", *overrides))
    return GivenContext(settings, place, chunks=chunks(documents, of_each), **given)


def calibrated(context: GivenContext) -> dict[str, Any]:
    rows: dict[str, Any] = run_stage(stage_of(context, "shared/calibrate")).manifest()["summary"]["judges"]
    return rows


def judged_by(judge: Any) -> dict[str, Any]:
    return {"match_judges": {"training": Matcher(judge=judge, threshold=0.5)}}


def figures(context: GivenContext) -> dict[tuple[str, str], Measurement]:
    return {(one.metric, one.condition): one for one in context.run.measurements()}


# --- calibration


def test_a_document_counts_once_however_many_chunks_it_has(tmp_path: Path) -> None:
    judge = Recorded()
    made = context(tmp_path, of_each=3, **judged_by(judge))
    assert calibrated(made)["training"]["documents"] == 40
    assert [request.prefix.split()[0] for request in judge.asked] == [str(number) for number in range(40)]
    assert {figures(made)[metric, ""].n for metric in ("threshold", "base rollouts that pass")} == {40}


def test_two_runs_of_one_config_record_the_same_threshold(tmp_path: Path) -> None:
    one, two = (calibrated(context(tmp_path / name, **judged_by(Recorded()))) for name in ("a", "b"))
    assert one == two
    assert 0 < one["training"]["threshold"] < 2


def test_no_more_than_a_hundredth_of_prefix_copies_passes(tmp_path: Path) -> None:
    judge = Recorded()
    made = context(tmp_path, **judged_by(judge))
    calibrated(made)
    shares = figures(made)
    for kind in COPIES:
        share = shares["planted suffixes that pass", kind]
        assert (share.value, share.n) == (0.0, 40)
        assert share.high > 0.05  # no copy of 40 passed; that is not 0 for certain
    # Both ends of the prefix, by as many tokens as a prediction, were among what was judged.
    first = judge.asked[0]
    assert {first.prefix[:90], first.prefix[-90:]} <= set(first.candidates)


def test_fewer_documents_than_asked_for_are_said_and_too_few_refused(tmp_path: Path) -> None:
    said: list[str] = []
    made = context(tmp_path / "a", **judged_by(Recorded()))
    made.say = said.append
    calibrated(made)
    assert said == ["calibrate: training: 256 documents are asked for, the improve split has 40"]
    few = context(tmp_path / "b", "rlmt.match.embedder='all-minilm-l6-v2'", documents=12, **judged_by(Recorded()))
    with pytest.raises(StageError, match=r"12 documents, too few .* 'training' on.*calibration_chunks = 12"):
        calibrated(few)
    asked = "rlmt.match.calibration_chunks=8"  # by who knows what that is worth
    given = judged_by(Recorded())
    assert calibrated(context(tmp_path / "c", asked, "rlmt.match.embedder='x'", documents=12, **given))["training"]


def test_more_judges_are_calibrated_each_by_its_own_scores(tmp_path: Path) -> None:
    more = "thinking.judges.letters={ embedder = 'letters', kind = 'similarity', max_copies = 1.0 }"
    made = context(tmp_path, more)
    rows = calibrated(made)
    assert list(rows) == list(made.matchers) == ["training", "letters"]
    assert made.matcher is made.matchers["training"]
    # The same judge; but the second one lets copies pass.
    assert rows["letters"]["judge"] == rows["training"]["judge"]
    assert made.matchers["letters"].threshold < made.matchers["training"].threshold
    with pytest.raises(ConfigError, match="choose another name"):
        context(tmp_path, "thinking.judges.training={ embedder = 'letters' }")


def test_a_copy_is_an_end_of_the_prefix() -> None:
    [one] = chunks(1)
    assert prefix_copies(one, byte_tokenizer(), 20) == (one.prefix[:20], one.prefix[-20:])
    assert prefix_copies(one, byte_tokenizer(), 999) == (one.prefix, one.prefix)


# --- the audit


def test_a_judge_that_failed_trains_nothing_unless_it_is_allowed(tmp_path: Path) -> None:
    for reward in ("binary", "gain-over-blank"):
        made = context(tmp_path / reward, f"rlmt.reward='{reward}'", **judged_by(Recorded()))
        assert calibrated(made)["training"]["failures"]
        with pytest.raises(JudgeFailedError) as error:
            stage_of(made, "base-rlmt/rlmt").check()
        for part in ("recorded@", "AUC against shuffled is 0.", "the bar is 0.90", "n = 40 of shuffled pass", "="):
            assert part in str(error.value)
        assert "--set rlmt.match.audit.allow_failing=true" in str(error.value)
    allowed = ("rlmt.match.audit.allow_failing=true", "rlmt.reward='information-gain'")
    for name, one in zip(("a", "b"), allowed, strict=True):
        made = context(tmp_path / name, one, **judged_by(Recorded()))
        calibrated(made)
        stage_of(made, "base-rlmt/rlmt").check()


def test_the_default_judge_passes_where_likeness_fails(tmp_path: Path) -> None:
    made = context(tmp_path, "rlmt.match.threshold=0.4", **judged_by(BeyondPrefixJudge(WordEmbedder())))
    assert calibrated(made)["training"]["failures"] == []
    stage_of(made, "base-rlmt/rlmt").check()
    shares = figures(made)
    assert all(shares["match AUC", kind].value > 0.9 for kind in NEGATIVE if ("match AUC", kind) in shares)


def test_every_kind_is_planted_where_it_can_be() -> None:
    rows = chunks(3, 2)
    first, second = rows[::2], {row.document_id: row for row in rows[1::2]}
    copies = [prefix_copies(one, byte_tokenizer(), 90) for one in first]
    planted = plant(first, copies, second, byte_tokenizer(), 90, Key(0, "x"))
    assert all(set(row) == {*NEGATIVE, *POSITIVE} for row in planted)
    again = plant(first, copies, {}, byte_tokenizer(), 90, Key(0, "x"))
    assert set(again[0]) == {*NEGATIVE, *POSITIVE} - {"same_document"}
    true = first[0].suffix[:90]
    assert planted[0]["cut_end"] == true[:60]
    assert true.endswith(planted[0]["cut_start"])
    assert planted[0]["same_document"] == second["d0"].suffix[:90]


def test_auc_counts_pairs_ties_half_and_its_interval_counts_documents() -> None:
    ours = [("a", 3.0), ("a", 1.0), ("b", 2.0)]
    theirs = [("a", 1.0), ("b", 0.0)]
    assert clustered_auc(ours, theirs, 0).value == pytest.approx(5.5 / 6)
    generator = np.random.default_rng(0)
    few = [(str(i % 4), float(i % 4 + generator.normal())) for i in range(200)]
    many = [(str(i), score) for i, (_, score) in enumerate(few)]
    zeros = [(document, 1.5) for document, _ in few]
    alone = [(str(i), 1.5) for i in range(200)]
    wide, narrow = clustered_auc(few, zeros, 0), clustered_auc(many, alone, 0)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_what_could_not_be_planted_is_no_failure_and_what_is_unscored_is() -> None:
    matcher = Matcher(judge=Recorded(), threshold=0.5)
    scores = {"cut_end": [("a", 0.9)], "shuffled": [("a", 0.1)]}
    found = audit(matcher, scores, (1, 10), MatchAuditConfig(), 0)
    assert found.failures == ("1 of 10 predictions are unscored, the bar is 0.05",)
    assert "no corrupted could be planted and scored: not examined" in found.notes
    assert audit(matcher, scores, (0, 10), MatchAuditConfig(), 0).failures == ()


# --- the default judge


def scores(*texts: str, judge: Any = None) -> list[float]:
    judge = judge or BeyondPrefixJudge(WordEmbedder())
    [row] = judge.rank([JudgeRequest(prefix=PREFIX, candidates=texts, original=SUFFIX)])
    return [verdict.score for verdict in row]


def test_a_copy_of_the_prefix_earns_nothing_and_the_true_suffix_one() -> None:
    words = PREFIX.split()
    true, start, end, whole, empty = scores(SUFFIX, " ".join(words[:12]), " ".join(words[-12:]), PREFIX, " ")
    assert true == pytest.approx(1.0, abs=1e-4)
    assert max(start, end, whole) < 0.15
    assert whole == pytest.approx(0.0, abs=0.01)
    assert empty == -1.0
    # Likeness gives what copies something for its being of the same text.
    assert min(scores(PREFIX, judge=SimilarityJudge(WordEmbedder()))) > 0.3


def test_shuffled_words_and_swapped_facts_are_no_match_and_a_paraphrase_is() -> None:
    shuffled = " ".join(sorted(SUFFIX.split(), key=lambda word: zlib.crc32(word.encode())))
    other, paraphrase = SUFFIX.replace("Lyon", "Basel"), paraphrased(SUFFIX)
    assert paraphrase is not None
    low, false, same, cut = scores(shuffled, other, paraphrase, SUFFIX[:70])
    assert low < 0.3 < 0.6 < min(same, cut)
    assert false == 0.0
    plain = scores(shuffled, other, judge=SimilarityJudge(WordEmbedder()))
    assert min(plain) > 0.9


def test_order_is_that_of_words_that_both_texts_have_once() -> None:
    assert order("a b c d", "a b c d") == order("a b c d", "x y") == 1.0
    assert order("a b c d e f g h i j", "j i h g f e d c b a") == 0.0
    assert order("a b", "b a") == pytest.approx(5 / 7)


@pytest.mark.parametrize(
    ("true", "text", "expected"),
    [
        ("he won it in 1886 in Paris", "he won it in 1945 in Paris", True),
        ("he met Ada in May and left London", "he met London in May and left Ada", True),
        ("he won it in 1886 in Paris", "nobody knows that Bern lost", False),  # another sentence
        ("the population of Java grew", "the population of Javanese grew", False),  # two forms of one name
        ("he was born in 19", "he was born in 1902", False),  # cut off
        ("he was born there in Bernard", "he was born there in Bern", False),
        ("he won a prize in town", "he won a medal in town", False),  # no name and no number
    ],
)
def test_another_name_or_number_in_the_same_place_contradicts(true: str, text: str, expected: bool) -> None:
    assert contradicts(true, text) is expected


def test_pieces_cover_the_prefix_and_what_they_explain_is_not_new() -> None:
    assert pieces_of("one two three four five", 2) == [
        *("one two three four five", "one two", "two three", "three four", "four five")
    ]
    assert pieces_of("", 3) == [""]
    true = np.array([0.6, 0.8, 0.0], np.float32)
    new = direction(true, np.array([[1.0, 0.0, 0.0]], np.float32))
    assert new @ true == pytest.approx(1.0)
    assert new[0] == pytest.approx(0.0, abs=1e-6)
    # All of it known: next to nothing left to be measured.
    assert np.abs(direction(true, true[None])).max() < 1e-4


def test_a_paraphrase_keeps_names_and_numbers_and_changes_words() -> None:
    text = "Many people of May moved to Large in 1902, and salt and pepper are often found near Old Town."
    found = paraphrased(text)
    assert found is not None
    for kept in ("May", "1902", "Large", "Old Town", "pepper and salt"):
        assert kept in found
    assert found.startswith("Numerous")
    assert paraphrased("Nothing can be changed here.") is None
    assert all(old == old.lower() and new for old, new in REPLACED.items())

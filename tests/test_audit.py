"""The audit: planted pairs are what they say, and judges of known quality get the marks they deserve."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from forethought.config import AuditConfig
from forethought.judges import tournament
from forethought.judges.audit import audit
from forethought.judges.base import Question, QuestionJudge
from forethought.judges.planted import Planted, corrupted, plant, repeated, shuffled
from forethought.judges.shorter import ShorterJudge
from forethought.keys import Key
from forethought.records import Axis, Chunk, JudgeRequest, Split, Verdict

KEY = Key(seed=3, purpose="audit")
TEXTS = [
    ("The Rhine rises in", " Switzerland and flows 1,230 km to the North Sea near Rotterdam."),
    ("Born in 1815, she", " met Charles Babbage in 1833 and wrote about his engine in London."),
    ("Photosynthesis is a", " process by which plants turn light into sugar, slowly, every day."),
    ("In chess, the", " queen moves in any direction; Steinitz won the title in 1886."),
    ("The moon\u2019s orbit", " is inclined by 5.1 degrees to the ecliptic."),
]


def chunk(number: int) -> Chunk:
    prefix, suffix = TEXTS[number % len(TEXTS)]
    return Chunk(
        id=f"c{number}",
        document_id=f"d{number}",
        split=Split.IMPROVE,
        start=0,
        prefix=prefix,
        suffix=suffix,
        prefix_ids=(1,),
        suffix_ids=(2,),
    )


CHUNKS = [chunk(i) for i in range(5)]
ROLLOUTS: list[str | None] = [f" is the {i}th of its kind, and it is." for i in range(4)] + [None]


class Marker(QuestionJudge):
    """Asks in pairs and answers by a rule: (first text, second text, original) -> 0 or 1, or ``None``: a tie."""

    axis = Axis.QUALITY

    def __init__(self, rule) -> None:
        super().__init__("rule", "rule")
        self.rule = rule

    def questions(self, request: JudgeRequest) -> list[Question]:
        return list(tournament.pairs(len(request.candidates)))

    def answer(self, requests: Sequence[JudgeRequest], questions: Sequence[Sequence[Question]]) -> list[list[Verdict]]:
        return [[self._one(c, q) for q in row] for c, row in zip(requests, questions, strict=True)]

    def _one(self, request: JudgeRequest, question: Question) -> Verdict:
        said = self.rule(*(request.candidates[i] for i in question), request.original)
        if isinstance(said, str):
            return self.unscored(question, said)
        return self.preferred(question, None if said is None else question[said])


def perfect(first: str, second: str, original: str) -> int:
    return 0 if first == original else 1


# --- planting


def test_every_kind_is_planted_and_what_is_not_is_counted():
    planting = plant(CHUNKS, ROLLOUTS, KEY)
    kinds = [pair.kind for pair in planting.pairs]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "other_document": 5,
        "shuffled": 5,
        "repeated": 5,
        "corrupted": 4,
        "rollout": 4,
    }
    assert planting.left_out == {"corrupted: no number or name to swap": 1, "rollout: no rollout": 1}


def test_the_original_is_where_the_pair_says_and_on_both_sides():
    pairs = plant([chunk(i) for i in range(40)], [], KEY).pairs
    assert all(pair.request.candidates[pair.original] == pair.request.original for pair in pairs)
    assert all(len(set(pair.request.candidates)) == 2 for pair in pairs)
    share = sum(pair.original for pair in pairs) / len(pairs)
    assert 0.35 < share < 0.65


def test_planting_depends_on_the_key_alone():
    assert plant(CHUNKS, ROLLOUTS, KEY) == plant(CHUNKS, ROLLOUTS, KEY)
    assert plant(CHUNKS, ROLLOUTS, KEY) != plant(CHUNKS, ROLLOUTS, Key(seed=4, purpose="audit"))


def test_one_document_has_no_other():
    left_out = plant(CHUNKS[:1], [], KEY).left_out
    assert left_out["other_document: no other document"] == 1


def test_a_rollout_equal_to_the_suffix_is_no_pair():
    planting = plant(CHUNKS[:1], [CHUNKS[0].suffix], KEY)
    assert planting.left_out["rollout: same as the original"] == 1


def test_as_many_rollouts_as_chunks():
    with pytest.raises(ValueError, match="2 rollouts for 5 chunks"):
        plant(CHUNKS, [" a", " b"], KEY)


def test_shuffling_keeps_words_and_white_space():
    text = "  one two\n\nthree  four"
    found = shuffled(text, KEY.generator())
    assert found != text
    assert sorted(found.split()) == ["four", "one", "three", "two"]
    assert found.startswith("  ")
    assert "\n\n" in found
    assert shuffled(" word word", KEY.generator()) is None
    assert shuffled("", KEY.generator()) is None


def test_corruption_exchanges_numbers_and_names_within_a_suffix():
    found = corrupted("He", " met Ada in 1833 and left London in 1852.", [], KEY.generator())
    assert found == " met London in 1852 and left Ada in 1833."


def test_a_single_fact_comes_from_another_text_and_years_from_years():
    found = corrupted("In chess", " he won in 1886.", ["It has 12 parts.", "It fell in 1945, by 3%."], KEY.generator())
    assert found == " he won in 1945."


def test_a_name_of_several_words_moves_as_one():
    found = corrupted("It left", " New York City for Le Havre and its Old Town.", [], KEY.generator())
    assert found in (" Old Town for New York City and its Le Havre.", " Le Havre for Old Town and its New York City.")


def test_the_first_word_of_a_sentence_is_no_name():
    assert (
        corrupted("It rains.", " The sun is hot. Perhaps it is. \u201cVery so.", ["see Paris"], KEY.generator()) is None
    )
    assert corrupted("", "The sun", ["see Paris"], KEY.generator()) is None
    assert corrupted("He likes", " Rome. The sun", ["see Paris"], KEY.generator()) == " Paris. The sun"


# --- marks


def test_a_perfect_judge_passes_with_intervals():
    report = audit(Marker(perfect), plant(CHUNKS, ROLLOUTS, KEY).pairs, AuditConfig())
    assert report.passed
    assert report.accuracy["shuffled"].value == 1.0
    assert report.accuracy["shuffled"].low == pytest.approx(0.5655, abs=1e-3)
    assert (report.rates["consistency"].value, report.rates["first_position"].value, report.rates["ties"].value) == (
        1.0,
        0.5,
        0.0,
    )
    assert "length_bias" not in report.rates


def test_a_judge_that_names_the_first_scores_one_half_and_fails():
    report = audit(Marker(lambda first, second, original: 0), plant(CHUNKS, ROLLOUTS, KEY).pairs, AuditConfig())
    assert not report.passed
    assert {found.value for found in report.accuracy.values()} == {0.5}
    assert (report.rates["first_position"].value, report.rates["consistency"].value, report.rates["ties"].value) == (
        1.0,
        0.0,
        1.0,
    )
    assert "accuracy on shuffled pairs is 0.50 (0.17 to 0.83, n = 5), the threshold is 0.80" in report.failures


def test_a_pointwise_judge_is_compared_by_score_and_its_length_bias_shows():
    pairs = [
        Planted(
            kind="rollout",
            chunk_id=str(i),
            request=JudgeRequest(prefix="p", candidates=(" true", " longer" * (i % 2) + "x"), original=" true"),
            original=0,
        )
        for i in range(4)
    ]
    report = audit(ShorterJudge(), pairs, AuditConfig(min_accuracy={"rollout": 0.6}))
    assert (report.accuracy["rollout"].value, report.accuracy["rollout"].n) == (0.5, 4)
    assert (report.rates["length_bias"].value, report.rates["length_bias"].n) == (0.0, 2)
    assert not {"consistency", "first_position"} & set(report.rates)


def test_a_longer_is_better_judge_shows_its_length_bias():
    def longer(first: str, second: str, original: str) -> int:
        return 0 if len(first) >= len(second) else 1

    wrong = Planted(
        kind="rollout",
        chunk_id="c",
        request=JudgeRequest(prefix="", candidates=("ab", "abc"), original="ab"),
        original=0,
    )
    assert audit(Marker(longer), [wrong], AuditConfig()).rates["length_bias"].value == 1.0


def test_unscored_verdicts_are_no_votes_but_a_reason_to_fail():
    def shy(first: str, second: str, original: str) -> int | str:
        return (
            "the server said 500"
            if "Rhine" in original or "Rotterdam" in original
            else perfect(first, second, original)
        )

    report = audit(Marker(shy), plant(CHUNKS, [], KEY).pairs, AuditConfig())
    assert report.accuracy["shuffled"].n == 4
    assert report.unscored_pairs["shuffled"] == 1
    assert report.accuracy["shuffled"].value == 1.0
    assert report.failures[-1].endswith("the threshold is 0.05; most often: the server said 500")
    assert report.notes == ("no rollout pair could be planted: the judge was not examined on them",)


def test_a_kind_of_which_nothing_is_scored_fails():
    report = audit(Marker(lambda *texts: "no"), plant(CHUNKS, ROLLOUTS, KEY).pairs, AuditConfig(max_unscored=1.0))
    assert report.accuracy == {}
    assert "none of 5 shuffled pairs was scored, the threshold is accuracy 0.80" in report.failures


def test_measurements_carry_every_figure_with_its_denominator():
    judge = Marker(perfect)
    rows = {
        (m.metric, m.condition): m
        for m in audit(judge, plant(CHUNKS, ROLLOUTS, KEY).pairs, AuditConfig()).measurements()
    }
    accuracy = rows["accuracy", "corrupted"]
    assert (accuracy.stage, accuracy.arm, accuracy.value, accuracy.n) == ("audit", judge.name, 1.0, 4)
    assert rows["first_position", ""].n == 46
    assert {metric for metric, _ in rows} == {"accuracy", "unscored", "consistency", "first_position", "ties"}


def test_a_loop_is_the_first_quarter_of_the_words_over_and_over():
    assert repeated("One two three, four five six seven eight.") == "One two three, four One two three, four"
    assert repeated(" a b\n c d e f g h") == " a b\n c d a b c d"
    assert repeated("only seven words stand in this one") is None

"""The figures of literal pools: who was chosen, against what chance would choose, and what counts as no vote."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from forethought.algorithms.pools import candidate, make_pool, pool_metrics, rank_pools
from forethought.judges.base import QuestionJudge
from forethought.keys import Key
from forethought.records import Axis, Chunk, JudgeRequest, Origin, Split, Verdict


def literal_chunk(name: str) -> Chunk:
    return Chunk(
        id=name,
        document_id=name,
        split=Split.IMPROVE,
        start=0,
        prefix="The whale is a",
        suffix=" marine mammal.",
        prefix_ids=(84, 104),
        suffix_ids=tuple(b" marine mammal."),
    )


class Grades(QuestionJudge):
    """Gives the grades that it was told to give; ``None``: no vote."""

    axis = Axis.QUALITY

    def __init__(self, grades: dict[str, float | None]) -> None:
        super().__init__("grades", sorted(grades))
        self.grades = grades

    def answer(
        self, requests: Sequence[JudgeRequest], questions: Sequence[Sequence[tuple[int, int | None]]]
    ) -> list[list[Verdict]]:
        return [
            [
                self.unscored(q, "lost")
                if (grade := self.grades[c.candidates[q[0]]]) is None
                else self.scored(q, grade)
                for q in asked
            ]
            for c, asked in zip(requests, questions, strict=True)
        ]


def literal_metrics(*pools: dict[str, float | None]) -> dict[str, float]:
    """Judge pools of {text: grade}: "original" is the suffix, "rewrite" the teacher's, all else rollouts."""
    made, grades = [], {}
    for number, grading in enumerate(pools):
        chunk = literal_chunk(f"chunk{number}")
        candidates = []
        for k, text in enumerate(grading):
            origin = {"original": Origin.CORPUS, "rewrite": Origin.REWRITE}.get(text, Origin.ROLLOUT)
            candidates.append(candidate(chunk, origin, f"{number} {text}", tuple(text.encode()), k))
            grades[f"{number} {text}"] = grading[text]
        made.append(make_pool(chunk, candidates, Key(0, "order")))
    return pool_metrics(rank_pools(made, [Grades(grades)], Key(0, "ties")))


def test_the_metrics_of_literal_pools() -> None:
    found = literal_metrics(
        {"original": 0.2, "a": 0.9, "b": 0.1},  # a rollout against a rollout
        {"original": 0.8, "c": 0.4, "d": 0.3},  # the original against a rollout
        {"original": 0.0, "e": 1.0, "f": 0.5},  # a rollout against the original
        {"original": 0.5, "g": 0.5, "h": 0.5},  # a tie
    )
    assert found == pytest.approx(
        {
            "decided": 3,
            "tie_rate": 1 / 4,
            "unscored_rate": 0.0,
            "selection_rate": 2 / 3,
            "selection_null": 2 / 3,  # K/(K+1), K = 2
            "chosen_original": 1 / 3,
            "chosen_rewrite": 0.0,
            "rejected_original": 1 / 3,
            "score_spread": (0.8 + 0.5 + 1.0) / 3,
            "score_corpus": (0.2 + 0.8 + 0.0 + 0.5) / 4,
            "score_rollout": (0.9 + 0.1 + 0.4 + 0.3 + 1.0 + 0.5 + 0.5 + 0.5) / 8,
        }
    )


def test_the_metrics_of_pools_with_a_rewrite_and_lost_verdicts() -> None:
    found = literal_metrics(
        {"original": 0.2, "rewrite": 0.9, "a": 0.1},
        {"original": None, "rewrite": 0.3, "b": 0.6},  # the original has no score: neither best nor worst
        {"original": None, "rewrite": None, "c": 0.4},  # one score decides nothing
    )
    assert found["decided"] == 2
    assert found["tie_rate"] == pytest.approx(1 / 3)
    assert found["unscored_rate"] == pytest.approx(3 / 9)
    assert found["selection_null"] == pytest.approx(1 / 3)
    assert found["selection_rate"] == found["chosen_rewrite"] == 0.5
    assert found["chosen_original"] == found["rejected_original"] == 0.0
    assert found["score_corpus"] == 0.2


def test_the_metrics_when_nothing_is_decided() -> None:
    found = literal_metrics({"original": None, "a": None})
    assert found == {"decided": 0, "tie_rate": 1.0, "unscored_rate": 1.0, "selection_null": 0.5}

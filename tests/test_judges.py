"""Tournament, likelihood, cache, pairwise, pointwise and rewriting, with stand-ins for the models."""

from __future__ import annotations

import itertools
import math
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers.language import local_model as local
from hypothesis import given
from hypothesis import strategies as st

from forethought.engine import Group
from forethought.judges import tournament
from forethought.judges.base import Question, QuestionJudge
from forethought.judges.cache import CachedJudge
from forethought.judges.likelihood import LikelihoodJudge, charge_copies
from forethought.judges.shorter import ShorterJudge
from forethought.keys import Key
from forethought.llm import TRANSPORT
from forethought.llm.cache import TextCache
from forethought.records import Axis, Candidate, JudgeRequest, Origin, Outcome, Verdict
from forethought.testing import BOS_ID, UniformScorer
from forethought.text import words


def vote(first: int, second: int, winner: int | None, unscored: bool = False) -> Verdict:
    outcome = Outcome.UNSCORED if unscored else Outcome.TIE if winner is None else Outcome.PREFERRED
    return Verdict(outcome=outcome, axis=Axis.QUALITY, first=first, second=second, winner=winner, judge="j")


def grade(first: int, score: float | None, axis: Axis = Axis.SAFETY) -> Verdict:
    outcome = Outcome.UNSCORED if score is None else Outcome.SCORED
    return Verdict(outcome=outcome, axis=axis, first=first, score=score, judge="j")


def candidates(n: int) -> list[Candidate]:
    return [Candidate(id=str(i), chunk_id="c", origin=Origin.ROLLOUT, text=f" {i}", token_ids=(i,)) for i in range(n)]


# --- tournament


def test_full_tournament_has_both_orders_of_every_pair_grouped_by_the_first():
    assert tournament.pairs(3) == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert len(tournament.pairs(17)) == 272


def test_pivot_tournament_compares_with_the_pivot_only():
    assert tournament.pairs(3, "pivot", pivot=1) == [(0, 1), (1, 0), (1, 2), (2, 1)]


def test_orders_that_agree_win_and_orders_that_disagree_tie():
    verdicts = [vote(0, 1, 0), vote(1, 0, 0), vote(0, 2, 0), vote(2, 0, 2), vote(1, 2, None), vote(2, 1, 2)]
    assert tournament.scores(3, verdicts) == [0.75, 0.25, 0.5]


def test_a_pair_with_an_unscored_order_counts_for_nobody():
    verdicts = [vote(0, 1, 0), vote(1, 0, None, unscored=True), vote(0, 2, 2), vote(2, 0, 2)]
    assert tournament.scores(4, verdicts) == [0.0, None, 1.0, None]


def test_a_candidate_with_few_scored_pairs_is_neither_the_best_nor_the_worst():
    def votes(a: int, b: int) -> list[Verdict]:
        # Candidate 0 is scored against 4 only, and wins; the lower number wins everywhere else.
        return [vote(a, b, None, unscored=True) if a == 0 and b < 4 else vote(a, b, a), vote(b, a, a)]

    verdicts = [verdict for a, b in itertools.combinations(range(5), 2) for verdict in votes(a, b)]
    assert tournament.scores(5, verdicts) == [None, 1.0, 2 / 3, 1 / 3, 0.0]
    half = [vote(0, 1, 0), vote(1, 0, 0), vote(0, 2, None, unscored=True), vote(2, 0, 0)]
    assert tournament.scores(3, half) == [1.0, 0.0, None]


def test_pointwise_scores_are_taken_as_they_are_and_unscored_is_not_zero():
    assert tournament.scores(3, [grade(0, 0.5), grade(2, 0.0), grade(1, None)]) == [0.5, None, 0.0]


@given(st.data(), st.integers(2, 6))
def test_scores_of_a_fully_scored_tournament_average_one_half(data, n):
    verdicts = [vote(a, b, data.draw(st.sampled_from([a, b, None]))) for a, b in tournament.pairs(n)]
    scored = tournament.scores(n, verdicts)
    assert math.isclose(sum(scored), n / 2)
    assert all(0 <= score <= 1 for score in scored)


@given(st.data(), st.integers(2, 5))
def test_renaming_candidates_renames_scores(data, n):
    verdicts = [vote(a, b, data.draw(st.sampled_from([a, b, None]))) for a, b in tournament.pairs(n)]
    order = data.draw(st.permutations(range(n)))
    renamed = [vote(order[v.first], order[v.second], None if v.winner is None else order[v.winner]) for v in verdicts]
    scored, other = tournament.scores(n, verdicts), tournament.scores(n, renamed)
    assert [other[order[i]] for i in range(n)] == pytest.approx(scored)


def test_axes_add_up_and_an_unbounded_judge_counts_by_its_win_rates():
    likelihood, safety = [-900.0, -1.0, -2.0, -2.0], [1.0, 0.0, 0.5, None]
    assert tournament.combine([likelihood], [False]) == likelihood
    combined = tournament.combine([likelihood, safety], [False, True])
    assert combined[:2] == [1.0, 1.0]
    assert combined[2] == pytest.approx(0.5 / 3 + 1 / 3 + 0.5)
    assert combined[3] is None


def test_totals_take_bounds_from_the_axis():
    by_likelihood = [grade(0, -3.0, Axis.LIKELIHOOD), grade(1, -50.0, Axis.LIKELIHOOD)]
    assert tournament.totals(2, [by_likelihood]) == [-3.0, -50.0]
    assert tournament.totals(2, [by_likelihood, [grade(0, 0.5), grade(1, 1.0)]]) == [1.5, 1.0]


def test_win_rates_of_a_lone_scored_candidate_are_undecided():
    assert tournament.win_rates([None, -3.0]) == [None, 0.5]


def test_preference_is_highest_against_lowest_and_skips_the_unscored():
    pair = tournament.preference("c", candidates(4), [0.4, None, 0.9, 0.1], turn=5)
    assert (pair.chosen.id, pair.rejected.id, pair.chosen_score, pair.rejected_score) == ("2", "3", 0.9, 0.1)


@pytest.mark.parametrize("given_scores", [[0.5, 0.5, 0.5], [None, 0.5, None], [None, None, None], []])
def test_no_preference_without_a_difference(given_scores):
    assert tournament.preference("c", candidates(len(given_scores)), given_scores, turn=1) is None


def test_equals_at_the_extremes_take_turns_without_a_standing_favourite():
    key = Key(seed=0, purpose="ties")
    drawn = [
        tournament.preference("c", candidates(5), [1.0, 1.0, 0.0, 0.0, 0.0], key.integer(f"chunk-{i}"))
        for i in range(3000)
    ]
    for pair, count in itertools.product("01", "234"):
        share = sum((p.chosen.id, p.rejected.id) == (pair, count) for p in drawn) / len(drawn)
        assert abs(share - 1 / 6) < 0.03


def test_statistics_of_a_judge_that_always_names_the_first():
    verdicts = [vote(a, b, a) for a, b in tournament.pairs(3)]
    found = tournament.statistics([verdicts, [vote(0, 1, None, unscored=True), vote(1, 0, 0)]])
    assert (found.first_wins, found.decided) == (6, 7)
    assert (found.consistent, found.both_orders) == (0, 3)
    assert (found.ties, found.pairs) == (3, 3)
    assert found.unscored_rate == 1 / 8


def test_statistics_without_a_denominator_are_none():
    found = tournament.statistics([[grade(0, None)]])
    assert (found.decided, found.both_orders, found.pairs, found.unscored_rate) == (0, 0, 0, 1.0)
    assert tournament.statistics([]).unscored_rate is None


# --- likelihood


class BytePreference(UniformScorer):
    """Gives the byte ``e`` a log-probability of -1, every other one -2, and counts what it is asked."""

    def __init__(self, liked: float = -1.0) -> None:
        super().__init__()
        object.__setattr__(self, "liked", liked)
        object.__setattr__(self, "seen", [])

    def logprobs(self, groups: Sequence[Group]) -> list[list[np.ndarray]]:
        self.seen.extend(groups)
        return [
            [np.array([self.liked if t == ord("e") else -2.0 for t in b], dtype=np.float32) for b in group.branches]
            for group in groups
        ]


def scores_of(judge, *requests: JudgeRequest) -> list[list[float | None]]:
    return [tournament.scores(len(c.candidates), v) for c, v in zip(requests, judge.rank(requests), strict=True)]


def test_likelihood_per_token_byte_and_text():
    request = JudgeRequest(prefix="p", candidates=("ee", "é", "xyz"))
    assert scores_of(LikelihoodJudge(local(BytePreference())), request) == [[-1.0, -2.0, -2.0]]
    assert scores_of(LikelihoodJudge(local(BytePreference()), "byte"), request) == [[-1.0, -2.0, -2.0]]
    assert scores_of(LikelihoodJudge(local(BytePreference()), "none"), request) == [[-2.0, -4.0, -6.0]]


def test_the_contrast_model_is_subtracted():
    judge = LikelihoodJudge(local(BytePreference()), contrast=local(BytePreference(-1.5)), contrast_weight=0.5)
    assert scores_of(judge, JudgeRequest(prefix="p", candidates=("ee", "x"))) == [[-0.25, -1.0]]


def test_candidates_of_a_request_share_one_prefix_and_equal_texts_are_computed_once():
    scorer = BytePreference()
    verdicts = LikelihoodJudge(local(scorer)).rank([JudgeRequest(prefix="ab", candidates=("x", "e", "x"))])
    assert scorer.seen == [Group(prefix=(BOS_ID, 97, 98), branches=((120,), (101,)))]
    assert [v.score for v in verdicts[0]] == [-2.0, -1.0, -2.0]


def test_an_empty_candidate_and_a_prefix_without_start_are_unscored_with_a_reason():
    judge = LikelihoodJudge(local())
    [[empty, fine]] = judge.rank([JudgeRequest(prefix="p", candidates=("", "x"))])
    assert (empty.outcome, fine.outcome) == (Outcome.UNSCORED, Outcome.SCORED)
    assert "empty" in empty.reason
    [[unstarted]] = LikelihoodJudge(local(bos=())).rank([JudgeRequest(prefix="", candidates=("x",))])
    assert "no BOS" in unstarted.reason


def test_an_infinite_log_probability_is_unscored():
    [[verdict]] = LikelihoodJudge(local(BytePreference(-math.inf))).rank([JudgeRequest(prefix="p", candidates=("e",))])
    assert (verdict.outcome, verdict.reason) == (Outcome.UNSCORED, "its log-probability is -inf")


def test_a_long_prefix_keeps_its_end_and_too_long_a_candidate_is_unscored():
    scorer = BytePreference()
    judge = LikelihoodJudge(local(scorer, context=16))
    [[long, short]] = judge.rank([JudgeRequest(prefix="0123456789abcdef", candidates=("12345", "1234"))])
    assert "the candidate has 5 tokens" in long.reason
    assert short.score == -2.0
    assert bytes(scorer.seen[0].prefix[1:]) == b"56789abcdef"


def test_special_tokens_spelled_in_a_text_are_plain_text():
    scorer = BytePreference()
    LikelihoodJudge(local(scorer)).rank([JudgeRequest(prefix="<eos>", candidates=("<bos>e",))])
    assert scorer.seen == [Group(prefix=(BOS_ID, *b"<eos>"), branches=(tuple(b"<bos>e"),))]


def test_a_name_tells_settings_apart():
    names = {
        LikelihoodJudge(local()).name,
        LikelihoodJudge(local(), "byte").name,
        LikelihoodJudge(local(identity="1")).name,
        LikelihoodJudge(local(), contrast=local()).name,
        LikelihoodJudge(local(), contrast=local(), contrast_weight=0.5).name,
    }
    assert len(names) == 5


# --- cache


class CountingJudge(QuestionJudge):
    """Prefers the longer text of a pair; fails on transport for texts that are on its list."""

    axis = Axis.QUALITY

    def __init__(self, unreachable: Sequence[str] = ()) -> None:
        super().__init__("longer", "longer")
        self.asked: list[tuple[str, str]] = []
        self.unreachable = set(unreachable)

    def questions(self, request: JudgeRequest) -> list[Question]:
        return list(tournament.pairs(len(request.candidates)))

    def answer(self, requests: Sequence[JudgeRequest], questions: Sequence[Sequence[Question]]) -> list[list[Verdict]]:
        return [[self._one(c, q) for q in row] for c, row in zip(requests, questions, strict=True)]

    def _one(self, request: JudgeRequest, question: Question) -> Verdict:
        texts = request.candidates[question[0]], request.candidates[question[1]]
        self.asked.append(texts)
        if self.unreachable & set(texts):
            return self.unscored(question, TRANSPORT + "no route")
        if not all(texts):
            return self.unscored(question, "empty")
        lengths = [len(text) for text in texts]
        return self.preferred(question, None if lengths[0] == lengths[1] else question[lengths.index(max(lengths))])


REQUEST = JudgeRequest(prefix="p", candidates=("a", "bbb", "cc"), original="a")


def test_a_second_judge_on_the_same_file_asks_nothing(tmp_path: Path):
    first = CachedJudge(CountingJudge(), TextCache(tmp_path / "v" / "verdicts.sqlite", "verdicts"))
    expected = first.rank([REQUEST])
    second = CachedJudge(CountingJudge(), TextCache(tmp_path / "v" / "verdicts.sqlite", "verdicts"))
    assert second.rank([REQUEST]) == expected
    assert expected == [CountingJudge().rank([REQUEST])[0]]
    assert (second.judge.asked, second.hits, second.misses) == ([], 6, 0)


def test_only_new_pairs_are_asked_whatever_place_the_texts_have(tmp_path: Path):
    judge = CachedJudge(CountingJudge(), TextCache(tmp_path / "v.sqlite", "verdicts"))
    judge.rank([REQUEST])
    judge.judge.asked.clear()
    moved = JudgeRequest(prefix="p", candidates=("cc", "dddd", "a"), original="a")
    assert judge.rank([moved]) == [CountingJudge().rank([moved])[0]]
    assert sorted(judge.judge.asked) == sorted([("cc", "dddd"), ("dddd", "cc"), ("dddd", "a"), ("a", "dddd")])


def test_transport_failures_are_asked_again_and_empty_texts_are_not(tmp_path: Path):
    cache = TextCache(tmp_path / "v.sqlite", "verdicts")
    request = JudgeRequest(prefix="p", candidates=("a", "bb", ""))
    down = CachedJudge(CountingJudge(unreachable=["bb"]), cache).rank([request])
    assert tournament.scores(3, down[0]) == [None, None, None]
    up = CachedJudge(CountingJudge(), cache)
    assert tournament.scores(3, up.rank([request])[0]) == [0.0, 1.0, None]
    assert ("a", "") not in up.judge.asked
    assert ("a", "bb") in up.judge.asked


def test_prefix_original_and_judge_are_part_of_the_key(tmp_path: Path):
    cache = TextCache(tmp_path / "v.sqlite", "verdicts")
    judge = CachedJudge(CountingJudge(), cache)
    judge.rank([REQUEST, JudgeRequest(prefix="q", candidates=REQUEST.candidates, original="a")])
    judge.rank([JudgeRequest(prefix="p", candidates=REQUEST.candidates)])
    assert judge.misses == 18
    other = CachedJudge(ShorterJudge(), cache)
    assert [v.score for v in other.rank([REQUEST])[0]] == [-1.0, -3.0, -2.0]


def test_scores_come_back_bit_for_bit(tmp_path: Path):
    class Thirds(ShorterJudge):
        def answer(self, requests, questions):
            return [[self.scored(q, -1 / 3 - 1e-17 * q[0]) for q in row] for row in questions]

    fresh = CachedJudge(Thirds(), TextCache(tmp_path / "v.sqlite", "verdicts")).rank([REQUEST])
    again = CachedJudge(Thirds(), TextCache(tmp_path / "v.sqlite", "verdicts")).rank([REQUEST])
    assert [v.score for v in again[0]] == [v.score for v in fresh[0]]


def test_batches_survive_a_judge_that_dies_later(tmp_path: Path):
    class Dying(CountingJudge):
        def answer(self, requests, questions):
            if any(request.prefix == "40" for request in requests):
                raise KeyboardInterrupt
            return super().answer(requests, questions)

    requests = [JudgeRequest(prefix=str(i), candidates=("a", "bb")) for i in range(50)]
    with pytest.raises(KeyboardInterrupt):
        CachedJudge(Dying(), TextCache(tmp_path / "v.sqlite", "verdicts"), batch=16).rank(requests)
    after = CachedJudge(CountingJudge(), TextCache(tmp_path / "v.sqlite", "verdicts"), batch=16)
    after.rank(requests)
    assert (after.hits, after.misses) == (64, 36)


KILLED = """
import os, pathlib, signal, sys
from forethought.llm.cache import TextCache

cache = TextCache(pathlib.Path(sys.argv[1]), "verdicts")
cache.put("j", [("a", "1"), ("b", "2")])
cache._database.execute("INSERT INTO verdicts VALUES ('c', 'j', '3')")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_9_leaves_whole_batches(tmp_path: Path):
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "v.sqlite")], timeout=60, check=False)
    assert process.returncode == -signal.SIGKILL
    assert TextCache(tmp_path / "v.sqlite", "verdicts").get(["a", "b", "c"]) == {"a": "1", "b": "2"}


def test_two_threads_share_a_cache(tmp_path: Path):
    cache = TextCache(tmp_path / "v.sqlite", "verdicts")
    requests = [JudgeRequest(prefix=str(i), candidates=("a", "bb", "ccc")) for i in range(40)]
    results: dict[int, list[list[Verdict]]] = {}

    def work(number: int) -> None:
        results[number] = CachedJudge(CountingJudge(), cache, batch=3).rank(requests)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] == results[1] == CountingJudge().rank(requests)


def test_a_file_that_is_no_cache_is_put_aside_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "v.sqlite"
    path.write_text("not a database, but long enough to be looked at as one" * 40)
    cache = TextCache(path, "verdicts")
    cache.put("judge", [("a", "1")])
    assert cache.get(["a"]) == {"a": "1"}
    assert "v.sqlite: damaged" in caplog.text
    assert (tmp_path / "v.sqlite.damaged").read_text().startswith("not a database")


def test_a_table_of_another_layout_is_named(tmp_path: Path):
    with sqlite3.connect(tmp_path / "v.sqlite") as database:
        database.execute("CREATE TABLE verdicts (question TEXT)")
    with pytest.raises(ValueError, match=r"v\.sqlite: not a usable verdict cache"):
        TextCache(tmp_path / "v.sqlite", "verdicts")


def charged(prefix: str, text: str) -> list[str]:
    """Return the tokens of ``text`` that are charged, where each word and each punctuation mark is a token."""
    ids: dict[str, int] = {}
    head, tail = ([ids.setdefault(word, len(ids)) for word in words(part)] for part in (prefix, text))
    earned = charge_copies(head, tail, np.full(len(tail), -1.0, np.float32), 4.0)
    return [word for word, value in zip(words(text), earned, strict=True) if value == -4.0]


def test_a_copied_run_is_charged_whole_and_keeps_what_costs_more():
    logprobs = np.array([-0.1] * 8 + [-6.0, -0.1], np.float32)
    earned = charge_copies((*range(8), 99), (7, *range(8), 9), logprobs, 4.0)
    assert earned.tolist() == pytest.approx([-0.1] + [-4.0] * 7 + [-6.0, -0.1])
    assert logprobs[1] == pytest.approx(-0.1)


def test_an_authors_repeated_names_and_years_are_not_charged():
    prefix = "The war of 1 6 3 6 was fought by the de yi re me da of East Africa."
    assert not charged(prefix, "In 1 6 3 6 all de yi re me da won the west of Africa; in 1 6 3 7 they lost.")
    assert charged(prefix, "It was fought by the de yi re me da.") == words("was fought by the de yi re me da")


def test_loops_are_charged_also_those_that_change_a_word_each_time():
    assert charged("It is so", "very " * 10) == ["very"] * 9
    looped = charged("They lived", "in Spain, in Italy, in Egypt, in Chile, in China, in Peru, in India, in Iran,")
    assert set(looped) == {"in", ","}
    assert len(looped) == 14
    # What the author enumerated before is no loop of the candidate.
    assert not charged("in Spain, in Italy, in Egypt, in Chile, in China, in Peru, in Mali,", "in India, and in Iran.")
    assert charge_copies((1,), (), np.zeros(0, np.float32), 4.0).size == 0


def test_a_judge_that_charges_by_another_rule_has_another_name(monkeypatch: pytest.MonkeyPatch):
    def names() -> list[str]:
        return [LikelihoodJudge(local(), copy_cost=cost).name for cost in (0.0, 4.0)]

    before = names()
    monkeypatch.setattr("forethought.judges.likelihood.RULE", "another")
    after = names()
    assert before[0] == after[0]  # nothing is charged, by whatever rule
    assert before[1] != after[1]

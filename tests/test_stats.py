"""Statistics against published or hand-computed values, and coverage by simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forethought.stats import FEWEST, detectable, estimate, macro, paired, pass_at_k, sign_test, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 128, 0.5466, 0.7113),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (1, 1, 0.2065, 1.0),
        (15, 148, 0.0624, 0.1605),  # Newcombe 1998, table I
    ],
)
def test_wilson_known_values(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson(successes, n)
    assert interval.value == successes / n
    assert interval.n == n
    assert interval.ends == pytest.approx((low, high), abs=6e-5)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.floats(0, n), st.just(n))))
def test_wilson_is_inside_the_unit_interval_and_mirrors(case: tuple[float, int]) -> None:
    successes, n = case
    interval, mirrored = wilson(successes, n), wilson(n - successes, n)
    low, high = interval.ends
    assert 0 <= low <= interval.value <= high <= 1
    assert low < high
    assert low == pytest.approx(1 - mirrored.ends[1], abs=1e-9)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_shares(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"no share of {successes} in {n}"):
        wilson(successes, n)


def test_wilson_covers() -> None:
    shares = np.random.default_rng(0).binomial(60, 0.3, size=4000)
    covered = [(ends := wilson(int(wins), 60).ends)[0] <= 0.3 <= ends[1] for wins in shares]
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [(81, 47, 0.0034), (5, 0, 0.0625), (0, 5, 0.0625), (3, 3, 1.0), (0, 0, 1.0), (9, 1, 22 / 1024)],
)
def test_sign_test_known_values(wins: int, losses: int, p: float) -> None:
    assert sign_test(wins, losses) == pytest.approx(p, abs=5e-5)


def test_sign_test_is_exact_far_in_the_tail() -> None:
    assert sign_test(1000, 0) == 2.0**-999


@given(st.integers(0, 40), st.integers(0, 40))
def test_sign_test_equals_the_binomial_sum(wins: int, losses: int) -> None:
    n = wins + losses
    tail = sum(math.comb(n, i) for i in range(min(wins, losses) + 1)) / 2**n
    assert sign_test(wins, losses) == pytest.approx(min(1.0, 2 * tail))


def test_single_votes_get_wilson_and_any_number_of_them_speaks() -> None:
    assert estimate([1.0, 0.0, 1.0], share=True) == wilson(2, 3)
    assert estimate([0.0] * 85, share=True) == wilson(0, 85)
    assert estimate([0.0], share=True).ends == pytest.approx((0.0, 0.7935), abs=1e-4)


def test_a_share_counts_documents_where_their_draws_agree_and_more_where_they_do_not() -> None:
    agree = [float(number % 8 == 0) for number in range(80) for _ in range(4)]
    owners = [number // 4 for number in range(320)]
    assert estimate(agree, owners, share=True).ends == pytest.approx(wilson(10, 80).ends)
    # Draws that do not depend on their document are worth nearly one vote each.
    free = np.random.default_rng(0).random(320) < 0.3
    low, high = estimate(free.astype(float), owners, share=True).ends
    independent = wilson(int(free.sum()), 320).ends
    assert high - low == pytest.approx(independent[1] - independent[0], rel=0.1)
    # The same draws, averaged by document first, say the same.
    means = free.reshape(80, 4).mean(axis=1)
    assert estimate(means, share=True).ends == pytest.approx((low, high))


def test_one_document_with_all_the_successes_does_not_speak_for_its_draws() -> None:
    found = estimate([0.5] + [0.0] * 29, share=True)
    assert found.value == pytest.approx(1 / 60)
    assert found.ends == pytest.approx(wilson(0.5, 30).ends)


def test_ties_everywhere_are_one_half_of_as_many_votes_as_documents() -> None:
    assert estimate([0.5] * 20, share=True).ends == wilson(10, 20).ends


def test_a_share_lies_between_zero_and_one() -> None:
    with pytest.raises(ValueError, match=r"values from 0\.0 to 1\.5"):
        estimate([0.0, 1.5], share=True)


def test_the_interval_of_a_mean_is_near_the_normal_one() -> None:
    values = np.random.default_rng(3).normal(2.0, 1.0, size=400)
    found = estimate(values)
    half = 1.966 * values.std(ddof=1) / math.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert found.ends == pytest.approx((values.mean() - half, values.mean() + half), abs=0.004)
    assert found.n == 400


def test_skewed_values_reach_further_on_their_long_side() -> None:
    values = np.random.default_rng(0).exponential(size=60)
    low, high = estimate(values).ends
    mirrored = estimate(-values)
    assert high - values.mean() > 1.2 * (values.mean() - low)
    assert mirrored.ends == pytest.approx((-high, -low))


def test_fewer_than_thirty_documents_have_a_mean_and_no_interval() -> None:
    values = list(np.random.default_rng(0).normal(size=120))
    few = estimate(values, [number % (FEWEST - 1) for number in range(120)])
    assert (few.low, few.high, few.n) == (None, None, 120)
    assert few.value == pytest.approx(np.mean(values))
    with pytest.raises(ValueError, match="takes 30 documents"):
        _ = few.ends
    assert estimate(values, [number % FEWEST for number in range(120)]).low is not None
    assert detectable(values[: FEWEST - 1]) is None


def test_equal_values_leave_no_doubt() -> None:
    assert estimate([0.1] * 40).ends == (0.1, 0.1)
    assert detectable([0.1] * 40) is None


def test_clusters_widen_the_interval_when_items_repeat() -> None:
    values = [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0] * 16
    documents = [number // 4 for number in range(128)]
    items, clustered = estimate(values), estimate(values, documents)
    assert items.value == clustered.value == 0.5
    widths = [one.ends[1] - one.ends[0] for one in (clustered, items)]
    assert widths[0] / widths[1] == pytest.approx(2.0, rel=0.1)


def test_unequal_clusters_weigh_by_their_items() -> None:
    interval = estimate([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", ("b", 2)], share=True)
    assert interval.value == 0.75
    # Worth 4² / (3² + 1²) = 1.6 votes: one document outweighs the other.
    assert interval.ends == pytest.approx((0.1691, 0.9779), abs=1e-4)


def test_clusters_cover_where_items_do_not() -> None:
    rng = np.random.default_rng(5)
    documents = np.repeat(np.arange(40), 5)
    hits = {"items": 0, "clusters": 0}
    for _ in range(1000):
        values = rng.normal(size=40)[documents] + 0.3 * rng.normal(size=200)
        for name, owners in (("items", None), ("clusters", documents.tolist())):
            low, high = estimate(values, owners).ends
            hits[name] += low <= 0 <= high
    assert 930 <= hits["clusters"] <= 970
    assert hits["items"] <= 750


@pytest.mark.parametrize(
    ("values", "clusters", "message"),
    [([], None, "at least one value"), ([1.0, math.nan], None, "finite"), ([1.0], ["a", "b"], "1 values but 2")],
)
def test_what_has_no_mean_is_refused(values: list[float], clusters: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate(values, clusters)


def test_pairing_removes_what_both_share() -> None:
    rng = np.random.default_rng(1)
    shared = rng.normal(0, 10, size=200)
    low, high = paired(shared + 0.5 + 0.1 * rng.normal(size=200), shared).ends
    assert 0.45 < low < 0.5 < high < 0.55
    with pytest.raises(ValueError, match="2 and 1 values cannot be paired"):
        paired([1, 2], [1])


def test_a_macro_average_of_one_stratum_is_its_mean_and_of_like_ones_is_narrower() -> None:
    rng = np.random.default_rng(2)
    one, votes = rng.exponential(size=50).tolist(), (rng.random(50) < 0.2).astype(float).tolist()
    assert macro([one]) == estimate(one)
    assert macro([votes], share=True) == estimate(votes, share=True)
    low, high = macro([votes, votes], share=True).ends
    alone = wilson(sum(votes), 50).ends
    assert high - low == pytest.approx((alone[1] - alone[0]) / math.sqrt(2), rel=0.1)


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"), [(10, 3, 1, 0.3), (10, 3, 5, 11 / 12), (5, 5, 2, 1), (5, 0, 5, 0)]
)
def test_pass_at_k_known_values(n: int, c: int, k: int, expected: float) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(expected)


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(case: tuple[int, int, int]) -> None:
    n, c, k = case
    subsets = list(itertools.combinations(range(n), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(min(subset) < c for subset in subsets) / len(subsets))


def test_pass_at_k_needs_k_samples() -> None:
    with pytest.raises(ValueError, match="draw at least 8"):
        pass_at_k(4, 1, 8)


def test_the_detectable_difference_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(0)
    votes = np.array([0.0, 1.0] * 392 + [0.5])
    assert detectable(votes) == pytest.approx(0.05, rel=2e-3)
    values = rng.normal(size=100)
    smallest = detectable(values)
    assert smallest == pytest.approx(2.8016 * values.std(ddof=1) / 10, rel=1e-4)
    found = [estimate(draw).ends[0] > 0 for draw in rng.normal(0.28016, 1.0, size=(2000, 100))]
    assert 0.76 <= np.mean(found) <= 0.83
    # Windows of one document are no more than the document.
    assert detectable(np.repeat(values, 4), np.repeat(np.arange(100), 4).tolist()) == pytest.approx(smallest)

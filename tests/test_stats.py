"""Statistics against published or hand-computed values, and coverage by simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forethought.stats import (
    bootstrap_mean,
    detectable_n,
    paired_bootstrap,
    pass_at_k,
    sign_test,
    wilson,
)


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
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=6e-5)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.floats(0, n), st.just(n))))
def test_wilson_is_inside_the_unit_interval_and_mirrors(case: tuple[float, int]) -> None:
    successes, n = case
    interval, mirrored = wilson(successes, n), wilson(n - successes, n)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.low < interval.high
    assert interval.low == pytest.approx(1 - mirrored.high, abs=1e-9)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_shares(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"no share of {successes} in {n}"):
        wilson(successes, n)


def test_wilson_covers() -> None:
    shares = np.random.default_rng(0).binomial(60, 0.3, size=4000)
    covered = [(interval := wilson(int(wins), 60)).low <= 0.3 <= interval.high for wins in shares]
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


def test_bootstrap_is_reproducible_and_near_the_normal_interval() -> None:
    values = np.random.default_rng(3).normal(2.0, 1.0, size=400)
    first, again, other = bootstrap_mean(values, 7), bootstrap_mean(values, 7), bootstrap_mean(values, 8)
    assert first == again
    assert first != other
    half = 1.96 * values.std() / math.sqrt(400)
    assert first.value == pytest.approx(values.mean())
    assert (first.low, first.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)
    assert first.n == 400


def test_bootstrap_does_not_depend_on_the_memory_block(monkeypatch: pytest.MonkeyPatch) -> None:
    values = list(range(50))
    whole = bootstrap_mean(values, 1, resamples=500)
    monkeypatch.setattr("forethought.stats._BLOCK", 999)
    assert bootstrap_mean(values, 1, resamples=500) == whole


def test_clusters_widen_the_interval_when_items_repeat() -> None:
    values = [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0] * 8
    documents = [number // 4 for number in range(64)]
    items, clustered = bootstrap_mean(values, 0), bootstrap_mean(values, 0, clusters=documents)
    assert items.value == clustered.value == 0.5
    assert (clustered.high - clustered.low) / (items.high - items.low) == pytest.approx(2.0, rel=0.1)


def test_unequal_clusters_weigh_by_their_items() -> None:
    interval = bootstrap_mean([1.0, 1.0, 1.0, 0.0], 0, clusters=["a", "a", "a", ("b", 2)])
    assert (interval.value, interval.low, interval.high) == (0.75, 0.0, 1.0)


def test_cluster_bootstrap_covers_where_the_item_bootstrap_does_not() -> None:
    rng = np.random.default_rng(5)
    documents = np.repeat(np.arange(40), 5)
    hits = {"items": 0, "clusters": 0}
    for trial in range(300):
        values = rng.normal(size=40)[documents] + 0.3 * rng.normal(size=200)
        items = bootstrap_mean(values, trial, resamples=400)
        clustered = bootstrap_mean(values, trial, documents.tolist(), resamples=400)
        hits["items"] += items.low <= 0 <= items.high
        hits["clusters"] += clustered.low <= 0 <= clustered.high
    assert hits["clusters"] / 300 >= 0.9
    assert hits["items"] / 300 <= 0.75


@pytest.mark.parametrize(
    ("values", "clusters", "message"),
    [([], None, "at least one value"), ([1.0, math.nan], None, "finite"), ([1.0], ["a", "b"], "1 values but 2")],
)
def test_bootstrap_refuses_what_has_no_mean(values: list[float], clusters: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_mean(values, 0, clusters)


def test_pairing_removes_what_both_share() -> None:
    rng = np.random.default_rng(1)
    shared = rng.normal(0, 10, size=200)
    interval = paired_bootstrap(shared + 0.5 + 0.1 * rng.normal(size=200), shared, seed=0)
    assert 0.45 < interval.low < 0.5 < interval.high < 0.55
    with pytest.raises(ValueError, match="2 and 1 values cannot be paired"):
        paired_bootstrap([1, 2], [1], seed=0)


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


def test_detectable_n_reaches_its_power() -> None:
    assert detectable_n(0.05, 0.5) == 785
    assert detectable_n(-0.05, 0.5) == 785
    n = detectable_n(0.5, 1.0)
    draws = np.random.default_rng(0).normal(0.5, 1.0, size=(4000, n))
    found = np.abs(draws.mean(axis=1)) / (1 / math.sqrt(n)) > 1.96
    assert 0.77 <= found.mean() <= 0.83
    with pytest.raises(ValueError, match="no number of pairs"):
        detectable_n(0, 1)

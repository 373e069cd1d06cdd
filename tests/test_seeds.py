"""Statistics over seeds: quantiles by table, coverage by simulation, exact sign flips."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from forethought import seeds


@pytest.mark.parametrize(
    ("share", "freedom", "value"),
    [(0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.975, 7, 2.36462), (0.8, 7, 0.896030), (0.975, 30, 2.04227)],
)
def test_quantiles_of_t_are_those_of_the_tables(share: float, freedom: int, value: float) -> None:
    assert seeds.t_quantile(share, freedom) == pytest.approx(value, rel=1e-5)


def test_fewer_than_three_seeds_have_no_interval() -> None:
    assert seeds.over_seeds([1.0, 2.0]) is None
    assert seeds.detectable([1.0, 2.0]) is None
    assert seeds.crossed(np.ones((2, 50))) is None


def test_the_interval_over_seeds_by_hand() -> None:
    found = seeds.over_seeds([1.0, 2.0, 3.0, 6.0])
    assert found is not None
    half = 3.182446 * math.sqrt(14 / 3) / 2  # t with 3 degrees of freedom; the sum of squares is 14
    assert (found.value, found.n) == (3.0, 4)
    assert found.ends == pytest.approx((3.0 - half, 3.0 + half), rel=1e-5)


@pytest.mark.parametrize(("by_seed", "by_window"), [(0.04, 0.2), (0.0, 0.2), (0.1, 0.0)])
def test_intervals_over_seeds_and_windows_hold_both(by_seed: float, by_window: float) -> None:
    """95% are held where seeds, windows and draws differ; an interval over seeds alone does not hold other windows."""
    rng, trials, held, alone = np.random.default_rng(5), 1500, 0, 0
    for _ in range(trials):
        table_SW = rng.normal(0, by_seed, (6, 1)) + rng.normal(0, by_window, (1, 100)) + rng.normal(0, 0.3, (6, 100))
        both, only = seeds.crossed(table_SW), seeds.over_seeds(table_SW.mean(axis=1).tolist())
        assert both is not None
        assert only is not None
        held += both.ends[0] <= 0 <= both.ends[1]
        alone += only.ends[0] <= 0 <= only.ends[1]
    assert 0.93 <= held / trials <= 0.985
    if by_window and not by_seed:
        assert alone / trials < 0.93


def test_equal_tables_have_no_width() -> None:
    found = seeds.crossed(np.full((3, 4), 0.5))
    assert found is not None
    assert found.ends == (0.5, 0.5)


def test_sign_flips_are_counted() -> None:
    values = [0.3, 0.1, -0.2, 0.4, 0.5, 0.05]
    every = [abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in
             itertools.product((1, -1), repeat=6)]  # fmt: skip
    assert seeds.sign_flip(values) == np.mean([one >= abs(sum(values)) - 1e-12 for one in every])
    assert seeds.sign_flip([1.0] * 5) == 2 / 2**5  # five seeds cannot reach 5%
    assert seeds.sign_flip([1.0] * 6) < 0.05


def test_the_smallest_detectable_mean_is_found_four_times_in_five() -> None:
    rng, n, sd = np.random.default_rng(3), 8, 1.0
    # At the true spread: (t_0.975 + t_0.8) / sqrt(8) = 1.15 of it.
    effect = (seeds.t_quantile(0.975, n - 1) + seeds.t_quantile(0.8, n - 1)) / math.sqrt(n)
    assert effect == pytest.approx(1.153, abs=0.002)
    found = 0
    for _ in range(3000):
        one = seeds.over_seeds(rng.normal(effect, sd, n).tolist())
        found += one is not None and one.ends[0] > 0
    assert 0.77 < found / 3000 < 0.83

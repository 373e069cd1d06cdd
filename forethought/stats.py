"""Intervals and tests for the figures of a run.  Every interval is a 95% one; there is no torch here.

Which one to use: :func:`wilson` and :func:`sign_test` for single votes (one verdict per prefix),
:func:`bootstrap_mean` for everything that is averaged within a prefix or document first (several
votes, halves for ties, nats per token).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

# Quantiles of the standard normal distribution: 97.5% and 80%.
Z95, Z80 = 1.959963984540054, 0.8416212335729143

_BLOCK = 2_000_000
"""Indices drawn at once; limits the memory of a bootstrap and does not change its result."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95% interval."""

    value: float
    low: float
    high: float
    n: int
    """Number of items that the estimate averages."""


def wilson(successes: float, n: int) -> Interval:
    """Return a share with its Wilson score interval (Wilson 1927).

    ``(p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)`` with ``p = successes / n``.  It never leaves
    [0, 1] and has a width even when every vote is the same.  ``successes`` may be fractional, so that
    ties count half; the interval is then a little too wide, never too narrow.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"no share of {successes} in {n}: there must be votes, and no more successes than votes")
    share = successes / n
    shrink = 1 + Z95**2 / n
    middle = (share + Z95**2 / (2 * n)) / shrink
    half = Z95 / shrink * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    # The formula gives 0 <= low <= share <= high <= 1; rounding misses that by an ulp at the ends.
    return Interval(value=share, low=max(0.0, min(share, middle - half)), high=min(1.0, max(share, middle + half)), n=n)


def resolvable(n: int) -> float | None:
    """Return the smallest difference from one half, a share, whose 95% Wilson interval among ``n`` votes excludes it.

    ``None`` if not even ``n`` wins of ``n`` do.

    Example: ``resolvable(64) == 8 / 64``: 40 wins are told from luck, 39 are not.
    """
    wins = next((wins for wins in range(n // 2 + 1, n + 1) if wilson(wins, n).low > 0.5), None)
    return None if wins is None else wins / n - 0.5


def sign_test(wins: int, losses: int) -> float:
    """Return the exact two-sided p-value of ``wins`` against ``losses`` under fair votes; ties are left out.

    ``min(1, 2 P(X <= min(wins, losses)))`` with ``X ~ Binomial(wins + losses, 1/2)``, in integer arithmetic.
    """
    n = wins + losses
    terms = itertools.accumulate(range(min(wins, losses)), lambda term, i: term * (n - i) // (i + 1), initial=1)
    return min(1.0, 2 * sum(terms) / 2**n)


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    seed: int,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
) -> Interval:
    """Return the mean of ``values`` with its percentile bootstrap interval (Efron & Tibshirani 1993, chapter 13).

    Args:
        values: one number per item, shape ``(n,)``.
        seed: seed of the resampling, such as ``Key(...).integer()``.
        clusters: the cluster of each item (its document, its problem), in any order.  Whole clusters
            are then drawn, because chunks of one document are not independent; a resample's mean is
            the sum over its items divided by their number.

    A single cluster, or equal values, give an interval of width 0: the spread is unknown then.  Use :func:`wilson`
    for single votes, which does not have this flaw.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"a mean needs at least one value in one dimension, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"a mean needs finite values, got {array[~np.isfinite(array)][0]}: leave unscored items out")
    sums: np.ndarray = array
    sizes: np.ndarray = np.ones(len(array))
    if clusters is not None:
        if len(clusters) != len(array):
            raise ValueError(f"{len(array)} values but {len(clusters)} clusters: there must be one for each")
        numbers: dict[Hashable, int] = {}
        index = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
        sums, sizes = np.bincount(index, weights=array), np.bincount(index, weights=sizes)
    count, rng, means = len(sums), np.random.default_rng(seed), []
    for start in range(0, resamples, rows := max(1, _BLOCK // count)):
        drawn = rng.integers(count, size=(min(rows, resamples - start), count))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return Interval(value=float(array.mean()), low=float(low), high=float(high), n=len(array))


def paired_bootstrap(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    seed: int,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
) -> Interval:
    """Return the mean of ``a[i] - b[i]`` with its interval; see :func:`bootstrap_mean`.

    Pairing removes what both have in common (hard prefixes are hard for both), so it needs far fewer items than two
    separate means.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values cannot be paired: measure both on the same items")
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return bootstrap_mean(difference, seed, clusters, resamples)


def macro_bootstrap(strata: Sequence[Sequence[float]], seed: int, resamples: int = 10_000) -> Interval:
    """Return the mean of the strata's means with its percentile interval: every stratum counts the same.

    Items are resampled within each stratum (the problems of one benchmark); the strata themselves are not resampled.
    With one stratum it is :func:`bootstrap_mean`.
    """
    arrays = [np.asarray(values, dtype=np.float64) for values in strata]
    if not arrays or not all(len(array) and np.isfinite(array).all() for array in arrays):
        raise ValueError("a macro average needs strata of finite values, and none of them empty")
    rng = np.random.default_rng(seed)
    drawn = np.zeros(resamples)
    for array in arrays:
        for start in range(0, resamples, rows := max(1, _BLOCK // len(array))):
            chosen = rng.integers(len(array), size=(min(rows, resamples - start), len(array)))
            drawn[start : start + rows] += array[chosen].mean(axis=1)
    low, high = np.quantile(drawn / len(arrays), (0.025, 0.975))
    value = float(np.mean([array.mean() for array in arrays]))
    return Interval(value=value, low=float(low), high=float(high), n=sum(map(len, arrays)))


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the unbiased chance that one of ``k`` samples is right, from ``n`` samples with ``c`` right ones.

    ``1 - C(n-c, k) / C(n, k)``, computed as ``1 - prod_{i=n-c+1..n} (1 - k/i)``, which does not
    overflow (Chen et al. 2021, "Evaluating large language models trained on code", figure 3).
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} cannot be estimated from {n} samples with {c} right ones: draw at least {k}")
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def detectable_n(difference: float, sd: float) -> int:
    """Return how many pairs resolve a mean ``difference`` at the 5% level with 80% power.

    ``ceil(((z_0.975 + z_0.8) sd / difference)²)`` with ``sd`` the standard deviation of the paired
    differences (Cohen 1988, chapter 2, in the normal approximation).

    Example: to see a win rate of 55% in single votes (sd 0.5), ``detectable_n(0.05, 0.5) == 785``.
    """
    if difference == 0 or sd < 0:
        raise ValueError(f"no number of pairs resolves a difference of {difference} with sd {sd}")
    return max(1, math.ceil(((Z95 + Z80) * sd / difference) ** 2))

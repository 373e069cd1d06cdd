"""Intervals and tests for the figures of a run.  Every interval is a 95% one; there is no torch here.

Which one to use: :func:`wilson` and :func:`sign_test` for counts of single votes, :func:`estimate` for one number of
each item, which chooses between the interval of a share and that of a mean, :func:`paired` for differences.  How often
they hold the true value is simulated in ``tests/test_coverage.py``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

# Quantiles of the standard normal distribution: 97.5% and 80%.
Z95, Z80 = 1.959963984540054, 0.8416212335729143

FEWEST = 30
"""A mean or a difference of fewer units (documents, problems) stands alone: any interval of it would be too narrow."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95% interval, if there are enough units for one."""

    value: float
    low: float | None
    high: float | None
    n: int
    """Number of items that the estimate averages."""

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends of one that has them, as a share always does."""
        if self.low is None or self.high is None:
            raise ValueError(f"{self.value} of {self.n} has no interval: that takes {FEWEST} documents")
        return self.low, self.high


def wilson(successes: float, n: int) -> Interval:
    """Return a share with its Wilson score interval (Wilson 1927).

    ``(p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)`` with ``p = successes / n``.  It never leaves
    [0, 1] and has a width even when every vote is the same.  ``successes`` may be fractional, so that
    ties count half; the interval is then a little too wide, never too narrow.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"no share of {successes} in {n}: there must be votes, and no more successes than votes")
    low, high = _wilson(successes / n, n)
    return Interval(value=successes / n, low=low, high=high, n=n)


def _wilson(share: float, n: float) -> tuple[float, float]:
    """Return the ends of Wilson's interval of a share of ``n`` votes, which may be fractional."""
    shrink = 1 + Z95**2 / n
    middle = (share + Z95**2 / (2 * n)) / shrink
    half = Z95 / shrink * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    # The formula gives 0 <= low <= share <= high <= 1; rounding misses that by an ulp at the ends.
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def resolvable(n: int) -> float | None:
    """Return the smallest difference from one half, a share, whose 95% Wilson interval among ``n`` votes excludes it.

    ``None`` if not even ``n`` wins of ``n`` do.

    Example: ``resolvable(64) == 8 / 64``: 40 wins are told from luck, 39 are not.
    """
    wins = next((wins for wins in range(n // 2 + 1, n + 1) if _wilson(wins / n, n)[0] > 0.5), None)
    return None if wins is None else wins / n - 0.5


def sign_test(wins: int, losses: int) -> float:
    """Return the exact two-sided p-value of ``wins`` against ``losses`` under fair votes; ties are left out.

    ``min(1, 2 P(X <= min(wins, losses)))`` with ``X ~ Binomial(wins + losses, 1/2)``, in integer arithmetic.
    """
    n = wins + losses
    terms = itertools.accumulate(range(min(wins, losses)), lambda term, i: term * (n - i) // (i + 1), initial=1)
    return min(1.0, 2 * sum(terms) / 2**n)


def estimate(
    values: Sequence[float] | np.ndarray, clusters: Sequence[Hashable] | None = None, *, share: bool = False
) -> Interval:
    """Return the mean of ``values`` with its interval, by the method that covers.

    Args:
        values: one number per item, shape ``(n,)``.
        clusters: the cluster of each item (its document, its problem), in any order.  Chunks of one document are not
            independent, so clusters are the units; without them every item is one.
        share: the values are votes of 0 or 1, or lie between as means of several draws do.

    A share gets Wilson's interval at any number of units, for as many votes as its clusters are worth
    (:func:`_votes`).  Any other mean, differences of shares included, gets a studentised one (:func:`_studentised`),
    and none from fewer than :data:`FEWEST` units.
    """
    spread = _clustered(values, clusters)
    if share and not (np.min(values) >= 0 and np.max(values) <= 1):
        raise ValueError(f"no share is the mean of values from {np.min(values)} to {np.max(values)}")
    return _share(spread) if share else _studentised(spread)


def paired(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, clusters: Sequence[Hashable] | None = None
) -> Interval:
    """Return the mean of ``a[i] - b[i]`` with its interval; see :func:`estimate`.

    Pairing removes what both have in common (hard prefixes are hard for both), so it needs far fewer items than two
    separate means.
    """
    return estimate(gaps(a, b), clusters)


def gaps(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return ``a[i] - b[i]``, shape ``(n,)``."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values cannot be paired: measure both on the same items")
    return np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)


def macro(strata: Sequence[Sequence[float]], *, share: bool = False) -> Interval:
    """Return the mean of the strata's means (of several benchmarks), with its interval; see :func:`estimate`.

    Every stratum counts the same.  Items are the units; the strata are fixed.  One stratum gives :func:`estimate`.
    """
    if not strata or not all(len(values) for values in strata):
        raise ValueError("a macro average needs strata of finite values, and none of them empty")
    parts = [_clustered(values, None) for values in strata]
    return _share(_average(parts)) if share else _studentised(_average(parts))


def detectable(differences: Sequence[float] | np.ndarray, clusters: Sequence[Hashable] | None = None) -> float | None:
    """Return the smallest true mean difference that a comparison like this one finds four times in five.

    ``(z_0.975 + z_0.8) * standard error``, clustered (Bloom 1995, "Minimum detectable effects"): 5% level, two-sided,
    80% power.  ``None`` if there are fewer than :data:`FEWEST` units, or if all differences are equal.

    Example: 785 single votes with a standard deviation of 0.5 detect 5 points.
    """
    spread = _clustered(differences, clusters)
    return (Z95 + Z80) * spread.error if spread.units >= FEWEST and spread.error else None


@dataclass(frozen=True, slots=True)
class _Spread:
    """A mean and how it varies, from what each unit (cluster) adds to its error."""

    value: float
    n: int
    """Items."""
    units: int
    votes: float
    """What the units are worth if each was a single vote; less than their number if they are of unequal sizes."""
    variance: float
    third: float
    """Third central moment of the mean."""
    noise: float
    """Variance of ``variance`` over its square: 2/(units - 1) for normal values, about 1 if one unit stands out."""

    @property
    def error(self) -> float:
        return math.sqrt(self.variance)

    @property
    def quantile(self) -> float:
        """The 97.5% quantile of Student's t with as many degrees of freedom as the standard error has.

        They are ``2 / noise`` (Satterthwaite 1946) and no more than there are units.  Abramowitz & Stegun 26.7.5;
        0.03 too small at two degrees, the fewest there are, and exact to three digits from three on.
        """
        z, nu = Z95, max(2.0, min(self.units - 1, 2 / self.noise if self.noise else math.inf))
        return (
            z
            + (z**3 + z) / (4 * nu)
            + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * nu**2)
            + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * nu**3)
            + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * nu**4)
        )


def _clustered(values: Sequence[float] | np.ndarray, clusters: Sequence[Hashable] | None) -> _Spread:
    """Return the mean over all items and its moments over clusters: a ratio of sums, linearised (Cochran 1977, 6.4)."""
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
    # Not the mean of the sums: equal values are to give exactly that value, and no spread by rounding.
    value = float(array[0]) if (array == array[0]).all() else float(array.mean())
    n, m = len(array), len(sums)
    added = (sums - value * sizes) / n
    square, fourth = float((added**2).sum()), float((added**4).sum())
    scale = m / (m - 1) if m > 1 else 0.0
    noise = fourth / square**2 - 1 / m + 2 / (m * (m - 1)) if square and m > 1 else 0.0
    return _Spread(
        value=value,
        n=n,
        units=m,
        votes=n**2 / float((sizes**2).sum()),
        variance=scale * square,
        third=float((added**3).sum()),
        noise=noise,
    )


def _average(parts: Sequence[_Spread]) -> _Spread:
    """Return the mean of independent means: their moments add up."""
    if len(parts) == 1:
        return parts[0]
    count = len(parts)
    variance = sum(part.variance for part in parts) / count**2
    noise = sum(part.noise * part.variance**2 for part in parts) / count**4
    return _Spread(
        value=float(np.mean([part.value for part in parts])),
        n=sum(part.n for part in parts),
        units=sum(part.units for part in parts),
        votes=count**2 / sum(1 / part.votes for part in parts),
        variance=variance,
        third=sum(part.third for part in parts) / count**3,
        noise=noise / variance**2 if variance else 0.0,
    )


def _votes(spread: _Spread) -> float:
    """Return how many independent votes have the standard error of a share.

    ``p(1-p) / variance * (z / t)²`` (Korn & Graubard 1998, "Confidence intervals for proportions with small expected
    number of positive counts"), with t for the degrees of freedom of *this* variance rather than of the design: where
    one document has all the successes, the variance is hardly known, and the votes go down to one per document, their
    fewest.
    """
    if not spread.variance:
        return spread.votes
    votes = spread.value * (1 - spread.value) / spread.variance * (Z95 / spread.quantile) ** 2
    return max(votes, spread.votes)


def _share(spread: _Spread) -> Interval:
    low, high = _wilson(spread.value, _votes(spread))
    return Interval(value=spread.value, low=low, high=high, n=spread.n)


def _studentised(spread: _Spread) -> Interval:
    """Return the wider, at either end, of two studentised intervals that need no resampling.

    Student's t, with the degrees of freedom of the standard error, holds for sparse values such as differences of rare
    votes, whose bootstrap is too narrow.  Hall's cubic transformation of it (Hall 1992, "On the removal of skewness by
    transformation") follows skewed values as the bootstrap-t does.
    """
    if spread.units < FEWEST:
        return Interval(value=spread.value, low=None, high=None, n=spread.n)
    t, error = spread.quantile, spread.error
    skew = spread.third / error**3 if error else 0.0

    def turned(at: float) -> float:
        # Near zero the formula loses its digits; its limit is `at`.
        return 3 / skew * (float(np.cbrt(1 + skew * (at - skew / 6))) - 1) if abs(skew) > 1e-6 else at

    low, high = error * max(t, turned(t)), error * max(t, -turned(-t))
    return Interval(value=spread.value, low=spread.value - low, high=spread.value + high, n=spread.n)


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

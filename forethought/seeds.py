"""Statistics over repeated runs: the unit is the seed, or the seed and the document together; no torch here.

Runs of one sweep share documents, rows and threshold, so that their figures differ by training alone.  An interval over
seeds says what another training on these documents would give; one over seeds and documents also what other documents
would.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

from forethought.stats import Interval

LEAST_SEEDS = 3
"""With two seeds the interval is wider than anything that could be measured."""
_GRID = 4001
"""Points of the density of Student's t over which it is integrated: more than six digits of a quantile."""


def over_seeds(values: Sequence[float]) -> Interval | None:
    """Return the mean of one value per seed with Student's 95% interval, or ``None`` for fewer than three seeds."""
    if len(values) < LEAST_SEEDS:
        return None
    array = np.asarray(values, dtype=np.float64)
    half = t_quantile(0.975, len(values) - 1) * float(array.std(ddof=1)) / math.sqrt(len(values))
    mean = float(array.mean())
    return Interval(value=mean, low=mean - half, high=mean + half, n=len(values))


def crossed(values_SW: np.ndarray) -> Interval | None:
    """Return the mean of a table of seeds S and windows W with its 95% interval over both.

    Every seed is measured on the same windows, so errors of both kinds add: ``var(row means) / S + var(column means) /
    W - residual / (S W)``, the analysis of variance of a crossed table (compare Owen 2007, "The pigeonhole bootstrap"),
    with the degrees of freedom of Satterthwaite 1946.

    Args:
        values_SW: shape ``(seeds, windows)``, finite; one window per document.

    Returns:
        ``None`` for fewer than three seeds or two windows.
    """
    seeds, windows = values_SW.shape
    if seeds < LEAST_SEEDS or windows < 2:
        return None
    mean = float(values_SW.mean())
    rows_S, columns_W = values_SW.mean(axis=1), values_SW.mean(axis=0)
    by_seed, by_window = float(rows_S.var(ddof=1)) / seeds, float(columns_W.var(ddof=1)) / windows
    residual_SW = values_SW - rows_S[:, None] - columns_W[None, :] + mean
    noise = float((residual_SW**2).sum()) / ((seeds - 1) * (windows - 1)) / (seeds * windows)
    # Both variances hold the noise, which counts once; it may exceed them by chance, and then the larger one stands.
    variance = max(by_seed + by_window - noise, by_seed, by_window)
    if not variance:
        return Interval(value=mean, low=mean, high=mean, n=seeds)
    freedom = (by_seed + by_window) ** 2 / (by_seed**2 / (seeds - 1) + by_window**2 / (windows - 1))
    half = t_quantile(0.975, freedom) * math.sqrt(variance)
    return Interval(value=mean, low=mean - half, high=mean + half, n=seeds)


def detectable(values: Sequence[float]) -> float | None:
    """Return the smallest true mean that so many seeds show four times in five, at the spread of ``values``.

    ``(t_0.975 + t_0.8) sd / sqrt(n)`` with n - 1 degrees of freedom; ``None`` for fewer than three seeds.
    """
    n = len(values)
    if n < LEAST_SEEDS:
        return None
    spread = float(np.std(values, ddof=1)) / math.sqrt(n)
    return (t_quantile(0.975, n - 1) + t_quantile(0.8, n - 1)) * spread


def sign_flip(values: Sequence[float]) -> float:
    """Return the exact two-sided p-value of the mean of ``values`` under flips of their signs (Fisher 1935).

    It needs no normal distribution; with n seeds it is never below ``2 / 2**n``, so that six are the fewest for 5%.
    """
    array = np.asarray(values, dtype=np.float64)
    # The first sign may stand: both tails are alike.
    signs = np.array([(1, *rest) for rest in itertools.product((1, -1), repeat=len(array) - 1)], dtype=np.float64)
    sums = np.abs(signs @ array)
    return float(np.mean(sums >= abs(array.sum()) * (1 - 1e-12)))


@functools.lru_cache(maxsize=256)
def t_quantile(share: float, freedom: float) -> float:
    """Return the quantile of Student's t with ``freedom`` degrees of freedom, for a share of one half or more."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)

    def below(x: float) -> float:
        points = np.linspace(0.0, x, _GRID)
        return 0.5 + float(np.trapezoid(scale * (1 + points**2 / freedom) ** (-(freedom + 1) / 2), points))

    low, high = 0.0, 1.0
    while below(high) < share:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < share else (low, middle)
    return (low + high) / 2

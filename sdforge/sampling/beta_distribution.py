"""Quantiles of the Beta distribution, for the schedule of that name, without SciPy."""

from __future__ import annotations

import math
from functools import lru_cache

# The fraction gains half a digit a term or more left of the mean, where alone it is used.
_TERMS = 40
_PRECISION = 1e-14


@lru_cache(maxsize=4096)
def beta_quantile(probability: float, a: float, b: float) -> float:
    """Return the x at which Beta(a, b) has `probability` below it: Newton's method, kept between
    bounds that close in like bisection's.
    """
    if probability <= 0:
        return 0.0
    if probability >= 1:
        return 1.0
    low, high = 0.0, 1.0
    x = 0.5
    # Until no double lies between the bounds, or Newton's steps have died away.
    while low < x < high:
        excess = beta_cumulative(x, a, b) - probability
        low, high = (low, x) if excess > 0 else (x, high)
        step = excess / _density(x, a, b)
        if abs(step) <= _PRECISION * x:
            return x - step
        x = x - step if low < x - step < high else (low + high) / 2
    return x


def beta_cumulative(x: float, a: float, b: float) -> float:
    """Return the share of Beta(a, b) below x: the regularised incomplete beta function."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    # The fraction converges fast on this side of the mean only; the other side is its mirror.
    if x > (a + 1) / (a + b + 2):
        return 1.0 - beta_cumulative(1 - x, b, a)
    return x * (1 - x) * _density(x, a, b) * _continued_fraction(x, a, b) / a


def _density(x: float, a: float, b: float) -> float:
    log_scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(log_scale + (a - 1) * math.log(x) + (b - 1) * math.log1p(-x))


def _continued_fraction(x: float, a: float, b: float) -> float:
    """Evaluate the fraction of NIST's DLMF 8.17.22 from its end; `_TERMS` of them are plenty."""
    value = 1.0
    for term in range(_TERMS, 0, -1):
        half = term // 2
        if term % 2 == 0:
            above = half * (b - half) * x
        else:
            above = -(a + half) * (a + b + half) * x
        value = 1 + above / ((a + term - 1) * (a + term)) / value
    return 1 / value

from __future__ import annotations

import math

import pytest

from sdforge.sampling.beta_distribution import beta_cumulative, beta_quantile

PLACES = [0.0, 1e-6, 0.01, 0.2, 0.37, 0.5, 0.7, 0.95, 0.999, 1.0]


@pytest.mark.parametrize("p", PLACES)
def test_quantiles_equal_those_known_in_closed_form(p: float) -> None:
    assert beta_quantile(p, 1.0, 1.0) == pytest.approx(p, abs=1e-14)
    assert beta_quantile(p, 2.0, 1.0) == pytest.approx(math.sqrt(p), abs=1e-12)
    assert beta_quantile(p, 1.0, 3.0) == pytest.approx(1 - (1 - p) ** (1 / 3), abs=1e-10)
    # Arcsine's distribution.
    assert beta_quantile(p, 0.5, 0.5) == pytest.approx(math.sin(math.pi * p / 2) ** 2, abs=1e-12)


@pytest.mark.parametrize("shape", [(0.6, 0.6), (0.3, 2.0), (5.0, 1.5)])
def test_quantile_undoes_cumulative(shape: tuple[float, float]) -> None:
    for p in PLACES:
        assert beta_cumulative(beta_quantile(p, *shape), *shape) == pytest.approx(p, abs=1e-10)


def test_quantiles_equal_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    for p in PLACES:
        assert beta_quantile(p, 0.6, 0.6) == pytest.approx(stats.beta.ppf(p, 0.6, 0.6), abs=1e-12)

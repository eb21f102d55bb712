from __future__ import annotations

import pytest

from sdforge.sampling.names import SAMPLER_NAMES, SCHEDULE_NAMES, SamplerName
from sdforge.sampling.registry import SAMPLERS, SCHEDULES, sampler


def test_every_listed_sampler_has_a_function_and_its_rows_values() -> None:
    assert sorted(SAMPLERS.names()) == sorted(row.name for row in SAMPLER_NAMES)
    for row in SAMPLER_NAMES:
        spec = SAMPLERS.get(row.name)
        assert callable(spec.function)
        assert isinstance(spec, SamplerName)
        assert spec.options == row.options
        assert (spec.aliases, spec.default_schedule) == (row.aliases, row.default_schedule)
        assert all(SAMPLERS.get(alias) is spec for alias in row.aliases)


def test_every_listed_schedule_but_automatic_has_a_function() -> None:
    assert sorted(SCHEDULES.names()) == sorted(row.label for row in SCHEDULE_NAMES[1:])
    assert SCHEDULES.get("sgm_uniform") is SCHEDULES.get("SGMUniform")
    assert SCHEDULES.get("karras").default_rho == 7.0


def test_a_sampler_that_is_not_listed_cannot_be_registered() -> None:
    with pytest.raises(Exception, match="Euler z"):
        sampler("Euler z")

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from sdforge.core.errors import InvalidRequest, UnknownName
from sdforge.sampling.names import schedule_labels
from sdforge.sampling.sigmas import ModelSigmas, make_sigmas

LABELS = [label for label in schedule_labels() if label != "Automatic"]
TABLES = ("Align Your Steps", "Align Your Steps GITS", "Align Your Steps 11")


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 20, 31, 150, 1000])
@pytest.mark.parametrize("label", LABELS)
def test_sigmas_fall_to_the_end(label: str, steps: int, model: ModelSigmas) -> None:
    sigmas = make_sigmas(label, steps, model)
    assert all(early > late for early, late in pairwise(sigmas))
    assert all(isinstance(sigma, float) for sigma in sigmas)
    if label == "KL Optimal":
        assert sigmas[-1] == pytest.approx(model.sigma_min, rel=1e-5)
    else:
        assert sigmas[-1] == 0.0
    if label != "DDIM":
        assert len(sigmas) == steps + 1


@pytest.mark.parametrize("label", [label for label in LABELS if label != "DDIM"])
def test_sigmas_begin_at_the_models_largest(label: str, model: ModelSigmas) -> None:
    start = make_sigmas(label, 20, model)[0]
    assert start == pytest.approx(14.615 if label in TABLES else model.sigma_max, rel=1e-5)


def test_karras_equals_the_published_formula(model: ModelSigmas) -> None:
    low, high = model.sigma_min ** (1 / 7), model.sigma_max ** (1 / 7)
    expected = [(high + i / 9 * (low - high)) ** 7 for i in range(10)] + [0.0]
    assert make_sigmas("Karras", 10, model) == pytest.approx(expected, rel=1e-5)


def test_exponential_is_a_geometric_series(model: ModelSigmas) -> None:
    expected = np.geomspace(model.sigma_max, model.sigma_min, 12)
    assert make_sigmas("Exponential", 12, model)[:-1] == pytest.approx(expected, rel=1e-5)


def test_polyexponential_raises_the_ramp_to_rho(model: ModelSigmas) -> None:
    ramp = np.linspace(1, 0, 9) ** 2.0
    low, high = math.log(model.sigma_min), math.log(model.sigma_max)
    expected = np.exp(ramp * (high - low) + low)
    sigmas = make_sigmas("Polyexponential", 9, model, rho=2.0)
    assert sigmas[:-1] == pytest.approx(expected, rel=1e-5)


def test_kl_optimal_is_even_in_arctangents(model: ModelSigmas) -> None:
    ends = math.atan(model.sigma_max), math.atan(model.sigma_min)
    expected = np.tan(np.linspace(*ends, 16))
    assert make_sigmas("KL Optimal", 15, model) == pytest.approx(expected, rel=1e-4)


def test_uniform_and_normal_take_even_timesteps(model: ModelSigmas) -> None:
    expected = [model.t_to_sigma(t) for t in np.linspace(999, 0, 20)] + [0.0]
    assert make_sigmas("Uniform", 20, model) == pytest.approx(expected, rel=1e-5)
    assert make_sigmas("Normal", 20, model) == pytest.approx(expected, rel=1e-5)


def test_sgm_uniform_leaves_the_last_timestep_out(model: ModelSigmas) -> None:
    expected = [model.t_to_sigma(t) for t in np.linspace(999, 0, 21)[:-1]] + [0.0]
    assert make_sigmas("SGM Uniform", 20, model) == pytest.approx(expected, rel=1e-5)


def test_simple_counts_down_the_models_sigmas(model: ModelSigmas) -> None:
    expected = [model.sigmas[999 - int(i * 1000 / 30)] for i in range(30)] + [0.0]
    assert make_sigmas("Simple", 30, model) == tuple(expected)


def test_ddim_takes_every_nth_sigma_and_sometimes_one_more(model: ModelSigmas) -> None:
    assert make_sigmas("DDIM", 20, model)[:3] == tuple(model.sigmas[t] for t in (951, 901, 851))
    assert make_sigmas("DDIM", 20, model)[-2] == model.sigmas[1]
    assert len(make_sigmas("DDIM", 20, model)) == 21
    assert len(make_sigmas("DDIM", 30, model)) == 32


@pytest.mark.parametrize("steps", [2, 3, 9, 20, 27, 30, 37, 50, 111, 333, 1000])
def test_samplers_of_timesteps_get_a1111s_list(steps: int, model: ModelSigmas) -> None:
    timesteps = np.clip(np.arange(0, 1000, 1000 // steps) + 1, 0, 999)
    expected = list(dict.fromkeys(model.sigmas[t] for t in reversed(timesteps)))
    assert make_sigmas("DDIM", steps, model, timesteps=True) == (*expected, 0.0)


def test_one_timestep_is_the_noisiest_one(model: ModelSigmas) -> None:
    assert make_sigmas("DDIM", 1, model, timesteps=True) == (model.sigma_max, 0.0)


def test_beta_is_dense_at_both_ends(model: ModelSigmas) -> None:
    sigmas = make_sigmas("Beta", 21, model)[:-1]
    middle = (model.sigma_max + model.sigma_min) / 2
    assert sigmas[10] == pytest.approx(middle, rel=1e-4)
    gaps = [early - late for early, late in pairwise(sigmas)]
    assert gaps[0] < gaps[5] and gaps[-1] < gaps[-6]
    assert gaps == pytest.approx(gaps[::-1], rel=1e-3)


def test_beta_equals_scipys_quantiles(model: ModelSigmas) -> None:
    stats = pytest.importorskip("scipy.stats")
    width = model.sigma_max - model.sigma_min
    expected = model.sigma_min + width * stats.beta.ppf(1 - np.linspace(0, 1, 20), 0.6, 0.6)
    assert make_sigmas("Beta", 20, model)[:-1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("label", "is_sdxl", "second", "last"),
    [
        ("Align Your Steps", False, 6.475, 0.152),
        ("Align Your Steps", True, 6.315, 0.113),
        ("Align Your Steps GITS", False, 4.617, 0.094),
        ("Align Your Steps GITS", True, 4.734, 0.127),
        ("Align Your Steps 11", False, 6.475, 0.152),
    ],
)
def test_tables_are_returned_as_published_at_their_own_length(
    label: str, is_sdxl: bool, second: float, last: float, model: ModelSigmas
) -> None:
    sigmas = make_sigmas(label, 11, model, is_sdxl=is_sdxl)
    assert sigmas[0] == pytest.approx(14.615)
    assert sigmas[1] == pytest.approx(second)
    assert sigmas[-3:] == pytest.approx((last, 0.029, 0.0))


def test_tables_are_interpolated_in_the_logarithm(model: ModelSigmas) -> None:
    table = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029]
    at = np.linspace(0, 10, 24)
    expected = np.exp(np.interp(at, range(11), np.log(table)))
    assert make_sigmas("Align Your Steps", 24, model)[:-1] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "label", ["Karras", "Exponential", "Polyexponential", "KL Optimal", "Beta"]
)
def test_the_users_ends_replace_the_models(label: str, model: ModelSigmas) -> None:
    sigmas = make_sigmas(label, 10, model, sigma_min=0.1, sigma_max=10.0)
    assert sigmas[0] == pytest.approx(10.0, rel=1e-5)
    assert min(sigma for sigma in sigmas if sigma) == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize("label", ["Normal", "SGM Uniform"])
def test_the_users_ends_count_as_timesteps_too(label: str, model: ModelSigmas) -> None:
    assert make_sigmas(label, 10, model, sigma_max=5.0)[0] == pytest.approx(5.0, rel=1e-5)
    assert make_sigmas("Uniform", 10, model, sigma_max=5.0)[0] == model.sigma_max


def test_rho_bends_only_schedules_that_have_one(model: ModelSigmas) -> None:
    assert make_sigmas("Karras", 10, model, rho=3.0) != make_sigmas("Karras", 10, model)
    assert make_sigmas("Karras", 10, model, rho=7.0) == make_sigmas("Karras", 10, model)
    assert make_sigmas("Exponential", 10, model, rho=3.0) == make_sigmas("Exponential", 10, model)


@pytest.mark.parametrize("label", LABELS)
def test_discarding_leaves_out_the_next_to_last_of_one_more(label: str, model: ModelSigmas) -> None:
    longer = make_sigmas(label, 21, model)
    assert make_sigmas(label, 20, model, discard_penultimate=True) == longer[:-2] + longer[-1:]


@pytest.mark.parametrize("label", LABELS)
def test_discarding_works_at_both_limits_of_steps(label: str, model: ModelSigmas) -> None:
    for steps in (1, 1000):
        sigmas = make_sigmas(label, steps, model, discard_penultimate=True)
        assert len(sigmas) >= 2
        assert all(early > late for early, late in pairwise(sigmas))


def test_discarding_is_one_step_more_for_samplers_of_timesteps(model: ModelSigmas) -> None:
    sigmas = make_sigmas("DDIM", 19, model, timesteps=True, discard_penultimate=True)
    assert sigmas == make_sigmas("DDIM", 20, model, timesteps=True)


def test_labels_names_and_aliases_are_known(model: ModelSigmas) -> None:
    for name in ("SGM Uniform", "sgm_uniform", "SGMUniform", "sgm uniform"):
        assert make_sigmas(name, 4, model) == make_sigmas("SGM Uniform", 4, model)
    with pytest.raises(UnknownName) as caught:
        make_sigmas("Karas", 4, model)
    assert caught.value.field == "scheduler"


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("steps", {"steps": 0}),
        ("sigma_min", {"sigma_min": 2.0, "sigma_max": 1.0}),
        ("sigma_min", {"sigma_max": 0.001}),
        ("rho", {"rho": 0.001}),
    ],
)
def test_settings_that_give_no_schedule_are_refused_by_name(
    field: str, arguments: dict[str, float], model: ModelSigmas
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make_sigmas("Karras", **{"steps": 10, "model": model, **arguments})  # type: ignore[arg-type]
    assert caught.value.field == field

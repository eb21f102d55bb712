from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from sdforge.core.errors import InvalidRequest, UnknownName
from sdforge.sampling.model_sigmas import ModelSigmas
from sdforge.sampling.names import schedule_labels
from sdforge.sampling.sigmas import make_sigmas

LABELS = [label for label in schedule_labels() if label != "Automatic"]
TABLES = [label for label in LABELS if label.startswith("Align")]


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 20, 31, 150, 1000])
@pytest.mark.parametrize("label", LABELS)
def test_sigmas_fall_to_the_end(label: str, steps: int, model: ModelSigmas) -> None:
    sigmas = make_sigmas(label, steps, model)
    assert all(early > late for early, late in pairwise(sigmas))
    assert all(isinstance(sigma, float) for sigma in sigmas)
    if label == "KL Optimal":
        assert sigmas[-1] == pytest.approx(model.sigma_min, rel=1e-6)
    else:
        assert sigmas[-1] == 0.0
    if label != "DDIM":
        assert len(sigmas) == steps + 1


@pytest.mark.parametrize("label", [label for label in LABELS if label != "DDIM"])
def test_sigmas_begin_at_the_models_largest(label: str, model: ModelSigmas) -> None:
    start = make_sigmas(label, 20, model)[0]
    assert start == pytest.approx(14.615 if label in TABLES else model.sigma_max, rel=1e-6)


def test_karras_equals_the_published_formula(model: ModelSigmas) -> None:
    low, high = model.sigma_min ** (1 / 7), model.sigma_max ** (1 / 7)
    expected = [(high + i / 9 * (low - high)) ** 7 for i in range(10)] + [0.0]
    assert make_sigmas("Karras", 10, model) == pytest.approx(expected, rel=1e-6)


def test_exponential_is_a_geometric_series(model: ModelSigmas) -> None:
    expected = np.geomspace(model.sigma_max, model.sigma_min, 12)
    assert make_sigmas("Exponential", 12, model)[:-1] == pytest.approx(expected, rel=1e-6)


def test_polyexponential_raises_the_ramp_to_rho(model: ModelSigmas) -> None:
    ramp = np.linspace(1, 0, 9) ** 2.0
    low, high = math.log(model.sigma_min), math.log(model.sigma_max)
    expected = np.exp(ramp * (high - low) + low)
    sigmas = make_sigmas("Polyexponential", 9, model, rho=2.0)
    assert sigmas[:-1] == pytest.approx(expected, rel=1e-6)


def test_kl_optimal_is_even_in_arctangents(model: ModelSigmas) -> None:
    ends = math.atan(model.sigma_max), math.atan(model.sigma_min)
    expected = np.tan(np.linspace(*ends, 16))
    assert make_sigmas("KL Optimal", 15, model) == pytest.approx(expected, rel=1e-6)


def test_uniform_and_normal_take_even_timesteps(model: ModelSigmas) -> None:
    expected = [model.t_to_sigma(t) for t in np.linspace(999, 0, 20)] + [0.0]
    assert make_sigmas("Uniform", 20, model) == pytest.approx(expected, rel=1e-6)
    assert make_sigmas("Normal", 20, model) == pytest.approx(expected, rel=1e-6)


def test_sgm_uniform_leaves_the_last_timestep_out(model: ModelSigmas) -> None:
    expected = [model.t_to_sigma(t) for t in np.linspace(999, 0, 21)[:-1]] + [0.0]
    assert make_sigmas("SGM Uniform", 20, model) == pytest.approx(expected, rel=1e-6)


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
    assert make_sigmas("Beta", 20, model)[:-1] == pytest.approx(expected, rel=1e-6)


# NVIDIA's table, Forge's longer one and GITS's, as published: SD 1, SDXL.
PUBLISHED = {
    "Align Your Steps": (
        "14.615 6.475 3.861 2.697 1.886 1.396 0.963 0.652 0.399 0.152 0.029",
        "14.615 6.315 3.771 2.181 1.342 0.862 0.555 0.380 0.234 0.113 0.029",
    ),
    "Align Your Steps GITS": (
        "14.615 4.617 2.507 1.236 0.702 0.402 0.240 0.156 0.104 0.094 0.029",
        "14.615 4.734 2.567 1.529 0.987 0.652 0.418 0.268 0.179 0.127 0.029",
    ),
    "Align Your Steps 32": (
        "14.615 11.23951352 8.64363081 6.64729424 5.57250862 4.71648546 3.99196065 3.5195609"
        " 3.13490466 2.79228788 2.48773628 2.21663865 1.97508351 1.7793172 1.61475335 1.46540953"
        " 1.314849 1.16642497 1.03475547 0.91573744 0.80748169 0.71202361 0.621739 0.53065202"
        " 0.4529096 0.37491455 0.27461819 0.2011529 0.14105873 0.06682881 0.03166121 0.015",
        "14.615 11.1491618 8.50522127 6.48827151 5.43707402 4.60398619 3.89854704 3.27407457"
        " 2.74396527 2.29968659 1.95448514 1.67108715 1.42878152 1.23181009 1.06789649 0.92579443"
        " 0.80290886 0.69660121 0.60436903 0.52852552 0.46773344 0.41393379 0.36258186 0.31008517"
        " 0.26518925 0.22326461 0.17653877 0.13959192 0.10587381 0.05519369 0.02877334 0.015",
    ),
}
PUBLISHED["Align Your Steps 11"] = PUBLISHED["Align Your Steps"]


@pytest.mark.parametrize("is_sdxl", [False, True])
@pytest.mark.parametrize("label", PUBLISHED)
def test_tables_are_returned_as_published_at_their_own_length(
    label: str, is_sdxl: bool, model: ModelSigmas
) -> None:
    table = [float(word) for word in PUBLISHED[label][is_sdxl].split()]
    sigmas = make_sigmas(label, len(table), model, is_sdxl=is_sdxl)
    assert sigmas == pytest.approx([*table, 0.0], rel=1e-6)


@pytest.mark.parametrize(
    ("steps", "timesteps"),
    [
        (1, [999]),
        (4, [999, 749, 499, 249]),
        (10, [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]),
        (3, [999, 666, 332]),
    ],
)
def test_turbo_leaves_even_gaps_and_no_small_timestep(
    steps: int, timesteps: list[int], model: ModelSigmas
) -> None:
    expected = [model.sigmas[t] for t in timesteps] + [0.0]
    assert make_sigmas("Turbo", steps, model) == tuple(expected)


@pytest.mark.parametrize("steps", [1, 5, 20, 30])
def test_uni_pc_skips_as_its_authors_code(steps: int, model: ModelSigmas) -> None:
    """There times are continuous, (t + 1) / 1000, and log alpha is linear between them."""
    count = len(range(0, 1000, 1000 // steps))
    kept = 1 / (1 + np.square(model.sigmas))
    known = np.linspace(0, 1, 1001)[1:]

    def sigmas_at(times: np.ndarray) -> list[float]:
        log_alpha = np.interp(times, known, 0.5 * np.log(kept))
        return list(np.sqrt(np.exp(-2 * log_alpha) - 1))

    expected = {
        "time_uniform": sigmas_at(np.linspace(1, 1e-3, count + 1)),
        "time_quadratic": sigmas_at(np.linspace(1, 1e-3**0.5, count + 1) ** 2),
        "logSNR": list(np.geomspace(model.sigma_max, model.sigma_min, count + 1)),
    }
    for skip_type, values in expected.items():
        sigmas = make_sigmas("DDIM", steps, model, timesteps=True, skip_type=skip_type)
        assert sigmas == pytest.approx(values, rel=1e-6)


def test_an_unknown_skip_type_is_refused(model: ModelSigmas) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make_sigmas("DDIM", 5, model, timesteps=True, skip_type="sideways")
    assert caught.value.field == "uni_pc_skip_type"


def test_betas_shape_can_be_set(model: ModelSigmas) -> None:
    plain = make_sigmas("Beta", 20, model)
    assert make_sigmas("Beta", 20, model, beta_shape=(0.6, 0.6)) == plain
    even = make_sigmas("Beta", 20, model, beta_shape=(1.0, 1.0))
    assert even[:-1] == pytest.approx(np.linspace(model.sigma_max, model.sigma_min, 20), rel=1e-6)


def test_tables_are_interpolated_in_the_logarithm(model: ModelSigmas) -> None:
    table = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029]
    at = np.linspace(0, 10, 24)
    expected = np.exp(np.interp(at, range(11), np.log(table)))
    assert make_sigmas("Align Your Steps", 24, model)[:-1] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "label", ["Karras", "Exponential", "Polyexponential", "KL Optimal", "Beta"]
)
def test_the_users_ends_replace_the_models(label: str, model: ModelSigmas) -> None:
    sigmas = make_sigmas(label, 10, model, sigma_min=0.1, sigma_max=10.0)
    assert sigmas[0] == pytest.approx(10.0, rel=1e-6)
    assert min(sigma for sigma in sigmas if sigma) == pytest.approx(0.1, rel=1e-6)


@pytest.mark.parametrize("label", ["Normal", "SGM Uniform"])
def test_the_users_ends_count_as_timesteps_too(label: str, model: ModelSigmas) -> None:
    assert make_sigmas(label, 10, model, sigma_max=5.0)[0] == pytest.approx(5.0, rel=1e-6)
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

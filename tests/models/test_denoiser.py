import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.models.bundle import ModelBundle
from sdforge.models.denoiser import Conditioning, DenoiserModel, scaled_linear_sigmas
from tests.tiny import Parts


def conditioning(rows: int) -> Conditioning:
    return Conditioning(torch.randn(rows, 77, 32, generator=torch.Generator().manual_seed(5)))


def noisy(rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(6)) * 3


def test_sigmas_are_those_of_stable_diffusion() -> None:
    sigmas = scaled_linear_sigmas()
    assert len(sigmas) == 1000
    assert sigmas[0] == pytest.approx(0.029167, abs=1e-6)
    assert sigmas[-1] == pytest.approx(14.614642, abs=1e-5)
    assert all(low < high for low, high in zip(sigmas, sigmas[1:], strict=False))


def test_every_sigma_of_training_has_its_timestep(bundle: ModelBundle) -> None:
    model = bundle.denoiser
    for t in range(0, 1000, 37):
        assert model.sigma_to_t(model.sigmas[t]) == pytest.approx(t, abs=1e-9)
        assert model.t_to_sigma(t) == pytest.approx(model.sigmas[t], rel=1e-12)


def test_sigmas_between_are_interpolated_in_the_logarithm(bundle: ModelBundle) -> None:
    model = bundle.denoiser
    middle = math.sqrt(model.sigmas[400] * model.sigmas[401])
    assert model.sigma_to_t(middle) == pytest.approx(400.5, abs=1e-9)
    assert model.t_to_sigma(400.5) == pytest.approx(middle, rel=1e-12)


def test_sigmas_outside_of_training_are_clamped(bundle: ModelBundle) -> None:
    model = bundle.denoiser
    assert model.sigma_to_t(100.0) == 999
    assert model.sigma_to_t(0.001) == model.sigma_to_t(0.0) == 0
    assert model.t_to_sigma(2000) == model.sigma_max
    assert model.t_to_sigma(-3) == model.sigma_min


@given(st.floats(0, 999))
def test_sigma_to_t_is_the_inverse_of_t_to_sigma(t: float) -> None:
    model = DenoiserModel.__new__(DenoiserModel)
    model.sigmas = scaled_linear_sigmas()
    model._log_sigmas = [math.log(sigma) for sigma in model.sigmas]
    assert model.sigma_to_t(model.t_to_sigma(t)) == pytest.approx(t, abs=1e-6)


def test_sigma_to_t_agrees_with_the_formula_of_k_diffusion(bundle: ModelBundle) -> None:
    log_sigmas = torch.tensor(bundle.denoiser.sigmas).log()
    for sigma in (0.03, 0.1234, 1.0, 2.5, 9.99, 14.6):
        distances = torch.tensor(sigma).log() - log_sigmas
        low = int(distances.ge(0).cumsum(0).argmax().clamp(max=998))
        share = (log_sigmas[low] - math.log(sigma)) / (log_sigmas[low] - log_sigmas[low + 1])
        wanted = low + float(share.clamp(0, 1))
        assert bundle.denoiser.sigma_to_t(sigma) == pytest.approx(wanted, abs=2e-3)


@pytest.mark.parametrize("sigma", [14.6146, 3.0, 0.05])
def test_an_epsilon_model_subtracts_the_noise_that_the_network_sees(
    loaded: Parts, bundle: ModelBundle, sigma: float
) -> None:
    x, cond = noisy(), conditioning(2)
    with loaded.memory.lease(bundle.denoiser.component) as module, torch.no_grad():
        t = torch.tensor([bundle.denoiser.sigma_to_t(sigma)] * 2)
        scaled = x / math.sqrt(sigma**2 + 1)
        noise = module(scaled, t, encoder_hidden_states=cond.hidden).sample
        guess = bundle.denoiser.predict(module, x, sigma, cond)
    # The network amplifies rounding of its input, and sigma what comes out of it.
    assert torch.allclose(guess, x - sigma * noise, atol=1e-5 * max(sigma, 1), rtol=1e-5)


def test_a_v_model_combines_input_and_output(loaded: Parts, bundle: ModelBundle) -> None:
    model = DenoiserModel(bundle.components["denoiser"], scaled_linear_sigmas(), prediction="v")
    x, cond, sigma = noisy(), conditioning(2), 3.0
    with loaded.memory.lease(model.component) as module, torch.no_grad():
        t = torch.tensor([model.sigma_to_t(sigma)] * 2)
        v = module(x / math.sqrt(sigma**2 + 1), t, encoder_hidden_states=cond.hidden).sample
        guess = model.predict(module, x, sigma, cond)
    # In the notation of Salimans and Ho: x₀ = α z − σ' v with z = α x, α² = 1 / (σ² + 1).
    alpha = 1 / math.sqrt(sigma**2 + 1)
    noise_part = sigma * alpha
    assert torch.allclose(guess, alpha * (alpha * x) - noise_part * v, atol=1e-5, rtol=1e-5)


def test_a_row_does_not_depend_on_its_neighbours(loaded: Parts, bundle: ModelBundle) -> None:
    x, cond = noisy(), conditioning(2)
    with loaded.memory.lease(bundle.denoiser.component) as module:
        both = bundle.denoiser.predict(module, x, 3.0, cond)
        second = bundle.denoiser.predict(module, x[1:], 3.0, Conditioning(cond.hidden[1:]))
    assert torch.allclose(both[1:], second, atol=1e-5)


def test_working_bytes_are_linear_and_follow_the_width(bundle: ModelBundle) -> None:
    model = bundle.denoiser
    assert model.working_bytes(2, 64, 64) == pytest.approx(2 * model.working_bytes(1, 64, 64), 1e-4)
    # SD 1.5 in fp16 at 512² with both sides of guidance: 130 MiB traced, × 1.5; the tiny network is
    # a tenth as wide and in fp32.
    assert model.working_bytes(2, 64, 64) == pytest.approx(130 * 2**20 * 1.5 / 10 * 2, rel=0.01)


def test_conditionings_are_stacked_and_brought_to_length() -> None:
    one, two = conditioning(1), conditioning(2)
    pooled = Conditioning(two.hidden, torch.ones(2, 5))
    stacked = Conditioning.stack([pooled, pooled])
    assert stacked.hidden.shape == (4, 77, 32)
    assert stacked.pooled is not None
    assert stacked.pooled.shape == (4, 5)
    assert stacked.nbytes == (4 * 77 * 32 + 4 * 5) * 4

    twice = pooled.tiled(2)
    assert torch.equal(twice.hidden, torch.cat([two.hidden, two.hidden], dim=1))
    assert twice.pooled is pooled.pooled
    padded = one.padded(Conditioning(-one.hidden), 231)
    assert torch.equal(padded.hidden, torch.cat([one.hidden, -one.hidden, -one.hidden], dim=1))
    assert one.padded(one, 77) is one
    assert torch.equal(one.fitted(40).hidden, one.hidden[:, :40])
    assert torch.equal(one.fitted(80).hidden[0, 76:], one.hidden[0, 76:].repeat(4, 1))


def test_an_unknown_prediction_is_refused(bundle: ModelBundle) -> None:
    with pytest.raises(UnsupportedCheckpoint, match="guess"):
        DenoiserModel(bundle.components["denoiser"], scaled_linear_sigmas(), prediction="guess")

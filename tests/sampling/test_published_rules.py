"""Samplers that no library here has, against their published rules written out plainly.

In double precision and in the papers' or first implementations' variables, not in ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from sdforge.sampling.cfg_pp import CFG_DIVISOR
from sdforge.sampling.registry import SAMPLERS, SamplerOptions
from sdforge.sampling.restart import restart_path
from sdforge.sampling.sigmas import karras_ramp

SHAPE = (2, 4, 8, 8)
SIGMAS = [*karras_ramp(14, 0.03, 14.6, 7.0), 0.0]
Pair = tuple[torch.Tensor, torch.Tensor]


def cond_guess(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.tanh(x / (1 + sigma * sigma)) * 0.9 - 0.1


def uncond_guess(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.sin(x / (1 + sigma)) * 0.5 + 0.1


@dataclass(frozen=True)
class Guided:
    scale: float

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return self.with_uncond(x, sigma)[0]

    def with_uncond(self, x: torch.Tensor, sigma: float) -> Pair:
        uncond = uncond_guess(x, sigma)
        return uncond + self.scale * (cond_guess(x, sigma) - uncond), uncond


def draws(seed: int = 5) -> Callable[[object, object], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda sigma, sigma_next: torch.randn(SHAPE, generator=generator, dtype=torch.float64)


def start(sigmas: Sequence[float]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(SHAPE, generator=generator, dtype=torch.float64) * sigmas[0]


def agrees(name: str, expected: torch.Tensor, sigmas: Sequence[float] = SIGMAS,
           scale: float = 0.0, **options: float) -> None:  # fmt: skip
    denoiser = Guided(scale) if scale else cond_guess
    result = SAMPLERS.get(name).function(
        denoiser, start(sigmas), sigmas, draws(), lambda info: None, SamplerOptions(**options)
    )
    assert float((result - expected).norm() / expected.norm()) < 1e-6


def slope(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return (x - cond_guess(x, sigma)) / sigma


def ancestral(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    up = min(sigma_next, eta * (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5)
    return (sigma_next**2 - up**2) ** 0.5, up


def test_heunpp2() -> None:
    x, s = start(SIGMAS), SIGMAS
    for i in range(len(s) - 1):
        d1 = slope(x, s[i])
        x2 = x + d1 * (s[i + 1] - s[i])
        if s[i + 1] == 0:
            x = x2
            continue
        d2 = slope(x2, s[i + 1])
        if s[i + 2] == 0:
            w2 = s[i + 1] / (2 * s[0])
            x = x + ((1 - w2) * d1 + w2 * d2) * (s[i + 1] - s[i])
            continue
        d3 = slope(x2 + d2 * (s[i + 2] - s[i + 1]), s[i + 2])
        w2, w3 = s[i + 1] / (3 * s[0]), s[i + 2] / (3 * s[0])
        x = x + ((1 - w2 - w3) * d1 + w2 * d2 + w3 * d3) * (s[i + 1] - s[i])
    agrees("HeunPP2", x)


def test_ipndm_v() -> None:
    """Weights by divided differences, but for the term that the original brackets otherwise."""
    x, s = start(SIGMAS), SIGMAS
    known: list[torch.Tensor] = []
    for i in range(len(s) - 2):
        known.insert(0, slope(x, s[i]))
        order = min(i + 1, 4)
        h = [s[i + 1 - k] - s[i - k] for k in range(order)]
        # Newton's form: slopes' divided differences at s[i], s[i−1], …
        first = known[0]
        integral = first.clone()
        if order >= 2:
            dd1 = (known[0] - known[1]) / h[1]
            integral = integral + dd1 * h[0] / 2
        if order >= 3:
            dd1_older = (known[1] - known[2]) / h[2]
            dd2 = (dd1 - dd1_older) / (h[1] + h[2])
            exact = (2 * h[0] ** 2 + 3 * h[0] * h[1]) / 6
            # (1 − u)·v / 2 is right, (1 − u·v) / 2 is what was written.
            u = h[0] / (3 * (h[0] + h[1]))
            v = h[0] * (h[0] + h[1]) / (h[1] * (h[1] + h[2]))
            assert (1 - u) * v / 2 == pytest.approx(exact / (h[1] * (h[1] + h[2])))
            integral = integral + dd2 * (1 - u * v) / 2 * h[1] * (h[1] + h[2])
        if order >= 4:
            dd1_oldest = (known[2] - known[3]) / h[3]
            dd2_older = (dd1_older - dd1_oldest) / (h[2] + h[3])
            dd3 = (dd2 - dd2_older) / (h[1] + h[2] + h[3])
            q = np.polynomial.Polynomial([0.0, 1.0])
            cubic = (q * (q + h[1]) * (q + h[1] + h[2])).integ()
            exact = cubic(h[0]) / h[0]
            # The original's fourth weight is off as well, by the share that this factor has.
            whole = h[0] + h[1]
            lead = (1 - h[0] / (3 * whole)) / 2
            lead += (1 - h[0] / (2 * whole)) * h[0] / (6 * (whole + h[2]))
            written = lead * h[0] * whole * (whole + h[2])
            integral = integral + dd3 * written
        x = x + (s[i + 1] - s[i]) * integral
    agrees("IPNDM_V", cond_guess(x, s[-2]))


def test_ipndm_v_of_even_steps_is_adams_and_bashforths() -> None:
    even = [10.0 - 0.5 * index for index in range(12)]
    results = [
        SAMPLERS.get(name).function(
            cond_guess, start(even), even, draws(), lambda info: None, SamplerOptions()
        )
        for name in ("IPNDM", "IPNDM_V")
    ]
    assert torch.allclose(*results, rtol=1e-3)


def test_deis() -> None:
    """Weights by brute force: Lagrange polynomials in the time of a VP process, integrated."""
    low, high = np.log(0.002**2 + 1), np.log(80.0**2 + 1)
    beta_d = 2 * (low / 1e-3 - high) / (1e-3 - 1)
    beta_min = high - 0.5 * beta_d

    def time(sigma: np.ndarray) -> np.ndarray:
        return (np.sqrt(beta_min**2 + 2 * beta_d * np.log(sigma**2 + 1)) - beta_min) / beta_d

    def sigma_at(t: np.ndarray) -> np.ndarray:
        return np.sqrt(np.exp(0.5 * beta_d * t**2 + beta_min * t) - 1)

    x, s = start(SIGMAS), SIGMAS
    known: list[torch.Tensor] = []
    for i in range(len(s) - 2):
        known.insert(0, slope(x, s[i]))
        times = time(np.array(s[max(i - 2, 0) : i + 1][::-1]))
        ts = np.linspace(time(np.array(s[i])), time(np.array(s[i + 1])), 20001)
        for j, t_j in enumerate(times):
            poly = np.prod([(ts - t) / (t_j - t) for t in times if t != t_j], axis=0)
            x = x + known[j] * float(np.trapezoid(poly * np.ones_like(ts), sigma_at(ts)))
    agrees("DEIS", cond_guess(x, s[-2]))


@pytest.mark.parametrize("steps", [12, 20, 36, 50])
def test_restart(steps: int) -> None:
    sigmas = [*karras_ramp(steps, 0.03, 14.6, 7.0), 0.0]
    x = start(sigmas)
    noise = draws()

    def down(x: torch.Tensor, path: Sequence[float]) -> torch.Tensor:
        for now, after in zip(path, path[1:], strict=False):
            d = slope(x, now)
            if after > 0:
                d = (d + slope(x + d * (after - now), after)) / 2
            x = x + d * (after - now)
        return x

    count = {12: 0, 20: 9, 36: 9, 50: 12}[steps]
    times = {12: 0, 20: 1, 36: 2, 50: 2}[steps]
    main = [*karras_ramp(steps - count * times, 0.03, 14.6, 7.0), 0.0]
    low = min(range(len(main)), key=lambda i: abs(main[i] - 0.1)) if times else len(main) - 1
    x = down(x, main[: low + 1])
    for _ in range(times):
        high = min(main, key=lambda sigma: abs(sigma - 2))
        x = x + noise(0, 0) * math.sqrt(high**2 - main[low] ** 2)
        x = down(x, karras_ramp(count + 1, main[low], high, 7.0))
    agrees("Restart", down(x, main[low:]), sigmas)
    assert len(restart_path(sigmas)) == steps


@pytest.mark.parametrize(("name", "eta"), [("RES Multistep", 0.0), ("RES Multistep a", 0.7)])
def test_res_multistep(name: str, eta: float) -> None:
    x, s, noise = start(SIGMAS), SIGMAS, draws()
    old, old_down = None, None
    for i in range(len(s) - 1):
        d = cond_guess(x, s[i])
        down, up = ancestral(s[i], s[i + 1], eta)
        if old is None or down == 0:
            x = x + (x - d) / s[i] * (down - s[i])
        else:
            t, t_next = -math.log(s[i]), -math.log(down)
            h = t_next - t
            c2 = (-math.log(s[i - 1]) + math.log(old_down)) / h
            phi1 = (math.exp(-h) - 1) / -h
            phi2 = (phi1 - 1) / -h
            x = math.exp(-h) * x + h * ((phi1 - phi2 / c2) * d + phi2 / c2 * old)
        if up > 0:
            x = x + up * noise(0, 0)
        old, old_down = d, down
    agrees(name, x, eta=0.7)


def test_gradient_estimation() -> None:
    x, s = start(SIGMAS), SIGMAS
    old = None
    for i in range(len(s) - 2):
        d = slope(x, s[i])
        better = d if old is None else 2 * d - old
        x, old = x + better * (s[i + 1] - s[i]), d
    agrees("Gradient Estimation", cond_guess(x, s[-2]))


def test_er_sde() -> None:
    x, s, noise = start(SIGMAS), SIGMAS, draws()

    def phi(v: float) -> float:
        return v * (math.exp(v**0.3) + 10)

    guesses: list[torch.Tensor] = []
    firsts: list[torch.Tensor] = []
    for i in range(len(s) - 2):
        d = cond_guess(x, s[i])
        r = phi(s[i + 1]) / phi(s[i])
        new = r * x + (1 - r) * d
        width = s[i] - s[i + 1]
        places = [s[i + 1] + width * k / 200 for k in range(200)]
        if i >= 1:
            first = (d - guesses[-1]) / (s[i] - s[i - 1])
            integral = sum(width / 200 / phi(v) for v in places)
            new = new + (s[i + 1] - s[i] + phi(s[i + 1]) * integral) * first
            if i >= 2:
                second = (first - firsts[-1]) / ((s[i] - s[i - 2]) / 2)
                integral = sum((v - s[i]) * width / 200 / phi(v) for v in places)
                new = new + (width**2 / 2 + phi(s[i + 1]) * integral) * second
            firsts.append(first)
        x = new + noise(0, 0) * math.sqrt(s[i + 1] ** 2 - s[i] ** 2 * r**2)
        guesses.append(d)
    agrees("ER SDE", cond_guess(x, s[-2]))


# --- CFG++ (arXiv:2406.08070, algorithm 2): lambda is the CFG scale ÷ 12.5 ----------------


def guesses_at(x: torch.Tensor, sigma: float, scale: float) -> Pair:
    return Guided(scale / CFG_DIVISOR).with_uncond(x, sigma)


@pytest.mark.parametrize(("name", "eta"), [("Euler CFG++", 0.0), ("Euler a CFG++", 0.6)])
def test_euler_cfg_pp(name: str, eta: float) -> None:
    x, s, noise = start(SIGMAS), SIGMAS, draws()
    for i in range(len(s) - 1):
        clean, uncond = guesses_at(x, s[i], 7.0)
        down, up = ancestral(s[i], s[i + 1], eta)
        x = clean + down * (x - uncond) / s[i]
        if up > 0:
            x = x + up * noise(0, 0)
    agrees(name, x, scale=7.0, eta=0.6)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_ddim_cfg_pp(eta: float) -> None:
    """Over latents of variance 1 with the alphas of DDIM's paper."""
    s = SIGMAS[:-1]
    kept = [1 / (1 + sigma**2) for sigma in s]
    x, noise = start(SIGMAS) * math.sqrt(kept[0]), draws()
    for i in range(len(s) - 1):
        now, after = kept[i], kept[i + 1]
        clean, uncond = guesses_at(x / math.sqrt(now), s[i], 7.0)
        epsilon = (x - math.sqrt(now) * uncond) / math.sqrt(1 - now)
        sigma = eta * math.sqrt((1 - after) / (1 - now)) * math.sqrt(1 - now / after)
        x = math.sqrt(after) * clean + math.sqrt(1 - after - sigma**2) * epsilon
        if eta:
            x = x + sigma * noise(0, 0)
    agrees("DDIM CFG++", x, scale=7.0, eta=eta)


def test_dpmpp_2m_cfg_pp() -> None:
    x, s = start(SIGMAS), SIGMAS
    old = None
    for i in range(len(s) - 1):
        clean, uncond = guesses_at(x, s[i], 7.0)
        if s[i + 1] == 0:
            x = clean
        else:
            h = math.log(s[i] / s[i + 1])
            mix = -math.exp(-h) * uncond
            if old is not None:
                r = math.log(s[i - 1] / s[i]) / h
                mix = mix - math.expm1(-h) / (2 * r) * (clean - old)
            x = clean + mix + math.exp(-h) * x
        old = uncond
    agrees("DPM++ 2M CFG++", x, scale=7.0)


def test_res_multistep_cfg_pp() -> None:
    x, s = start(SIGMAS), SIGMAS
    old = None
    for i in range(len(s) - 1):
        clean, uncond = guesses_at(x, s[i], 7.0)
        if old is None or s[i + 1] == 0:
            x = clean + s[i + 1] * (x - uncond) / s[i]
        else:
            h = math.log(s[i] / s[i + 1])
            c2 = math.log(s[i] / s[i - 1]) / h
            phi1 = (math.exp(-h) - 1) / -h
            phi2 = (phi1 - 1) / -h
            x = x + clean - uncond
            x = math.exp(-h) * x + h * ((phi1 - phi2 / c2) * uncond + phi2 / c2 * old)
        old = uncond
    agrees("RES Multistep CFG++", x, scale=7.0)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("Euler CFG++", "Euler"),
        ("Euler a CFG++", "Euler a"),
        ("DPM++ 2M CFG++", "DPM++ 2M"),
        ("RES Multistep CFG++", "RES Multistep"),
        ("DDIM CFG++", "DDIM"),
    ],
)
def test_without_guidance_cfg_pp_is_the_plain_sampler(name: str, plain: str) -> None:
    results = [
        SAMPLERS.get(which).function(
            cond_guess, start(SIGMAS), SIGMAS, draws(), lambda info: None, SamplerOptions(eta=0.5)
        )
        for which in (name, plain)
    ]
    assert torch.allclose(*results)

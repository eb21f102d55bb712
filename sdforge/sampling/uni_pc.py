"""UniPC: each guess first corrects the step that led to it, then predicts the next one.

Zhao et al. 2023, arXiv:2302.04867, in its form for clean guesses; orders, variants and the end as
in A1111. Over latents of variance 1 + sigma² the factor alpha of the paper's formulas is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sdforge.sampling.sampler import Denoiser, Noise, SamplerOptions, StepInfo, sampler
from sdforge.sampling.timesteps import in_training_scale, timestep_path

_EXACT = "vary_coeff"


@sampler("UniPC")
def uni_pc(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    on_step: Callable[[StepInfo], None],
    options: SamplerOptions,
) -> Tensor:
    """Predict and correct with the guesses of up to `uni_pc_order` timesteps.

    The last step is not corrected: one denoiser call a step.
    """
    path = timestep_path(sigmas, options)
    steps = len(path) - 1
    guesses: list[Tensor] = []
    before = x
    for index in range(steps):
        sigma, sigma_next = path[index], path[index + 1]
        denoised = denoiser(x, sigma)
        if index > 0:
            # The order of the step that is corrected, which began one sigma earlier.
            order = _order(index - 1, steps, options)
            x = _step(before, guesses, path, index - 1, order, options, denoised)
        guesses = [denoised, *guesses[: options.uni_pc_order - 1]]
        before = x
        if sigma_next == 0:
            x = denoised
        else:
            x = _step(before, guesses, path, index, _order(index, steps, options), options)
        on_step(StepInfo(index, steps, sigma, sigma_next, x, denoised))
    return in_training_scale(x, path[-1], options)


def _order(index: int, steps: int, options: SamplerOptions) -> int:
    order = min(options.uni_pc_order, index + 1)
    return min(order, steps - index) if options.uni_pc_lower_order_final else order


def _step(
    x: Tensor,
    guesses: Sequence[Tensor],
    sigmas: Sequence[float],
    index: int,
    order: int,
    options: SamplerOptions,
    guess_ahead: Tensor | None = None,
) -> Tensor:
    """Return the latents at `sigmas[index + 1]`.

    Args:
        x: the latents at `sigmas[index]`.
        guesses: of the clean latents at `sigmas[index]` and before, latest first.
        sigmas: that are walked.
        index: of the step.
        order: of the predictor; the corrector's is one more.
        options: for the variant.
        guess_ahead: at the step's end, for a correction.
    """
    width = math.log(sigmas[index] / sigmas[index + 1])
    distances = [math.log(sigmas[index] / sigmas[index - back]) / width for back in range(1, order)]
    differences = [guess - guesses[0] for guess in guesses[1:order]]
    if guess_ahead is not None:
        distances.append(1.0)
        differences.append(guess_ahead - guesses[0])
    x = torch.lerp(guesses[0], x, sigmas[index + 1] / sigmas[index])
    for difference, weight in zip(differences, _weights(distances, width, options), strict=True):
        x.add_(difference, alpha=weight)
    return x


def _weights(distances: Sequence[float], width: float, options: SamplerOptions) -> list[float]:
    """Return the weights of the differences from the guess at the step's begin.

    They integrate the polynomial through all of them exactly, except where one difference alone is
    weighed: there the variants "bh1" and "bh2" take a half of B(h), with B(h) = h or 1 − e^−h.
    """
    if not distances:
        return []
    if len(distances) == 1 and options.uni_pc_variant != _EXACT:
        scale = width if options.uni_pc_variant == "bh1" else -math.expm1(-width)
        return [0.5 * scale / distances[0]]
    # Moments of e^(s − h) over the step for s, s², …, in units of h, by partial integration.
    moments, moment = [], -math.expm1(-width)
    for power in range(1, len(distances) + 1):
        moment = 1 - power * moment / width
        moments.append(moment)
    powers = np.vander(distances, len(distances) + 1, increasing=True)[:, 1:].T
    weights: list[float] = np.linalg.solve(powers, moments).tolist()
    return weights

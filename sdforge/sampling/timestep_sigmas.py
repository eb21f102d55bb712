"""Sigmas for the samplers that walk the model's own timesteps: DDIM and its kin, and UniPC.

A1111 gives these no schedule. What it gives instead is here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sdforge.core.errors import InvalidRequest
from sdforge.sampling.model_sigmas import ModelSigmas
from sdforge.sampling.names import SKIP_TYPES
from sdforge.sampling.step_math import from_ratio, to_ratio


def timestep_sigmas(steps: int, model: ModelSigmas, skip_type: str = "") -> list[float]:
    """Return falling sigmas of A1111's timesteps, `range(0, 1000, 1000 // steps) + 1`, and a 0.

    A flow model's begin at its largest, pure noise, and are as far apart.

    Args:
        steps: at least 1.
        model: whose timesteps they are.
        skip_type: one of `SKIP_TYPES`: instead of those, UniPC's spacing over all timesteps, which
            ends at the model's smallest sigma (at 0 for a flow model).

    Raises:
        InvalidRequest: no such skip type.
    """
    known = model.sigmas
    places = range(0, len(known), max(len(known) // steps, 1))
    if skip_type:
        sigmas = _skipping(len(places), model, skip_type)
        return [*sigmas[:-1], 0.0] if model.is_flow else sigmas
    if model.is_flow:
        return [*(known[-1 - place] for place in places), 0.0]
    # One step would be timestep 1 alone, where almost nothing is left to remove.
    if steps == 1:
        return [known[-1], 0.0]
    return [*(known[min(place + 1, len(known) - 1)] for place in reversed(places)), 0.0]


def _skipping(steps: int, model: ModelSigmas, skip_type: str) -> list[float]:
    """Return one sigma more than steps, from the largest to the smallest (UniPC's code)."""
    shares = [index / steps for index in range(steps + 1)]
    known = model.sigmas
    if skip_type == "logSNR":
        ends = (known[0], known[-1])
        low, high = (math.log(to_ratio(end) if model.is_flow else end) for end in ends)
        ratios = [math.exp(high + share * (low - high)) for share in shares]
        return [from_ratio(ratio) for ratio in ratios] if model.is_flow else ratios
    if skip_type not in SKIP_TYPES:
        raise InvalidRequest("uni_pc_skip_type", skip_type, ", ".join(map(repr, SKIP_TYPES)))
    first = 1 / len(known)
    if skip_type == "time_uniform":
        times = [1 + share * (first - 1) for share in shares]
    else:
        times = [(1 + share * (math.sqrt(first) - 1)) ** 2 for share in shares]
    places = [min(max(time * len(known) - 1, 0.0), len(known) - 1.0) for time in times]
    if model.is_flow:
        return [model.t_to_sigma(place) for place in places]
    return [_between(known, place) for place in places]


def _between(known: Sequence[float], place: float) -> float:
    """Return the sigma at a fractional place, linear in the logarithm of the signal kept.

    The signal kept is 1 / (1 + sigma²); rounding must not give a place beyond the ends.
    """
    low = min(int(place), len(known) - 2)
    below, above = math.log1p(known[low] ** 2), math.log1p(known[low + 1] ** 2)
    return math.sqrt(math.expm1(below + (place - low) * (above - below)))

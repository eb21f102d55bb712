"""Prompt matrix: every subset of a prompt's parts, `base|first|second`, as a grid.

The first half of the parts goes across, the rest down, as in A1111. Pure.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from sdforge.core.errors import InvalidRequest
from sdforge.core.request import GenerationRequest
from sdforge.sweeps.request import GivenCells, Options, SweepRequest

TITLE = "Prompt matrix"
DELIMITERS = {"comma": ", ", "space": " "}
PROMPTS = ("positive", "negative")
_SEEDS = 2**32


def prompt_matrix(
    base: GenerationRequest,
    *,
    at_start: bool = False,
    different_seeds: bool = False,
    varied: str = "positive",
    delimiter: str = "comma",
    margin_px: int = 0,
    limit: int = 10_000,
) -> SweepRequest:
    """Return the sweep over all subsets of the parts that `|` divides a prompt into.

    Args:
        base: with such a prompt; the first part is in every picture.
        at_start: put the chosen parts before the first one.
        different_seeds: count the seed up from picture to picture.
        varied: "positive" or "negative", the prompt to divide.
        delimiter: "comma" or "space", what joins the parts.
        margin_px: free pixels between cells.
        limit: most cells that there may be.

    Raises:
        InvalidRequest: an argument is none of these, or there are too many parts.
    """
    if varied not in PROMPTS:
        raise InvalidRequest("prompt_type", varied, " or ".join(PROMPTS))
    if delimiter not in DELIMITERS:
        raise InvalidRequest("variations_delimiter", delimiter, " or ".join(DELIMITERS))
    name = "prompt" if varied == "positive" else "negative_prompt"
    first, *parts = getattr(base, name).split("|")
    parts = [part.strip().strip(",") for part in parts]
    if 2 ** len(parts) > limit:
        allowed = f"at most {int(math.log2(limit))} parts, for {limit} cells"
        raise InvalidRequest(name, f"{len(parts)} parts", allowed)
    requests = []
    for number in range(2 ** len(parts)):
        chosen = _chosen(parts, number)
        texts = [*chosen, first] if at_start else [first, *chosen]
        seed = base.seed
        if different_seeds and seed >= 0:
            seed = (seed + number) % _SEEDS
        changes: dict[str, Any] = {name: DELIMITERS[delimiter].join(texts), "seed": seed}
        requests.append(replace(base, **changes))
    across = math.ceil(len(parts) / 2)
    halves = (parts[:across], parts[across:])
    axes = tuple(
        (f"Parts {number + 1}", tuple(_legend(half, one) for one in range(2 ** len(half))))
        for number, half in enumerate(halves)
    )
    return SweepRequest(
        base=base,
        options=Options(margin_px=margin_px),
        title=TITLE,
        cells=GivenCells(axes=axes, requests=tuple(requests)),
    )


def _chosen(parts: list[str], number: int) -> list[str]:
    return [part for place, part in enumerate(parts) if number >> place & 1]


def _legend(parts: list[str], number: int) -> str:
    return ", ".join(_chosen(parts, number)) or "–"

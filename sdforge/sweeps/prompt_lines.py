"""Prompts from file or textbox: one job for each line, which may carry arguments of its own.

A line is a prompt, or `--prompt "a cat" --steps 30 --seed 1`, A1111's notation. Pure.
"""

from __future__ import annotations

import random
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sdforge.core.errors import InvalidRequest
from sdforge.core.extension import typed_value
from sdforge.core.fields import FIELDS, Field
from sdforge.core.request import GenerationRequest
from sdforge.sampling.names import sampler_names
from sdforge.sweeps.request import GivenCells, Options, SweepRequest

TITLE = "Prompts from file or textbox"
POSITIONS = ("start", "end")
# Names of A1111's beside those of its API.
_ALIASES = {"sd_model": "checkpoint", "styles": "styles"}
_RANDOM_SEEDS = 4294967294
_SEEDS = 2**32
_ROWS: Mapping[str, Field] = {row.api: row for row in FIELDS} | {row.name: row for row in FIELDS}
_LEGEND_CHARS = 80

Find = Callable[[str], str]


def prompt_lines(
    base: GenerationRequest,
    text: str,
    *,
    find_checkpoint: Find,
    iterate_seed: bool = False,
    same_seed: bool = False,
    position: str = "start",
    combined: bool = False,
    limit: int = 10_000,
    rng: random.Random | None = None,
) -> SweepRequest:
    """Return the sweep over the lines of a text; empty ones are left out.

    Args:
        base: what lines do not say is taken from here; its prompts are joined to theirs.
        text: the lines.
        find_checkpoint: returns a checkpoint's title by any name.
        iterate_seed: go on with the next seed from line to line.
        same_seed: a random seed is the same for all lines.
        position: "start" puts a line's prompt before the base's, "end" behind it.
        combined: make one large picture of all at the end.
        limit: most lines that there may be.
        rng: source of random seeds.

    Raises:
        InvalidRequest: naming the line and the argument that cannot be used.
    """
    if position not in POSITIONS:
        raise InvalidRequest("prompt_position", position, " or ".join(POSITIONS))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise InvalidRequest("prompt_txt", text, "at least one line")
    if len(lines) > limit:
        raise InvalidRequest("prompt_txt", f"{len(lines)} lines", f"at most {limit}")
    if (iterate_seed or same_seed) and base.seed < 0:
        base = replace(base, seed=(rng or random.Random()).randrange(_RANDOM_SEEDS))
    requests = []
    for number, line in enumerate(lines):
        where = f"line {number + 1}"
        said = _arguments(line, where, find_checkpoint)
        for name in ("prompt", "negative_prompt"):
            if name in said:
                said[name] = _joined(said[name], base, name, position)
        request = replace(base, **said)
        requests.append(request)
        if iterate_seed:
            base = replace(base, seed=(base.seed + request.image_count) % _SEEDS)
    legends = tuple(line[:_LEGEND_CHARS] for line in lines)
    return SweepRequest(
        base=base,
        options=Options(draw_grid=combined, include_lone_images=True),
        title=TITLE,
        cells=GivenCells(axes=(("Line", legends),), requests=tuple(requests)),
    )


def _joined(text: str, base: GenerationRequest, name: str, position: str) -> str:
    own = getattr(base, name)
    parts = (text, own) if position == "start" else (own, text)
    return " ".join(part for part in parts if part)


def _arguments(line: str, where: str, find_checkpoint: Find) -> dict[str, Any]:
    """Return what a line says, by names of the request."""
    if not line.startswith("--"):
        return {"prompt": line}
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise InvalidRequest(where, line, f"quotes in pairs ({error})") from error
    found: dict[str, Any] = {}
    for index in range(0, len(words), 2):
        name = words[index]
        if not name.startswith("--") or index + 1 >= len(words):
            raise InvalidRequest(where, name, "pairs such as --steps 30")
        key, value = _argument(name[2:], words[index + 1], where, find_checkpoint)
        found[key] = value
    return found


def _argument(name: str, text: str, where: str, find_checkpoint: Find) -> tuple[str, Any]:
    if name in _ALIASES:
        if name == "sd_model":
            return "checkpoint", find_checkpoint(text)
        return "styles", tuple(style.strip() for style in text.split(",") if style.strip())
    if name == "sampler_index":
        known = sampler_names()
        if not text.isdecimal() or int(text) >= len(known):
            raise InvalidRequest(f"{where}: sampler_index", text, f"0 to {len(known) - 1}")
        return "sampler", known[int(text)]
    row = _ROWS.get(name)
    if row is None:
        allowed = f"one of {', '.join(sorted({*_ALIASES, *(row.api for row in FIELDS)}))}"
        raise InvalidRequest(where, f"--{name}", allowed)
    try:
        return row.name, typed_value(row, text)
    except InvalidRequest as error:
        raise InvalidRequest(f"{where}: {name}", text, row.allowed()) from error

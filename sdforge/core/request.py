"""What somebody asked for, as one frozen value.

A request is made by the page, the REST API or a script; the engine *resolves* it (no −1, no
"Automatic", no size left open) and from then on it is complete: the same resolved request with the
same settings snapshot and files gives the same pixels.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from sdforge.core.errors import InvalidRequest
from sdforge.core.fields import FIELD, FIELDS

# A1111 draws from 0 to 4294967293.
_RANDOM_SEEDS = 4294967294
# Without a recommendation from the checkpoint: SD 1.x's native size and A1111's CFG scale.
DEFAULT_SIZE = 512
DEFAULT_CFG_SCALE = 7.0


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One txt2img job: `batch_size` × `batch_count` pictures.

    `checkpoint` is "" for the one the settings name. `overrides` are settings for this job alone
    (A1111's `override_settings`). Seeds count up by one from picture to picture.
    """

    prompt: str = ""
    negative_prompt: str = ""
    steps: int = 20
    sampler: str = "Euler a"
    schedule: str = "Automatic"
    width: int | None = None
    height: int | None = None
    batch_count: int = 1
    batch_size: int = 1
    cfg_scale: float | None = None
    seed: int = -1
    subseed: int = -1
    subseed_strength: float = 0.0
    seed_resize_from_w: int = 0
    seed_resize_from_h: int = 0
    eta: float | None = None
    s_churn: float | None = None
    s_tmin: float | None = None
    s_tmax: float | None = None
    s_noise: float | None = None
    checkpoint: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def image_count(self) -> int:
        """Pictures that the job makes."""
        return self.batch_size * self.batch_count

    def image_seed(self, index: int) -> int:
        """Seed of picture `index`; a variation keeps the seed and varies the subseed (A1111)."""
        return self.seed if self.subseed_strength else (self.seed + index) % (2**32)

    def image_subseed(self, index: int) -> int:
        """Variation seed of picture `index`."""
        return (self.subseed + index) % (2**32)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types; `from_json` is the inverse."""
        values = {row.name: getattr(self, row.name) for row in fields(self)}
        values["overrides"] = dict(self.overrides)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> GenerationRequest:
        """Build a request from `to_json`'s result; keys of other versions are left out."""
        known = {row.name for row in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})


@dataclass(frozen=True, kw_only=True)
class Recommended:
    """What a checkpoint's metadata recommends; None where it says nothing."""

    width: int | None = None
    height: int | None = None
    steps: int | None = None
    cfg_scale: float | None = None
    sampler: str | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one job may ask for at most (settings `max_pixels_per_image`, `max_images_per_job`)."""

    pixels_per_image: int
    images_per_job: int


def validate(request: GenerationRequest, limits: Limits) -> None:
    """Raise `InvalidRequest`, naming the field, unless every value can be used."""
    for row in FIELDS:
        row.check(getattr(request, row.name))
    if request.image_count > limits.images_per_job:
        raise InvalidRequest(
            FIELD["batch_count"].api,
            request.batch_count,
            f"at most {limits.images_per_job} pictures a job (batch_size × n_iter)",
        )
    pixels = (request.width or 0) * (request.height or 0)
    if pixels > limits.pixels_per_image:
        raise InvalidRequest(
            FIELD["width"].api,
            f"{request.width}x{request.height}",
            f"at most {limits.pixels_per_image} pixels a picture",
        )


def resolve(
    request: GenerationRequest,
    *,
    checkpoint: str,
    recommended: Recommended,
    sampler: str,
    schedule: str,
    rng: random.Random | None = None,
) -> GenerationRequest:
    """Return the request with nothing left open.

    Args:
        request: as validated.
        checkpoint: title of the checkpoint that will run.
        recommended: that checkpoint's own defaults. Its size counts only below `DEFAULT_SIZE`:
            REST clients that send no size expect 512 (A1111), which a smaller model cannot draw.
        sampler: registered name of the sampler asked for.
        schedule: registered name of the schedule, "Automatic" already replaced.
        rng: source of random seeds.
    """
    rng = rng or random.Random()
    width = request.width or min(DEFAULT_SIZE, recommended.width or DEFAULT_SIZE)
    height = request.height or min(DEFAULT_SIZE, recommended.height or DEFAULT_SIZE)
    cfg_scale = request.cfg_scale
    if cfg_scale is None:
        cfg_scale = recommended.cfg_scale or DEFAULT_CFG_SCALE
    return replace(
        request,
        checkpoint=checkpoint,
        sampler=sampler,
        schedule=schedule,
        width=_floor(width, FIELD["width"].multiple_of),
        height=_floor(height, FIELD["height"].multiple_of),
        cfg_scale=float(cfg_scale),
        seed=request.seed if request.seed >= 0 else rng.randrange(_RANDOM_SEEDS),
        subseed=request.subseed if request.subseed >= 0 else rng.randrange(_RANDOM_SEEDS),
    )


def _floor(value: int, multiple: int | None) -> int:
    return value - value % multiple if multiple else value

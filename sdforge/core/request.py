"""What somebody asked for, as one frozen value.

A request is made by the page, the REST API or a script; the engine *resolves* it (no −1, no
"Automatic", no size left open) and from then on it is complete: the same resolved request with the
same settings snapshot and files gives the same pixels.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from sdforge.core.control import ControlUnit, validate_units
from sdforge.core.errors import InvalidRequest
from sdforge.core.extras import Extras
from sdforge.core.fields import FIELD, FIELDS
from sdforge.core.inputs import InputImage
from sdforge.core.merge import Merge

# A1111 draws from 0 to 4294967293.
_RANDOM_SEEDS = 4294967294
# Without a recommendation from the checkpoint: SD 1.x's native size, A1111's CFG scale, and what
# Forge tells Flux dev.
DEFAULT_SIZE = 512
DEFAULT_CFG_SCALE = 7.0
DEFAULT_DISTILLED_CFG_SCALE = 3.5
# What A1111's page has for img2img and for hires fix.
_IMG2IMG_STRENGTH = 0.75
_HIRES_STRENGTH = 0.7
# How many pictures a request may refer to.
MOST_REFERENCES = 10
LEAST_SIDE = 64
_SINGLE_IMAGES = ("mask", "first_picture")


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One job: `batch_size` × `batch_count` pictures, of a prompt alone or of pictures too.

    `checkpoint` is "" for the one the settings name. `overrides` are settings for this job alone
    (A1111's `override_settings`), `extensions` the values of extensions by their names. Seeds count
    up by one from picture to picture.

    With `init_images` it is img2img, with a `mask` too it repaints a part of them. `first_picture`
    is one that hires fix shall enlarge instead of drawing one. `control` holds ControlNet units.
    With `extras` nothing is drawn: they say what is done to each of the `init_images`. With `merge`
    nothing is drawn either: it makes a checkpoint.

    `references` are further pictures that the model is shown, where it refers to such; the longer
    side of each is brought down to `reference_side` pixels, with 0 to what the model is used to.

    `folder` and `file_name` are where the pictures go and what their files are called, without a
    suffix; "" for what the settings say. Whoever sets `folder` has checked that it is allowed.

    `hires_modules` are files that bring a VAE and text encoders for the second pass, () for the
    checkpoint's own, None for what the settings name for the first.

    `prompt` and `negative_prompt` are as typed, `styles` the names of styles to apply. Resolved
    requests hold in `prompts` and `negative_prompts` what the pictures are drawn from: one text for
    all, or one for each.
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
    distilled_cfg_scale: float | None = None
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
    s_min_uncond: float | None = None
    denoising_strength: float | None = None
    tiling: bool | None = None
    restore_faces: bool | None = None
    refiner: str = ""
    refiner_switch_at: float | None = None
    hires: bool = False
    hires_scale: float = 2.0
    hires_upscaler: str = "Latent"
    hires_steps: int = 0
    hires_width: int = 0
    hires_height: int = 0
    hires_checkpoint: str = ""
    hires_sampler: str = ""
    hires_schedule: str = ""
    hires_prompt: str = ""
    hires_negative_prompt: str = ""
    hires_cfg_scale: float | None = None
    hires_distilled_cfg_scale: float | None = None
    hires_modules: tuple[str, ...] | None = None
    resize_mode: int = 0
    image_cfg_scale: float | None = None
    initial_noise_multiplier: float | None = None
    mask_blur_x: int = 4
    mask_blur_y: int = 4
    mask_round: bool = True
    masked_content: int = 1
    only_masked: bool = False
    only_masked_padding: int = 32
    mask_invert: bool = False
    init_images: tuple[InputImage, ...] = ()
    mask: InputImage | None = None
    first_picture: InputImage | None = None
    references: tuple[InputImage, ...] = ()
    reference_side: int = 0
    control: tuple[ControlUnit, ...] = ()
    extras: Extras | None = None
    merge: Merge | None = None
    styles: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    negative_prompts: tuple[str, ...] = ()
    hires_prompts: tuple[str, ...] = ()
    hires_negative_prompts: tuple[str, ...] = ()
    disable_extra_networks: bool = False
    checkpoint: str = ""
    folder: str = ""
    file_name: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    extensions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The kind of job: "merge", "extras", "img2img" where pictures are given, "txt2img"."""
        if self.merge is not None:
            return "merge"
        if self.extras is not None:
            return "extras"
        return "img2img" if self.init_images else "txt2img"

    @property
    def inputs(self) -> tuple[InputImage, ...]:
        """All pictures that the job needs."""
        of_units = [image for unit in self.control for image in (unit.image, unit.mask)]
        single = (self.mask, self.first_picture, *of_units)
        several = (*self.init_images, *self.references)
        return (*several, *(image for image in single if image is not None))

    @property
    def hires_size(self) -> tuple[int, int]:
        """(width, height) that hires fix enlarges a resolved request to, before it crops.

        One side left open follows the other; with both given the picture covers them (A1111).
        """
        width, height = self.width or DEFAULT_SIZE, self.height or DEFAULT_SIZE
        to_width, to_height = self.hires_width, self.hires_height
        if not to_width and not to_height:
            to_width, to_height = int(width * self.hires_scale), int(height * self.hires_scale)
        elif not to_height or (to_width and width * to_height < height * to_width):
            to_height = to_width * height // width
        else:
            to_width = to_height * width // height
        multiple = FIELD["width"].multiple_of
        return _floor(max(to_width, 8), multiple), _floor(max(to_height, 8), multiple)

    @property
    def final_size(self) -> tuple[int, int]:
        """(width, height) of the largest picture that a resolved request computes."""
        if not self.hires:
            return self.width or DEFAULT_SIZE, self.height or DEFAULT_SIZE
        width, height = self.hires_size
        if self.hires_width and self.hires_height:
            multiple = FIELD["width"].multiple_of
            width = min(width, _floor(max(self.hires_width, 8), multiple))
            height = min(height, _floor(max(self.hires_height, 8), multiple))
        return width, height

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

    def image_prompt(self, index: int) -> str:
        """Prompt of picture `index`, styles applied and choices made."""
        return self.prompts[index % len(self.prompts)] if self.prompts else self.prompt

    def image_negative_prompt(self, index: int) -> str:
        """Negative prompt of picture `index`."""
        texts = self.negative_prompts
        return texts[index % len(texts)] if texts else self.negative_prompt

    def image_hires_prompt(self, index: int) -> str:
        """Prompt of picture `index` in the second pass."""
        texts = self.hires_prompts or (self.hires_prompt,)
        return texts[index % len(texts)] or self.image_prompt(index)

    def image_hires_negative_prompt(self, index: int) -> str:
        """Negative prompt of picture `index` in the second pass."""
        texts = self.hires_negative_prompts or (self.hires_negative_prompt,)
        return texts[index % len(texts)] or self.image_negative_prompt(index)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types; `from_json` is the inverse."""
        values = {row.name: getattr(self, row.name) for row in fields(self)}
        values["overrides"] = dict(self.overrides)
        values["extensions"] = {name: dict(kept) for name, kept in self.extensions.items()}
        values["init_images"] = [image.to_json() for image in self.init_images]
        values["references"] = [image.to_json() for image in self.references]
        values["control"] = [unit.to_json() for unit in self.control]
        for name in (*_SINGLE_IMAGES, "extras", "merge"):
            values[name] = values[name].to_json() if values[name] else None
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> GenerationRequest:
        """Build a request from `to_json`'s result; keys of other versions are left out."""
        known = {row.name for row in fields(cls)}
        kept = {key: value for key, value in values.items() if key in known}
        # JSON has no tuples.
        lists = {key: tuple(value) for key, value in kept.items() if isinstance(value, list)}
        images: dict[str, Any] = {
            "init_images": tuple(map(InputImage.from_json, kept.get("init_images") or ())),
            "references": tuple(map(InputImage.from_json, kept.get("references") or ())),
            "control": tuple(map(ControlUnit.from_json, kept.get("control") or ())),
            **{name: InputImage.from_json(kept[name]) for name in _SINGLE_IMAGES if kept.get(name)},
            "extras": Extras.from_json(kept["extras"]) if kept.get("extras") else None,
            "merge": Merge.from_json(kept["merge"]) if kept.get("merge") else None,
        }
        return cls(**(kept | lists | images))


@dataclass(frozen=True, kw_only=True)
class Recommended:
    """What a checkpoint's kind or metadata recommends; None where they say nothing."""

    width: int | None = None
    height: int | None = None
    steps: int | None = None
    cfg_scale: float | None = None
    distilled_cfg_scale: float | None = None
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
    allowed = f"at most {limits.pixels_per_image} pixels a picture"
    if (request.width or 0) * (request.height or 0) > limits.pixels_per_image:
        raise InvalidRequest(FIELD["width"].api, f"{request.width}x{request.height}", allowed)
    _validate_pictures(request)
    validate_units(request.control)
    # What is computed before it is cropped counts.
    width, height = request.hires_size
    if request.hires and width * height > limits.pixels_per_image:
        by_size = request.hires_width or request.hires_height
        field = FIELD["hires_width" if by_size else "hires_scale"].api
        raise InvalidRequest(field, f"{width}x{height}", allowed)


def _validate_pictures(request: GenerationRequest) -> None:
    given = len(request.init_images)
    # A single one is repeated; A1111 draws fewer pictures when it gets fewer than a batch.
    if given > 1 and given > request.batch_size:
        raise InvalidRequest(
            "init_images", f"{given} pictures", "one, or as many as batch_size at most"
        )
    if len(request.references) > MOST_REFERENCES:
        found = f"{len(request.references)} pictures"
        raise InvalidRequest("reference_images", found, f"at most {MOST_REFERENCES}")
    if request.references and request.reference_side and request.reference_side < LEAST_SIDE:
        allowed = f"0, or at least {LEAST_SIDE} pixels"
        raise InvalidRequest("reference_side", request.reference_side, allowed)
    if request.hires and given:
        raise InvalidRequest(FIELD["hires"].api, True, "false with init_images")
    if request.mask is not None and not given:
        raise InvalidRequest("mask", "a mask", "none without init_images")


def resolve(
    request: GenerationRequest,
    *,
    checkpoint: str,
    recommended: Recommended,
    sampler: str,
    schedule: str,
    prompts: Callable[[GenerationRequest], GenerationRequest] | None = None,
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
        prompts: adds the pictures' prompts to the request, whose seeds are known by then; None
            leaves them as typed.
        rng: source of random seeds.
    """
    rng = rng or random.Random()
    width = request.width or min(DEFAULT_SIZE, recommended.width or DEFAULT_SIZE)
    height = request.height or min(DEFAULT_SIZE, recommended.height or DEFAULT_SIZE)
    cfg_scale = request.cfg_scale
    if cfg_scale is None:
        cfg_scale = recommended.cfg_scale or DEFAULT_CFG_SCALE
    distilled = request.distilled_cfg_scale
    if distilled is None:
        distilled = recommended.distilled_cfg_scale or DEFAULT_DISTILLED_CFG_SCALE
    strength = request.denoising_strength
    if strength is None and (request.init_images or request.hires):
        strength = _IMG2IMG_STRENGTH if request.init_images else _HIRES_STRENGTH
    given = len(request.init_images)
    resolved = replace(
        request,
        checkpoint=checkpoint,
        sampler=sampler,
        schedule=schedule,
        width=_floor(width, FIELD["width"].multiple_of),
        height=_floor(height, FIELD["height"].multiple_of),
        cfg_scale=float(cfg_scale),
        distilled_cfg_scale=float(distilled),
        batch_size=given if given > 1 else request.batch_size,
        denoising_strength=strength,
        seed=request.seed if request.seed >= 0 else rng.randrange(_RANDOM_SEEDS),
        subseed=request.subseed if request.subseed >= 0 else rng.randrange(_RANDOM_SEEDS),
    )
    return resolved if prompts is None else prompts(resolved)


def _floor(value: int, multiple: int | None) -> int:
    return value - value % multiple if multiple else value

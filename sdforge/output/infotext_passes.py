"""The part of an infotext that tells of passes: img2img, inpainting, hires fix, refiner, tiling.

`infotext.py` writes and reads the whole text and asks here for these keys, whose values are not
simply a field's: sizes, names of choices, and what holds only where it is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sdforge.core.request import GenerationRequest
from sdforge.core.result import GenerationInfo
from sdforge.core.settings import OPTIONS, Settings
from sdforge.output.infotext_modules import hires_module_parameters, hires_module_values

_MASKED_CONTENT = ("fill", "original", "latent noise", "latent nothing")
_ONLY_MASKED, _NOT_MASKED = "Only masked", "Inpaint not masked"
_WHOLE_NUMBER = re.compile(r"\d{1,4}")
# What A1111's pages call "the same as in the first pass".
_SAME = frozenset(("Use same sampler", "Use same scheduler", "Use same checkpoint", "None"))
_MAY_BE_THE_SAME = {
    "Hires sampler": "hires_sampler",
    "Hires schedule type": "hires_schedule",
    "Hires checkpoint": "hires_checkpoint",
    "Refiner": "refiner",
}
# Settings with a key of their own that are written here, where they count.
WRITTEN_HERE = frozenset(
    ("initial_noise_multiplier", "img2img_extra_noise", "tiling", "hires_fix_refiner_pass",
     "refiner_switch_by_sample_steps", "inpainting_mask_weight", "face_restoration",
     "face_restoration_model", "code_former_weight")
)  # fmt: skip


def strength_of(request: GenerationRequest) -> float | None:
    """Return the denoising strength where it counts."""
    return request.denoising_strength if request.hires or request.init_images else None


def is_tiled(request: GenerationRequest, settings: Settings) -> bool:
    """Whether opposite edges were made to fit."""
    return settings.tiling if request.tiling is None else request.tiling


def face_parameters(request: GenerationRequest, settings: Settings) -> dict[str, Any]:
    """Return the keys of what restored the faces, where anything did."""
    asked = request.restore_faces
    if not (settings.face_restoration if asked is None else asked):
        return {}
    model, weight = settings.face_restoration_model, settings.code_former_weight
    is_usual = model != "CodeFormer" or weight == OPTIONS["code_former_weight"].default
    return {"Face restoration": model, "CodeFormer weight": None if is_usual else weight}


def pass_parameters(info: GenerationInfo, settings: Settings) -> dict[str, Any]:
    """Return the keys of a picture's passes in A1111's order; those with None are not written."""
    request = info.request
    values: dict[str, Any] = {}
    if request.hires:
        values |= _hires_parameters(info)
    if request.refiner:
        values["Refiner"] = _label(info, request.refiner)
        values["Refiner switch at"] = request.refiner_switch_at or 0.0
        # A1111 takes a missing key for its own rule.
        values["Refiner switch by sampling steps"] = settings.refiner_switch_by_sample_steps
        if request.hires and settings.hires_fix_refiner_pass != "second pass":
            values["Hires refiner"] = settings.hires_fix_refiner_pass
    if request.init_images:
        asked = request.initial_noise_multiplier
        noise = settings.initial_noise_multiplier if asked is None else asked
        values["Noise multiplier"] = None if noise == 1.0 else noise
    if request.init_images or request.hires:
        values["Extra noise"] = settings.img2img_extra_noise or None
    if request.mask is not None:
        values |= _mask_parameters(request)
    return values


def _hires_parameters(info: GenerationInfo) -> dict[str, Any]:
    request = info.request
    by_size = bool(request.hires_width or request.hires_height)
    prompt, against = (
        request.image_hires_prompt(info.index),
        request.image_hires_negative_prompt(info.index),
    )
    checkpoint, cfg_scale = request.hires_checkpoint, request.hires_cfg_scale
    return {
        "Hires upscale": None if by_size else request.hires_scale,
        "Hires resize": f"{request.hires_width}x{request.hires_height}" if by_size else None,
        "Hires checkpoint": (
            _label(info, checkpoint) if checkpoint and checkpoint != request.checkpoint else None
        ),
        **hires_module_parameters(request.hires_modules),
        "Hires sampler": _unless(request.hires_sampler, request.sampler),
        "Hires schedule type": _unless(request.hires_schedule, request.schedule),
        "Hires prompt": _unless(prompt, info.prompt),
        "Hires negative prompt": _unless(against, info.negative_prompt),
        "Hires CFG Scale": _unless(cfg_scale, request.cfg_scale),
        "Hires Distilled CFG Scale": _unless(
            request.hires_distilled_cfg_scale, request.distilled_cfg_scale
        ),
        "Hires steps": request.hires_steps or None,
        "Hires upscaler": request.hires_upscaler,
    }


def _mask_parameters(request: GenerationRequest) -> dict[str, Any]:
    is_even = request.mask_blur_x == request.mask_blur_y
    content = _MASKED_CONTENT[request.masked_content]
    return {
        "Mask mode": _NOT_MASKED if request.mask_invert else None,
        "Mask blur": request.mask_blur_x if is_even else None,
        "Mask blur x": None if is_even else request.mask_blur_x,
        "Mask blur y": None if is_even else request.mask_blur_y,
        "Inpaint area": _ONLY_MASKED if request.only_masked else None,
        "Masked area padding": request.only_masked_padding if request.only_masked else None,
        "Masked content": None if content == "original" else content,
        "Mask rounding": None if request.mask_round else False,
    }


def _unless(value: Any, same: Any) -> Any:
    return value if value and value != same else None


def _label(info: GenerationInfo, title: str) -> str:
    """Return a checkpoint's name with its hash, as A1111 writes it."""
    model = info.others.get(title)
    if model is None:
        return title
    return f"{model.name} [{model.short_hash}]" if model.short_hash else model.name


def pass_values(fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the request's values that these keys stand for; what cannot be used is left out."""
    values: dict[str, Any] = {}
    if any(key in fields for key in ("Hires upscale", "Hires upscaler", "Hires resize")):
        values["hires"] = True
    for key, name in _MAY_BE_THE_SAME.items():
        if key in fields:
            values[name] = "" if fields[key] in _SAME else fields[key]
    for key, name in (("Tiling", "tiling"), ("Mask rounding", "mask_round")):
        if key in fields:
            values[name] = fields[key].strip().casefold() == "true"
    if "Face restoration" in fields:
        values["restore_faces"] = fields["Face restoration"].strip().casefold() != "none"
    if values.get("hires"):
        values |= hires_module_values(fields)
    return values | _mask_values(fields)


def _mask_values(fields: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, names in (
        ("Mask blur", ("mask_blur_x", "mask_blur_y")),
        ("Mask blur x", ("mask_blur_x",)),
        ("Mask blur y", ("mask_blur_y",)),
    ):
        if _WHOLE_NUMBER.fullmatch(fields.get(key, "")):
            values |= dict.fromkeys(names, min(int(fields[key]), 256))
    if "Inpaint area" in fields:
        values["only_masked"] = fields["Inpaint area"] == _ONLY_MASKED
    if "Mask mode" in fields:
        values["mask_invert"] = fields["Mask mode"] == _NOT_MASKED
    if fields.get("Masked content") in _MASKED_CONTENT:
        values["masked_content"] = _MASKED_CONTENT.index(fields["Masked content"])
    return values

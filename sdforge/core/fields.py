"""The one table of generation parameters.

A parameter is declared here once: type, default, range, label, A1111's names for it. The page, the
REST API, infotext, sweeps and the docs read this table, so they cannot disagree.
`request.GenerationRequest` has one attribute per row (a test holds the two together).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sdforge.core.errors import InvalidRequest

MAX_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class Field:
    """One generation parameter.

    `minimum`/`maximum`/`step` are the slider's; `lowest`/`highest` are what any client may send.
    `choices` names a list that the server keeps, `options` is the whole list of allowed texts.
    A default of None means "what the checkpoint recommends" and is filled in when the request is
    resolved. `only` names the one kind of job ("txt2img", "img2img") that has the parameter.
    """

    name: str
    kind: type
    default: Any
    label: str
    api: str
    api_default: Any = None
    infotext: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    lowest: float | None = None
    highest: float | None = None
    multiple_of: int | None = None
    choices: str | None = None
    options: tuple[str, ...] = ()
    axis: str | None = None
    elem_id: str | None = None
    only: str = ""
    help: str = ""

    def check(self, value: Any) -> None:
        """Raise `InvalidRequest` unless `value` is of the right type and within the limits."""
        if value is None:
            if self.default is not None:
                raise InvalidRequest(self.api, value, self.allowed())
            return
        wanted: tuple[type, ...] = (int, float) if self.kind is float else (self.kind,)
        is_kind = isinstance(value, wanted) and isinstance(value, bool) == (self.kind is bool)
        is_listed = not self.options or value in self.options
        in_limits = not isinstance(value, (int, float)) or self._within(value)
        if not (is_kind and is_listed and in_limits):
            raise InvalidRequest(self.api, value, self.allowed())

    def _within(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        return not (
            (self.lowest is not None and value < self.lowest)
            or (self.highest is not None and value > self.highest)
        )

    def allowed(self) -> str:
        """Say in words what values are allowed."""
        if self.options:
            return f"one of {', '.join(self.options)}"
        words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
        text = words.get(self.kind, self.kind.__name__)
        if self.lowest is not None and self.highest is not None:
            text += f" from {self.lowest:g} to {self.highest:g}"
        elif self.lowest is not None:
            text += f" of at least {self.lowest:g}"
        return text


# Sizes: A1111's sliders go from 64 to 2048 in steps of 8; its API does not clamp. 16384 is where
# one side alone needs more than 4 GiB of pixels at the other slider's end.
FIELDS: tuple[Field, ...] = (
    Field(
        name="prompt", kind=str, default="", api_default="", label="Prompt", api="prompt",
        elem_id="prompt", help="What the picture should show.",
    ),
    Field(
        name="negative_prompt", kind=str, default="", api_default="", label="Negative prompt",
        api="negative_prompt", infotext="Negative prompt", elem_id="neg_prompt",
        help="What it should not show.",
    ),
    Field(
        name="steps", kind=int, default=20, api_default=50, label="Sampling steps", api="steps",
        infotext="Steps", minimum=1, maximum=150, step=1, lowest=1, highest=1000, axis="Steps",
        elem_id="steps", help="How many times the sampler improves the picture.",
    ),
    Field(
        name="sampler", kind=str, default="Euler a", api_default="Euler", label="Sampling method",
        api="sampler_name", infotext="Sampler", choices="samplers", axis="Sampler",
        elem_id="sampling", help="The rule that removes noise.",
    ),
    Field(
        name="schedule", kind=str, default="Automatic", api_default="Automatic",
        label="Schedule type", api="scheduler", infotext="Schedule type", choices="schedules",
        axis="Schedule type", elem_id="scheduler",
        help="How noise falls over the steps; Automatic takes what suits the sampler.",
    ),
    Field(
        name="width", kind=int, default=None, label="Width", api="width", infotext="Size",
        minimum=64, maximum=2048, step=8, lowest=16, highest=16384, multiple_of=8,
        elem_id="width", help="Pixels; rounded down to a multiple of 8.",
    ),
    Field(
        name="height", kind=int, default=None, label="Height", api="height", infotext="Size",
        minimum=64, maximum=2048, step=8, lowest=16, highest=16384, multiple_of=8,
        elem_id="height", help="Pixels; rounded down to a multiple of 8.",
    ),
    Field(
        name="batch_count", kind=int, default=1, api_default=1, label="Batch count", api="n_iter",
        minimum=1, maximum=100, step=1, lowest=1, highest=1000, elem_id="batch_count",
        help="How many batches, one after another.",
    ),
    Field(
        name="batch_size", kind=int, default=1, api_default=1, label="Batch size",
        api="batch_size", infotext="Batch size", minimum=1, maximum=8, step=1, lowest=1,
        highest=64, elem_id="batch_size", help="How many pictures at once.",
    ),
    Field(
        name="cfg_scale", kind=float, default=None, label="CFG Scale", api="cfg_scale",
        infotext="CFG scale", minimum=1, maximum=30, step=0.5, lowest=0, highest=100,
        axis="CFG Scale", elem_id="cfg_scale",
        help="How closely to follow the prompt; at 1 the negative prompt has no effect.",
    ),
    Field(
        name="distilled_cfg_scale", kind=float, default=None,
        label="Distilled CFG Scale", api="distilled_cfg_scale", infotext="Distilled CFG Scale",
        minimum=0, maximum=30, step=0.1, lowest=0, highest=100, axis="Distilled CFG Scale",
        elem_id="distilled_cfg_scale",
        help="How closely to follow the prompt, for models that are told so: Flux dev 3.5, Fill 30, "
        "Kontext 2.5.",
    ),
    Field(
        name="seed", kind=int, default=-1, api_default=-1, label="Seed", api="seed",
        infotext="Seed", lowest=-1, highest=MAX_SEED, axis="Seed", elem_id="seed",
        help="The start of the noise; −1 takes a new one each time.",
    ),
    Field(
        name="subseed", kind=int, default=-1, api_default=-1, label="Variation seed",
        api="subseed", infotext="Variation seed", lowest=-1, highest=MAX_SEED,
        axis="Var. seed", elem_id="subseed", help="Seed of the noise that is mixed in.",
    ),
    Field(
        name="subseed_strength", kind=float, default=0.0, api_default=0.0,
        label="Variation strength", api="subseed_strength", infotext="Variation seed strength",
        minimum=0, maximum=1, step=0.01, lowest=0, highest=1, axis="Var. strength",
        elem_id="subseed_strength", help="How much of the variation's noise is mixed in.",
    ),
    Field(
        name="seed_resize_from_w", kind=int, default=0, api_default=-1,
        label="Resize seed from width", api="seed_resize_from_w", infotext="Seed resize from",
        minimum=0, maximum=2048, step=8, lowest=-1, highest=16384,
        elem_id="seed_resize_from_w", help="Keep the composition that this width had; 0 is off.",
    ),
    Field(
        name="seed_resize_from_h", kind=int, default=0, api_default=-1,
        label="Resize seed from height", api="seed_resize_from_h", infotext="Seed resize from",
        minimum=0, maximum=2048, step=8, lowest=-1, highest=16384,
        elem_id="seed_resize_from_h", help="Keep the composition that this height had; 0 is off.",
    ),
    Field(
        name="eta", kind=float, default=None, label="Eta", api="eta", infotext="Eta", lowest=0,
        highest=10, axis="Eta", help="Share of fresh noise per step, for samplers that add any.",
    ),
    Field(
        name="s_churn", kind=float, default=None, label="Sigma churn", api="s_churn",
        infotext="Sigma churn", lowest=0, highest=100, axis="Sigma Churn",
        help="Extra noise per step (Euler).",
    ),
    Field(
        name="s_tmin", kind=float, default=None, label="Sigma tmin", api="s_tmin",
        infotext="Sigma tmin", lowest=0, highest=1000, axis="Sigma min",
        help="Churn only above this sigma.",
    ),
    Field(
        name="s_tmax", kind=float, default=None, label="Sigma tmax", api="s_tmax",
        infotext="Sigma tmax", lowest=0, highest=1000, axis="Sigma max",
        help="Churn only below this sigma; 0 means no limit.",
    ),
    Field(
        name="s_noise", kind=float, default=None, label="Sigma noise", api="s_noise",
        infotext="Sigma noise", lowest=0, highest=10, axis="Sigma noise",
        help="Scale of the noise that samplers add.",
    ),
    Field(
        name="s_min_uncond", kind=float, default=None, label="Negative Guidance minimum sigma",
        api="s_min_uncond", infotext="NGMS", lowest=0, highest=1000,
        axis="Negative Guidance minimum sigma",
        help="Below this sigma every second step goes without the negative prompt; 0 is off.",
    ),
    Field(
        name="denoising_strength", kind=float, default=None, label="Denoising strength",
        api="denoising_strength", infotext="Denoising strength", minimum=0, maximum=1, step=0.01,
        lowest=0, highest=1, axis="Denoising",
        elem_id="denoising_strength",
        help="How far from the picture it starts with: 0 keeps it, 1 forgets it.",
    ),
    Field(
        name="tiling", kind=bool, default=None, label="Tiling", api="tiling", infotext="Tiling",
        elem_id="tiling",
        help="Make a picture whose opposite edges fit; left out, the setting decides.",
    ),
    Field(
        name="restore_faces", kind=bool, default=None, label="Restore faces", api="restore_faces",
        infotext="Face restoration", axis="Face restore", elem_id="restore_faces",
        help="Draw faces again with the network of the settings; left out, the setting decides.",
    ),
    Field(
        name="refiner", kind=str, default="", api_default="", label="Refiner",
        api="refiner_checkpoint", infotext="Refiner", choices="checkpoints",
        axis="Refiner checkpoint", elem_id="checkpoint",
        help="Another checkpoint that draws the last steps.",
    ),
    Field(
        name="refiner_switch_at", kind=float, default=None, label="Refiner switch at",
        api="refiner_switch_at", infotext="Refiner switch at", minimum=0.01, maximum=1, step=0.01,
        lowest=0, highest=1, axis="Refiner switch at",
        elem_id="switch_at",
        help="Share of the steps after which the refiner takes over; left out, from the start.",
    ),
    Field(
        name="hires", kind=bool, default=False, api_default=False, label="Hires. fix",
        api="enable_hr", only="txt2img", elem_id="hr-checkbox",
        help="Draw small, enlarge, and draw over that.",
    ),
    Field(
        name="hires_scale", kind=float, default=2.0, api_default=2.0, label="Upscale by",
        api="hr_scale", infotext="Hires upscale", minimum=1, maximum=4, step=0.05, lowest=0.05,
        highest=64, only="txt2img", elem_id="hr_scale", help="Factor of width and height.",
    ),
    Field(
        name="hires_upscaler", kind=str, default="Latent", api_default="Latent",
        label="Hires upscaler", api="hr_upscaler", infotext="Hires upscaler", choices="upscalers",
        axis="Hires upscaler", only="txt2img", elem_id="hr_upscaler",
        help="How the first picture is enlarged.",
    ),
    Field(
        name="hires_steps", kind=int, default=0, api_default=0, label="Hires steps",
        api="hr_second_pass_steps", infotext="Hires steps", minimum=0, maximum=150, step=1,
        lowest=0, highest=1000, axis="Hires steps", only="txt2img",
        elem_id="hires_steps", help="Steps of the second pass; 0 takes as many as the first.",
    ),
    Field(
        name="hires_width", kind=int, default=0, api_default=0, label="Resize width to",
        api="hr_resize_x", infotext="Hires resize", minimum=0, maximum=2048, step=8, lowest=0,
        highest=16384, only="txt2img", elem_id="hr_resize_x",
        help="Pixels; 0 follows the height or the factor.",
    ),
    Field(
        name="hires_height", kind=int, default=0, api_default=0, label="Resize height to",
        api="hr_resize_y", infotext="Hires resize", minimum=0, maximum=2048, step=8, lowest=0,
        highest=16384, only="txt2img", elem_id="hr_resize_y",
        help="Pixels; 0 follows the width or the factor.",
    ),
    Field(
        name="hires_checkpoint", kind=str, default="", api_default="", label="Hires checkpoint",
        api="hr_checkpoint_name", infotext="Hires checkpoint", choices="checkpoints",
        only="txt2img", elem_id="hr_checkpoint", help="Draws the second pass; empty for the same.",
    ),
    Field(
        name="hires_sampler", kind=str, default="", api_default="", label="Hires sampling method",
        api="hr_sampler_name", infotext="Hires sampler", choices="samplers", axis="Hires sampler",
        only="txt2img", elem_id="hr_sampler", help="Of the second pass; empty for the same.",
    ),
    Field(
        name="hires_schedule", kind=str, default="", api_default="", label="Hires schedule type",
        api="hr_scheduler", infotext="Hires schedule type", choices="schedules", only="txt2img",
        elem_id="hr_scheduler", help="Of the second pass; empty for the same.",
    ),
    Field(
        name="hires_prompt", kind=str, default="", api_default="", label="Hires prompt",
        api="hr_prompt", infotext="Hires prompt", only="txt2img",
        elem_id="hires_prompt", help="Of the second pass; empty for the same.",
    ),
    Field(
        name="hires_negative_prompt", kind=str, default="", api_default="",
        label="Hires negative prompt", api="hr_negative_prompt", infotext="Hires negative prompt",
        only="txt2img", elem_id="hires_neg_prompt", help="Of the second pass; empty for the same.",
    ),
    Field(
        name="hires_cfg_scale", kind=float, default=None, label="Hires CFG Scale", api="hr_cfg",
        infotext="Hires CFG Scale", minimum=0, maximum=30, step=0.5, lowest=0, highest=100,
        only="txt2img", elem_id="hr_cfg", help="Of the second pass; left out or 0 for the same.",
    ),
    Field(
        name="hires_distilled_cfg_scale", kind=float, default=None,
        label="Hires Distilled CFG Scale", api="hr_distilled_cfg",
        infotext="Hires Distilled CFG Scale", minimum=0, maximum=30, step=0.1, lowest=0,
        highest=100, only="txt2img", elem_id="hr_distilled_cfg",
        help="Of the second pass; left out or 0 for the same.",
    ),
    Field(
        name="resize_mode", kind=int, default=0, api_default=0, label="Resize mode",
        api="resize_mode", lowest=0, highest=3, only="img2img",
        elem_id="resize_mode",
        help="0 stretches, 1 crops, 2 prolongs the edges, 3 stretches the latents.",
    ),
    Field(
        name="image_cfg_scale", kind=float, default=None, label="Image CFG Scale",
        api="image_cfg_scale", infotext="Image CFG scale", minimum=0, maximum=3, step=0.05,
        lowest=0, highest=100, only="img2img", elem_id="image_cfg_scale",
        help="For checkpoints that follow instructions; no effect on others.",
    ),
    Field(
        name="initial_noise_multiplier", kind=float, default=None, label="Noise multiplier",
        api="initial_noise_multiplier", infotext="Noise multiplier", minimum=0, maximum=1.5,
        step=0.01, lowest=0, highest=10, axis="Initial noise multiplier", only="img2img",
        help="Scale of the first noise; left out, the setting decides.",
    ),
    Field(
        name="mask_blur_x", kind=int, default=4, api_default=4, label="Mask blur along x",
        api="mask_blur_x", infotext="Mask blur", minimum=0, maximum=64, step=1, lowest=0,
        highest=256, only="img2img", elem_id="mask_blur", help="Deviation of the blur, in pixels.",
    ),
    Field(
        name="mask_blur_y", kind=int, default=4, api_default=4, label="Mask blur along y",
        api="mask_blur_y", infotext="Mask blur", minimum=0, maximum=64, step=1, lowest=0,
        highest=256, only="img2img", help="Deviation of the blur, in pixels.",
    ),
    Field(
        name="mask_round", kind=bool, default=True, api_default=True, label="Mask rounding",
        api="mask_round", infotext="Mask rounding", only="img2img",
        help="Latents are repainted wholly or not at all.",
    ),
    Field(
        name="masked_content", kind=int, default=1, api_default=0, label="Masked content",
        api="inpainting_fill", infotext="Masked content", lowest=0, highest=3, only="img2img",
        elem_id="inpainting_fill",
        help="What is repainted starts as: 0 its surroundings, 1 itself, 2 noise, 3 nothing.",
    ),
    Field(
        name="only_masked", kind=bool, default=False, api_default=True, label="Inpaint area",
        api="inpaint_full_res", infotext="Inpaint area", only="img2img",
        elem_id="inpaint_full_res", help="Draw only the part around the mask, at the full size.",
    ),
    Field(
        name="only_masked_padding", kind=int, default=32, api_default=0,
        label="Only masked padding, pixels", api="inpaint_full_res_padding",
        infotext="Masked area padding", minimum=0, maximum=256, step=4, lowest=0, highest=4096,
        only="img2img", elem_id="inpaint_full_res_padding",
        help="How much of the surroundings is drawn with it.",
    ),
    Field(
        name="mask_invert", kind=bool, default=False, api_default=False, label="Mask mode",
        api="inpainting_mask_invert", infotext="Mask mode", only="img2img",
        elem_id="mask_mode", help="Repaint what is not masked.",
    ),
)  # fmt: skip

FIELD: dict[str, Field] = {field.name: field for field in FIELDS}


def fields_of(kind: str) -> tuple[Field, ...]:
    """Return the parameters of one kind of job, "txt2img" or "img2img"."""
    return tuple(row for row in FIELDS if row.only in ("", kind))

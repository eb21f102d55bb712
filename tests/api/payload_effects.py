"""What each field of A1111's payloads does, as data: one row a field.

`test_payload_fields.py` posts every row to a server over a real model and looks whether the answer
changes as the row says; `scripts/docs.py` writes `docs/payload-fields.md` from it. A field that is
in no row fails the test, so none can be taken and do nothing unnoticed.

Values that begin with "@" stand for pictures, which the test makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BOTH, TXT2IMG, IMG2IMG = ("txt2img", "img2img"), ("txt2img",), ("img2img",)
# What a row claims: other pixels; the same pixels; an answer that names the field; or what a test
# of its own shows.
PICTURE, SAME, REFUSED, ANSWER = "picture", "same", "refused", "answer"


@dataclass(frozen=True)
class Effect:
    """A field, what it does, and two payloads that differ in it.

    Attributes:
        name: of the field.
        does: the effect in words, or why there is none.
        value: what is sent; the other payload has `instead`, or leaves the field out.
        instead: see there.
        routes: that have the field.
        base: what both payloads have besides the usual.
        kind: what is compared.
        shows: for ANSWER, the function of the test that looks at the answer.
    """

    name: str
    does: str
    value: Any
    instead: Any = None
    routes: tuple[str, ...] = BOTH
    base: Mapping[str, Any] = field(default_factory=dict)
    kind: str = PICTURE
    shows: str = ""


_HIRES = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.7}
_MASKED = {"mask": "@mask"}
_ANCESTRAL = {"sampler_name": "Euler a"}
# Names a field of another kind of model.
_DISTILLED = "what Flux dev is told of how closely to follow the prompt; nothing on other models"

EFFECTS: tuple[Effect, ...] = (
    # --- what to draw
    Effect("prompt", "what is drawn", "a dog", "a cat"),
    Effect("negative_prompt", "what the picture is led away from", "a tree", ""),
    Effect("styles", "adds the texts of a style to the prompts", ["shiny"]),
    Effect("seed", "the noise", 6, 5),
    Effect("subseed", "the noise of the variation", 2, 1, base={"subseed_strength": 0.5}),
    Effect("subseed_strength", "how much of the variation's noise", 0.5, 0),
    Effect("seed_resize_from_w", "noise as for another width", 48,
           base={"seed_resize_from_h": 64}),
    Effect("seed_resize_from_h", "noise as for another height", 48,
           base={"seed_resize_from_w": 64}),
    Effect("width", "pixels across", 72, 64, kind=ANSWER, shows="is_wider"),
    Effect("height", "pixels down", 72, 64, kind=ANSWER, shows="is_taller"),
    Effect("batch_size", "pictures at once", 2, 1, kind=ANSWER, shows="has_two_pictures"),
    Effect("n_iter", "batches, one after another", 2, 1, kind=ANSWER, shows="has_two_pictures"),
    # --- how
    Effect("sampler_name", "the sampler", "Heun", "Euler"),
    Effect("sampler_index", "the sampler, where sampler_name is empty", "Heun", "Euler",
           base={"sampler_name": None}),
    Effect("scheduler", "how noise falls", "Karras", "Uniform"),
    Effect("restore_faces", "draws faces again with the network of the settings", True, False),
    Effect("steps", "how often the network is asked", 3, 2),
    Effect("cfg_scale", "the weight of the prompts", 9, 3),
    Effect("eta", "noise that ancestral samplers add", 0.3, 1.0, base=_ANCESTRAL),
    Effect("s_churn", "noise added before each step", 20, 0),
    Effect("s_tmin", "noise levels below get none of it", 1000, 0, base={"s_churn": 20}),
    Effect("s_tmax", "noise levels above get none of it", 0.001, 0, base={"s_churn": 20}),
    Effect("s_noise", "its strength", 1.1, 1.0, base={"s_churn": 20}),
    Effect("s_min_uncond", "noise level below which the negative prompt is left out", 15, 0,
           base={"steps": 3}),
    Effect("tiling", "opposite edges fit", True, False),
    Effect("denoising_strength", "how much of the start is redrawn", 0.9, 0.3, routes=IMG2IMG),
    Effect("denoising_strength", "how much of the first pass hires fix redraws", 0.9, 0.3,
           routes=TXT2IMG, base=_HIRES),
    Effect("refiner_checkpoint", "the checkpoint that takes over", "other",
           base={"refiner_switch_at": 0.5}),
    Effect("refiner_switch_at", "when it takes over", 0.9, 0.1,
           base={"refiner_checkpoint": "other", "steps": 4, "denoising_strength": 1.0}),
    # --- A1111's mechanics
    Effect("override_settings", "settings for this job", {"CLIP_stop_at_last_layers": 2}, {}),
    Effect("override_settings_restore_afterwards", "false keeps them", False, kind=ANSWER,
           base={"override_settings": {"samples_filename_pattern": "[seed]-kept"}},
           shows="keeps_the_settings"),
    Effect("disable_extra_networks", "leaves <lora:…> in the prompt as text", True, False,
           base={"prompt": "a cat <lora:nothing:1>"}),
    Effect("infotext", "fills in what is left out",
           "a dog\nSteps: 3, Variation seed: 7, Variation seed strength: 0.5"),
    Effect("send_images", "false leaves the pictures out of the answer", False, kind=ANSWER,
           shows="has_no_pictures"),
    Effect("save_images", "saves the pictures on the server too", True, False, kind=ANSWER,
           shows="is_saved"),
    Effect("force_task_id", "the job's id", "my-task", kind=ANSWER, shows="has_the_id"),
    Effect("script_name", "the script that runs", "loopback", routes=IMG2IMG, kind=ANSWER,
           base={"script_args": [2]}, shows="has_two_pictures"),
    Effect("script_args", "its arguments", [2], [3], routes=IMG2IMG, kind=ANSWER,
           base={"script_name": "loopback"}, shows="has_two_pictures"),
    Effect("script_name", "the script that runs; extensions may be named too", "freeu",
           routes=TXT2IMG, base={"script_args": [True, 1.4, 1.6, 0.9, 0.2]}),
    Effect("script_args", "its arguments", [True, 1.4, 1.6, 0.9, 0.2], [False], routes=TXT2IMG,
           base={"script_name": "freeu"}),
    Effect("alwayson_scripts", "extensions and their values",
           {"FreeU Integrated": {"args": [True, 1.4, 1.6, 0.9, 0.2]}}, {}),
    # --- hires fix
    Effect("enable_hr", "a second pass over the enlarged first", True, False, routes=TXT2IMG,
           base={"hr_scale": 1.5}, kind=ANSWER, shows="is_larger"),
    Effect("hr_scale", "how much larger each side becomes", 2.0, 1.5, routes=TXT2IMG,
           base=_HIRES, kind=ANSWER, shows="is_larger"),
    Effect("hr_resize_x", "the width of the result", 96, 0, routes=TXT2IMG,
           base={**_HIRES, "hr_resize_y": 80}, kind=ANSWER, shows="is_wider"),
    Effect("hr_resize_y", "the height of the result", 96, 0, routes=TXT2IMG,
           base={**_HIRES, "hr_resize_x": 80}, kind=ANSWER, shows="is_taller"),
    Effect("hr_upscaler", "what enlarges", "Lanczos", "Latent", routes=TXT2IMG, base=_HIRES),
    Effect("hr_second_pass_steps", "steps of the second pass", 5, 0, routes=TXT2IMG, base=_HIRES),
    Effect("hr_checkpoint_name", "its checkpoint", "other", routes=TXT2IMG, base=_HIRES),
    Effect("hr_sampler_name", "its sampler", "Heun", routes=TXT2IMG, base=_HIRES),
    Effect("hr_scheduler", "its schedule", "Karras", routes=TXT2IMG,
           base={**_HIRES, "hr_second_pass_steps": 4}),
    Effect("hr_prompt", "its prompt", "a dog", "", routes=TXT2IMG, base=_HIRES),
    Effect("hr_negative_prompt", "its negative prompt", "a tree", "", routes=TXT2IMG, base=_HIRES),
    Effect("hr_cfg", "its CFG scale", 9, 0, routes=TXT2IMG, base=_HIRES),
    Effect("firstphase_width", "older way: width of the first pass", 32, 0, routes=TXT2IMG,
           base={**_HIRES, "firstphase_height": 48}),
    Effect("firstphase_height", "older way: height of the first pass", 32, 0, routes=TXT2IMG,
           base={**_HIRES, "firstphase_width": 48}),
    Effect("firstpass_image", "a picture that hires fix enlarges instead", "@picture",
           routes=TXT2IMG, base=_HIRES),
    Effect("hr_additional_modules", "its VAE and text encoders", ["other-vae"],
           ["Use same choices"], routes=TXT2IMG, base=_HIRES),
    # --- img2img and inpainting
    Effect("init_images", "what is redrawn", ["@other"], ["@picture"], routes=IMG2IMG),
    Effect("resize_mode", "how it is brought to the size", 1, 0, routes=IMG2IMG,
           base={"height": 72}),
    Effect("initial_noise_multiplier", "scale of the first noise", 0.5, 1.0, routes=IMG2IMG),
    Effect("mask", "what of it is redrawn", "@mask", routes=IMG2IMG),
    Effect("mask_blur", "blur of the mask along both axes", 8, 0, routes=IMG2IMG, base=_MASKED),
    Effect("mask_blur_x", "blur across", 8, 0, routes=IMG2IMG, base=_MASKED),
    Effect("mask_blur_y", "blur down", 8, 0, routes=IMG2IMG, base=_MASKED),
    Effect("mask_round", "latents are redrawn wholly or not at all", False, True, routes=IMG2IMG,
           base={**_MASKED, "mask_blur": 12}),
    Effect("inpainting_fill", "what the masked part starts as", 2, 0, routes=IMG2IMG,
           base=_MASKED),
    Effect("inpaint_full_res", "draws only the part around the mask, at the full size", True,
           False, routes=IMG2IMG, base=_MASKED),
    Effect("inpaint_full_res_padding", "how much of the surroundings with it", 8, 0,
           routes=IMG2IMG, base={**_MASKED, "inpaint_full_res": True}),
    Effect("inpainting_mask_invert", "redraws what is not masked", 1, 0, routes=IMG2IMG,
           base=_MASKED),
    Effect("include_init_images", "sends the pictures back with the parameters", True, False,
           routes=IMG2IMG, kind=ANSWER, shows="echoes_the_pictures"),
    Effect("reference_images", "what Kontext, Flux.2 and Qwen-Image-Edit refer to; refused here",
           ["@picture"], kind=REFUSED),
    # --- taken, and without effect
    Effect("image_cfg_scale", "none on these models: only InstructPix2Pix ones listen to it",
           3.0, 1.5, routes=IMG2IMG, kind=SAME),
    Effect("latent_mask", "none: internal to A1111", "@mask", routes=IMG2IMG, kind=SAME),
    Effect("comments", "none, as in A1111", {"a": "b"}, kind=SAME),
    Effect("do_not_save_samples", "none, as in A1111: save_images decides", True, kind=SAME),
    Effect("do_not_save_grid", "none, as in A1111: save_images decides", True, kind=SAME),
    Effect("distilled_cfg_scale", _DISTILLED, 8.0, 3.5, kind=SAME),
    Effect("hr_distilled_cfg", _DISTILLED, 8.0, 3.5, kind=SAME),
)  # fmt: skip

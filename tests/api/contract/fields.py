"""The fields of txt2img and img2img: default, forms that are taken, forms that are not, effect."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

# Stands for "the same as was sent".
SAME: Any = object()


@dataclass(frozen=True)
class Row:
    """One field.

    Args:
        name: as clients write it.
        default: what the echoed `parameters` hold when it is left out or null.
        forms: (sent, echoed) pairs.
        refused: values that are answered with 422.
        reaches: the attribute of the job's request that carries it; "" for what acts otherwise.
        effect: what it does, or that it does nothing.
        becomes: (sent, attribute) pairs where the attribute is another value than the echo.
        only: the one route that has it.
        also: further fields that must be sent with it.
        given: the default where `also` is sent; None for the usual one.
    """

    name: str
    default: Any
    forms: tuple[tuple[Any, Any], ...]
    refused: tuple[Any, ...] = ()
    reaches: str = ""
    effect: str = ""
    becomes: tuple[tuple[Any, Any], ...] = ()
    only: str = ""
    also: tuple[tuple[str, Any], ...] = ()
    given: Any = None

    @property
    def when_left_out(self) -> Any:
        """What the echo holds when `also` is sent and the field is not."""
        return self.default if self.given is None else self.given


def same(*values: Any) -> tuple[tuple[Any, Any], ...]:
    """Return forms whose echo is what was sent."""
    return tuple((value, value) for value in values)


def picture(size: int = 16, colour: str = "red", kind: str = "PNG", prefix: bool = True) -> str:
    """Return a small picture as clients send it."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(file, kind)
    text = base64.b64encode(file.getvalue()).decode()
    return f"data:image/{kind.lower()};base64,{text}" if prefix else text


INTS = (("7", 7), (7.0, 7), (7.9, 7), (True, 1))
FLOATS = (("0.5", 0.5), (1, 1.0), (True, 1.0))
BOOLS = ((True, True), ("true", True), ("on", True), (1, True), ("False", False), (0, False))
NO_INT = ("seven", [], {}, "")
NO_FLOAT = ("half", [], {}, "")
NO_BOOL = ("maybe", [], {})
NO_TEXT = ([], {}, ["a"])
NO_DICT = ("text", 3, [1])
NO_LIST = ("text", 3, {})

HIRES = (("enable_hr", True), ("denoising_strength", 0.5))
PICTURE = picture()


def _number(name: str, default: Any, effect: str, **more: Any) -> Row:
    return Row(name, default, INTS, NO_INT, effect=effect, **more)


def _float(name: str, default: Any, effect: str, **more: Any) -> Row:
    return Row(name, default, FLOATS, NO_FLOAT, effect=effect, **more)


def _switch(name: str, default: Any, effect: str, **more: Any) -> Row:
    return Row(name, default, BOOLS, NO_BOOL, effect=effect, **more)


# fmt: off
COMMON: tuple[Row, ...] = (
    Row("prompt", "", (("a cat", "a cat"), (5, "5"), ("", "")), NO_TEXT, "prompt", "what is drawn"),
    Row("negative_prompt", "", (("dull", "dull"), (5, "5")), NO_TEXT, "negative_prompt", "what is not drawn"),
    Row("styles", None, same(["a", "no such style"], []), NO_LIST, "", "styles applied to both prompts; unknown names are ignored"),
    Row("seed", -1, (("7", 7), (7.0, 7), (4294967295, 4294967295)), (*NO_INT, -2, 2**33), "seed", "start of the noise; -1 and null draw one"),
    Row("subseed", -1, (("7", 7), (7.0, 7)), (*NO_INT, -2), "subseed", "noise of the variation; -1 and null draw one"),
    _float("subseed_strength", 0.0, "share of the variation's noise; above 0 the seed stays for all pictures", reaches="subseed_strength"),
    _number("seed_resize_from_h", -1, "composition of this height; acts when both are above 0", reaches="seed_resize_from_h"),
    _number("seed_resize_from_w", -1, "composition of this width; acts when both are above 0", reaches="seed_resize_from_w"),
    Row("sampler_name", None, same("DPM++ 2M", "k_euler_a", "euler A", "DPM++ 2M Karras"), (*NO_TEXT, "no such sampler"), "", "the sampler, by name, alias, any case or merged old name; wins over sampler_index"),
    Row("sampler_index", "Euler", same("Euler a", "DPM++ 2M"), NO_TEXT, "sampler", "older name of sampler_name, used when that is empty"),
    Row("scheduler", None, same("karras", "Karras", "Automatic", "automatic", ""), (*NO_TEXT, "no such schedule"), "", "the schedule, by name or label, any case"),
    Row("batch_size", 1, (("2", 2), (2.0, 2)), (*NO_INT, 0, 65), "batch_size", "pictures at once"),
    Row("n_iter", 1, (("2", 2), (2.0, 2)), (*NO_INT, 0, 1001), "batch_count", "batches one after another"),
    Row("steps", 50, INTS, (*NO_INT, 0, 1001), "steps", "sampling steps"),
    Row("cfg_scale", 7.0, (("5", 5.0), (5, 5.0), (1, 1.0)), (*NO_FLOAT, -1, 101), "cfg_scale", "how closely the prompt is followed; 1 leaves the negative prompt out; left out: 7, or what the checkpoint recommends"),
    Row("distilled_cfg_scale", 3.5, FLOATS, NO_FLOAT, "", "guidance of distilled models; left out: 3.5, or what the checkpoint recommends (Fill 30, Kontext 2.5)"),
    Row("width", 64, (("72", 72), (71.5, 71), (79, 79)), (*NO_INT, 8, 20000), "width", "pixels, rounded down to a multiple of 8; left out: 512, or less where the checkpoint is made for less", becomes=((79, 72),)),
    Row("height", 64, (("72", 72), (71.5, 71), (79, 79)), (*NO_INT, 8, 20000), "height", "pixels, as width", becomes=((79, 72),)),
    _switch("restore_faces", None, "faces are restored where the files for it are, else a notice; null: the setting", reaches="restore_faces"),
    _switch("tiling", None, "opposite edges fit; null: the setting", reaches="tiling"),
    _switch("do_not_save_samples", False, "no effect, as in A1111: save_images decides"),
    _switch("do_not_save_grid", False, "no effect, as in A1111: save_images decides"),
    _float("eta", None, "share of fresh noise of samplers that add any; null: the setting", reaches="eta"),
    _float("s_min_uncond", None, "below this sigma every second step goes without the negative prompt; null: the setting", reaches="s_min_uncond"),
    _float("s_churn", None, "extra noise of Euler and Heun; null: the setting", reaches="s_churn"),
    _float("s_tmax", None, "churn only below this sigma; 0 is no limit", reaches="s_tmax"),
    _float("s_tmin", None, "churn only above this sigma", reaches="s_tmin"),
    _float("s_noise", None, "scale of the noise that samplers add", reaches="s_noise"),
    Row("override_settings", None, same({"CLIP_stop_at_last_layers": 2}, {"sd_model_checkpoint": "tiny"}, {"of_another_program": 1}, {"sd_model_checkpoint": None}), (*NO_DICT, {"CLIP_stop_at_last_layers": 99}), "", "settings of this job alone; locked ones are ignored, unknown ones have no effect"),
    _switch("override_settings_restore_afterwards", True, "false keeps the overrides as the settings"),
    Row("refiner_checkpoint", None, same("tiny", "None", "none", ""), (*NO_TEXT, "no such model"), "", "another checkpoint draws the last steps; null, empty and None are off"),
    Row("refiner_switch_at", None, FLOATS, (*NO_FLOAT, 1.5, -0.1), "refiner_switch_at", "share of the steps after which it takes over; null: from the first", also=(("refiner_checkpoint", "tiny"),)),
    _switch("disable_extra_networks", False, "<lora:…> stays in the prompt as text", reaches="disable_extra_networks"),
    Row("comments", None, same({"a": 1}, {}), NO_DICT, "", "no effect, as in A1111"),
    Row("script_name", None, same("", "None"), (*NO_TEXT, "no such script"), "", "a script that is selected by name"),
    Row("script_args", [], same([], [1, "a"]), NO_LIST, "", "its arguments in order; missing ones keep their defaults, too many are cut"),
    Row("send_images", True, BOOLS, NO_BOOL, "", "false answers with an empty list"),
    Row("save_images", False, BOOLS, NO_BOOL, "", "the pictures, and a grid of several, are written to the output folders"),
    Row("reference_images", None, (([], None),), (*NO_LIST, ["no picture"], [PICTURE]), "references", "what Flux.2, Kontext and Qwen-Image-Edit refer to; other models refuse", becomes=(([], ()),)),
    Row("alwayson_scripts", {}, ((({}), {}), ([], {}), ({"Sampler": {"args": [20]}}, {"Sampler": {"args": [20]}}), ({"FreeU Integrated": [True]}, {"FreeU Integrated": [True]})), ("text", 3, {"no such script": {}}), "", "arguments of scripts by title, any case; as {\"args\": […]}, a list, or named values"),
    Row("force_task_id", None, same("mine"), (*NO_TEXT, "\n"), "", "the job's id"),
    Row("infotext", None, same("a dog\nSteps: 9, Sampler: Euler a, CFG scale: 5, Seed: 1, Size: 64x64"), NO_TEXT, "", "fills the fields that are left out"),
)

TXT2IMG: tuple[Row, ...] = (
    Row("denoising_strength", None, FLOATS, (*NO_FLOAT, 2, -0.1), "denoising_strength", "how far the second pass goes; left out with hires fix: 0.7", also=(("enable_hr", True),), given=0.7),
    _switch("enable_hr", False, "draws small, enlarges, draws over that", reaches="hires"),
    Row("firstphase_width", 0, (("32", 32), (32.0, 32)), NO_INT, "", "older way to ask: the first pass's width, width × height become the target", also=HIRES),
    Row("firstphase_height", 0, (("32", 32), (32.0, 32)), NO_INT, "", "older way to ask: the first pass's height", also=HIRES),
    Row("hr_scale", 2.0, (("1.5", 1.5), (3, 3.0)), (*NO_FLOAT, 0, 65), "hires_scale", "factor of both sides, when no size is given", also=HIRES),
    Row("hr_upscaler", None, same("Latent", "Latent (bicubic)", "Lanczos", "None", "Nearest"), (*NO_TEXT, "no such upscaler"), "", "how the first picture is enlarged; null: Latent", also=HIRES),
    Row("hr_second_pass_steps", 0, INTS, (*NO_INT, -1, 1001), "hires_steps", "steps of the second pass; 0: as many", also=HIRES),
    Row("hr_resize_x", 0, (("96", 96), (96.0, 96)), (*NO_INT, -1, 20000), "hires_width", "width to enlarge to; 0 follows the height or the factor", also=HIRES),
    Row("hr_resize_y", 0, (("96", 96), (96.0, 96)), (*NO_INT, -1, 20000), "hires_height", "height to enlarge to; 0 follows the width or the factor", also=HIRES),
    Row("hr_checkpoint_name", None, same("tiny", "Use same checkpoint", ""), (*NO_TEXT, "no such model"), "", "checkpoint of the second pass; null and \"Use same checkpoint\": the same", also=HIRES),
    Row("hr_additional_modules", None, same(["Use same choices"], []), NO_LIST, "", "VAE and text encoders of the second pass; null and \"Use same choices\": the same, an empty list: the checkpoint's own", also=HIRES),
    Row("hr_sampler_name", None, same("Euler a", "Use same sampler", ""), (*NO_TEXT, "no such sampler"), "", "sampler of the second pass; null and \"Use same sampler\": the same", also=HIRES),
    Row("hr_scheduler", None, same("Karras", "Use same scheduler", ""), (*NO_TEXT, "no such schedule"), "", "schedule of the second pass; null and \"Use same scheduler\": the same", also=HIRES),
    Row("hr_prompt", "", same("a dog"), NO_TEXT, "hires_prompt", "prompt of the second pass; empty: the same", also=HIRES),
    Row("hr_negative_prompt", "", same("blur"), NO_TEXT, "hires_negative_prompt", "negative prompt of the second pass; empty: the same", also=HIRES),
    Row("hr_cfg", None, (("3", 3.0), (3, 3.0), (0, 0.0)), (*NO_FLOAT, -1, 101), "hires_cfg_scale", "CFG scale of the second pass; left out and 0: the same (Forge draws at 1)", becomes=((0, None),), also=HIRES),
    Row("firstpass_image", None, ((PICTURE, None), (picture(kind="JPEG", prefix=False), None)), (*NO_TEXT, "no picture"), "", "hires fix enlarges this picture instead of drawing one", also=HIRES),
)

# Null is the first pass's in txt2img; in img2img, where there is no second pass, the default stays.
HIRES_DISTILLED = Row("hr_distilled_cfg", None, FLOATS, NO_FLOAT, "", "guidance of distilled models in the second pass")

IMG2IMG: tuple[Row, ...] = (
    Row("init_images", None, ((([PICTURE]), None), ([picture(prefix=False)], None), ([picture(kind="JPEG")], None)), ("text", [3], ["no picture"], [PICTURE, PICTURE]), "", "one picture for all, or up to batch_size; none: 404", ),
    Row("resize_mode", 0, (("2", 2), (3.0, 3)), (*NO_INT, 4, -1), "resize_mode", "0 stretches, 1 crops, 2 prolongs the edges, 3 stretches the latents"),
    Row("denoising_strength", 0.75, FLOATS, (*NO_FLOAT, 2, -0.1), "denoising_strength", "how far from the picture it goes; 0 gives it back"),
    _float("image_cfg_scale", None, "for checkpoints that follow instructions", reaches="image_cfg_scale"),
    Row("mask", None, ((PICTURE, None), (picture(prefix=False), None)), (*NO_TEXT, "no picture"), "", "white, or opaque where there are transparent parts, is redrawn"),
    Row("mask_blur", None, INTS, NO_INT, "", "both mask_blur_x and mask_blur_y"),
    Row("mask_blur_x", 4, INTS, (*NO_INT, -1), "mask_blur_x", "blur of the mask along x"),
    Row("mask_blur_y", 4, INTS, (*NO_INT, -1), "mask_blur_y", "blur of the mask along y"),
    _switch("mask_round", True, "latents are repainted wholly or not at all", reaches="mask_round"),
    Row("inpainting_fill", 0, (("2", 2), (3.0, 3)), (*NO_INT, 4, -1), "masked_content", "start of what is repainted: 0 fill, 1 original, 2 latent noise, 3 latent nothing"),
    Row("inpaint_full_res", True, BOOLS, NO_BOOL, "only_masked", "only the part around the mask is drawn, at the full size"),
    Row("inpaint_full_res_padding", 0, INTS, (*NO_INT, -1), "only_masked_padding", "surroundings that are drawn with it"),
    Row("inpainting_mask_invert", False, ((1, True), (0, False), (True, True), ("true", True)), NO_BOOL, "mask_invert", "repaints what is not masked"),
    _float("initial_noise_multiplier", None, "scale of the first noise; null: the setting", reaches="initial_noise_multiplier"),
    Row("latent_mask", None, (("x", None),), NO_TEXT, "", "no effect, as in A1111"),
)
# fmt: on

# Echoed as null unless asked for, and never itself in the echo.
INCLUDE = Row(
    "include_init_images", None, (), NO_BOOL, "", "true echoes init_images and mask in parameters"
)


def rows_of(kind: str) -> tuple[Row, ...]:
    """Return all fields of "txt2img" or "img2img"."""
    if kind == "txt2img":
        return (*COMMON, *TXT2IMG, HIRES_DISTILLED)
    return (*COMMON, *IMG2IMG, INCLUDE, replace(HIRES_DISTILLED, default=3.5))

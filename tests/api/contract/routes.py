"""The routes: what they are asked, and the shape of what they answer.

A shape is a type, a tuple of types, None, a list of one shape, or a dict of shapes; `...` as a key
lets further keys be, `Any` is anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sdforge.api.sdapi.unavailable import MISSING
from tests.api.contract.fields import PICTURE, Row, same

NUMBER = (int, float)
TEXT_OR_NULL = (str, type(None))
MORE = ...


@dataclass(frozen=True)
class Route:
    """One route: a request that must be answered with `status` and `shape`.

    `shape` of a route that answers no JSON is its media type as text. `note` says where it differs
    from A1111 or Forge.
    """

    method: str
    path: str
    shape: Any
    body: Any = None
    status: int = 200
    note: str = ""

    @property
    def is_here(self) -> bool:
        """Whether this version has it; such that it lacks answer 404."""
        return self.path.removeprefix("/sdapi/v1/") not in MISSING


INFO = {
    "images": [str],
    "parameters": {MORE: Any},
    "info": str,
}
MEMORY = {
    "ram": {"free": int, "used": int, "total": int},
    "cuda": {MORE: Any},
    "sdforge": {MORE: Any},
}
STATE = {
    "skipped": bool,
    "interrupted": bool,
    "stopping_generation": bool,
    "job": str,
    "job_count": int,
    "job_timestamp": str,
    "job_no": int,
    "sampling_step": int,
    "sampling_steps": int,
}
PROGRESS = {
    "progress": float,
    "eta_relative": float,
    "state": STATE,
    "current_image": TEXT_OR_NULL,
    "textinfo": TEXT_OR_NULL,
}
PAGE_PROGRESS = {
    "active": bool,
    "queued": bool,
    "completed": bool,
    "progress": (*NUMBER, type(None)),
    "eta": (*NUMBER, type(None)),
    "live_preview": TEXT_OR_NULL,
    "id_live_preview": int,
    "textinfo": TEXT_OR_NULL,
}
UPSCALER = {
    "name": str,
    "model_name": TEXT_OR_NULL,
    "model_path": TEXT_OR_NULL,
    "model_url": TEXT_OR_NULL,
    "scale": float,
}
CHECKPOINT = {
    "title": str,
    "model_name": str,
    "hash": TEXT_OR_NULL,
    "sha256": TEXT_OR_NULL,
    "filename": str,
    "config": TEXT_OR_NULL,
    MORE: Any,
}
SCHEDULER = {
    "name": str,
    "label": str,
    "aliases": (list, type(None)),
    "default_rho": float,
    "need_inner_model": bool,
}
SCRIPT = {
    "name": str,
    "is_alwayson": bool,
    "is_img2img": bool,
    "args": [
        {
            "label": str,
            "value": Any,
            "minimum": (*NUMBER, type(None)),
            "maximum": (*NUMBER, type(None)),
            "step": (*NUMBER, type(None)),
            "choices": (list, type(None)),
        }
    ],
}
MODULE = {"model_name": str, "filename": str}
SMALL = {"steps": 1, "width": 64, "height": 64}

# fmt: off
ROUTES: tuple[Route, ...] = (
    Route("POST", "/sdapi/v1/txt2img", INFO, SMALL),
    Route("POST", "/sdapi/v1/img2img", INFO, SMALL | {"init_images": [PICTURE]}),
    Route("POST", "/sdapi/v1/extra-single-image", {"html_info": str, "image": str}, {"image": PICTURE, "upscaler_1": "Lanczos"}),
    Route("POST", "/sdapi/v1/extra-batch-images", {"html_info": str, "images": [str]}, {"imageList": [{"data": PICTURE, "name": "a.png"}], "upscaler_1": "Lanczos"}),
    Route("POST", "/sdapi/v1/png-info", {"info": str, "items": {MORE: Any}, "parameters": {MORE: str}, "note": str}, {"image": PICTURE}),
    Route("GET", "/sdapi/v1/progress", PROGRESS),
    Route("GET", "/sdapi/v1/progress?skip_current_image=true", PROGRESS),
    Route("POST", "/sdapi/v1/interrogate", {"caption": str}, {"image": PICTURE, "model": "clip"}),
    Route("POST", "/sdapi/v1/interrupt", {}, note="stops the running job and no waiting one"),
    Route("POST", "/sdapi/v1/skip", None),
    Route("GET", "/sdapi/v1/options", {"sd_model_checkpoint": str, MORE: Any}),
    Route("POST", "/sdapi/v1/options", None, {"jpeg_quality": 80.0}, note="all or nothing; a new checkpoint loads behind the answer"),
    Route("GET", "/sdapi/v1/cmd-flags", {MORE: Any}, note="passwords are asterisks"),
    Route("GET", "/sdapi/v1/samplers", [{"name": str, "aliases": [str], "options": {MORE: Any}}]),
    Route("GET", "/sdapi/v1/schedulers", [SCHEDULER]),
    Route("GET", "/sdapi/v1/upscalers", [UPSCALER]),
    Route("GET", "/sdapi/v1/latent-upscale-modes", [{"name": str}]),
    Route("GET", "/sdapi/v1/sd-models", [CHECKPOINT], note="family and error beside A1111's keys"),
    Route("GET", "/sdapi/v1/sd-vae", [MODULE], note="Forge answers 404"),
    Route("GET", "/sdapi/v1/sd-modules", [MODULE]),
    Route("GET", "/sdapi/v1/hypernetworks", [{"name": str, "path": str}]),
    Route("GET", "/sdapi/v1/face-restorers", [{"name": str, "cmd_dir": TEXT_OR_NULL}], note="those whose models are there"),
    Route("GET", "/sdapi/v1/realesrgan-models", [{"name": str, "path": TEXT_OR_NULL, "scale": NUMBER}], note="those that are there"),
    Route("GET", "/sdapi/v1/prompt-styles", [{"name": str, "prompt": TEXT_OR_NULL, "negative_prompt": TEXT_OR_NULL}]),
    Route("GET", "/sdapi/v1/embeddings", {"loaded": {MORE: Any}, "skipped": {MORE: Any}}),
    Route("POST", "/sdapi/v1/refresh-embeddings", None),
    Route("POST", "/sdapi/v1/refresh-checkpoints", None),
    Route("POST", "/sdapi/v1/refresh-vae", None),
    Route("POST", "/sdapi/v1/create/embedding", {"info": str}, {"name": "x"}),
    Route("POST", "/sdapi/v1/create/hypernetwork", {"info": str}, {"name": "x"}),
    Route("POST", "/sdapi/v1/train/embedding", {"info": str}, {}),
    Route("POST", "/sdapi/v1/train/hypernetwork", {"info": str}, {}),
    Route("GET", "/sdapi/v1/memory", MEMORY, note="who holds what, beside A1111's keys"),
    Route("POST", "/sdapi/v1/unload-checkpoint", {}),
    Route("POST", "/sdapi/v1/reload-checkpoint", {}),
    Route("GET", "/sdapi/v1/scripts", {"txt2img": [str], "img2img": [str]}),
    Route("GET", "/sdapi/v1/script-info", [SCRIPT]),
    Route("GET", "/sdapi/v1/extensions", [{MORE: Any}], note="built-in ones are left out, as in A1111"),
    Route("GET", "/sdapi/v1/loras", [{"name": str, "alias": str, "path": str, "metadata": {MORE: Any}, MORE: Any}], note="family and error beside A1111's keys"),
    Route("POST", "/sdapi/v1/refresh-loras", None),
    Route("POST", "/sdapi/v1/server-stop", {MORE: Any}, status=404, note="with --api-server-stop: stops, text Stopping."),
    Route("POST", "/sdapi/v1/server-kill", {MORE: Any}, status=404, note="with --api-server-stop: ends the process at once"),
    Route("POST", "/sdapi/v1/server-restart", {MORE: Any}, status=404, note="with --api-server-stop: touches the file in SD_WEBUI_RESTART and stops; 501 without"),
    Route("GET", "/sdapi/v1/artists", {MORE: Any}, status=404, note="gone from A1111 since 1.0"),
    Route("GET", "/sdapi/v1/artist-categories", {MORE: Any}, status=404, note="gone from A1111 since 1.0"),
    Route("GET", "/internal/ping", {}),
    Route("GET", "/internal/pending-tasks", {"size": int, "tasks": [str]}),
    Route("POST", "/internal/progress", PAGE_PROGRESS, {"id_task": "no such task"}),
    Route("GET", "/internal/quicksettings-hint", [{"name": str, "label": str}]),
    Route("GET", "/internal/profile-startup", {"total": NUMBER, "records": {MORE: NUMBER}}),
    Route("GET", "/internal/sysinfo", {MORE: Any}, note="without environment, paths and passwords"),
    Route("GET", "/internal/sysinfo-download", "text/plain"),
    Route("GET", "/sd_extra_networks/thumb", {MORE: Any}, status=404, note="only pictures beside listed model files"),
    Route("GET", "/sd_extra_networks/metadata?page=lora&item=x", {}),
    Route("GET", "/sd_extra_networks/cover-images", {"images": [str]}),
    Route("GET", "/controlnet/model_list", {"model_list": [str], "refused": {MORE: str}}),
    Route("GET", "/controlnet/module_list", {"module_list": [str], "module_detail": {MORE: Any}}),
    Route("GET", "/controlnet/module_list?alias_names=true", {"module_list": [str], "module_detail": {MORE: Any}}),
    Route("GET", "/controlnet/control_types", {"control_types": {MORE: {"module_list": [str], "model_list": [str], "default_option": str, "default_model": str}}}),
    Route("GET", "/controlnet/version", {"version": int}),
    Route("GET", "/controlnet/settings", {"control_net_unit_count": int}),
    Route("POST", "/controlnet/detect", {"images": [str], "info": str}, {"controlnet_module": "canny", "controlnet_input_images": [PICTURE]}),
    Route("POST", "/controlnet/detect", {"images": [str], "info": str}, {"controlnet_module": "invert", "controlnet_images": [PICTURE]}, note="webuiapi's spelling of the field"),
    Route("GET", "/docs", "text/html", note="loads nothing from elsewhere"),
    Route("GET", "/redoc", "text/html", note="the same page"),
    Route("GET", "/openapi.json", {"openapi": str, "paths": {MORE: Any}, MORE: Any}),
)

# Both extras routes; the batch has imageList instead of image.
EXTRAS: tuple[Row, ...] = (
    Row("resize_mode", 0, same(0, 1), (2, "x"), effect="0 by factor, 1 to width × height"),
    Row("show_extras_results", True, same(True, False), effect="no effect, as in A1111"),
    Row("gfpgan_visibility", 0, same(0, 0.0), (-1, 2, "x"), effect="share of the restored face"),
    Row("codeformer_visibility", 0, same(0, 0.0), (-1, 2, "x"), effect="share of the restored face"),
    Row("codeformer_weight", 0, same(0, 1), (-1, 2, "x"), effect="0 restores most"),
    Row("upscaling_resize", 2, same(1.5, "2"), (0, -1, "x"), effect="factor"),
    Row("upscaling_resize_w", 512, same(24, "24"), (0, "x"), effect="width to reach"),
    Row("upscaling_resize_h", 512, same(24, "24"), (0, "x"), effect="height to reach"),
    Row("upscaling_crop", True, same(True, False), effect="crops what is too much"),
    Row("upscaler_1", "None", same("None", "Lanczos", "Nearest"), ("no such upscaler",), effect="the upscaler"),
    Row("upscaler_2", "None", same("None", "Lanczos"), effect="one that is mixed in"),
    Row("extras_upscaler_2_visibility", 0, same(0, 0.5), (-1, 2, "x"), effect="its share"),
    Row("upscale_first", False, same(False, True), effect="the order of upscaling and restoring faces"),
)

INTERROGATE: tuple[Row, ...] = (
    Row("image", "", same(PICTURE), ("no picture",), effect="the picture"),
    Row("model", "clip", same("clip"), (), effect="clip or deepdanbooru; another one: 404"),
)

# Titles of A1111's and Forge's scripts, with their arguments' defaults in order.
SCRIPTS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("refiner", ()),
    ("sampler", ()),
    ("seed", ()),
    ("comments", ()),
    ("extra options", ()),
    ("hypertile", ()),
    ("soft inpainting", (False, 1, 0.5, 4, 0, 0.5, 2)),
    ("controlnet", ()),
    ("DynamicThresholding (CFG-Fix) Integrated", (False, 7, 1, "Constant", 0, "Constant", 0, 1, "enable", "MEAN", "AD", 1)),
    ("FreeU Integrated (SD 1.x, SD 2.x, SDXL)", (False, 1.01, 1.02, 0.99, 0.95, 0, 1)),
    ("Kohya HRFix Integrated", (False, 3, 2.0, 0, 0.35, True, "bicubic", "bicubic")),
    ("LatentModifier Integrated", ()),
    ("MultiDiffusion Integrated", (False, "MultiDiffusion", 768, 768, 64, 4)),
    ("Never OOM Integrated", (False, False)),
    ("PerturbedAttentionGuidance Integrated", (False, 3, 0, 0, 1)),
    ("SelfAttentionGuidance Integrated (SD 1.x, SD 2.x, SDXL)", (False, 0.5, 2, 1)),
    ("StyleAlign Integrated", (False, 1)),
    ("prompt matrix", (False, False, "positive", "comma", 0)),
    ("prompts from file or textbox", (False, False, "start", "", False)),
    ("x/y/z plot", ()),
    ("sd upscale", ()),
    ("loopback", (4, 0.5, "Linear", "None")),
    ("poor man's outpainting", ()),
    ("outpainting mk2", ()),
    ("img2img alternative test", ()),
)

# What a ControlNet unit may hold; what it becomes of the job's request, by our names.
UNIT: tuple[Row, ...] = (
    Row("enabled", True, same(True, "true", 1), effect="false leaves the unit out"),
    Row("module", "none", (("Canny", "canny"), ("none", "none"), ("None", "none"), ("INVERT", "invert")), reaches="module", effect="preprocessor, any case"),
    Row("model", "None", same("some net"), reaches="model", effect="network, by name, stem, any case, with or without [hash]"),
    Row("weight", 1.0, (("0.5", 0.5), (2, 2.0)), ("x",), reaches="weight", effect="strength"),
    Row("resize_mode", "Crop and Resize", (("Just Resize", "Just Resize"), (0, "Just Resize"), (2, "Resize and Fill"), ("Envelope (Outer Fit)", "Resize and Fill"), ("Inner Fit (Scale to Fit)", "Crop and Resize"), (3, "Just Resize")), ("x",), reaches="resize_mode", effect="how the picture is fitted"),
    Row("processor_res", -1, ((512, 512), ("512", 512)), ("x",), reaches="processor_res", effect="resolution of the preprocessor; -1 its own"),
    Row("threshold_a", -1.0, (("100", 100.0), (64, 64.0)), ("x",), reaches="threshold_a", effect="first slider of the preprocessor; -1 its own"),
    Row("threshold_b", -1.0, (("100", 100.0), (64, 64.0)), ("x",), reaches="threshold_b", effect="second slider of the preprocessor; -1 its own"),
    Row("guidance_start", 0.0, (("0.1", 0.1),), ("x",), reaches="guidance_start", effect="share of the steps where it begins"),
    Row("guidance_end", 1.0, (("0.9", 0.9),), ("x",), reaches="guidance_end", effect="share of the steps where it ends; also as guidance"),
    Row("pixel_perfect", False, ((True, True), ("true", True)), reaches="pixel_perfect", effect="the preprocessor's resolution follows the picture's"),
    Row("control_mode", "Balanced", (("My prompt is more important", "My prompt is more important"), (2, "ControlNet is more important"), ("ControlMode.BALANCED", "Balanced")), ("x",), reaches="control_mode", effect="what counts more"),
    Row("hr_option", "Both", (("Low res only", "Low res only"), (2, "High res only")), ("x",), reaches="hires_option", effect="which pass of hires fix"),
    Row("union_control_type", "Unknown", (("Depth", "Depth"), ("canny", "Hard Edge"), ("UnionControlNetType.NORMAL_MAP", "Normal Map")), ("x",), reaches="union_control_type", effect="what a union ControlNet is shown; Unknown: what the preprocessor makes"),
    Row("save_detected_map", True, ((False, False),), reaches="save_detected_map", effect="the map comes after the pictures"),
    Row("image", None, same(PICTURE, {"image": PICTURE, "mask": None}, [PICTURE]), ("no picture",), effect="the picture; also as input_image; empty: img2img's"),
    Row("mask_image", None, same(PICTURE), ("no picture",), effect="where it acts; also as mask"),
    Row("low_vram", None, same(True, False), effect="no effect: the memory manager decides"),
    Row("lowvram", None, same(True), effect="no effect: the memory manager decides"),
    Row("input_mode", None, same("simple"), effect="no effect: of the extension's page"),
    Row("use_preview_as_input", None, same(False), effect="no effect: of the extension's page"),
    Row("generated_image", None, same(PICTURE), effect="no effect: of the extension's page"),
    Row("image_fg", None, same(PICTURE), effect="no effect: of the extension's page"),
    Row("mask_image_fg", None, same(PICTURE), effect="no effect: of the extension's page"),
    Row("batch_images", None, same(""), effect="no effect: of the extension's page"),
    Row("inpaint_crop_input_image", None, same(True), effect="no effect"),
    Row("advanced_weighting", None, same([1.0]), effect="no effect"),
    Row("effective_region_mask", None, same(PICTURE), effect="no effect"),
    Row("pulid_mode", None, same("Fidelity"), effect="no effect"),
    Row("ipadapter_input", None, same(["x"]), effect="no effect"),
    Row("animatediff_batch", None, same(False), effect="no effect"),
    Row("batch_modifiers", None, same([]), effect="no effect"),
)

# Case → request → status and A1111's words, where ours are the same.
ERRORS: tuple[tuple[str, Route, str], ...] = (
    ("unknown route", Route("GET", "/sdapi/v1/nothing", None, status=404), "Not Found"),
    ("wrong method", Route("GET", "/sdapi/v1/txt2img", None, status=405), "Method Not Allowed"),
    ("no JSON", Route("POST", "/sdapi/v1/txt2img", None, b"{", status=422), ""),
    ("a wrong value", Route("POST", "/sdapi/v1/txt2img", None, {"steps": "x"}, status=422), ""),
    ("no init image", Route("POST", "/sdapi/v1/img2img", None, {}, status=404), "Init image not found"),
    ("unknown script", Route("POST", "/sdapi/v1/txt2img", None, {"script_name": "x"}, status=422), "Script 'x' not found"),
    ("unknown script that is always on", Route("POST", "/sdapi/v1/txt2img", None, {"alwayson_scripts": {"x": {}}}, status=422), "Script 'x' not found"),
    ("unknown sampler", Route("POST", "/sdapi/v1/txt2img", None, {"sampler_name": "x"}, status=422), ""),
    ("unknown checkpoint", Route("POST", "/sdapi/v1/options", None, {"sd_model_checkpoint": "x"}, status=422), ""),
    ("no picture", Route("POST", "/sdapi/v1/png-info", None, {"image": "AAAA"}, status=422), ""),
    ("a link", Route("POST", "/sdapi/v1/png-info", None, {"image": "http://127.0.0.1/"}, status=422), ""),
    ("unknown preprocessor", Route("POST", "/controlnet/detect", None, {"controlnet_module": "x", "controlnet_input_images": [PICTURE]}, status=422), "Module not available"),
    ("no picture to look at", Route("POST", "/controlnet/detect", None, {"controlnet_module": "canny"}, status=422), "No image selected"),
)
# fmt: on

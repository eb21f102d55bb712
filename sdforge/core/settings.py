"""Settings: every option once, kept in `config.json` under A1111's names.

`Settings` is a frozen snapshot: a job carries its own, so an override never has to be undone.
`SettingsStore` holds the one that persists and writes it atomically. Keys of `config.json` that we
do not know (another program's, a later version's) are kept and written back.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sdforge.core.detail import ORDERS
from sdforge.core.errors import InvalidRequest, StorageError, closest_names
from sdforge.core.option import Option

log = logging.getLogger(__name__)


# Forge's list, and what this program has beyond it. "(fp16 LoRA)" is accepted and changes nothing.
STORAGE_TYPES = (
    *(
        name + suffix
        for name in ("Automatic", "bnb-nf4", "float8-e4m3fn", "bnb-fp4", "float8-e5m2")
        for suffix in ("", " (fp16 LoRA)")
    ),
    "int8", "float16", "bfloat16",
)  # fmt: skip
# A1111's and Forge's modes by the names of their flags; 'auto' lets the device decide.
MEMORY_MODES = (
    "auto", "normal", "medvram", "medvram-sdxl", "lowvram", "always-gpu", "always-high-vram",
    "always-normal-vram", "always-low-vram", "always-no-vram", "always-cpu",
    "always-offload-from-vram",
)  # fmt: skip


def _option(default: Any, label: str, section: str, **more: Any) -> Any:
    return field(default=default, metadata={"label": label, "section": section, **more})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A snapshot of all settings. Attribute names are A1111's option keys where it has one."""

    # fmt: off
    samples_save: bool = _option(True, "Always save all generated images", "saving-images")
    samples_format: str = _option("png", "File format for images", "saving-images", choices=("png", "jpg", "jpeg", "webp"))
    samples_filename_pattern: str = _option("", "Images filename pattern", "saving-images")
    save_images_add_number: bool = _option(True, "Add number to filename when saving", "saving-images")
    grid_save: bool = _option(True, "Always save all generated image grids", "saving-images")
    grid_format: str = _option("png", "File format for grids", "saving-images", choices=("png", "jpg", "jpeg", "webp"))
    grid_only_if_multiple: bool = _option(True, "Do not save grids consisting of one picture", "saving-images")
    return_grid: bool = _option(True, "Show grid in results", "saving-images")
    n_rows: int = _option(-1, "Grid row count; -1 for automatic, 0 for the batch size", "saving-images", minimum=-1, maximum=16)
    jpeg_quality: int = _option(80, "Quality for saved JPEG and WebP images", "saving-images", minimum=1, maximum=100)
    webp_lossless: bool = _option(False, "Use lossless compression for WebP images", "saving-images")
    save_incomplete_images: bool = _option(False, "Save images of interrupted jobs", "saving-images")
    save_images_before_highres_fix: bool = _option(False, "Save a copy of image before applying highres fix", "saving-images")
    outdir_samples: str = _option("", "Output directory for images; if empty, the ones below are used", "saving-paths", locked=True)
    outdir_txt2img_samples: str = _option("outputs/txt2img-images", "Output directory for txt2img images", "saving-paths", locked=True)
    outdir_txt2img_grids: str = _option("outputs/txt2img-grids", "Output directory for txt2img grids", "saving-paths", locked=True)
    outdir_img2img_samples: str = _option("outputs/img2img-images", "Output directory for img2img images", "saving-paths", locked=True)
    outdir_img2img_grids: str = _option("outputs/img2img-grids", "Output directory for img2img grids", "saving-paths", locked=True)
    outdir_extras_samples: str = _option("outputs/extras-images", "Output directory for images from extras tab", "saving-paths", locked=True)
    use_original_name_batch: bool = _option(True, "Use original name for output filename during batch process in extras tab", "saving-images")
    save_to_dirs: bool = _option(True, "Save images to a subdirectory", "saving-to-dirs")
    grid_save_to_dirs: bool = _option(True, "Save grids to a subdirectory", "saving-to-dirs")
    directories_filename_pattern: str = _option("[date]", "Directory name pattern", "saving-to-dirs")
    directories_max_prompt_words: int = _option(8, "Max prompt words for [prompt_words] pattern", "saving-to-dirs", minimum=1, maximum=20)
    enable_pnginfo: bool = _option(True, "Write infotext to metadata of the generated image", "infotext")
    save_txt: bool = _option(False, "Create a text file next to every image with its parameters", "infotext")
    add_model_name_to_info: bool = _option(True, "Add model name to infotext", "infotext")
    add_model_hash_to_info: bool = _option(True, "Add model hash to infotext", "infotext")
    add_version_to_infotext: bool = _option(True, "Add program version to infotext", "infotext")
    sd_model_checkpoint: str = _option("", "Stable Diffusion checkpoint", "sd", infotext="Model")
    sd_vae: str = _option("Automatic", "SD VAE", "vae", infotext="VAE")
    sd_vae_decode_method: str = _option("Full", "Decode pictures with the VAE, or with a small decoder of TAESD's kind: quicker, less exact", "vae", choices=("Full", "TAESD"), infotext="VAE Decoder")
    forge_additional_modules: tuple[str, ...] = _option((), "VAE / Text Encoder: files that bring what a checkpoint lacks, before its own parts", "forge")
    CLIP_stop_at_last_layers: int = _option(1, "Clip skip", "sd", minimum=1, maximum=12, infotext="Clip skip")
    sdxl_clip_l_skip: bool = _option(False, "Clip skip counts for SDXL too, in its smaller text encoder", "sdxl", infotext="Clip skip SDXL")
    sdxl_crop_top: int = _option(0, "SDXL: crop top coordinate that pictures claim to have", "sdxl", minimum=0, maximum=1024)
    sdxl_crop_left: int = _option(0, "SDXL: crop left coordinate that pictures claim to have", "sdxl", minimum=0, maximum=1024)
    sdxl_refiner_low_aesthetic_score: float = _option(2.5, "SDXL refiner: low aesthetic score, for negative prompts", "sdxl", minimum=0, maximum=10)
    sdxl_refiner_high_aesthetic_score: float = _option(6.0, "SDXL refiner: high aesthetic score, for prompts", "sdxl", minimum=0, maximum=10)
    emphasis: str = _option("Original", "Emphasis mode", "sd", choices=("None", "Ignore", "Original", "No norm"), infotext="Emphasis")
    comma_padding_backtrack: int = _option(20, "Prompt word wrap length limit", "sd", minimum=0, maximum=74)
    randn_source: str = _option("GPU", "Random number generator source", "sd", choices=("GPU", "CPU", "NV"), infotext="RNG")
    use_old_scheduling: bool = _option(False, "Use old prompt editing timelines", "compatibility", infotext="Old prompt editing timelines")
    enable_prompt_comments: bool = _option(True, "Enable comments in prompts: from # to the end of the line", "prompt")
    dynamic_prompts: str = _option("Wildcards", "Choices in prompts: __name__ takes a line of a file in the folder wildcards, {a|b} one of its texts", "prompt", choices=("Off", "Wildcards", "Wildcards and variants"))
    include_styles_into_token_counters: bool = _option(True, "Count tokens of enabled styles", "ui")
    batch_cond_uncond: bool = _option(True, "Batch cond/uncond", "optimizations")
    token_merging_ratio: float = _option(0.0, "Token merging ratio; 0 is off, higher is faster and coarser", "optimizations", minimum=0, maximum=0.9)
    token_merging_ratio_hr: float = _option(0.0, "Token merging ratio for the hires pass", "optimizations", minimum=0, maximum=0.9)
    pad_cond_uncond: bool = _option(False, "Pad prompt and negative prompt to the same length", "optimizations", infotext="Pad conds")
    pad_cond_uncond_v0: bool = _option(False, "Pad them as A1111 1.5 did: the negative prompt is cut or its end repeated", "optimizations", infotext="Pad conds v0")
    persistent_cond_cache: bool = _option(True, "Keep encoded prompts from job to job", "optimizations")
    s_min_uncond: float = _option(0.0, "Negative Guidance minimum sigma; below it every second step goes without", "optimizations", minimum=0, maximum=15, infotext="NGMS")
    s_min_uncond_all: bool = _option(False, "Negative Guidance minimum sigma counts in all steps", "optimizations", infotext="NGMS all steps")
    skip_early_cond: float = _option(0.0, "Ignore the negative prompt in this first share of the steps", "sampler-params", minimum=0, maximum=1, infotext="Skip Early CFG")
    eta_ddim: float = _option(0.0, "Eta for DDIM", "sampler-params", minimum=0, maximum=1, infotext="Eta DDIM")
    eta_ancestral: float = _option(1.0, "Eta for k-diffusion samplers", "sampler-params", minimum=0, maximum=1, infotext="Eta")
    s_churn: float = _option(0.0, "sigma churn", "sampler-params", minimum=0, maximum=100, infotext="Sigma churn")
    s_tmin: float = _option(0.0, "sigma tmin", "sampler-params", minimum=0, maximum=10, infotext="Sigma tmin")
    s_tmax: float = _option(0.0, "sigma tmax; 0 is no limit", "sampler-params", minimum=0, maximum=999, infotext="Sigma tmax")
    s_noise: float = _option(1.0, "sigma noise", "sampler-params", minimum=0, maximum=1.1, infotext="Sigma noise")
    sigma_min: float = _option(0.0, "sigma min; 0 is the model's", "sampler-params", minimum=0, maximum=2, infotext="Schedule min sigma")
    sigma_max: float = _option(0.0, "sigma max; 0 is the model's", "sampler-params", minimum=0, maximum=60, infotext="Schedule max sigma")
    rho: float = _option(0.0, "rho; 0 is the schedule's", "sampler-params", minimum=0, infotext="Schedule rho")
    eta_noise_seed_delta: int = _option(0, "Eta noise seed delta", "sampler-params", infotext="ENSD")
    always_discard_next_to_last_sigma: bool = _option(False, "Always discard next-to-last sigma", "sampler-params", infotext="Discard penultimate sigma")
    sgm_noise_multiplier: bool = _option(False, "SGM noise multiplier", "sampler-params", infotext="SGM noise multiplier")
    beta_dist_alpha: float = _option(0.6, "Beta scheduler, alpha: below 1, more steps at much noise", "sampler-params", minimum=0.01, maximum=1, infotext="Beta schedule alpha")
    beta_dist_beta: float = _option(0.6, "Beta scheduler, beta: below 1, more steps at little noise", "sampler-params", minimum=0.01, maximum=1, infotext="Beta schedule beta")
    uni_pc_variant: str = _option("bh1", "UniPC variant", "sampler-params", choices=("bh1", "bh2", "vary_coeff"), infotext="UniPC variant")
    uni_pc_skip_type: str = _option("time_uniform", "UniPC skip type: how its timesteps are spaced", "sampler-params", choices=("time_uniform", "time_quadratic", "logSNR"), infotext="UniPC skip type")
    uni_pc_order: int = _option(3, "UniPC order", "sampler-params", minimum=1, maximum=50, infotext="UniPC order")
    uni_pc_lower_order_final: bool = _option(True, "UniPC lower order final", "sampler-params", infotext="UniPC lower order final")
    initial_noise_multiplier: float = _option(1.0, "Noise multiplier for img2img", "img2img", minimum=0, maximum=1.5, infotext="Noise multiplier")
    img2img_extra_noise: float = _option(0.0, "Extra noise multiplier for img2img and hires fix", "img2img", minimum=0, maximum=1, infotext="Extra noise")
    img2img_color_correction: bool = _option(False, "Apply color correction to img2img results to match original colors", "img2img")
    img2img_fix_steps: bool = _option(False, "With img2img, do exactly the amount of steps the slider specifies", "img2img")
    img2img_batch_use_original_name: bool = _option(False, "Batch: call results like the pictures they are made of, also without an output directory", "img2img")
    img2img_background_color: str = _option("#ffffff", "With img2img, fill transparent parts of the input image with this color", "img2img")
    inpainting_mask_weight: float = _option(1.0, "Inpainting conditioning mask strength: how far inpainting models are kept from seeing what is masked", "img2img", minimum=0, maximum=1, infotext="Conditional mask weight")
    overlay_inpaint: bool = _option(True, "Overlay original for inpaint", "img2img")
    vae_encode_sampling: bool = _option(False, "Draw from the VAE's distribution when a picture is encoded, instead of taking its mean", "img2img")
    ESRGAN_tile: int = _option(192, "Tile size for ESRGAN upscalers, in pixels; 0 is the whole picture where it fits", "upscaling", minimum=0, maximum=512)
    ESRGAN_tile_overlap: int = _option(8, "Tile overlap for ESRGAN upscalers, in pixels: over so many tiles fade into each other", "upscaling", minimum=0, maximum=48)
    upscaler_for_img2img: str = _option("None", "Upscaler for img2img", "upscaling")
    face_restoration: bool = _option(False, "Restore faces", "face-restoration", infotext="Face restoration")
    face_restoration_model: str = _option("CodeFormer", "Face restoration model; its file lies in models/Codeformer or models/GFPGAN", "face-restoration", choices=("CodeFormer", "GFPGAN"), infotext="Face restoration")
    code_former_weight: float = _option(0.5, "CodeFormer weight; 0 restores most, 1 least", "face-restoration", minimum=0, maximum=1, infotext="CodeFormer weight")
    save_images_before_face_restoration: bool = _option(False, "Save a copy of image before doing face restoration", "saving-images")
    ad_save_images_before: bool = _option(False, "Save images before ADetailer", "ADetailer")
    ad_save_previews: bool = _option(False, "Save mask previews", "ADetailer")
    ad_only_selected_scripts: bool = _option(True, "Apply only selected scripts to ADetailer", "ADetailer")
    ad_script_names: str = _option("dynamic_thresholding", "Script names to apply to ADetailer (separated by comma)", "ADetailer")
    ad_bbox_sortby: str = _option("None", "Sort bounding boxes by", "ADetailer", choices=ORDERS)
    ad_same_seed_for_each_tap: bool = _option(False, "Use same seed for each find of ADetailer", "ADetailer")
    tiling: bool = _option(False, "Make pictures that can be tiled", "sd", infotext="Tiling")
    hires_fix_refiner_pass: str = _option("second pass", "Hires fix: which pass to enable refiner for", "sd", choices=("first pass", "second pass", "both passes"), infotext="Hires refiner")
    refiner_switch_by_sample_steps: bool = _option(True, "Refiner: switch by share of the steps, as Forge does; else by the model's timestep, as A1111", "compatibility", infotext="Refiner switch by sampling steps")
    use_old_hires_fix_width_height: bool = _option(False, "For hires fix, use width/height sliders to set final resolution rather than first pass", "compatibility")
    live_previews_enable: bool = _option(True, "Show live previews of the created image", "ui")
    live_previews_image_format: str = _option("jpeg", "Live preview file format", "ui", choices=("jpeg", "png", "webp"))
    show_progress_type: str = _option("Approx NN", "Live preview method: the approximations are a linear map, TAESD a small decoder where there is one for the model, Full the VAE", "ui", choices=("Full", "Approx NN", "Approx cheap", "TAESD"))
    live_preview_allow_lowvram_full: bool = _option(False, "Allow Full live previews with lowvram and medvram too", "ui")
    show_progress_grid: bool = _option(True, "Show previews of all images of a batch as a grid", "ui")
    show_progress_every_n_steps: int = _option(1, "Live preview display period, in steps; -1 for none", "ui", minimum=-1, maximum=32)
    live_preview_refresh_period: int = _option(150, "Progressbar and preview update period, in milliseconds", "ui", minimum=50, maximum=60000)
    quicksettings_list: tuple[str, ...] = _option(("sd_model_checkpoint",), "Quicksettings list: settings that stand at the top of the page too, after those of the preset", "ui")
    localization: str = _option("Automatic", "Language of the page; Automatic is the browser's (reload the page)", "ui")
    notification_audio: bool = _option(False, "Play a sound when a job is done", "ui")
    notification_volume: int = _option(100, "Volume of that sound, in percent", "ui", minimum=0, maximum=100)
    lora_add_hashes_to_infotext: bool = _option(True, "Add Lora hashes to infotext", "lora")
    lora_bundled_ti_to_infotext: bool = _option(True, "Add Lora name as TI hashes for bundled Textual Inversion", "lora")
    lora_in_memory_limit: int = _option(0, "Number of Lora files to keep in memory beside those in use", "lora", minimum=0)
    extra_networks_default_multiplier: float = _option(1.0, "Default multiplier for extra networks", "extra_networks", minimum=0, maximum=2)
    extra_networks_add_text_separator: str = _option(" ", "Text between the prompt and what a card adds to it", "extra_networks")
    textual_inversion_add_hashes_to_infotext: bool = _option(True, "Add Textual Inversion hashes to infotext", "extra_networks")
    control_net_no_detectmap: bool = _option(False, "Do not append detectmap to output: answers show the drawn pictures alone", "control_net")
    forge_inference_memory: int = _option(1024, "Memory kept free for inference, in MiB (GPU weights = total − this)", "forge", minimum=0)
    forge_unet_storage_dtype: str = _option("Automatic", "Diffusion in Low Bits", "forge", choices=STORAGE_TYPES, infotext="Diffusion in Low Bits")
    sd_checkpoints_limit: int = _option(10, "Most checkpoints in main memory at the same time", "sd", minimum=1, maximum=10)
    models_memory_limit: int = _option(0, "Main memory that checkpoints may take together, in MiB; 0 is half of it, less 2 GiB", "forge", minimum=0)
    models_idle_minutes: float = _option(0.0, "Unload all models after so many minutes without a job; 0 is never", "forge", minimum=0, maximum=10080)
    memory_mode: str = _option("auto", "Memory mode", "forge", choices=MEMORY_MODES)
    offload_layers: tuple[str, ...] = _option((), "Parts of the denoiser that stay in main memory and stream in every step, such as down_blocks or mid_block.resnets", "forge")
    forge_preset: str = _option("sd", "Preset of the page; a switch applies its GPU weights", "forge", choices=("sd", "xl", "flux", "flux2", "zimage", "qwen", "all"))
    sd_GPU_MB: int = _option(0, "GPU weights for the preset sd, in MiB; 0 leaves them", "forge", minimum=0)
    xl_GPU_MB: int = _option(0, "GPU weights for the preset xl, in MiB; 0 leaves them", "forge", minimum=0)
    flux_GPU_MB: int = _option(0, "GPU weights for the preset flux, in MiB; 0 leaves them", "forge", minimum=0)
    flux2_GPU_MB: int = _option(0, "GPU weights for the preset flux2, in MiB; 0 leaves them", "forge", minimum=0)
    zimage_GPU_MB: int = _option(0, "GPU weights for the preset zimage, in MiB; 0 leaves them", "forge", minimum=0)
    qwen_GPU_MB: int = _option(0, "GPU weights for the preset qwen, in MiB; 0 leaves them", "forge", minimum=0)
    diffusers_move_unet: bool = _option(False, "Move the unet to CPU during VAE decoding", "forge")
    diffusers_move_base: bool = _option(False, "Move the base model to CPU when using the refiner", "forge")
    diffusers_move_refiner: bool = _option(False, "Move the refiner model to CPU when not in use", "forge")
    api_enable_requests: bool = _option(False, "Allow http:// and https:// links in place of pictures in the API", "API", locked=True)
    api_forbid_local_requests: bool = _option(True, "Refuse links to addresses that are not of the public internet", "API", locked=True)
    api_useragent: str = _option("", "User agent that links are fetched with; empty for none", "API", locked=True)
    max_pixels_per_image: int = _option(67_108_864, "Largest picture that may be asked for, in pixels", "limits", minimum=4096, locked=True)
    max_input_pixels: int = _option(67_108_864, "Largest picture that a client may send, in pixels", "limits", minimum=4096, locked=True)
    inputs_keep_days: float = _option(7.0, "Days that pictures of finished jobs are kept in the folder inputs", "limits", minimum=0, locked=True)
    inputs_max_mib: int = _option(2048, "Most that the folder inputs may hold beside waiting jobs' pictures, in MiB", "limits", minimum=0, locked=True)
    trash_keep_days: float = _option(30.0, "Days that pictures stay in the trash; 0 keeps them until it is emptied", "limits", minimum=0)
    max_images_per_job: int = _option(1000, "Most pictures that one job may make", "limits", minimum=1, locked=True)
    max_queued_jobs: int = _option(1000, "Most jobs that may wait", "limits", minimum=1, locked=True)
    max_sweep_cells: int = _option(10_000, "Most cells of one sweep (X/Y/Z plot)", "limits", minimum=1, locked=True)
    sweeps_keep_days: float = _option(30.0, "Days that unsaved pictures of finished sweeps are kept in the folder sweeps", "limits", minimum=0, locked=True)
    img_max_size_mp: float = _option(200.0, "Largest grid of a sweep, in megapixels; its cells are made smaller to fit", "limits", minimum=0.1)
    # fmt: on
    others: Mapping[str, Any] = field(default_factory=dict)

    def with_overrides(self, values: Mapping[str, Any]) -> Settings:
        """Return a snapshot with some settings changed; unknown keys are kept in `others`.

        Raises:
            InvalidRequest: naming the first key whose value cannot be used.
        """
        known, others = {}, dict(self.others)
        for key, value in values.items():
            if key in OPTIONS:
                known[key] = OPTIONS[key].coerce(value)
            else:
                others[key] = value
        return replace(self, **known, others=others)

    def to_json(self) -> dict[str, Any]:
        """Return all settings as plain JSON types, unknown ones included."""
        values = {key: getattr(self, key) for key in OPTIONS}
        return {
            **self.others,
            **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()},
        }


def _read_options() -> dict[str, Option]:
    kinds = {"bool": bool, "int": int, "float": float, "str": str, "tuple": tuple}
    rows = (row for row in fields(Settings) if row.name != "others")
    return {
        row.name: Option(
            key=row.name,
            kind=kinds[str(row.type).split("[")[0]],
            default=row.default,
            **row.metadata,
        )
        for row in rows
    }


OPTIONS: dict[str, Option] = _read_options()


class SettingsStore:
    """The settings that persist: read once, changed by `update`, written whole and atomically."""

    def __init__(
        self,
        path: Path | None,
        overrides: Mapping[str, Any] | None = None,
        is_frozen: Callable[[str], bool] = lambda key: False,
    ) -> None:
        """Read `path` if it exists.

        Args:
            path: the file; None keeps everything in memory.
            overrides: values that flags decide; they are not written to the file.
            is_frozen: tells of a key whether flags forbid to change it.
        """
        self.path = path
        self._is_frozen = is_frozen
        self._lock = threading.Lock()
        self._listeners: list[Callable[[Settings], None]] = []
        self._persistent = self._read()
        self._flags = dict(overrides or {})
        self._current = self._persistent.with_overrides(self._flags)

    @property
    def current(self) -> Settings:
        """The snapshot in force."""
        return self._current

    def subscribe(self, listener: Callable[[Settings], None]) -> None:
        """Call `listener` with the new snapshot after each change, on the changing thread."""
        self._listeners.append(listener)

    def update(self, values: Mapping[str, Any]) -> Settings:
        """Change settings, persist them, and return the new snapshot; all or nothing.

        Raises:
            InvalidRequest: a value cannot be used, or a key is frozen; nothing is changed.
            StorageError: the file could not be written; nothing is changed.
        """
        for key, value in values.items():
            if self._is_frozen(key):
                raise InvalidRequest(key, value, "no change: the server was started so (--freeze-)")
            if key not in OPTIONS and (close := closest_names(key, OPTIONS)):
                log.warning(
                    "unknown setting %r is stored but has no effect; similar: %s", key, close
                )
        with self._lock:
            # A value set by hand outlives the flag that set it at start.
            flags = {key: value for key, value in self._flags.items() if key not in values}
            persistent = self._persistent.with_overrides(values)
            current = persistent.with_overrides(flags)
            if persistent != self._persistent:
                self._write(persistent)
            changed = current != self._current
            self._flags, self._persistent, self._current = flags, persistent, current
        if changed:
            for listener in self._listeners:
                listener(current)
        return current

    def _read(self) -> Settings:
        if self.path is None or not self.path.exists():
            return Settings()
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError("it holds no JSON object")
        except (OSError, ValueError) as error:
            aside = self.path.with_name(f"{self.path.name}.unreadable-{int(time.time())}")
            log.warning("%s cannot be read (%s); using defaults, the file is kept as %s",
                        self.path, error, aside.name)  # fmt: skip
            self.path.rename(aside)
            return Settings()
        settings = Settings()
        for key, value in values.items():
            try:
                settings = settings.with_overrides({key: value})
            except InvalidRequest as error:
                log.warning("%s: %s; using %r", self.path, error, OPTIONS[key].default)
        return settings

    def _write(self, settings: Settings) -> None:
        if self.path is not None:
            text = json.dumps(settings.to_json(), indent=4, ensure_ascii=False) + "\n"
            write_atomically(self.path, text.encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves either the old content or the new, never a part.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StorageError(f"could not write {path}: {error.strerror or error}") from error

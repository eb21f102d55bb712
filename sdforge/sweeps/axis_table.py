"""The axes there are: Forge's in Forge's order, so that its indexes hold, and ours after them.

Rows of `core.fields` and extensions' fields that none of them varies come as axes of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sdforge.core.extension import Extension
from sdforge.core.fields import FIELD, Field, fields_of
from sdforge.core.script import Script
from sdforge.core.settings import OPTIONS
from sdforge.sampling.names import sampler_names, schedule_labels
from sdforge.sweeps import axis_changes as changes
from sdforge.sweeps.axis import (
    COST_CHECKPOINT,
    COST_PRECISION,
    COST_VAE,
    Axis,
    Catalog,
)

NOTHING = "Nothing"
_KINDS = {int: "int", float: "float", bool: "truth", str: "text"}
_ABSENT = "this version has nothing of that kind to vary"
# Rows that say what a job is made of; how many pictures a cell has is no property of the picture.
_NOT_VARIED = frozenset(("batch_count", "batch_size"))
_TRUTHS = ("False", "True")


def _of_field(label: str, name: str, **more: Any) -> Axis:
    row = FIELD.get(name)
    if row is None:
        return _absent(label, str(more.get("only", "")))
    kind = "text" if row.options else _KINDS[row.kind]
    defaults: dict[str, Any] = {
        "apply": changes.to_field(name),
        "kind": kind,
        "check": changes.check_field(row, label),
        "help": row.help,
    }
    if row.options:
        defaults["choices"] = lambda _: list(row.options)
    return Axis(label=label, **(defaults | more))


def _absent(label: str, only: str) -> Axis:
    """Return what keeps the place of an axis of Forge's that cannot be used here."""
    return Axis(label=label, apply=changes.nothing, only=only, missing=_ABSENT)


def _of_setting(label: str, key: str, **more: Any) -> Axis:
    option = OPTIONS.get(key)
    if option is None:
        return _absent(label, str(more.get("only", "")))
    defaults: dict[str, Any] = {
        "apply": changes.to_setting(key),
        "kind": _KINDS.get(option.kind, "text"),
        "check": changes.check_setting(key, label),
        "help": option.label,
    }
    if option.choices is not None:
        defaults["choices"] = lambda _: list(option.choices or ())
    if option.kind is bool:
        defaults["choices"] = lambda _: list(_TRUTHS)
    return Axis(label=label, **(defaults | more))


def _samplers(_: Catalog) -> list[str]:
    return sampler_names()


def _checkpoints(catalog: Catalog) -> list[str]:
    return catalog.checkpoints()


def _none_or_checkpoints(catalog: Catalog) -> list[str]:
    return ["None", *catalog.checkpoints()]


def _upscalers(catalog: Catalog) -> list[str]:
    return catalog.upscalers()


# A1111's and Forge's; those of one kind of job are marked so.
_FORGE: tuple[Axis, ...] = (
    Axis(label=NOTHING, apply=changes.nothing, help="No variation along this axis."),
    _of_field("Seed", "seed"),
    _of_field("Var. seed", "subseed"),
    _of_field("Var. strength", "subseed_strength"),
    _of_field("Steps", "steps"),
    _of_field("Hires steps", "hires_steps", only="txt2img"),
    _of_field("CFG Scale", "cfg_scale"),
    _of_field("Distilled CFG Scale", "distilled_cfg_scale"),
    _of_field("Image CFG Scale", "image_cfg_scale", only="img2img"),
    Axis(
        label="Prompt S/R", apply=changes.replace_text, shows_label=False,
        help="The first value is searched for in both prompts and replaced by each.",
    ),
    Axis(
        label="Prompt order", kind="orders", apply=changes.reorder_words, shows_label=False,
        help="All orders of words that stand in the prompt.",
    ),
    _of_field(
        "Sampler", "sampler", check=changes.check_sampler("Sampler"), choices=_samplers,
        shows_label=False,
    ),
    _of_field(
        "Hires sampler", "hires_sampler", check=changes.check_sampler("Hires sampler"),
        choices=_samplers, only="txt2img", shows_label=False,
    ),
    Axis(
        label="Checkpoint name", apply=changes.to_field("checkpoint"), choices=_checkpoints,
        check=changes.check_checkpoint("Checkpoint name"), cost=COST_CHECKPOINT,
        shows_label=False, help="Checkpoints by title, file name, hash or a part of them.",
    ),
    _of_field("Negative Guidance minimum sigma", "s_min_uncond"),
    _of_field("Sigma Churn", "s_churn"),
    _of_field("Sigma min", "s_tmin"),
    _of_field("Sigma max", "s_tmax"),
    _of_field("Sigma noise", "s_noise"),
    _of_field(
        "Schedule type", "schedule", check=changes.check_schedule,
        choices=lambda _: schedule_labels(),
    ),
    _of_setting("Schedule min sigma", "sigma_min"),
    _of_setting("Schedule max sigma", "sigma_max"),
    _of_setting("Schedule rho", "rho"),
    _of_setting("Beta schedule alpha", "beta_dist_alpha"),
    _of_setting("Beta schedule beta", "beta_dist_beta"),
    _of_field("Eta", "eta"),
    _of_setting("Clip skip", "CLIP_stop_at_last_layers"),
    _of_field("Denoising", "denoising_strength"),
    _of_field("Initial noise multiplier", "initial_noise_multiplier",
              apply=changes.to_noise_multiplier),
    _of_setting("Extra noise", "img2img_extra_noise"),
    _of_field("Hires upscaler", "hires_upscaler", choices=_upscalers, check=None,
              only="txt2img"),
    _of_setting("Cond. Image Mask Weight", "inpainting_mask_weight", only="img2img"),
    Axis(
        label="VAE", apply=changes.to_setting("sd_vae"), check=changes.check_vae,
        choices=lambda catalog: catalog.vaes(), cost=COST_VAE,
        help="VAE files by name; Automatic or None for the checkpoint's own.",
    ),
    Axis(
        label="Styles", apply=changes.add_styles, check=changes.check_styles,
        choices=lambda catalog: catalog.styles(),
        help="Styles to add to those chosen; several in one value with commas between.",
    ),
    _of_setting("UniPC Order", "uni_pc_order", apply=changes.limit_uni_pc_order, cost=0.5),
    Axis(
        label="Face restore", apply=changes.to_face_restorer, check=changes.check_face_restorer,
        choices=lambda _: ["CodeFormer", "GFPGAN", "None"], shows_label=False,
        help="CodeFormer, GFPGAN, True for that of the settings, or None.",
    ),
    _of_setting("Token merging ratio", "token_merging_ratio"),
    _of_setting("Token merging ratio high-res", "token_merging_ratio_hr"),
    _of_setting(
        "Always discard next-to-last sigma", "always_discard_next_to_last_sigma"
    ),
    _of_setting("SGM noise multiplier", "sgm_noise_multiplier"),
    Axis(
        label="Refiner checkpoint", apply=changes.to_field("refiner"),
        check=changes.check_checkpoint("Refiner checkpoint", or_none=True),
        choices=_none_or_checkpoints, cost=COST_CHECKPOINT,
        help="Another checkpoint for the last steps, or None.",
    ),
    _of_field("Refiner switch at", "refiner_switch_at"),
    _of_setting("RNG source", "randn_source"),
    Axis(
        label="FP8 mode", apply=changes.to_setting("forge_unet_storage_dtype"),
        check=changes.check_fp8, choices=lambda _: ["Disable", "Enable"],
        cost=COST_PRECISION, help="Whether the network is kept in 8 bits.",
    ),
    Axis(
        label="Size", kind="size", apply=changes.to_size,
        help="Width and height, such as 512x768.",
    ),
)  # fmt: skip


# What the others have not.
_MORE: tuple[Axis, ...] = (
    Axis(
        label="LoRA", apply=changes.add_lora, check=changes.check_lora,
        choices=lambda catalog: ["None", *catalog.loras()],
        help="Adds a LoRA to the prompt: its name, or name:weight.",
    ),
    Axis(
        label="LoRA weight", kind="float", apply=changes.weigh_loras, phase=1,
        help="Sets the weight of every LoRA that the prompt or an axis names.",
    ),
    _of_setting("Precision", "forge_unet_storage_dtype", cost=COST_PRECISION),
    _of_setting("Memory mode", "memory_mode", cost=COST_PRECISION),
    _of_setting("Preset", "forge_preset"),
    _of_setting("Emphasis", "emphasis"),
    Axis(
        label="Hires checkpoint", apply=changes.to_field("hires_checkpoint"),
        check=changes.check_checkpoint("Hires checkpoint", or_none=True),
        choices=_none_or_checkpoints, cost=COST_CHECKPOINT, only="txt2img",
        help="Draws the second pass, or None for the same.",
    ),
    _of_field("Hires schedule type", "hires_schedule", check=changes.check_schedule,
              choices=lambda _: schedule_labels(), only="txt2img"),
)  # fmt: skip


def axes(kind: str, catalog: Catalog | None = None) -> tuple[Axis, ...]:
    """Return the axes of one kind of job, "txt2img" or "img2img", in the order of menus.

    Without a catalog those of extensions are left out.
    """
    found = [axis for axis in (*_FORGE, *_MORE) if axis.only in ("", kind)]
    taken = {axis.label.casefold() for axis in found}
    for axis in (*_rows_left(kind), *(_of_extensions(catalog) if catalog is not None else ())):
        if axis.label.casefold() not in taken:
            taken.add(axis.label.casefold())
            found.append(axis)
    return tuple(found)


def _rows_left(kind: str) -> Iterator[Axis]:
    varied = {row.name for row in FIELD.values() if row.axis} | _NOT_VARIED
    varied |= {"hires_checkpoint", "hires_schedule", "hires_sampler"}
    varied |= {"distilled_cfg_scale", "image_cfg_scale"}
    for row in fields_of(kind):
        if row.name not in varied:
            yield _of_field(row.label, row.name)


def _of_extensions(catalog: Catalog) -> Iterator[Axis]:
    for extension in catalog.extensions:
        if isinstance(extension, Script):
            # It runs in the place of the sweep, not within it.
            continue
        for field in extension.fields:
            if field.name != "enabled":
                yield _of_extension(extension, field)


def _of_extension(extension: Extension, field: Field) -> Axis:
    label = f"[{extension.label}] {field.label}"
    choices: Callable[[Catalog], list[str]] | None = None
    if field.options:
        choices = lambda _: list(field.options)  # noqa: E731 - one of three values
    elif field.kind is bool:
        choices = lambda _: list(_TRUTHS)  # noqa: E731
    return Axis(
        label=label,
        kind="text" if field.options else _KINDS[field.kind],
        apply=changes.to_extension(extension.name, field.name),
        check=changes.check_extension(extension, field, label),
        choices=choices,
        help=field.help,
    )

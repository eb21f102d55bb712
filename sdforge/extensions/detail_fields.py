"""The fields of ADetailer's tabs: names, defaults and limits as its users know them.

A tab's fields are those of the first with a suffix (" 2nd" in texts, "_2nd" in names).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sdforge.core.detail import BY_AREA, BY_CONFIDENCE, MERGES
from sdforge.core.fields import Field

TABS = 2
_ORDINALS = ("1st", "2nd", "3rd", "4th")

NO_MODEL = "None"
# What stands in a list for "as the picture is drawn".
SAME = frozenset({"", "None", "Use same checkpoint", "Use same VAE", "Use same sampler",
                  "Use same scheduler"})  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A field of every tab: its key in A1111's API, its key in infotext, and where it is shown.

    `silent` is the value that texts leave out; `under` the switch without which it has no effect.
    """

    field: Field
    fold: str = ""
    silent: Any = None
    under: str = ""


def _row(
    name: str, key: str, kind: type, default: Any, label: str, *, fold: str = "",
    silent: Any = None, under: str = "", **more: Any,
) -> Row:  # fmt: skip
    if "lowest" in more:
        more.setdefault("minimum", more["lowest"])
        more.setdefault("maximum", more.get("highest"))
    field = Field(
        name=name, kind=kind, default=default, label=label, api=name, infotext=key, **more
    )
    return Row(field, fold, silent, under)


_FIND, _MASK, _DRAW = "Detection", "Mask Preprocessing", "Inpainting"
_SIZE, _PADDING = "ad_use_inpaint_width_height", "ad_inpaint_only_masked"

# In the order of ADetailer's texts.
ROWS: tuple[Row, ...] = (
    _row("ad_model", "ADetailer model", str, NO_MODEL, "ADetailer detector", choices="detectors",
         help="What is looked for; files lie in models/adetailer."),
    _row("ad_tab_enable", "ADetailer tab enable", bool, True, "Enable this tab", silent=True),
    _row("ad_prompt", "ADetailer prompt", str, "", "ADetailer prompt", silent="",
         help="Left empty, the picture's. [SEP] parts those of several finds, [SKIP] leaves one, "
              "[PROMPT] is the picture's."),
    _row("ad_negative_prompt", "ADetailer negative prompt", str, "", "ADetailer negative prompt",
         silent="", help="Left empty, the picture's."),
    _row("ad_confidence", "ADetailer confidence", float, 0.3,
         "Detection model confidence threshold", fold=_FIND, lowest=0, highest=1, step=0.01,
         help="How sure the detector must be."),
    _row("ad_mask_filter_method", "ADetailer method to decide top k masks", str, BY_AREA,
         "Method to filter top k masks by", fold=_FIND, silent=BY_AREA,
         options=(BY_AREA, BY_CONFIDENCE), help="Which stay: the largest or the surest."),
    _row("ad_mask_k", "ADetailer mask only top k", int, 0, "Mask only the top k", fold=_FIND,
         silent=0, lowest=0, highest=1000, maximum=10, step=1, help="0 for all."),
    _row("ad_mask_min_ratio", "ADetailer mask min ratio", float, 0.0, "Mask min area ratio",
         fold=_FIND, silent=0.0, lowest=0, highest=1, step=0.001,
         help="Share of the picture below which a find is left."),
    _row("ad_mask_max_ratio", "ADetailer mask max ratio", float, 1.0, "Mask max area ratio",
         fold=_FIND, silent=1.0, lowest=0, highest=1, step=0.001,
         help="Share of the picture above which a find is left."),
    _row("ad_x_offset", "ADetailer x offset", int, 0, "Mask x(→) offset", fold=_MASK, silent=0,
         lowest=-16384, highest=16384, minimum=-200, maximum=200, step=1, help="In pixels."),
    _row("ad_y_offset", "ADetailer y offset", int, 0, "Mask y(↑) offset", fold=_MASK, silent=0,
         lowest=-16384, highest=16384, minimum=-200, maximum=200, step=1, help="In pixels."),
    _row("ad_dilate_erode", "ADetailer dilate erode", int, 4, "Mask erosion (-) / dilation (+)",
         fold=_MASK, lowest=-1024, highest=1024, minimum=-128, maximum=128, step=4,
         help="In pixels."),
    _row("ad_mask_merge_invert", "ADetailer mask merge invert", str, MERGES[0], "Mask merge mode",
         fold=_MASK, silent=MERGES[0], options=MERGES,
         help="One drawing for all finds, or for what is outside of them."),
    _row("ad_mask_blur", "ADetailer mask blur", int, 4, "Inpaint mask blur", fold=_DRAW, lowest=0,
         highest=256, maximum=64, step=1, help="In pixels."),
    _row("ad_denoising_strength", "ADetailer denoising strength", float, 0.4,
         "Inpaint denoising strength", fold=_DRAW, lowest=0, highest=1, step=0.01,
         help="How much may change."),
    _row("ad_inpaint_only_masked", "ADetailer inpaint only masked", bool, True,
         "Inpaint only masked", fold=_DRAW,
         help="Draw the part around a find at full size; else the whole picture."),
    _row("ad_inpaint_only_masked_padding", "ADetailer inpaint padding", int, 32,
         "Inpaint only masked padding, pixels", fold=_DRAW, under=_PADDING, lowest=0, highest=4096,
         maximum=256, step=4, help="How much of the surroundings is seen."),
    _row(_SIZE, "ADetailer use inpaint width height", bool, False, "Use separate width/height",
         fold=_DRAW, silent=False),
    _row("ad_inpaint_width", "ADetailer inpaint width", int, 512, "Inpaint width", fold=_DRAW,
         under=_SIZE, lowest=64, highest=16384, maximum=2048, step=4),
    _row("ad_inpaint_height", "ADetailer inpaint height", int, 512, "Inpaint height", fold=_DRAW,
         under=_SIZE, lowest=64, highest=16384, maximum=2048, step=4),
    _row("ad_use_steps", "ADetailer use separate steps", bool, False, "Use separate steps",
         fold=_DRAW, silent=False),
    _row("ad_steps", "ADetailer steps", int, 28, "ADetailer steps", fold=_DRAW,
         under="ad_use_steps", lowest=1, highest=1000, maximum=150, step=1),
    _row("ad_use_cfg_scale", "ADetailer use separate CFG scale", bool, False,
         "Use separate CFG scale", fold=_DRAW, silent=False),
    _row("ad_cfg_scale", "ADetailer CFG scale", float, 7.0, "ADetailer CFG scale", fold=_DRAW,
         under="ad_use_cfg_scale", lowest=0, highest=1000, maximum=30, step=0.5),
    _row("ad_use_checkpoint", "ADetailer use separate checkpoint", bool, False,
         "Use separate checkpoint", fold=_DRAW, silent=False),
    _row("ad_checkpoint", "ADetailer checkpoint", str, "Use same checkpoint",
         "ADetailer checkpoint", fold=_DRAW, under="ad_use_checkpoint", choices="checkpoints"),
    _row("ad_use_vae", "ADetailer use separate VAE", bool, False, "Use separate VAE", fold=_DRAW,
         silent=False),
    _row("ad_vae", "ADetailer VAE", str, "Use same VAE", "ADetailer VAE", fold=_DRAW,
         under="ad_use_vae", choices="vaes"),
    _row("ad_use_sampler", "ADetailer use separate sampler", bool, False, "Use separate sampler",
         fold=_DRAW, silent=False),
    _row("ad_sampler", "ADetailer sampler", str, "Use same sampler", "ADetailer sampler",
         fold=_DRAW, under="ad_use_sampler", choices="samplers"),
    _row("ad_scheduler", "ADetailer scheduler", str, "Use same scheduler", "ADetailer scheduler",
         fold=_DRAW, under="ad_use_sampler", silent="Use same scheduler", choices="schedules"),
    _row("ad_use_noise_multiplier", "ADetailer use separate noise multiplier", bool, False,
         "Use separate noise multiplier", fold=_DRAW, silent=False),
    _row("ad_noise_multiplier", "ADetailer noise multiplier", float, 1.0,
         "Noise multiplier for img2img", fold=_DRAW, under="ad_use_noise_multiplier", lowest=0.5,
         highest=1.5, step=0.01),
    _row("ad_use_clip_skip", "ADetailer use separate CLIP skip", bool, False,
         "Use separate CLIP skip", fold=_DRAW, silent=False),
    _row("ad_clip_skip", "ADetailer CLIP skip", int, 1, "ADetailer CLIP skip", fold=_DRAW,
         under="ad_use_clip_skip", lowest=1, highest=12, step=1),
    _row("ad_restore_face", "ADetailer restore face", bool, False, "Restore faces after ADetailer",
         fold=_DRAW, silent=False),
)  # fmt: skip


def name_in(tab: int, name: str) -> str:
    """Return the name of a field in a tab, counted from 0."""
    return name if not tab else f"{name}_{_ORDINALS[tab]}"


def key_in(tab: int, key: str) -> str:
    """Return a key of infotext, or a label, for a tab."""
    return key if not tab else f"{key} {_ORDINALS[tab]}"


def fields_of_tab(tab: int) -> tuple[Field, ...]:
    """Return the fields of a tab."""
    return tuple(
        replace(
            row.field,
            name=name_in(tab, row.field.name),
            api=name_in(tab, row.field.name),
            label=key_in(tab, row.field.label),
            infotext=key_in(tab, str(row.field.infotext)),
        )
        for row in ROWS
    )


def layout() -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    """Return how the page groups the fields: tabs, folds in them, names."""
    folds = tuple(dict.fromkeys(row.fold for row in ROWS))
    return {
        _ORDINALS[tab]: {
            fold: tuple(name_in(tab, row.field.name) for row in ROWS if row.fold == fold)
            for fold in folds
        }
        for tab in range(TABS)
    }

"""ADetailer: faces, hands or persons found in the finished picture, each drawn again at full size.

What it is asked and what it writes into pictures is as users of that extension know it; the finding
and drawing is `pipeline.detailing`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sdforge.core.detail import Detail
from sdforge.core.errors import InvalidRequest, NotAvailable
from sdforge.core.extension import Extension, Values, typed_value
from sdforge.core.fields import Field
from sdforge.extensions.detail_fields import (
    NO_MODEL,
    ROWS,
    SAME,
    TABS,
    fields_of_tab,
    key_in,
    layout,
    name_in,
)

_SCRIPTS = "alwayson_scripts"
_SKIP = "skip_img2img"
_SKIP_KEY = "ADetailer skip img2img"
# Keys of other versions.
_RENAMED = {"ad_tap_enable": "ad_tab_enable", "ad_mask_k_largest": "ad_mask_k"}
# What tabs have that is not here, with the values that ask for nothing.
_MISSING: Mapping[str, tuple[Any, ...]] = {
    "ad_model_classes": (None, ""),
    "ad_controlnet_model": (None, "", "None"),
}
# Of no effect by themselves.
_IGNORED = frozenset(
    ("is_api", "ad_controlnet_module", "ad_controlnet_weight", "ad_controlnet_guidance_start",
     "ad_controlnet_guidance_end")
)  # fmt: skip
_NAMES = frozenset(row.field.name for row in ROWS)


class ADetailer(Extension):
    """Details of finished pictures, drawn again."""

    name = "adetailer"
    label = "ADetailer"
    help = "Finds faces, hands or persons in the finished picture and draws each again, larger."
    has_units = True
    fields = (
        Field(name="enabled", kind=bool, default=False, label="Enable ADetailer", api="enabled"),
        Field(
            name=_SKIP, kind=bool, default=False, label="Skip img2img", api=_SKIP,
            help="In img2img: work on the given picture as it is.",
        ),
        *(field for tab in range(TABS) for field in fields_of_tab(tab)),
    )  # fmt: skip
    tabs = layout()

    def is_active(self, values: Values) -> bool:
        """Tell whether any tab has a detector."""
        return bool(values.get("enabled")) and bool(_tabs(values))

    def values_of_arguments(self, arguments: Sequence[Any]) -> dict[str, Any]:
        """Return values by name: two switches, which may be left out, then a dict for each tab.

        Raises:
            InvalidRequest: there are too many tabs, or one has a key that there is not.
            NotAvailable: a tab asks for what is lacking here.
        """
        switches = [one for one in arguments if not isinstance(one, Mapping)]
        units = [one for one in arguments if isinstance(one, Mapping)]
        values: dict[str, Any] = dict(zip(("enabled", _SKIP), switches, strict=False))
        values.setdefault("enabled", bool(units))
        used = [one for one in units if one.get("ad_model", NO_MODEL) != NO_MODEL]
        if len(used) > TABS:
            found = f"{len(used)} tabs of ADetailer with a model"
            raise InvalidRequest(_SCRIPTS, found, f"{TABS} at most")
        for tab, unit in enumerate(units if len(units) <= TABS else used):
            values |= _of_unit(tab, unit)
        return values

    def infotext(self, values: Values) -> dict[str, str]:
        """Return ADetailer's keys for the tabs that act."""
        said: dict[str, str] = {}
        for tab in _tabs(values):
            for row in ROWS:
                value = values[name_in(tab, row.field.name)]
                acts = not row.under or values[name_in(tab, row.under)]
                if acts and (row.silent is None or value != row.silent):
                    said[key_in(tab, str(row.field.infotext))] = str(value)
        if values[_SKIP]:
            said[_SKIP_KEY] = "True"
        return said

    def values_from_infotext(self, fields: Mapping[str, str]) -> dict[str, Any] | None:
        """Return the values that ADetailer's keys give."""
        known = {str(field.infotext): field for field in self.fields if field.infotext}
        # An older version's.
        known |= {
            key_in(tab, "ADetailer mask only top k largest"): known[
                key_in(tab, "ADetailer mask only top k")
            ]
            for tab in range(TABS)
        }
        if not any(key_in(tab, "ADetailer model") in fields for tab in range(TABS)):
            return None
        values: dict[str, Any] = {"enabled": True, _SKIP: fields.get(_SKIP_KEY) == "True"}
        for key, field in known.items():
            if key in fields:
                try:
                    values[field.name] = typed_value(field, fields[key])
                except (InvalidRequest, ValueError):
                    continue
        return values

    def details(self, values: Values) -> tuple[Detail, ...]:
        """Return a detail for each tab that acts."""
        return tuple(_detail(values, tab) for tab in _tabs(values))

    def draws(self, values: Values) -> bool:
        """Img2img may be skipped."""
        return not values[_SKIP]


def _tabs(values: Values) -> list[int]:
    """Return the tabs that act, counted from 0."""
    return [
        tab
        for tab in range(TABS)
        if values.get(name_in(tab, "ad_model"), NO_MODEL) not in (NO_MODEL, "")
        and values.get(name_in(tab, "ad_tab_enable"), True)
    ]


def _of_unit(tab: int, unit: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for sent, value in unit.items():
        name = _RENAMED.get(str(sent), str(sent))
        if name in _MISSING:
            if value not in _MISSING[name]:
                raise NotAvailable(
                    f"{_SCRIPTS}: ADetailer's {name} is not in this version; leave it out"
                )
        elif name in _NAMES:
            if value is not None:
                values[name_in(tab, name)] = value
        elif name not in _IGNORED:
            allowed = f"a key of ADetailer's tabs: {', '.join(sorted(_NAMES))}"
            raise InvalidRequest(_SCRIPTS, str(sent)[:80], allowed)
    return values


def _detail(values: Values, tab: int) -> Detail:
    def of(name: str) -> Any:
        return values[name_in(tab, name)]

    def used(switch: str, name: str) -> Any:
        return of(name) if of(switch) else None

    def named(switch: str, name: str) -> str:
        value = used(switch, name)
        return "" if value is None or value in SAME else str(value)

    own_size = of("ad_use_inpaint_width_height")
    width, height = of("ad_inpaint_width"), of("ad_inpaint_height")
    return Detail(
        detector=of("ad_model"),
        prompt=of("ad_prompt"),
        negative_prompt=of("ad_negative_prompt"),
        confidence=of("ad_confidence"),
        most=of("ad_mask_k"),
        most_by=of("ad_mask_filter_method"),
        least_share=of("ad_mask_min_ratio"),
        most_share=of("ad_mask_max_ratio"),
        dilate=of("ad_dilate_erode"),
        right=of("ad_x_offset"),
        up=of("ad_y_offset"),
        merge=of("ad_mask_merge_invert"),
        mask_blur=of("ad_mask_blur"),
        strength=of("ad_denoising_strength"),
        padding=used("ad_inpaint_only_masked", "ad_inpaint_only_masked_padding"),
        size=(width - width % 8, height - height % 8) if own_size else None,
        steps=used("ad_use_steps", "ad_steps"),
        cfg_scale=used("ad_use_cfg_scale", "ad_cfg_scale"),
        checkpoint=named("ad_use_checkpoint", "ad_checkpoint"),
        vae=named("ad_use_vae", "ad_vae"),
        sampler=named("ad_use_sampler", "ad_sampler"),
        schedule=named("ad_use_sampler", "ad_scheduler"),
        noise_multiplier=used("ad_use_noise_multiplier", "ad_noise_multiplier"),
        clip_skip=used("ad_use_clip_skip", "ad_clip_skip"),
        restore_faces=of("ad_restore_face"),
    )

"""Which type of numbers each network is kept in: A1111's and Forge's flags, as names. No torch.

`loader.choose_precision` turns the names into torch's types; estimates need only their sizes.
"""

from __future__ import annotations

from collections.abc import Mapping

from sdforge.core.device import DeviceInfo

ITEMSIZE: Mapping[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
_PARTS = {"denoiser": "unet", "text_encoder": "clip", "vae": "vae"}
_SUFFIXES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
# Other forks' names of the same.
_ALIASES = {"fp32_unet": "unet_in_fp32", "bf16_text_enc": "clip_in_bf16"}


def precision_names(
    device: DeviceInfo, flags: Mapping[str, object] | None = None
) -> dict[str, str]:
    """Return the type of numbers by role: 'float32', 'float16' or 'bfloat16'.

    Without flags: half precision where the device is fast at it, and a VAE in bf16 (SD's overflows
    in fp16) or else in fp32. A type that the device is slow at becomes fp32, whatever flags say.

    Args:
        device: where networks will run.
        flags: by argparse names: no_half, no_half_vae, precision, all_in_fp32, all_in_fp16,
            unet_in_…, clip_in_…, vae_in_….
    """
    said = {_ALIASES.get(name, name) for name, value in (flags or {}).items() if value}
    if (flags or {}).get("precision") == "full":
        said.add("all_in_fp32")
    if {"no_half", "all_in_fp32"} & said:
        return dict.fromkeys(_PARTS, "float32")
    usual = {
        "denoiser": "float16",
        "text_encoder": "float16",
        "vae": "bfloat16" if device.supports_bf16 else "float32",
    }
    if "all_in_fp16" in said:
        usual = dict.fromkeys(_PARTS, "float16")
    names = {role: _said(part, said, usual[role]) for role, part in _PARTS.items()}
    if "no_half_vae" in said:
        names["vae"] = "float32"
    return {role: name if _is_fast(name, device) else "float32" for role, name in names.items()}


def _said(part: str, said: set[str], usual: str) -> str:
    for suffix, name in _SUFFIXES.items():
        if f"{part}_in_{suffix}" in said:
            return name
    return usual


def _is_fast(name: str, device: DeviceInfo) -> bool:
    if name == "float16":
        return device.supports_fp16
    return name == "float32" or device.supports_bf16

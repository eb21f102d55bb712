"""Say what a file is, with the reason in words, from the names and shapes of its tensors.

Families recognise their own; what none of them takes is compared with the kinds that
`architectures.py` and `parts.py` know, so that the refusal says what the file is instead of only
what it is not. Headers only, no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.core.request import Recommended
from sdforge.models.architectures import architecture
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families import FAMILIES
from sdforge.models.families.base import Match
from sdforge.models.families.fast_kinds import with_defaults
from sdforge.models.parts import parts


def detect(header: CheckpointHeader) -> Match:
    """Return the family and variant of a checkpoint.

    Raises:
        UnsupportedCheckpoint: naming the kind of file where it is known.
    """
    for family in FAMILIES:
        match = family.match(header)
        if match is not None:
            return match
    raise UnsupportedCheckpoint(f"{header.path.name} {_name_stranger(header)}")


def recommended(metadata: Mapping[str, str], usual: Recommended | None = None) -> Recommended:
    """Return the settings that a checkpoint's metadata asks for; nonsense counts as nothing said.

    `usual` are those of its kind, which count where the metadata say nothing.

    Keys: `modelspec.resolution` ("128x128") of the model spec, and our own `sdforge.cfg_scale`,
    `sdforge.steps`, `sdforge.sampler`.
    """
    size = re.fullmatch(
        r"\s*(\d{2,5})\s*(?:[x×]\s*(\d{2,5}))?\s*", metadata.get("modelspec.resolution", "")
    )
    width = int(size[1]) if size else None
    cfg_scale = _number(metadata.get("sdforge.cfg_scale", ""))
    steps = _number(metadata.get("sdforge.steps", ""))
    said = Recommended(
        width=width,
        height=int(size[2]) if size and size[2] else width,
        steps=int(steps) if steps is not None and 1 <= steps <= 1000 else None,
        cfg_scale=cfg_scale if cfg_scale is not None and 0 <= cfg_scale <= 100 else None,
        sampler=metadata.get("sdforge.sampler", "").strip() or None,
    )
    return said if usual is None else with_defaults(said, usual)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def not_a_checkpoint(header: CheckpointHeader) -> str | None:
    """Return what a file is that goes with checkpoints and is none, None for all others."""
    for test, kind in _COMPANIONS:
        if test(header):
            return kind
    return None


def _name_stranger(header: CheckpointHeader) -> str:
    companion = not_a_checkpoint(header)
    if companion is not None:
        return companion
    kind = architecture(header.layout)
    if kind is not None:
        # Its U-Net alone would be one of SD 1.x.
        by_text = kind.family == "sd1" and header.has_prefix("cond_stage_model.model.")
        label = "Stable Diffusion 2" if by_text else kind.label
        return f"is a {label} model ({kind.reason}), which is not supported in this version"
    for part in parts(header.layout):
        folder = "models/VAE" if part.role == "vae" else "models/text_encoder"
        return f"is a {part.label}, not a checkpoint; it belongs into {folder}"
    architecture_said = header.metadata.get("modelspec.architecture")
    if architecture_said:
        return (
            "is of a kind that this version does not know (its metadata says "
            f"{architecture_said!r})"
        )
    if not header.tensors:
        return "holds no tensors"
    sample = ", ".join(sorted(header.tensors)[:3])
    return f"is of a kind that this version does not know (it holds {sample}, …)"


def _has(*prefixes: str) -> Callable[[CheckpointHeader], bool]:
    return lambda header: any(key.startswith(prefixes) for key in header.tensors)


def _ends(*endings: str) -> Callable[[CheckpointHeader], bool]:
    return lambda header: any(key.endswith(endings) for key in header.tensors)


# What goes with checkpoints, told by its tensors; in order, the more particular first.
_COMPANIONS: tuple[tuple[Callable[[CheckpointHeader], bool], str], ...] = (
    (
        _has("lora_unet_", "lora_te", "lora_transformer_"),
        "is a LoRA, not a checkpoint; it belongs into models/Lora",
    ),
    (
        _ends(
            ".lora_A.weight",
            ".lora_B.weight",
            ".lora_up.weight",
            ".lora_down.weight",
            "_lora1.up.weight",
            "_lora.up.weight",
        ),
        "is a LoRA, not a checkpoint; it belongs into models/Lora",
    ),
    (
        _has(
            "control_model.",
            "controlnet_cond_embedding.",
            "controlnet_blocks.",
            "zero_convs.",
            "input_hint_block.",
        ),
        "is a ControlNet, not a checkpoint; it belongs into models/ControlNet",
    ),
    (
        _has("emb_params", "string_to_param", "clip_g", "clip_l"),
        "is an embedding, not a checkpoint",
    ),
    (
        _has("body.0.rdb1.", "model.1.sub.0.RDB1.", "body.0.weight"),
        "is an upscaler, not a checkpoint; it belongs into models/ESRGAN",
    ),
    (
        lambda header: (
            _has("text_model.encoder.", "encoder.block.0.")(header) and not parts(header.layout)
        ),
        "is a text encoder, not a checkpoint; it belongs into models/text_encoder",
    ),
)

"""For which family of models a LoRA was made, by its header alone, and by which sign.

Names and shapes decide; what trainers wrote into the metadata counts where those say nothing. No
torch here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sdforge.models.checkpoint import CheckpointHeader

LABELS = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "SDXL",
    "sdxl-refiner": "the SDXL refiner",
    "sd3": "Stable Diffusion 3",
    "flux": "Flux.1",
    "flux2": "Flux.2",
    "flux2-klein": "Flux.2 [klein]",
    "chroma": "Chroma",
    "zimage": "Z-Image",
    "qwen-image": "Qwen-Image",
    "qwen-image-edit": "Qwen-Image-Edit",
    "lumina2": "Lumina 2",
}


# Families whose layers another one's files may name as well: Chroma's blocks are Flux.1's.
_AKIN: Mapping[str, tuple[str, ...]] = {
    "chroma": ("flux",),
    "flux2-klein": ("flux2",),
    "qwen-image-edit": ("qwen-image",),
}


@dataclass(frozen=True, slots=True)
class LoraFamily:
    """The family's name as bundles have it, and why: "its … has width 2048"."""

    family: str
    reason: str

    @property
    def label(self) -> str:
        """Name for people."""
        return LABELS.get(self.family, self.family)

    def suits(self, family: str) -> bool:
        """Say whether the layers that it names may be those of a model of `family`."""
        return self.family == family or self.family in _AKIN.get(family, ())


# Parts of names that only one family's networks have; the first row that is found counts.
_MARKS = (
    ("img_mod", "qwen-image"),
    ("img_mlp.net", "qwen-image"),
    ("img_mlp_net", "qwen-image"),
    ("context_refiner", "lumina2"),
    ("joint_blocks", "sd3"),
    ("distilled_guidance_layer", "chroma"),
    ("to_qkv_mlp_proj", "flux2"),
    ("stream_modulation", "flux2"),
    ("ff.linear_in", "flux2"),
    ("ff_linear_in", "flux2"),
    ("double_blocks", "flux"),
    ("single_blocks", "flux"),
    ("single_transformer_blocks", "flux"),
    ("lora_te2_", "sdxl"),
    ("text_encoder_2.", "sdxl"),
    ("add_embedding", "sdxl"),
    ("label_emb", "sdxl"),
    ("clip_g.", "sdxl"),
)
# The width of text states that a U-Net attends to.
_CONTEXT_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl", 1280: "sdxl-refiner"}
# The width of their own states, for networks that look alike else.
_STREAM_WIDTHS = {3840: "zimage", 2304: "lumina2"}
_STREAM_LAYER = re.compile(r"layers[._]\d+[._]attention[._](?:qkv|to_[qkv])(?![a-z])")
# Flux.1 and Flux.2 name blocks alike: rows of a fused matrix for each column, in the second.
_FUSED = re.compile(r"(.*(?:single_blocks[._]\d+[._]linear1|img_mlp[._]0))\.lora_(?:up|B)\.weight")
_FUSED_ROWS = {"linear1": 9, "0": 6}
_CONTEXT_LAYER = re.compile(r"attn2[._](?:processor[._])?to_[kv]")
_WIDTHS = ((_CONTEXT_LAYER, _CONTEXT_WIDTHS), (_STREAM_LAYER, _STREAM_WIDTHS))
_DOWN = (".lora_down.weight", ".lora_A.weight", ".lora.down.weight", "_lora.down.weight",
         ".hada_w1_b", ".lora_A.default.weight")  # fmt: skip
# Beginnings of `ss_base_model_version` and `modelspec.architecture`.
_SAID = (
    ("sdxl", "sdxl"),
    ("stable-diffusion-xl", "sdxl"),
    ("sd_v1", "sd1"),
    ("stable-diffusion-v1", "sd1"),
    ("sd_v2", "sd2"),
    ("stable-diffusion-v2", "sd2"),
    ("sd3", "sd3"),
    ("stable-diffusion-3", "sd3"),
    ("flux2", "flux2"),
    ("flux.2", "flux2"),
    ("flux-2", "flux2"),
    ("flux", "flux"),
    ("z-image", "zimage"),
    ("zimage", "zimage"),
    ("qwen-image", "qwen-image"),
    ("qwen_image", "qwen-image"),
    ("lumina", "lumina2"),
)


def detect_family(header: CheckpointHeader) -> LoraFamily | None:
    """Return the family that a LoRA belongs to, None where nothing tells."""
    return (
        _by_width(header) or _by_rows(header) or _by_mark(header) or _by_metadata(header.metadata)
    )


def _by_width(header: CheckpointHeader) -> LoraFamily | None:
    for key, info in header.tensors.items():
        if not key.endswith(_DOWN) or len(info.shape) < 2:
            continue
        widths = next((found for sign, found in _WIDTHS if sign.search(key)), {})
        family = widths.get(info.shape[1])
        if family is not None:
            return LoraFamily(family, f"its {key} has width {info.shape[1]}")
    return None


def _by_rows(header: CheckpointHeader) -> LoraFamily | None:
    for key, info in header.tensors.items():
        match = _FUSED.fullmatch(key)
        down = match and header.tensors.get(_other(key))
        if not match or not down or len(info.shape) < 2 or len(down.shape) < 2:
            continue
        wanted = _FUSED_ROWS[re.split(r"[._]", match[1])[-1]]
        if info.shape[0] == wanted * down.shape[1]:
            return LoraFamily("flux2", f"its {key} has {info.shape[0]} rows")
    return None


def _other(key: str) -> str:
    return key.replace(".lora_up.", ".lora_down.").replace(".lora_B.", ".lora_A.")


def _by_mark(header: CheckpointHeader) -> LoraFamily | None:
    for mark, family in _MARKS:
        found = next((key for key in header.tensors if mark in key), None)
        if found is not None:
            return LoraFamily(family, f"it holds {found}")
    return None


def _by_metadata(metadata: Mapping[str, str]) -> LoraFamily | None:
    for field in ("ss_base_model_version", "modelspec.architecture"):
        said = metadata.get(field, "").strip()
        for start, family in _SAID:
            if said.casefold().startswith(start):
                return LoraFamily(family, f"its metadata says {field} {said!r}")
    return None

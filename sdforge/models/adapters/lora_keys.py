"""Which layer of a network a LoRA file means: one table per bundle, from spelled name to target.

Files spell a layer as diffusers does or as the original networks did, with dots or underscores, and
with one of several prefixes. All of a network's layers are spelled in all these ways once, and a
name is looked up with its dots as underscores. A family is added with a row in `SPELLINGS`. No
torch here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from sdforge.models.adapters.xlabs_keys import xlabs_fused, xlabs_name
from sdforge.models.families.flux_keys import (
    FLUX2,
    GUIDE,
    GUIDE_LAYERS,
    authors_names,
    fused_names,
)
from sdforge.models.families.lumina2_keys import authors_lumina2_names, fused_lumina2_names
from sdforge.models.families.sd3_keys import authors_sd3_names, fused_sd3_names
from sdforge.models.families.z_image_keys import authors_z_image_names, fused_z_image_names


@dataclass(frozen=True, slots=True)
class Target:
    """A layer that an adapter goes to.

    Attributes:
        role: of the component.
        layer: its name there, without `.weight`.
        of_rows: rows (start, stop, total) of what the file holds, where that is several layers.
        has_halves_swapped: the first half of its rows is the second one in the file.
    """

    role: str
    layer: str
    of_rows: tuple[int, int, int] | None = None
    has_halves_swapped: bool = False


# A spelling yields names for a layer; a network has several spellings, each with its prefixes.
Speller = Callable[[str], Iterator[str]]


# Rows by layer → names of matrices that files fuse, with their layers and which rows these are.
Fused = Callable[[Mapping[str, int]], Mapping[str, list[tuple[str, tuple[int, int, int]]]]]


@dataclass(frozen=True)
class Spelling:
    """Names of one network's layers in files; `fused` those that hold several of them."""

    prefixes: tuple[str, ...]
    names: Callable[[frozenset[str]], Mapping[str, Iterable[str]]]
    fused: Fused | None = None


class KeyTable:
    """The targets of all names that a file may use for a bundle's layers."""

    def __init__(self, targets: Mapping[str, tuple[Target, ...]]) -> None:
        self._targets = targets

    def find(self, name: str) -> tuple[Target, ...]:
        """Return where an adapter goes by the file's name of its layer; () where nowhere."""
        flat = flatten(name)
        found = self._targets.get(flat)
        if found is None and flat.startswith("base_model_model_"):
            found = self._targets.get(flat.removeprefix("base_model_model_"))
        return found or ()

    def __len__(self) -> int:
        return len(self._targets)


def key_table(
    family: str,
    layers: Mapping[str, Iterable[str]],
    rows: Mapping[str, Mapping[str, int]] | None = None,
    modulations: Mapping[str, bool] | None = None,
) -> KeyTable:
    """Return the table of a bundle.

    Args:
        family: the bundle's.
        layers: by role, the names of layers that have a weight.
        rows: by role, the rows of layers that are matrices.
        modulations: the denoiser's layers that give a scale and a shift; whether the shift comes
            first, as in the authors' names. Under diffusers' names the scale does.
    """
    targets: dict[str, tuple[Target, ...]] = {}
    spellings = SPELLINGS.get(family, SPELLINGS[""])
    for role, names in layers.items():
        known = frozenset(names)
        for spelling in spellings.get(role, ()):
            for layer, spelled in spelling.names(known).items():
                is_shift_first = (modulations or {}).get(layer) if role == "denoiser" else None
                for name in spelled:
                    is_swapped = is_shift_first is not None and is_shift_first == (name == layer)
                    target = Target(role, layer, has_halves_swapped=is_swapped)
                    for prefix in spelling.prefixes:
                        targets.setdefault(prefix + flatten(name), (target,))
            if spelling.fused is not None and rows is not None:
                for name, parts in spelling.fused(rows.get(role, {})).items():
                    found = tuple(Target(role, layer, of_rows=share) for layer, share in parts)
                    for prefix in spelling.prefixes:
                        targets.setdefault(prefix + flatten(name), found)
    return KeyTable(targets)


def flatten(name: str) -> str:
    """Return a layer's name with underscores only, and without diffusers' old processors."""
    return name.replace(".processor.", ".").replace(".", "_")


def unet_names(layers: frozenset[str]) -> Mapping[str, Iterable[str]]:
    """Return diffusers' and the original names of a U-Net's layers."""
    places = _Places.of(layers)
    return {layer: [*_plain(layer), places.original(layer)] for layer in layers}


def clip_names(layers: frozenset[str]) -> Mapping[str, Iterable[str]]:
    """Return the names of a CLIP text model's layers, which files write below `text_model.`."""
    bare = {layer: layer.removeprefix("text_model.") for layer in layers}
    return {layer: [f"text_model.{name}", name] for layer, name in bare.items()}


def plain_names(layers: frozenset[str]) -> Mapping[str, Iterable[str]]:
    """Return names as the network itself has them."""
    return {layer: list(_plain(layer)) for layer in layers}


def flux_names(layers: frozenset[str]) -> Mapping[str, Iterable[str]]:
    """Return diffusers', the authors' and XLabs' names of the layers of Flux's transformer."""
    authors = authors_names(layers)
    xlabs = {layer: xlabs_name(name) for layer, name in authors.items()}
    return {
        layer: [*names, *([other] if (other := xlabs.get(layer)) else [])]
        for layer, names in _both(layers, authors).items()
    }


def flux_fused(rows: Mapping[str, int]) -> Mapping[str, list[tuple[str, tuple[int, int, int]]]]:
    """Return the authors' and XLabs' names of the matrices that Flux's files fuse."""
    fused = fused_names(rows)
    return {**fused, **xlabs_fused(fused)}


def chroma_names(layers: frozenset[str]) -> Mapping[str, Iterable[str]]:
    """Return diffusers' and the authors' names of the layers of Chroma's transformer."""
    guide = {layer: layer for layer in layers if layer.startswith(GUIDE)}
    for own, other in GUIDE_LAYERS.items():
        guide = {layer: name.replace(other, own) for layer, name in guide.items()}
    return _both(layers, authors_names(layers) | guide)


def flux2_names(layers: frozenset[str]) -> Mapping[str, Iterable[str]]:
    """Return diffusers' and the authors' names of the layers of Flux.2's transformer."""
    return _both(layers, authors_names(layers, FLUX2))


def sd3_names(layers: frozenset[str]) -> Mapping[str, Iterable[str]]:
    """Return diffusers' and the authors' names of the layers of SD 3's transformer."""
    return _both(layers, authors_sd3_names(layers))


def lumina2_names(layers: frozenset[str]) -> Mapping[str, Iterable[str]]:
    """Return diffusers' and the authors' names of the layers of Lumina 2's transformer."""
    return _both(layers, authors_lumina2_names(layers))


def z_image_names(layers: frozenset[str]) -> Mapping[str, Iterable[str]]:
    """Return diffusers' and the authors' names of the layers of Z-Image's transformer."""
    return _both(layers, authors_z_image_names(layers))


def _both(layers: frozenset[str], authors: Mapping[str, str]) -> Mapping[str, Iterable[str]]:
    return {
        layer: [*_plain(layer), *([authors[layer]] if layer in authors else [])] for layer in layers
    }


def _plain(layer: str) -> Iterator[str]:
    yield layer
    if layer.endswith(".to_out.0"):
        # Diffusers' first LoRA files name the attention's processor, which has one output.
        yield layer.removesuffix(".0")


_PARTS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_BLOCK = re.compile(
    r"(down_blocks|up_blocks)\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)"
)
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


@dataclass(frozen=True)
class _Places:
    """How the blocks of a U-Net are counted: in diffusers by level, originally all through.

    Attributes:
        blocks: residual blocks of a level on the way down; one more on the way up.
        attentive: levels of the way up that have attention.
    """

    blocks: int
    attentive: frozenset[int]

    @classmethod
    def of(cls, layers: frozenset[str]) -> _Places:
        numbers = [
            int(match[4])
            for match in map(_BLOCK.match, layers)
            if match and match[1] == "down_blocks" and match[3] == "resnets"
        ]
        ups = (match for match in map(_BLOCK.match, layers) if match and match[1] == "up_blocks")
        attentive = frozenset(int(match[2]) for match in ups if match[3] == "attentions")
        return cls(max(numbers, default=1) + 1, attentive)

    def original(self, layer: str) -> str:
        """Return the original name; a layer that has none keeps its own."""
        if match := _MIDDLE.fullmatch(layer):
            kind, number, rest = match.groups()
            place = 1 if kind == "attentions" else 2 * int(number)
            return f"middle_block.{place}.{_part(kind, rest)}"
        match = _BLOCK.fullmatch(layer)
        if match is None:
            return _ENDS.get(layer, layer)
        side, level, kind, index, rest = match.groups()
        block = self._block(side, int(level), kind, int(index))
        if kind == "downsamplers":
            return f"{block}.0.op"
        if kind == "upsamplers":
            place = 2 if int(level) in self.attentive else 1
            return f"{block}.{place}.conv"
        return f"{block}.{1 if kind == 'attentions' else 0}.{_part(kind, rest)}"

    def _block(self, side: str, level: int, kind: str, index: int) -> str:
        if side == "down_blocks":
            inside = self.blocks if kind == "downsamplers" else index
            return f"input_blocks.{1 + level * (self.blocks + 1) + inside}"
        inside = self.blocks if kind == "upsamplers" else index
        return f"output_blocks.{level * (self.blocks + 1) + inside}"


def _part(kind: str, rest: str) -> str:
    return _PARTS.get(rest, rest) if kind == "resnets" else rest


def original_unet_name(layers: Iterable[str]) -> Callable[[str], str]:
    """Return what gives the original name of a layer of a U-Net that has these layers."""
    return _Places.of(frozenset(layers)).original


_UNET = Spelling(
    (
        "lora_unet_",
        "unet_",
        "oft_unet_",
        "lycoris_",
        "diffusion_model_",
        "model_diffusion_model_",
        "",
    ),
    unet_names,
)
_FIRST_CLIP = ("lora_te1_", "text_encoder_", "clip_l_", "oft_te1_")
_SECOND_CLIP = ("lora_te2_", "text_encoder_2_", "clip_g_", "oft_te2_")
_ONLY_CLIP = Spelling((*_FIRST_CLIP, "lora_te_", "oft_te_"), clip_names)
_TRANSFORMER = Spelling(
    ("lora_transformer_", "transformer_", "lora_unet_", "diffusion_model_", "lycoris_", ""),
    plain_names,
)
_ONE_CLIP_UNET: dict[str, tuple[Spelling, ...]] = {
    "denoiser": (_UNET,),
    "text_encoder": (_ONLY_CLIP,),
}
_FLUX2: dict[str, tuple[Spelling, ...]] = {
    "denoiser": (
        replace(_TRANSFORMER, names=flux2_names, fused=partial(fused_names, names=FLUX2)),
    ),
    "text_encoder": (Spelling(("lora_te_", "lora_te1_", "text_encoder_"), plain_names),),
}
# By family and role. The row "" is for families that have none of their own.
SPELLINGS: dict[str, dict[str, tuple[Spelling, ...]]] = {
    "sd1": _ONE_CLIP_UNET,
    "sd2": _ONE_CLIP_UNET,
    "sdxl": {
        "denoiser": (_UNET,),
        "text_encoder": (Spelling(_FIRST_CLIP, clip_names),),
        "text_encoder_2": (Spelling(_SECOND_CLIP, clip_names),),
    },
    "sdxl-refiner": {
        "denoiser": (_UNET,),
        "text_encoder": (Spelling((*_SECOND_CLIP, "lora_te_"), clip_names),),
    },
    "flux": {
        "denoiser": (replace(_TRANSFORMER, names=flux_names, fused=flux_fused),),
        "text_encoder": (Spelling((*_FIRST_CLIP, "lora_te_"), clip_names),),
        "text_encoder_2": (
            # kohya's numbers T5 as SD 3's, OneTrainer as diffusers does.
            Spelling(("lora_te3_", "lora_te2_", "text_encoder_2_", "t5xxl_"), plain_names),
        ),
    },
    "flux2": _FLUX2,
    "flux2-klein": _FLUX2,
    "sd3": {
        "denoiser": (replace(_TRANSFORMER, names=sd3_names, fused=fused_sd3_names),),
        "text_encoder": (Spelling(_FIRST_CLIP, clip_names),),
        "text_encoder_2": (Spelling(_SECOND_CLIP, clip_names),),
        "text_encoder_3": (Spelling(("lora_te3_", "text_encoder_3_", "t5xxl_"), plain_names),),
    },
    "chroma": {
        "denoiser": (replace(_TRANSFORMER, names=chroma_names, fused=fused_names),),
        "text_encoder": (
            Spelling(
                ("lora_te_", "lora_te1_", "lora_te3_", "text_encoder_", "t5xxl_"), plain_names
            ),
        ),
    },
    "lumina2": {
        "denoiser": (replace(_TRANSFORMER, names=lumina2_names, fused=fused_lumina2_names),),
        "text_encoder": (Spelling(("lora_te_", "lora_te1_", "text_encoder_"), plain_names),),
    },
    "zimage": {
        "denoiser": (replace(_TRANSFORMER, names=z_image_names, fused=fused_z_image_names),),
        "text_encoder": (_ONLY_CLIP,),
    },
    "": {
        "denoiser": (_TRANSFORMER,),
        "text_encoder": (_ONLY_CLIP,),
    },
}  # fmt: skip

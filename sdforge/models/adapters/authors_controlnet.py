"""ControlNets of transformers in their authors' names → the names of diffusers' networks.

XLabs' for Flux.1 (two double blocks, and convolutions that see the picture itself) and Stability's
own for SD 3.5 large (blocks that see no text). Fused matrices are rows of the file, as in
checkpoints. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from sdforge.models.adapters.controlnet_shapes import hint_name
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.base import Source
from sdforge.models.families.flux_keys import flux_sources

# Which picture one of Stability's was trained with, by the number in its file.
BLUR, CANNY, DEPTH = 0, 1, 2
_KINDS = {"canny": CANNY, "depth": DEPTH}
_NUMBER = "control_type"
_HINTS = "input_hint_block."
_OF_UNETS = "controlnet_cond_embedding."
_STABILITY = re.compile(r"(transformer_blocks\.\d+)\.(.+)\.(weight|bias)")
_PARTS = {
    "attn.proj": "attn.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "adaLN_modulation.1": "norm1.linear",
}
_QUERIES_KEYS_VALUES = ("attn.to_q", "attn.to_k", "attn.to_v")


def is_xlabs(header: CheckpointHeader) -> bool:
    """Say whether a file is one of XLabs' ControlNets for Flux.1, in XLabs' names."""
    signs = {"pos_embed_input.weight", "double_blocks.0.img_attn.qkv.weight"}
    return signs <= header.tensors.keys() and header.has_prefix(_HINTS)


def is_stability(header: CheckpointHeader) -> bool:
    """Say whether a file is one of Stability's for SD 3.5, in its names or diffusers'.

    Others of SD 3 embed the text.
    """
    signs = {"pos_embed_input.proj.weight", "transformer_blocks.0.norm1.linear.weight"}
    own = {"pos_embed_input.proj.weight", "transformer_blocks.0.attn.qkv.weight"}
    has = header.tensors.keys()
    return (signs <= has or own <= has) and "context_embedder.weight" not in has


def control_sources(header: CheckpointHeader) -> Mapping[str, Source]:
    """Return parameter name → source for a ControlNet of a transformer, whoever named it."""
    if is_xlabs(header):
        return _xlabs(header)
    plain = {name: Source(name, info.shape) for name, info in header.tensors.items()}
    if not is_stability(header):
        return plain
    return dict(
        pair for name, source in plain.items() for pair in _of_stability(name, source.shape)
    )


def said_kind(header: CheckpointHeader) -> str | None:
    """Return the tensor in which one of Stability's says its kind, None where none does."""
    return _NUMBER if _NUMBER in header.tensors else None


def kind_by_name(header: CheckpointHeader) -> int:
    """Return the kind that the name of one of Stability's tells: diffusers' have no number."""
    name = header.path.stem.casefold()
    return next((kind for word, kind in _KINDS.items() if word in name), BLUR)


def _xlabs(header: CheckpointHeader) -> dict[str, Source]:
    found: dict[str, Source] = {}
    shape = header.shape("img_in.weight")
    if shape:
        found.update(flux_sources(header.layout, "", shape[0]))
    hints = [name for name in header.tensors if name.startswith(_HINTS)]
    for name, info in header.tensors.items():
        source = Source(name, info.shape)
        if name.startswith("controlnet_blocks."):
            found[name] = source
        elif name.startswith("pos_embed_input."):
            found[f"controlnet_x_embedder.{name.removeprefix('pos_embed_input.')}"] = source
        elif target := hint_name(name, hints):
            found[_HINTS + target.removeprefix(_OF_UNETS)] = source
    return found


def _of_stability(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, Source]]:
    match = _STABILITY.fullmatch(name)
    block, part, end = match.groups() if match else ("", "", "")
    if part == "attn.qkv" and shape:
        rows = shape[0] // len(_QUERIES_KEYS_VALUES)
        for place, target in enumerate(_QUERIES_KEYS_VALUES):
            yield f"{block}.{target}.{end}", Source(name, (rows, *shape[1:]), place * rows)
    elif part in _PARTS:
        yield f"{block}.{_PARTS[part]}.{end}", Source(name, shape)
    else:
        yield name, Source(name, shape)

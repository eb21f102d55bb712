"""How large the networks in a checkpoint are, read off its header. No torch, no weights.

Works for every layout whose parts are told apart by prefix, also for families that this version
cannot run: names decide which part a tensor belongs to, shapes count the bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from sdforge.memory.estimate import ModelSizes, Network
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.formats.ggml_types import BLOCK_TYPES
from sdforge.models.layout import TensorInfo
from sdforge.models.parts import parts
from sdforge.models.precision import ITEMSIZE

# Role → prefixes of its tensors; what begins with none of them is a denoiser saved alone.
_PREFIXES: Mapping[str, tuple[str, ...]] = {
    "denoiser": ("model.diffusion_model.",),
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.", "text_encoders."),
}
_IGNORED = (
    "model_ema.", "model.ema", "betas", "alphas_", "sqrt_", "log_one", "posterior_",
    # Of language models neither what sees pictures nor what answers is loaded.
    "visual.", "lm_head.",
)  # fmt: skip
# Tensors that files carry and networks rebuild: places of tokens, scales of logits.
_NOT_WEIGHTS = ("position_ids", "logit_scale", "text_projection")
# The first layer of a denoiser, by which its width is known.
_FIRST_LAYERS = (
    "input_blocks.0.0.weight", "x_embedder.proj.weight", "img_in.weight", "x_embedder.weight",
    "all_x_embedder.2-1.weight", "conv_in.weight",
)  # fmt: skip
_DIT = frozenset(
    {
        "sd3", "flux", "chroma", "zimage", "qwen-image", "qwen-image-edit", "flux2", "flux2-klein",
        "lumina2",
    }
)  # fmt: skip
# Families whose denoiser sees patches of the VAE's latents as its latent pixels.
_PATCHED = frozenset({"flux2", "flux2-klein"})
_LATENT_CHANNELS = 4
_SEEING = frozenset({"qwen-image-edit"})
_VISION_WIDTH = 1280
# Families whose networks compute what another one's do.
_SAME_TRACE = {"sd15": "sd1", "qwen-image-edit": "qwen-image"}


def model_sizes(
    family: str,
    header: CheckpointHeader,
    precision: Mapping[str, str],
    *,
    beside: Mapping[str, CheckpointHeader] | None = None,
) -> ModelSizes:
    """Return the networks of a checkpoint with their bytes in memory.

    Args:
        family: as detected, 'sdxl'.
        header: of the checkpoint.
        precision: type of numbers by role, as `precision_names` returns them.
        beside: headers of other files that a part comes from, by its role.
    """
    own = _parts(header)
    texts = [own["text_encoder"]]
    for role, other in (beside or {}).items():
        if role == "vision":
            continue
        kind = "vae" if role == "vae" else "text_encoder"
        found = _parts(other, alone=kind)[kind]
        if role == "vae":
            own["vae"] = found
        else:
            texts.append(found)
    text_itemsize = ITEMSIZE[precision["text_encoder"]]
    networks = [
        *_denoiser(family, own["denoiser"], ITEMSIZE[precision["denoiser"]]),
        *(network for tensors in texts for network in _text_encoders(tensors, text_itemsize)),
        *_visions(family, (header, *(beside or {}).values()), text_itemsize),
        *_vae(own["vae"], ITEMSIZE[precision["vae"]]),
    ]
    return ModelSizes(family=family, networks=tuple(networks))


Tensors = dict[str, TensorInfo]


def _parts(header: CheckpointHeader, alone: str = "denoiser") -> dict[str, Tensors]:
    parts: dict[str, Tensors] = {role: {} for role in _PREFIXES}
    for name, info in header.tensors.items():
        if name.startswith(_IGNORED) or name.endswith(_NOT_WEIGHTS):
            continue
        role, own = _role(name, alone)
        parts[role][own] = info
    return parts


def _role(name: str, alone: str) -> tuple[str, str]:
    for role, prefixes in _PREFIXES.items():
        for prefix in prefixes:
            if name.startswith(prefix):
                return role, name[len(prefix) :]
    return alone, name


def _bytes(tensors: Tensors, itemsize: int) -> int:
    return sum(
        # The blocks of GGUF files stay as they are.
        info.size_bytes if info.dtype in BLOCK_TYPES else math.prod(info.shape) * itemsize
        for info in tensors.values()
    )


def _denoiser(family: str, tensors: Tensors, itemsize: int) -> Iterator[Network]:
    if not tensors:
        return
    first = next((tensors[name] for name in _FIRST_LAYERS if name in tensors), None)
    yield Network(
        role="denoiser",
        trace=_SAME_TRACE.get(family, family),
        kind="dit" if family in _DIT else "unet",
        total_bytes=_bytes(tensors, itemsize),
        width=first.shape[0] if first and first.shape else 320,
        itemsize=itemsize,
        downscale=16 if family in _PATCHED else 8,
    )


def _text_encoders(tensors: Tensors, itemsize: int) -> Iterator[Network]:
    """Yield one network per token table: each text encoder has exactly one."""
    tables = [
        name
        for name in tensors
        if name.endswith(("token_embedding.weight", "embed_tokens.weight", "shared.weight"))
        and len(tensors[name].shape) == 2
    ]
    claimed: set[str] = set()
    for table in sorted(tables, key=len, reverse=True):
        root = _root(table)
        mine = {
            name: info
            for name, info in tensors.items()
            if name.startswith(root) and name not in claimed
        }
        claimed |= mine.keys()
        if not mine:
            continue
        width = tensors[table].shape[1]
        known = {768: "clip-l", 1280: "clip-g", 4096: "t5-xxl"}
        yield Network(
            role="text_encoder",
            trace=known.get(width, f"text encoder of width {width}"),
            kind="text",
            total_bytes=_bytes(mine, itemsize),
            width=width,
            itemsize=itemsize,
        )


def _visions(family: str, headers: Iterable[CheckpointHeader], itemsize: int) -> Iterator[Network]:
    """Yield what a text encoder sees pictures with, for families that show it some."""
    held = {
        part: header
        for header in headers
        for part in parts(header.layout)
        if part.role == "vision" and family in _SEEING
    }
    for part, header in list(held.items())[-1:]:
        tensors = {
            name: header.layout.tensors[key]
            for name, key in header.layout.under(part.prefix).items()
        }
        yield Network(
            role="text_encoder",
            trace=part.label,
            kind="text",
            total_bytes=_bytes(tensors, itemsize),
            width=_VISION_WIDTH,
            itemsize=itemsize,
        )


def _root(table: str) -> str:
    """Return the prefix of the text encoder that a token table belongs to."""
    for inner in (
        "transformer.text_model.", "text_model.", "transformer.encoder.", "encoder.",
        "model.token_embedding", "transformer.",
    ):  # fmt: skip
        if inner in table:
            return table[: table.index(inner)]
    return table.rpartition("embed")[0].rpartition("shared")[0]


def _vae(tensors: Tensors, itemsize: int) -> Iterator[Network]:
    if not tensors:
        return
    names = ("encoder.conv_in.weight", "encoder.conv1.weight", "decoder.conv_out.weight")
    first = next((tensors[name] for name in names if name in tensors), None)
    latents = tensors.get("decoder.conv_in.weight")
    is_video = first is not None and len(first.shape) == 5
    channels = latents.shape[1] if latents and len(latents.shape) > 1 else _LATENT_CHANNELS
    yield Network(
        role="vae",
        trace="vae-qwen" if is_video else f"vae-{channels}",
        kind="vae",
        total_bytes=_bytes(tensors, itemsize),
        width=first.shape[0] if first and first.shape else 128,
        itemsize=itemsize,
    )

"""Which networks a file holds: denoiser, VAE and text encoders, each known by its own tensors.

Serves files of every kind, whole checkpoints and single networks alike, so that what is missing
can be named and what is given can be put in its place (`composition.py`). No torch here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from sdforge.models.architectures import architecture, denoiser_tensors
from sdforge.models.layout import Layout, TensorInfo

# The table of token vectors, of which every text encoder has exactly one, as each layout calls it.
_HF_CLIP = "text_model.embeddings.token_embedding.weight"
_BARE_CLIP = "embeddings.token_embedding.weight"
_OPEN_CLIP = "token_embedding.weight"
_T5 = "shared.weight"
_T5_TABLE = "encoder.embed_tokens.weight"
_LLM = "model.embed_tokens.weight"
_GGUF = "token_embd.weight"
_TABLES = (_HF_CLIP, _OPEN_CLIP, _T5, _T5_TABLE, _LLM, _GGUF)
# A tensor of each kind of VAE: the KL autoencoder, that of Wan and Qwen-Image, as both are saved.
_KL_VAE = "decoder.conv_in.weight"
# Beside the tensors of a KL autoencoder.
_FLUX2_VAE = "bn.running_mean"
_VIDEO_VAE = ("decoder.conv1.weight", "decoder.mid_block.resnets.0.norm1.gamma")
# Of what language models see with: in transformers' names, and in a file of its own by llama.cpp.
_VISION, _VISION_END, _VISION_GGUF = (
    "patch_embed.proj.weight", "merger.ln_q.weight", "v.patch_embd.weight",
)  # fmt: skip
_CLIPS: Mapping[int, tuple[str, str]] = {
    768: ("clip_l", "CLIP-L"),
    1024: ("clip_h", "CLIP-H"),
    1280: ("clip_g", "CLIP-G"),
}


@dataclass(frozen=True, kw_only=True)
class Part:
    """One network in a file.

    `role` is 'denoiser', 'vae', 'text_encoder' or 'vision'; `kind` tells networks of a role apart
    ('clip_l', 't5', 'kl-16', a family for denoisers); its tensors are those below `prefix`.
    """

    role: str
    kind: str
    label: str
    prefix: str
    width: int = 0


@lru_cache(maxsize=64)
def parts(layout: Layout) -> tuple[Part, ...]:
    """Return the networks in a file, the denoiser first."""
    return (*_denoisers(layout), *_text_encoders(layout), *_vaes(layout), *_visions(layout))


def types(layout: Layout, prefix: str = "") -> Counter[str]:
    """Return how many bytes of each type of numbers lie below a prefix."""
    found: Counter[str] = Counter()
    for key in layout.under(prefix).values():
        info = layout.tensors[key]
        found[info.dtype] += info.size_bytes
    return found


def _denoisers(layout: Layout) -> Iterator[Part]:
    kind, tensors = architecture(layout), denoiser_tensors(layout)
    if kind is not None and tensors is not None:
        yield Part(role="denoiser", kind=kind.family, label=kind.label, prefix=tensors.prefix)


def _text_encoders(layout: Layout) -> Iterator[Part]:
    seen: set[str] = set()
    for key in layout.tensors:
        if not key.endswith(_TABLES):
            continue
        found = _text_encoder(layout, key)
        if found is not None and found.prefix not in seen:
            seen.add(found.prefix)
            yield found


def _text_encoder(layout: Layout, key: str) -> Part | None:
    info = layout.tensors[key]
    width = info.shape[-1] if len(info.shape) == 2 else 0
    kind, label, lead = "", "", ""
    if key.endswith((_HF_CLIP, _BARE_CLIP)):
        lead = key.removesuffix(_BARE_CLIP).removesuffix("text_model.")
        kind, label = _clip(layout, lead, width)
    elif key.endswith(_OPEN_CLIP):
        lead = key.removesuffix(_OPEN_CLIP)
        if not layout.under(f"{lead}transformer.resblocks."):
            return None
        kind, label = _clip(layout, lead, width)
    elif key.endswith((_T5, _T5_TABLE)):
        lead = key.removesuffix(_T5_TABLE) if key.endswith(_T5_TABLE) else key.removesuffix(_T5)
        if not layout.under(f"{lead}encoder.block."):
            return None
        kind, label = ("t5", f"T5 of width {width}" if width != 4096 else "T5-XXL")
    elif key.endswith(_LLM):
        lead = key.removesuffix(_LLM)
        kind, label = _language_model(layout, f"{lead}model.", width)
    elif key == _GGUF:
        kind, label = ("t5", "T5") if layout.under("enc.blk.") else ("llm", "language model")
        if not layout.under("enc.blk.") and not layout.under("blk."):
            return None
    if not kind:
        return None
    return Part(role="text_encoder", kind=kind, label=label, prefix=lead, width=width)


def _clip(layout: Layout, lead: str, width: int) -> tuple[str, str]:
    """Tell CLIPs apart: by width, and where that is unusual by their place or their projection."""
    if width in _CLIPS:
        return _CLIPS[width]
    label = f"CLIP of width {width}"
    said = [kind for kind, _ in _CLIPS.values() if f".{kind}." in lead]
    if said:
        return said[0], label
    is_large = f"{lead}text_projection.weight" in layout.tensors
    return ("clip_g" if is_large else "clip"), label


def _language_model(layout: Layout, lead: str, width: int) -> tuple[str, str]:
    layer = f"{lead}layers.0."
    if f"{layer}self_attn.q_norm.weight" in layout.tensors:
        return "qwen3", f"Qwen3 of width {width}"
    if f"{layer}self_attn.q_proj.bias" in layout.tensors:
        return "qwen2.5-vl", f"Qwen2.5 of width {width}"
    if f"{layer}pre_feedforward_layernorm.weight" in layout.tensors:
        return "gemma2", f"Gemma 2 of width {width}"
    return "llm", f"language model of width {width}"


def _vaes(layout: Layout) -> Iterator[Part]:
    seen: set[str] = set()
    for key, info in layout.tensors.items():
        found = _vae(layout, key, info)
        if found is not None and found.prefix not in seen:
            seen.add(found.prefix)
            yield found


def _vae(layout: Layout, key: str, info: TensorInfo) -> Part | None:
    if key.endswith(_KL_VAE) and len(info.shape) == 4:
        lead, channels = key.removesuffix(_KL_VAE), info.shape[1]
        if f"{lead}{_FLUX2_VAE}" in layout.tensors:
            return Part(role="vae", kind="flux2", label="VAE of Flux.2", prefix=lead)
        label = f"VAE of {channels} latent channels"
        return Part(role="vae", kind=f"kl-{channels}", label=label, prefix=lead)
    for ending in _VIDEO_VAE:
        if key.endswith(ending) and (ending != _VIDEO_VAE[0] or len(info.shape) == 5):
            lead = key.removesuffix(ending)
            return Part(role="vae", kind="wan", label="VAE of Wan and Qwen-Image", prefix=lead)
    return None


def _visions(layout: Layout) -> Iterator[Part]:
    for key, info in layout.tensors.items():
        lead = key.removesuffix(_VISION)
        is_known = key.endswith(_VISION) and f"{lead}{_VISION_END}" in layout.tensors
        is_film = len(info.shape) == 5
        if (is_known and is_film) or (key == _VISION_GGUF and f"{key}.1" in layout.tensors):
            prefix = lead if is_known else ""
            label = "vision part of Qwen2.5-VL"
            yield Part(role="vision", kind="qwen2.5-vl-vision", label=label, prefix=prefix)


def missing_roles(layout: Layout) -> tuple[str, ...]:
    """Return which of denoiser, text encoder and VAE a file lacks, in words."""
    words = {"denoiser": "denoiser", "text_encoder": "text encoder", "vae": "VAE"}
    held = {part.role for part in parts(layout)}
    return tuple(word for role, word in words.items() if role not in held)

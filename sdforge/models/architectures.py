"""Which architecture a file's denoiser has, by the names and shapes of its tensors. No torch here.

Knows more kinds than this version can run, so that every refusal can say what the file is. One
function a kind, each looking for tensors that no other kind has; the more particular come first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from sdforge.models.layout import Layout

# How a denoiser's tensors begin in a checkpoint, in a file of its own, and as other tools save it.
DENOISER_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.", "unet.", "")
# Any of these says that a denoiser begins here.
_FIRST_NAMES = (
    "input_blocks.", "double_blocks.", "joint_blocks.", "transformer_blocks.", "cap_embedder.",
    "distilled_guidance_layer.", "double_stream_modulation_img.", "double_layers.",
    "joint_transformer_blocks.", "adaln_single.", "t_block.", "patch_embedding.", "down_blocks.",
    "label_emb.", "double_stream_blocks.", "single_transformer_blocks.", "net.blocks.",
    "time_caption_embed.",
)  # fmt: skip
# What names a denoiser's blocks too, but goes beside one: ControlNets and LoRAs.
_BESIDE = ("controlnet_blocks.", "input_hint_block.")
_ADAPTER_ENDS = (
    ".lora_down.weight", ".lora_A.weight", "_lora1.down.weight", "_lora.down.weight",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What kind of denoiser a file holds; `family` is the short name, `label` the one for people.

    `reason` tells the signs it was known by.
    """

    family: str
    label: str
    reason: str
    variant: str = "standard"
    prediction: str = "epsilon"


class Tensors:
    """A denoiser's tensors under their own names."""

    def __init__(self, layout: Layout, prefix: str) -> None:
        """Look below `prefix`."""
        self.prefix = prefix
        self._layout = layout
        self._names: Mapping[str, str] = layout.under(prefix)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def has(self, *starts: str) -> bool:
        """Say whether any tensor's name begins so."""
        return any(self._layout.has_prefix(self.prefix + start) for start in starts)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, () when there is none of that name."""
        key = self._names.get(name)
        return self._layout.tensors[key].shape if key else ()

    def size(self, name: str, dimension: int) -> int:
        """Return one dimension of a tensor, 0 where it has none."""
        shape = self.shape(name)
        return shape[dimension] if len(shape) > dimension else 0

    def count(self, lead: str) -> int:
        """Return how many numbers follow `lead` in names: 'layers.' with layers 0 to 29 has 30."""
        below = self._layout.under(self.prefix + lead)
        return len({name.partition(".")[0] for name in below})

    def first(self, ending: str | tuple[str, ...]) -> tuple[int, ...]:
        """Return the shape of the first tensor whose name ends so, () without one."""
        for name, key in self._names.items():
            if name.endswith(ending):
                return self._layout.tensors[key].shape
        return ()


@lru_cache(maxsize=64)
def architecture(layout: Layout) -> Architecture | None:
    """Return the kind of denoiser in a file, None when it holds none that is known."""
    tensors = denoiser_tensors(layout)
    if tensors is None or tensors.has(*_BESIDE) or tensors.first(_ADAPTER_ENDS):
        return None
    for recognise in _KINDS:
        found = recognise(tensors)
        if found is not None:
            return found
    return None


def denoiser_tensors(layout: Layout) -> Tensors | None:
    """Return the denoiser's tensors, wherever they begin."""
    for prefix in DENOISER_PREFIXES:
        if any(layout.has_prefix(prefix + name) for name in _FIRST_NAMES):
            return Tensors(layout, prefix)
    return None


def _blocks(count: int, kind: str) -> str:
    return f"{count} {kind}block{'s' if count != 1 else ''}"


# --- U-Nets ---------------------------------------------------------------------------------------


def _unet(tensors: Tensors) -> Architecture | None:
    """Tell Stable Diffusion's U-Nets apart, in the layout of the original files."""
    if not tensors.has("input_blocks.", "label_emb."):
        return None
    width, channels = (tensors.size("input_blocks.0.0.weight", place) for place in (0, 1))
    context = tensors.first("attn2.to_k.weight")[-1:]
    reason = (
        f"U-Net of width {width} with {channels} input channels, text states of width "
        f"{context[0] if context else 'unknown'}"
    )
    label_width = tensors.size("label_emb.0.0.weight", 1)
    if label_width:
        return _sdxl(tensors, reason, channels, label_width)
    if tensors.has("label_emb."):
        return Architecture(
            family="sd-upscaler",
            label="Stable Diffusion upscaler",
            reason=f"{reason}, and a table of noise levels",
            prediction="v",
        )
    projection = tensors.first(".1.proj_in.weight")
    if len(projection) == 2:
        kind, sign = "2", "linear attention projections"
        variants = {4: "standard", 5: "depth", 9: "inpainting"}
    elif len(projection) == 4:
        kind, sign = "1", "convolutional attention projections"
        variants = {4: "standard", 8: "instruct-pix2pix", 9: "inpainting"}
    else:
        return None
    return Architecture(
        family=f"sd{kind}",
        label="Stable Diffusion 1.x" if kind == "1" else "Stable Diffusion 2 type",
        variant=variants.get(channels, f"{channels}-channel"),
        reason=f"{reason}, {sign}",
    )


def _sdxl(tensors: Tensors, reason: str, channels: int, label_width: int) -> Architecture:
    depths = [
        tensors.count(f"input_blocks.{place}.1.transformer_blocks.") for place in (4, 5, 7, 8)
    ]
    reason = (
        f"{reason}, {'+'.join(map(str, depths))} transformer blocks on the way down, "
        f"{label_width} numbers of sizes and pooled text"
    )
    if label_width == 2560:
        return Architecture(
            family="sdxl-refiner",
            label="Stable Diffusion XL refiner",
            variant="refiner",
            reason=reason,
        )
    if label_width in (1536, 2048) and not any(depths[2:]):
        return Architecture(
            family="sd2-unclip", label="Stable Diffusion 2.1 unCLIP", reason=reason, prediction="v"
        )
    variant = {4: "base", 8: "instruct-pix2pix", 9: "inpainting"}.get(
        channels, f"{channels}-channel"
    )
    variant = {"2 2 4 4": "SSD-1B", "1 1 2 2": "Vega"}.get(" ".join(map(str, depths)), variant)
    label = "Stable Diffusion XL" if variant == "base" else f"Stable Diffusion XL ({variant})"
    return Architecture(family="sdxl", label=label, variant=variant, reason=reason)


def _diffusers_unet(tensors: Tensors) -> Architecture | None:
    """Tell Stable Diffusion's U-Nets apart, in the layout of diffusers."""
    if tensors.has("down_blocks.0.0.channelwise."):
        return Architecture(
            family="cascade", label="Stable Cascade", reason="blocks with a channelwise part"
        )
    if not tensors.has("down_blocks."):
        return None
    width, channels = tensors.size("conv_in.weight", 0), tensors.size("conv_in.weight", 1)
    context = (tensors.first("attn2.to_k.weight")[-1:] or (0,))[0]
    added = tensors.size("add_embedding.linear_1.weight", 1)
    reason = (
        f"U-Net of width {width} in the layout of diffusers, {channels} input channels, text "
        f"states of width {context}"
    )
    variant = {4: "standard", 8: "instruct-pix2pix", 9: "inpainting"}.get(channels, "")
    if added:
        family = "sdxl-refiner" if added == 2560 else "sdxl"
        label = f"Stable Diffusion XL{' refiner' if added == 2560 else ''}"
        return Architecture(family=family, label=label, reason=reason, variant=variant)
    if context == 1024:
        return Architecture(
            family="sd2", label="Stable Diffusion 2", reason=reason, variant=variant
        )
    return Architecture(family="sd1", label="Stable Diffusion 1.x", reason=reason, variant=variant)


# --- transformers ---------------------------------------------------------------------------------


def _flow(family: str, label: str, reason: str, variant: str = "standard") -> Architecture:
    return Architecture(
        family=family, label=label, variant=variant, prediction="flow", reason=reason
    )


def _sd3(tensors: Tensors) -> Architecture | None:
    if tensors.has("joint_blocks."):
        depth, width = tensors.count("joint_blocks."), tensors.size("x_embedder.proj.weight", 0)
        has_norms = tensors.has("joint_blocks.0.x_block.attn.ln_q.")
        has_second = tensors.has("joint_blocks.0.x_block.attn2.")
    elif tensors.has("transformer_blocks.0.attn.add_q_proj.") and tensors.has("pos_embed."):
        depth = tensors.count("transformer_blocks.")
        width = tensors.size("pos_embed.proj.weight", 0)
        has_norms = tensors.has("transformer_blocks.0.attn.norm_q.")
        has_second = tensors.has("transformer_blocks.0.attn2.")
    else:
        return None
    label, variant = "Stable Diffusion 3 medium", "medium"
    if has_second:
        label, variant = "Stable Diffusion 3.5 medium", "3.5-medium"
    elif has_norms:
        label, variant = "Stable Diffusion 3.5 large", "3.5-large"
    norms = "normalised queries" if has_norms else "plain queries"
    second = ", a second attention of the picture to itself" if has_second else ""
    return _flow(
        "sd3", label, f"{_blocks(depth, 'joint ')} of width {width}, {norms}{second}", variant
    )


def _chroma(tensors: Tensors) -> Architecture | None:
    if not tensors.has("distilled_guidance_layer."):
        return None
    pixels = tensors.has("nerf_blocks.", "nerf_image_embedder.")
    return _flow(
        "chroma",
        "Chroma Radiance" if pixels else "Chroma",
        f"a distilled guidance layer in front of {_flux_blocks(tensors)}",
        "radiance" if pixels else "standard",
    )


def _flux2(tensors: Tensors) -> Architecture | None:
    if not tensors.has("double_stream_modulation_img."):
        return None
    guided = tensors.has("guidance_in.", "time_guidance_embed.guidance_embedder.")
    sign = "a guidance embedding" if guided else "no guidance embedding"
    return _flow(
        "flux2" if guided else "flux2-klein",
        f"Flux.2 [{'dev' if guided else 'klein'}]",
        f"modulation shared by all of {_flux_blocks(tensors)}, {sign}",
        "dev" if guided else "standard",
    )


def _flux_blocks(tensors: Tensors) -> str:
    double, single = tensors.count("double_blocks."), tensors.count("single_blocks.")
    if not double:
        double = tensors.count("transformer_blocks.")
        single = tensors.count("single_transformer_blocks.")
    width = tensors.size("img_in.weight", 0) or tensors.size("x_embedder.weight", 0)
    return f"{double} double and {_blocks(single, 'single ')} of width {width}"


def _hunyuan(tensors: Tensors) -> Architecture | None:
    if not tensors.has("txt_in.individual_token_refiner.", "individual_token_refiner."):
        return None
    return _flow("hunyuan-video", "HunyuanVideo", f"a token refiner, {_flux_blocks(tensors)}")


def _flux(tensors: Tensors) -> Architecture | None:
    if not tensors.has("double_blocks.", "single_blocks.", "single_transformer_blocks."):
        return None
    channels = tensors.size("img_in.weight", 1) or tensors.size("x_embedder.weight", 1)
    guided = tensors.has("guidance_in.", "time_text_embed.guidance_embedder.")
    variant = {384: "fill", 128: "control"}.get(channels, "dev" if guided else "schnell")
    sign = "a guidance embedding" if guided else "no guidance embedding"
    return _flow(
        "flux",
        f"Flux.1 {variant}",
        f"{_flux_blocks(tensors)}, {sign}, {channels} input numbers a patch",
        variant,
    )


def _z_image(tensors: Tensors) -> Architecture | None:
    if not tensors.has("cap_embedder."):
        return None
    text, width = (tensors.size("cap_embedder.1.weight", place) for place in (1, 0))
    reason = (
        f"{_blocks(tensors.count('layers.'), '')} of width {width} and a caption embedder for "
        f"text states of width {text}"
    )
    if "x_pad_token" in tensors or "cap_pad_token" in tensors or text == 2560:
        return _flow("zimage", "Z-Image", f"{reason}, padding tokens")
    if text == 2304:
        return _flow("lumina2", "Lumina 2", reason)
    return _flow("lumina2", "Lumina 2 or Z-Image", reason)


def _lumina2(tensors: Tensors) -> Architecture | None:
    """Tell Lumina 2 in diffusers' names, which differ from its authors' and from Z-Image's."""
    if not tensors.has("time_caption_embed.caption_embedder."):
        return None
    width, text = (
        tensors.size("time_caption_embed.caption_embedder.1.weight", place) for place in (0, 1)
    )
    return _flow(
        "lumina2",
        "Lumina 2",
        f"{_blocks(tensors.count('layers.'), '')} of width {width} and a caption embedder for "
        f"text states of width {text}",
    )


def _qwen_image(tensors: Tensors) -> Architecture | None:
    if not tensors.has("transformer_blocks.0.img_mod."):
        return None
    depth, width = tensors.count("transformer_blocks."), tensors.size("img_in.weight", 0)
    text = tensors.size("txt_in.weight", 1)
    return _flow(
        "qwen-image",
        "Qwen-Image",
        f"{_blocks(depth, '')} of width {width} with separate modulation of picture and text, "
        f"text states of width {text}",
    )


def _by_prefix(
    family: str, label: str, reason: str, *prefixes: str
) -> Callable[[Tensors], Architecture | None]:
    def recognise(tensors: Tensors) -> Architecture | None:
        return _flow(family, label, reason) if tensors.has(*prefixes) else None

    return recognise


_KINDS: tuple[Callable[[Tensors], Architecture | None], ...] = (
    _unet,
    _sd3,
    _chroma,
    _flux2,
    _hunyuan,
    _flux,
    _z_image,
    _lumina2,
    _qwen_image,
    _by_prefix(
        "hidream", "HiDream", "double-stream blocks with experts", "double_stream_blocks."
    ),
    _by_prefix(
        "auraflow", "AuraFlow or SD 3 type", "double layers",
        "double_layers.", "joint_transformer_blocks.",
    ),
    _by_prefix("ltx-video", "LTX video", "a patch projection", "patchify_proj."),
    _by_prefix("pixart", "PixArt", "one table of modulation for all", "adaln_single.", "t_block."),
    _by_prefix("wan", "Wan video", "a patch embedding in time", "patch_embedding.", "img_emb."),
    _by_prefix("cosmos", "Cosmos", "blocks below 'net.'", "net.blocks."),
    _diffusers_unet,
)  # fmt: skip

"""Measure the activations of every architecture in its true size, without weights or a device.

Each network is built from fake tensors, which have shapes and no bytes, and run once per size while
a dispatch mode adds up the storages that are alive. Attention counts as fused: no matrix of scores.
The peaks are fitted by `bytes = fixed + per_latent_pixel · pixels + per_token · text tokens` and
written to `sdforge/memory/activations.json`, which `sdforge/memory/estimate.py` reads. What a trace
cannot see, workspaces of convolutions and the allocator's slack, is `calibration.py`'s matter.

    python scripts/trace_activations.py            write the file
    python scripts/trace_activations.py --print    only show traces and fits
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
TARGET = ROOT / "sdforge" / "memory" / "activations.json"
MIB = 1024 * 1024
DTYPE = torch.float16
# Sides of latents: 512, 768 × 1152 and 1536 pixels at a downscale of 8.
SIZES = ((64, 64), (96, 144), (192, 192))


class LiveBytes(TorchDispatchMode):
    """Adds up the bytes of storages that come into being while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._charge(leaf.untyped_storage())
        return out

    def know(self, tensors: Iterable[torch.Tensor]) -> None:
        """Leave these out of the count: weights and inputs."""
        for tensor in tensors:
            self._known.add(tensor.untyped_storage())

    def _charge(self, storage: Any) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._give_back, size)

    def _give_back(self, size: int) -> None:
        self.now -= size


class FusedAttention(TorchFunctionMode):
    """Answers scaled dot product attention with its result's shape alone."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value"), args, strict=False)) | dict(kwargs or {})
            query, value = named["query"], named["value"]
            return query.new_empty((*query.shape[:-1], value.shape[-1]))
        return func(*args, **(kwargs or {}))


Call = Callable[[nn.Module, int, int, int, int], Any]


@dataclass(frozen=True)
class Subject:
    """A network and how to run it on (batch, latent height, latent width, text tokens)."""

    kind: str
    name: str
    width: int
    make: Callable[[], nn.Module]
    call: Call
    tokens: Sequence[int] = (77, 154)
    sizes: Sequence[tuple[int, int]] = SIZES
    batches: Sequence[int] = (1, 2)


def new(*shape: int, dtype: torch.dtype = DTYPE) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype)


# ------------------------------------------------------------------------------------- networks


def unet(**config: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        from sdforge.models.attention import use_direct_attention

        module = UNet2DConditionModel(**config)
        use_direct_attention(module)
        return module

    return make


def run_unet(context: int, pooled: int = 0, times: int = 6) -> Call:
    def call(net: nn.Module, batch: int, height: int, width: int, tokens: int) -> Any:
        added = None
        if pooled:
            added = {"text_embeds": new(batch, pooled), "time_ids": new(batch, times)}
        channels = int(net.config.in_channels)  # type: ignore[union-attr]
        return net(
            new(batch, channels, height, width),
            new(1, dtype=torch.float32),
            encoder_hidden_states=new(batch, tokens, context),
            added_cond_kwargs=added,
            return_dict=False,
        )

    return call


SDXL = {
    "in_channels": 4,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SDXL_REFINER = SDXL | {
    "block_out_channels": (384, 768, 1536, 1536),
    "down_block_types": (
        "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D",
    ),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 4,
    "attention_head_dim": (6, 12, 24, 24),
    "cross_attention_dim": 1280,
    "projection_class_embeddings_input_dim": 2560,
}  # fmt: skip


def sd3() -> nn.Module:
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=128, in_channels=16, out_channels=16, num_layers=24, num_attention_heads=24,
        caption_projection_dim=1536, pooled_projection_dim=2048, pos_embed_max_size=384,
    )  # fmt: skip


def run_sd3(net: nn.Module, batch: int, height: int, width: int, tokens: int) -> Any:
    return net(
        hidden_states=new(batch, 16, height, width),
        encoder_hidden_states=new(batch, tokens, 4096),
        pooled_projections=new(batch, 2048),
        timestep=new(batch, dtype=torch.float32),
        return_dict=False,
    )


def flux() -> nn.Module:
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    return FluxTransformer2DModel(guidance_embeds=True)


def run_flux(net: nn.Module, batch: int, height: int, width: int, tokens: int) -> Any:
    patches = (height // 2) * (width // 2)
    return net(
        hidden_states=new(batch, patches, 64),
        encoder_hidden_states=new(batch, tokens, 4096),
        pooled_projections=new(batch, 768),
        timestep=new(batch),
        img_ids=new(patches, 3),
        txt_ids=new(tokens, 3),
        guidance=new(batch),
        return_dict=False,
    )


def chroma() -> nn.Module:
    from diffusers.models.transformers.transformer_chroma import ChromaTransformer2DModel

    return ChromaTransformer2DModel()


def run_chroma(net: nn.Module, batch: int, height: int, width: int, tokens: int) -> Any:
    patches = (height // 2) * (width // 2)
    return net(
        hidden_states=new(batch, patches, 64),
        encoder_hidden_states=new(batch, tokens, 4096),
        timestep=new(batch),
        img_ids=new(patches, 3),
        txt_ids=new(tokens, 3),
        return_dict=False,
    )


def zimage() -> nn.Module:
    from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel

    return ZImageTransformer2DModel()


def lumina2() -> nn.Module:
    from diffusers.models.transformers.transformer_lumina2 import Lumina2Transformer2DModel

    from sdforge.models.lumina2_call import LuminaPlaces

    module = Lumina2Transformer2DModel(cap_feat_dim=2304)
    module.rope_embedder = LuminaPlaces((32, 32, 32))
    return module


def run_lumina2(net: nn.Module, batch: int, height: int, width: int, tokens: int) -> Any:
    from sdforge.models.denoiser import Conditioning
    from sdforge.models.lumina2_call import call_lumina2

    text = Conditioning(new(batch, tokens, 2304))
    return call_lumina2(net, new(batch, 16, height, width), 0.5, text)


def flux2(**config: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel

        return Flux2Transformer2DModel(**config)

    return make


def run_flux2(net: Any, batch: int, height: int, width: int, tokens: int) -> Any:
    from sdforge.models.denoiser import Conditioning
    from sdforge.models.flux2_call import call_flux2

    text = Conditioning(
        new(batch, tokens, int(net.config.joint_attention_dim)),
        numbers=new(batch, 1) if net.config.guidance_embeds else None,
    )
    return call_flux2(net, new(batch, 128, height, width), 0.5, text)


KLEIN = {
    "num_attention_heads": 32, "num_layers": 8, "num_single_layers": 24,
    "joint_attention_dim": 12288, "guidance_embeds": False,
}  # fmt: skip


def run_zimage(net: nn.Module, batch: int, height: int, width: int, tokens: int) -> Any:
    pictures = [new(16, 1, height, width) for _ in range(batch)]
    texts = [new(tokens, 2560) for _ in range(batch)]
    return net(pictures, new(batch, dtype=torch.float32), texts, return_dict=False)


def qwen() -> nn.Module:
    from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel

    return QwenImageTransformer2DModel()


def run_qwen(net: nn.Module, batch: int, height: int, width: int, tokens: int) -> Any:
    height, width = height // 2, width // 2
    return net(
        hidden_states=new(batch, height * width, 64),
        encoder_hidden_states=new(batch, tokens, 3584),
        encoder_hidden_states_mask=torch.ones(batch, tokens, dtype=torch.bool),
        timestep=new(batch),
        img_shapes=[[(1, height, width)]] * batch,
        return_dict=False,
    )


def kl_vae(channels: int) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        return AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=channels,
            use_quant_conv=channels != 16,
            use_post_quant_conv=channels != 16,
        )

    return make


def decode(channels: int) -> Call:
    def call(net: Any, batch: int, height: int, width: int, tokens: int) -> Any:
        return net.decode(new(batch, channels, height, width), return_dict=False)

    return call


def encode(net: Any, batch: int, height: int, width: int, tokens: int) -> Any:
    return net.encode(new(batch, 3, height * 8, width * 8)).latent_dist.mode()


def qwen_vae() -> nn.Module:
    from diffusers.models.autoencoders.autoencoder_kl_qwenimage import AutoencoderKLQwenImage

    return AutoencoderKLQwenImage()


def decode_qwen(net: Any, batch: int, height: int, width: int, tokens: int) -> Any:
    return net.decode(new(batch, 16, 1, height, width), return_dict=False)


def encode_qwen(net: Any, batch: int, height: int, width: int, tokens: int) -> Any:
    return net.encode(new(batch, 3, 1, height * 8, width * 8)).latent_dist.mode()


def clip(width: int, layers: int) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from sdforge.models.clip import ClipTextModel

        return ClipTextModel(
            vocab_size=49408, hidden_size=width, intermediate_size=4 * width,
            num_hidden_layers=layers, num_attention_heads=width // 64, max_position_embeddings=77,
        )  # fmt: skip

    return make


def run_clip(net: nn.Module, batch: int, height: int, width: int, tokens: int) -> Any:
    # Longer prompts are further rows: a chunk has 77 tokens.
    return net(torch.zeros(batch * tokens // 77, 77, dtype=torch.long), 99)


def t5() -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
            feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False,
        )
    )  # fmt: skip


def run_t5(net: nn.Module, batch: int, height: int, width: int, tokens: int) -> Any:
    return net(input_ids=torch.zeros(batch, tokens, dtype=torch.long), return_dict=False)


DIT_TOKENS = (256, 512)
# Flux.2's latent pixels have 16 pixels a side.
HALF_SIZES = tuple((height // 2, width // 2) for height, width in SIZES)
ONE_SIZE = ((64, 64),)
SUBJECTS: tuple[Subject, ...] = (
    Subject("unet", "sd1", 320, unet(cross_attention_dim=768, attention_head_dim=8), run_unet(768)),
    Subject(
        "unet",
        "sd2",
        320,
        unet(
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        ),
        run_unet(1024),
    ),
    Subject("unet", "sdxl", 320, unet(**SDXL), run_unet(2048, 1280)),
    Subject("unet", "sdxl-refiner", 384, unet(**SDXL_REFINER), run_unet(1280, 1280, 5)),
    Subject("dit", "sd3", 1536, sd3, run_sd3, (154, 333, 512)),
    Subject("dit", "flux", 3072, flux, run_flux, DIT_TOKENS),
    Subject("dit", "flux2-klein", 4096, flux2(**KLEIN), run_flux2, DIT_TOKENS, HALF_SIZES),
    Subject("dit", "flux2", 6144, flux2(), run_flux2, DIT_TOKENS, HALF_SIZES),
    Subject("dit", "chroma", 3072, chroma, run_chroma, DIT_TOKENS),
    Subject("dit", "zimage", 3840, zimage, run_zimage, (32, 256, 512)),
    Subject("dit", "qwen-image", 3072, qwen, run_qwen, DIT_TOKENS),
    Subject("dit", "lumina2", 2304, lumina2, run_lumina2, (32, 128, 256)),
    Subject("vae-decode", "vae-4.decode", 128, kl_vae(4), decode(4), (0,)),
    Subject("vae-encode", "vae-4.encode", 128, kl_vae(4), encode, (0,)),
    Subject("vae-decode", "vae-16.decode", 128, kl_vae(16), decode(16), (0,)),
    Subject("vae-encode", "vae-16.encode", 128, kl_vae(16), encode, (0,)),
    Subject("vae-decode", "vae-32.decode", 128, kl_vae(32), decode(32), (0,)),
    Subject("vae-encode", "vae-32.encode", 128, kl_vae(32), encode, (0,)),
    Subject("vae-decode", "vae-qwen.decode", 96, qwen_vae, decode_qwen, (0,)),
    Subject("vae-encode", "vae-qwen.encode", 96, qwen_vae, encode_qwen, (0,)),
    Subject("text", "clip-l", 768, clip(768, 12), run_clip, (77, 154, 308), ONE_SIZE),
    Subject("text", "clip-g", 1280, clip(1280, 32), run_clip, (77, 154, 308), ONE_SIZE),
    Subject("text", "t5-xxl", 4096, t5, run_t5, (77, 256, 512), ONE_SIZE),
)


# ---------------------------------------------------------------------------------------- traces


@dataclass(frozen=True)
class Sample:
    batch: int
    pixels: int
    tokens: int
    peak: int


def trace(subject: Subject) -> list[Sample]:
    """Return the peaks of one forward at every size, batch and prompt length."""
    samples = []
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), default_dtype(DTYPE):
        module = subject.make().eval().requires_grad_(False)
        held = [*module.parameters(), *module.buffers()]
        for height, width in subject.sizes:
            for batch in subject.batches:
                for tokens in subject.tokens:
                    ledger = LiveBytes()
                    ledger.know(held)
                    with ledger, FusedAttention():
                        subject.call(module, batch, height, width, tokens)
                    samples.append(Sample(batch, height * width, tokens, ledger.peak))
    return samples


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def fit(subject: Subject, samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the coefficients, none below zero, raised until no sample lies above the line."""
    columns = [[1.0] * len(samples)]
    columns += [[float(s.batch * s.pixels) for s in samples]] if len(subject.sizes) > 1 else []
    columns += [[float(s.batch * s.tokens) for s in samples]] if len(subject.tokens) > 1 else []
    table = np.array(columns).T
    peaks = np.array([float(s.peak) for s in samples])
    # Relative errors count: a small picture's estimate matters as much as a large one's.
    weights = 1 / peaks
    solved, *_ = np.linalg.lstsq(table * weights[:, None], peaks * weights, rcond=None)
    solved = np.maximum(solved, 0)
    solved *= max(1.0, float(np.max(peaks / (table @ solved))))
    over = float(np.max(table @ solved / peaks))
    names = ["fixed"]
    names += ["per_latent_pixel"] if len(subject.sizes) > 1 else []
    names += ["per_token"] if len(subject.tokens) > 1 else []
    found = {name: int(np.ceil(value)) for name, value in zip(names, solved, strict=True)}
    return {"kind": subject.kind, "width": subject.width} | found | {"worst_over": round(over, 3)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="only these architectures, and write nothing")
    parser.add_argument("--print", action="store_true", help="write nothing")
    options = parser.parse_args()
    rows = {}
    for subject in SUBJECTS:
        if options.names and subject.name not in options.names:
            continue
        started = time.perf_counter()
        samples = trace(subject)
        rows[subject.name] = fit(subject, samples)
        print(f"{subject.name}: {rows[subject.name]} ({time.perf_counter() - started:.1f} s)")
        if options.print:
            for s in samples:
                print(f"  B={s.batch} px={s.pixels} tokens={s.tokens}: {s.peak / MIB:.1f} MiB")
    if not options.names and not options.print:
        note = (
            "Bytes of activations in 16 bits: fixed + batch x (per_latent_pixel x pixels + "
            "per_token x text tokens). Written by scripts/trace_activations.py."
        )
        TARGET.write_text(json.dumps({"note": note, "traces": rows}, indent=1) + "\n")
        print(f"wrote {TARGET.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

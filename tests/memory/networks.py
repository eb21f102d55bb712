"""Networks for tests of the memory manager: real ones made tiny, and random trees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sdforge.memory.component import Component, Decode


@dataclass(frozen=True)
class Network:
    """A component and a way to run it."""

    component: Component
    run: Callable[[Any], torch.Tensor]

    @torch.inference_mode()
    def __call__(self, module: nn.Module | None = None) -> torch.Tensor:
        return self.run(module or self.component.module)


def component(
    module: nn.Module, role: str = "denoiser", decoders: dict[str, Decode] | None = None
) -> Component:
    """Wrap a module."""
    return Component(
        role=role,
        name="test",
        fingerprint=role,
        module=module.requires_grad_(False).eval(),
        decoders=decoders,
    )


def unet(*, sdxl: bool = False) -> Network:
    """A U-Net shaped as SD 1.x's or SDXL's, of a megabyte."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(1)
    plain, cross = "DownBlock2D", "CrossAttnDownBlock2D"
    more: dict[str, Any] = {}
    if sdxl:
        more = {
            "down_block_types": (plain, cross),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 64,
        }
    else:
        more = {
            "down_block_types": (cross, plain),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        }
    module = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
        **more,
    )
    x, hidden = torch.randn(2, 4, 8, 8), torch.randn(2, 7, 32)
    added = {"text_embeds": torch.randn(2, 16), "time_ids": torch.ones(2, 6)} if sdxl else None

    def run(network: Any) -> torch.Tensor:
        step = torch.tensor([5.0])
        return network(
            x, step, encoder_hidden_states=hidden, added_cond_kwargs=added, return_dict=False
        )[0]

    return Network(component(module), run)


def flux() -> Network:
    """A transformer shaped as Flux."""
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(2)
    module = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    x, text, pooled = torch.randn(1, 16, 16), torch.randn(1, 5, 32), torch.randn(1, 16)
    places = torch.cartesian_prod(*(torch.arange(4.0) for _ in range(2)))
    image_ids = torch.cat([torch.zeros(16, 1), places], dim=1)

    def run(network: Any) -> torch.Tensor:
        return network(
            hidden_states=x,
            encoder_hidden_states=text,
            pooled_projections=pooled,
            timestep=torch.tensor([0.5]),
            guidance=torch.tensor([3.5]),
            img_ids=image_ids,
            txt_ids=torch.zeros(5, 3),
            return_dict=False,
        )[0]

    return Network(component(module), run)


def vae() -> Network:
    """A VAE shaped as SD's, entered by encode and decode instead of its forward."""
    from diffusers import AutoencoderKL

    torch.manual_seed(3)
    module = AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        latent_channels=4,
    )
    pixels = torch.randn(1, 3, 16, 16)

    def run(network: Any) -> torch.Tensor:
        latents = network.encode(pixels).latent_dist.mode()
        return network.decode(latents, return_dict=False)[0]

    return Network(component(module, "vae"), run)


NETWORKS: dict[str, Callable[[], Network]] = {
    "sd1": unet,
    "sdxl": lambda: unet(sdxl=True),
    "flux": flux,
    "vae": vae,
}


class Tree(nn.Module):
    """A tree of matrices described by nested lists; every node's own matrix comes first.

    Numbers are rows of an extra matrix that the node uses without a module of its own.
    """

    def __init__(self, shape: list[Any], width: int = 16) -> None:
        super().__init__()
        extra = sum(item for item in shape if isinstance(item, int))
        self.own = nn.Parameter(torch.randn(extra, width) / width) if extra else None
        self.first = nn.Linear(width, width)
        self.parts = nn.ModuleList(Tree(item, width) for item in shape if isinstance(item, list))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.first(x))
        if self.own is not None:
            x = x + x @ self.own.T @ self.own
        # Not the order of registration.
        for part in reversed(self.parts):
            x = x + part(x)
        return x


def tree(shape: list[Any]) -> Network:
    """A network of a random shape."""
    torch.manual_seed(4)
    x = torch.randn(3, 16)
    return Network(component(Tree(shape)), lambda network: network(x))


def chain(layers: int = 8, width: int = 64, role: str = "denoiser") -> Network:
    """Equal matrices one after the other: width² × 4 bytes each."""
    torch.manual_seed(5)

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = layer(x)
            return x

    x = torch.randn(2, width)
    return Network(component(Chain(), role), lambda network: network(x))

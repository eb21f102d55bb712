"""Low-rank adapters of the demo's denoiser, in kohya's file layout: a style and a one-step turbo.

Names are `lora_unet_` and the layer's place in diffusers' U-Net with underscores, then
`lora_down.weight`, `lora_up.weight` and `alpha`, as kohya's trainer writes them. `attach` puts
adapters on a U-Net for training, `load` does so from a file, with any strength.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from torch import nn

from .export import save as save_file

PREFIX = "lora_unet_"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out")
"""The layers of every transformer: what a LoRA usually changes."""
EVERYWHERE = (*ATTENTION, "conv1", "conv2", "time_emb_proj", "conv_shortcut", "conv")
"""The convolutions as well."""


class Adapted(nn.Module):
    """A layer with a low-rank side path."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int) -> None:
        super().__init__()
        self.layer, self.alpha, self.strength = layer, float(rank), 1.0
        if isinstance(layer, nn.Linear):
            self.down: nn.Module = nn.Linear(layer.in_features, rank, bias=False)
            self.up: nn.Module = nn.Linear(rank, layer.out_features, bias=False)
        else:
            shape = (layer.kernel_size, layer.stride, layer.padding)
            self.down = nn.Conv2d(layer.in_channels, rank, *shape, bias=False)  # type: ignore[arg-type]
            self.up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)  # type: ignore[arg-type]
        nn.init.zeros_(self.up.weight)  # type: ignore[arg-type]
        self.rank = rank

    def forward(self, x: torch.Tensor, *_: object) -> torch.Tensor:
        """The layer's result and the side path's."""
        result: torch.Tensor = self.layer(x)
        return result + self.up(self.down(x)) * (self.strength * self.alpha / self.rank)


def attach(unet: UNet2DConditionModel, layers: tuple[str, ...], rank: int) -> dict[str, Adapted]:
    """Freeze the U-Net and put adapters on all layers whose name ends so; kohya name to adapter."""
    unet.requires_grad_(False)
    chosen = [
        (name, module)
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and any(name.endswith("." + end) for end in layers)
    ]
    made = {}
    for name, module in chosen:
        adapted = Adapted(module, rank)
        parent, _, leaf = name.rpartition(".")
        setattr(unet.get_submodule(parent), leaf, adapted)
        made[PREFIX + name.replace(".", "_")] = adapted
    return made


def detach(unet: UNet2DConditionModel) -> None:
    """Take all adapters off again."""
    for name, module in list(unet.named_modules()):
        if isinstance(module, Adapted):
            parent, _, leaf = name.rpartition(".")
            setattr(unet.get_submodule(parent), leaf, module.layer)


def save(adapters: dict[str, Adapted], path: Path, title: str, **about: str) -> None:
    """Write adapters in half precision."""
    weights = {}
    for name, adapted in adapters.items():
        weights[f"{name}.lora_down.weight"] = adapted.down.weight.detach().half().contiguous()  # type: ignore[union-attr,operator]
        weights[f"{name}.lora_up.weight"] = adapted.up.weight.detach().half().contiguous()  # type: ignore[union-attr,operator]
        weights[f"{name}.alpha"] = torch.tensor(adapted.alpha).half()
    ranks = {adapted.rank for adapted in adapters.values()}
    known = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(max(ranks)),
        "ss_network_alpha": str(float(max(ranks))),
        "ss_base_model_version": "sd_v1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.title": title,
        "modelspec.license": "Apache-2.0; credits in NOTICE.md",
    }
    save_file(weights, {**known, **about}, path)


def load(unet: UNet2DConditionModel, path: Path, strength: float = 1.0) -> dict[str, Adapted]:
    """Put a saved file's adapters on a U-Net; raises ValueError for names that it has not."""
    stored = load_file(path)
    places = {
        PREFIX + name.replace(".", "_"): name
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    made = {}
    for key in sorted({name.split(".")[0] for name in stored}):
        if key not in places:
            raise ValueError(f"{path.name} changes {key}, which this U-Net has not")
        down = stored[f"{key}.lora_down.weight"].float()
        parent, _, leaf = places[key].rpartition(".")
        adapted = Adapted(getattr(unet.get_submodule(parent), leaf), down.shape[0])
        adapted.down.weight.data.copy_(down)  # type: ignore[union-attr,operator]
        adapted.up.weight.data.copy_(stored[f"{key}.lora_up.weight"].float())  # type: ignore[union-attr,operator]
        adapted.alpha, adapted.strength = float(stored[f"{key}.alpha"]), strength
        setattr(unet.get_submodule(parent), leaf, adapted)
        made[key] = adapted
    return made

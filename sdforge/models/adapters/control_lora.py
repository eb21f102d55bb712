"""Control-LoRAs: ControlNets that are a checkpoint's own U-Net with low-rank changes (Stability).

A file holds factors of a U-Net's layers (`….up`, `….down`, in the original's names), whole biases
and norms, and what only a ControlNet has. The network is made for one bundle: its weights are the
U-Net's own masters, not copies, patched on the way as a LoRA does. It must not outlive the bundle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sdforge.core.errors import MissingModel, UnsupportedCheckpoint
from sdforge.memory.component import Component, Decode, Patch
from sdforge.models.adapters.controlnet_library import ControlNetInfo
from sdforge.models.adapters.controlnet_shapes import hint_name
from sdforge.models.adapters.kinds import Lora
from sdforge.models.adapters.lora_file import read_tensors
from sdforge.models.adapters.lora_keys import original_unet_name
from sdforge.models.bundle import ModelBundle
from sdforge.models.skeleton import Skeleton

_SHARED = (
    "in_channels", "down_block_types", "mid_block_type", "block_out_channels", "layers_per_block",
    "norm_num_groups", "cross_attention_dim", "transformer_layers_per_block", "attention_head_dim",
    "num_attention_heads", "use_linear_projection", "addition_embed_type",
    "addition_time_embed_dim", "projection_class_embeddings_input_dim",
)  # fmt: skip


@dataclass(frozen=True)
class _Changed:
    """A U-Net's weight as a Control-LoRA has it: `before` is what a LoRA of the job makes of it."""

    factors: Lora
    before: Patch | None

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        weight = weight if self.before is None else self.before(weight)
        return self.factors.apply(weight, 1.0)


def control_lora(info: ControlNetInfo, bundle: ModelBundle) -> Component:
    """Return the network of a Control-LoRA for a bundle; to be released before the bundle is.

    Raises:
        MissingModel: the file is gone, or parts of it are missing.
        UnsupportedCheckpoint: it was made for another kind of U-Net.
        CorruptCheckpoint: damaged.
    """
    tensors = read_tensors(info.path)
    unet, dtype = bundle.denoiser.component, bundle.denoiser.dtype
    skeleton = Skeleton(_network(unet.module, tensors, info.stem))
    names = _original_names(skeleton.example, tensors)
    own: dict[str, torch.Tensor] = {}
    patches: dict[str, Patch] = {}
    decoders: dict[str, Decode] = {}
    known = dict(unet.named_masters())
    for name, shape in skeleton.shapes.items():
        key = names[name]
        if key in tensors:
            own[name] = tensors[key].to(dtype).reshape(_fitting(info, key, tensors[key], shape))
            continue
        master = known.get(name)
        if master is None:
            raise MissingModel(f"the Control-LoRA in {info.path.name} is incomplete: no {key}")
        own[name] = master.stored
        if master.decode is not None:
            decoders[name] = master.decode
        factors = _factors(info, tensors, key, shape)
        before = unet.patch_of(master)
        if factors is not None:
            patches[name] = _Changed(factors, before)
        elif before is not None:
            patches[name] = before
    built = skeleton.build(own)
    component = Component(
        role="controlnet",
        name=info.stem,
        fingerprint=f"{info.stamp}|{unet.fingerprint}",
        module=built.module,
        decoders=decoders,
        tensors=built.tensors,
    )
    component.set_patches(patches)
    return component


def _network(unet: nn.Module, tensors: Mapping[str, torch.Tensor], name: str) -> nn.Module:
    """Return a ControlNet without weights in the form of a U-Net."""
    from diffusers.models.controlnets.controlnet import ControlNetModel

    from sdforge.models.attention import use_direct_attention

    hints = sorted(
        (int(key.split(".")[1]), tuple(tensor.shape))
        for key, tensor in tensors.items()
        if key.startswith("input_hint_block.") and key.endswith(".weight")
    )
    if len(hints) < 2:
        raise MissingModel(f"the Control-LoRA {name} is incomplete: it has no input_hint_block")
    config: dict[str, Any] = {
        key: value
        for key, value in dict(getattr(unet, "config", None) or {}).items()
        if key in _SHARED
    }
    # The first convolution, and those that halve: every second one between the first and last.
    widths = (hints[0][1][0], *(shape[0] for _, shape in hints[2:-1:2]))
    with torch.device("meta"):
        network = ControlNetModel(
            **config,
            conditioning_channels=hints[0][1][1],
            conditioning_embedding_out_channels=widths,
        )
        use_direct_attention(network)
    return network


def _original_names(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return the original name of each of a ControlNet's tensors."""
    state = network.state_dict()
    layers = {name.rpartition(".")[0] for name in state}
    original = original_unet_name(layers)
    keys = [key for key in tensors if key.startswith("input_hint_block.")]
    hints = {hint_name(key, keys): key for key in keys}
    found = {}
    for name in state:
        layer, _, part = name.rpartition(".")
        if layer.startswith("controlnet_cond_embedding."):
            found[name] = hints.get(name, name)
        elif layer.startswith("controlnet_down_blocks."):
            found[name] = f"zero_convs.{layer.rpartition('.')[2]}.0.{part}"
        elif layer == "controlnet_mid_block":
            found[name] = f"middle_block_out.0.{part}"
        else:
            found[name] = f"{original(layer)}.{part}"
    return found


def _factors(
    info: ControlNetInfo, tensors: Mapping[str, torch.Tensor], key: str, shape: tuple[int, ...]
) -> Lora | None:
    """Return the low-rank change of a weight, None where the file has none."""
    layer, _, part = key.rpartition(".")
    up, down = tensors.get(f"{layer}.up"), tensors.get(f"{layer}.down")
    if part != "weight" or up is None or down is None:
        return None
    factors = Lora(up, down, 1.0)
    if not factors.fits(shape):
        raise _stranger(info, f"{layer}.up", tuple(up.shape), shape)
    return factors


def _fitting(
    info: ControlNetInfo, key: str, tensor: torch.Tensor, shape: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the shape to take a whole tensor in; 1 × 1 convolutions may be written as matrices."""
    if [side for side in tensor.shape if side != 1] != [side for side in shape if side != 1]:
        raise _stranger(info, key, tuple(tensor.shape), shape)
    return shape


def _stranger(
    info: ControlNetInfo, key: str, found: tuple[int, ...], wanted: tuple[int, ...]
) -> UnsupportedCheckpoint:
    return UnsupportedCheckpoint(
        f"the Control-LoRA {info.stem} was made for another kind of model: its {key} of shape "
        f"{list(found)} does not fit a weight of shape {list(wanted)}; take one for this kind"
    )

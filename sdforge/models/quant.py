"""Storage types: in which numbers weights lie in memory, apart from those they are computed with.

A storage type packs the large weights (of linear and convolution layers); norms, biases, embeddings
and the network's first and last layer stay in the compute type, since they are small and pictures
suffer most from them. The blocks of GGUF files stay as they are, in all layers. `Component` unpacks
a weight while its unit runs, on the device: what travels and what rests are the packed bytes.
`weights.py` does the packing while it reads.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from sdforge.core.errors import InvalidRequest, NotAvailable
from sdforge.models.ggml_blocks import Unpack, unpack_into

Decode = Callable[[torch.Tensor], torch.Tensor]
Pack = Callable[[torch.Tensor, torch.Tensor], None]

AUTOMATIC = "Automatic"
# Forge writes it behind a type to have LoRA applied in 16 bits; ours always are.
_LORA_SUFFIX = " (fp16 LoRA)"
_CASTS: dict[str, torch.dtype] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8-e4m3fn": torch.float8_e4m3fn,
    "float8-e5m2": torch.float8_e5m2,
}
_INT8 = "int8"
_NEEDS_PACKAGE = {"bnb-nf4": "bitsandbytes", "bnb-fp4": "bitsandbytes"}
_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Smaller weights would save nothing that anybody notices.
_FEWEST_NUMBERS = 4096


@dataclass(frozen=True)
class Storage:
    """How a component is kept: computed in `compute`; `packing` is '' for the same type."""

    compute: torch.dtype
    packing: str = ""


@dataclass(frozen=True)
class Kept:
    """How one tensor is kept: its type and shape in memory.

    `decode` gives back the weight from that, None when it is used as it lies. `pack(whole tensor,
    target)` fills what lies in memory, None when numbers are only converted.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    decode: Decode | None = None
    pack: Pack | None = None


@dataclass(frozen=True)
class Scaled:
    """A decoder whose result is multiplied by one number, as scaled fp8 files have them."""

    decode: Decode
    scale: float

    def __call__(self, stored: torch.Tensor) -> torch.Tensor:
        """Return the weight."""
        return self.decode(stored) * self.scale


def choose_storage(compute: torch.dtype, choice: str = AUTOMATIC) -> Storage:
    """Return the storage for a value of the setting `forge_unet_storage_dtype`.

    'Automatic' keeps the compute type, and 8-bit numbers where the file has them.

    Raises:
        NotAvailable: a type of Forge's that needs a package; says which.
        InvalidRequest: no such type.
    """
    name = choice.removesuffix(_LORA_SUFFIX).strip()
    if name == AUTOMATIC:
        return Storage(compute)
    if name in _NEEDS_PACKAGE:
        package = _NEEDS_PACKAGE[name]
        has = importlib.util.find_spec(package) is not None
        found = "is installed, but not used by this version" if has else "is not installed"
        raise NotAvailable(
            f"the storage type {name} needs the package {package}, which {found}; "
            f"take one of {AUTOMATIC}, {', '.join([*_CASTS, _INT8])}"
        )
    if name not in _CASTS and name != _INT8:
        allowed = ", ".join([AUTOMATIC, *_CASTS, _INT8])
        raise InvalidRequest("forge_unet_storage_dtype", choice, allowed)
    if name in _CASTS and _CASTS[name].itemsize >= compute.itemsize:
        return Storage(compute)
    return Storage(compute, name)


def packable(module: nn.Module) -> frozenset[str]:
    """Return the names of the weights that a storage type packs."""
    layers = [
        (f"{name}.weight", layer.weight.numel())
        for name, layer in module.named_modules()
        if isinstance(layer, _LAYERS)
    ]
    first = next((name for name, _ in module.named_parameters()), "")
    ends = {first, *(name for name, _ in layers[-1:])}
    return frozenset(
        name for name, count in layers if name not in ends and count >= _FEWEST_NUMBERS
    )


def kept(
    storage: Storage, shape: tuple[int, ...], in_file: torch.dtype | None, *, packs: bool
) -> Kept:
    """Return how a tensor is kept.

    Args:
        storage: the component's.
        shape: of the weight.
        in_file: type of the numbers in the file, None when it is unknown to torch.
        packs: whether it is one of the `packable`.
    """
    compute = storage.compute
    if not packs:
        return Kept(compute, shape)
    if storage.packing == _INT8:
        rows = shape[0]
        size = rows * _SCALE_BYTES + _count(shape)
        return Kept(torch.uint8, (size,), partial(_decode_int8, shape, compute), _pack_int8)
    dtype = _CASTS.get(storage.packing)
    if dtype is None and in_file in _FLOAT8:
        dtype = in_file
    if dtype is None:
        return Kept(compute, shape)
    return Kept(dtype, shape, partial(_cast, compute))


def kept_blocks(
    storage: Storage, kind: str, shape: tuple[int, ...], size_bytes: int, *, packs: bool
) -> Kept:
    """Return how a tensor of a GGUF type is kept: as it is, or unpacked once where `packs` is not.

    Args:
        storage: the component's; the packing that it asks for does not count.
        kind: 'Q4_0' and so on.
        shape: of the weight.
        size_bytes: of its blocks.
        packs: whether it is one of the `layer_weights`.
    """
    if packs:
        unpack = Unpack(kind, shape, storage.compute)
        return Kept(torch.uint8, (size_bytes,), unpack)
    return Kept(storage.compute, shape, pack=partial(unpack_into, kind))


def layer_weights(module: nn.Module) -> frozenset[str]:
    """Return the names of all weights of linear and convolution layers but the very first.

    Networks take the first parameter's type for the one that they compute in.
    """
    first = next((name for name, _ in module.named_parameters()), "")
    names = (
        f"{name}.weight" for name, layer in module.named_modules() if isinstance(layer, _LAYERS)
    )
    return frozenset(name for name in names if name != first)


def convert(numbers: torch.Tensor, target: torch.Tensor) -> None:
    """Write `numbers` into `target`, of another type and equal shape; 8 bits saturate."""
    if target.dtype in _FLOAT8 and numbers.dtype not in _FLOAT8:
        most = torch.finfo(target.dtype).max
        numbers = numbers.float().clamp(-most, most)
    target.copy_(numbers)


def _cast(dtype: torch.dtype, stored: torch.Tensor) -> torch.Tensor:
    return stored.to(dtype)


# int8: one fp32 scale per output channel, then the channels' numbers, in one tensor, so that they
# travel together and nothing can separate them.
_SCALE_BYTES = 4


def _pack_int8(weight: torch.Tensor, target: torch.Tensor) -> None:
    rows = weight.shape[0]
    flat = weight.float().reshape(rows, -1)
    scale = flat.abs().amax(dim=1).clamp_(min=torch.finfo(torch.float32).tiny) / 127
    target[: rows * _SCALE_BYTES].copy_(scale.view(torch.uint8))
    numbers = (flat / scale[:, None]).round_().clamp_(-127, 127).to(torch.int8)
    target[rows * _SCALE_BYTES :].copy_(numbers.view(-1).view(torch.uint8))


def _decode_int8(shape: tuple[int, ...], dtype: torch.dtype, stored: torch.Tensor) -> torch.Tensor:
    rows = shape[0]
    scale = stored[: rows * _SCALE_BYTES].view(torch.float32)
    numbers = stored[rows * _SCALE_BYTES :].view(torch.int8).view(rows, -1)
    return (numbers.to(dtype) * scale[:, None].to(dtype)).view(shape)


def _count(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()

"""Reading LoRA files: which layers they name, which kind of change each holds.

Names of tensors are split into a layer's name, as the file spells it, and what the tensor is there.
`lora_keys.py` knows which layer of a network is meant. Tensors are read into memory of their own:
trainers write the same file again while it is in use.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch

from sdforge.core.errors import CorruptCheckpoint, MissingModel, UnsupportedCheckpoint
from sdforge.models.adapters.kinds import (
    Boft,
    Difference,
    Dora,
    Glora,
    Ia3,
    Kind,
    Loha,
    Lokr,
    Lora,
    Oft,
    Sum,
)
from sdforge.models.adapters.xlabs_keys import SIDED
from sdforge.models.checkpoint import CheckpointHeader, read_header
from sdforge.models.weight_files import TORCH_DTYPES

# How names end → what the tensor is. Of several that match, the longest counts.
_ENDINGS: dict[str, str] = {
    ".lora_up.weight": "up",
    ".lora_down.weight": "down",
    ".lora_mid.weight": "mid",
    ".lora_up.bias": "up_bias",
    ".lora.up.weight": "up",
    ".lora.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    "_lora.up.weight": "up",
    "_lora.down.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.bias": "up_bias",
    ".lora_B.default.bias": "up_bias",
    ".lora_magnitude_vector": "peft_magnitude",
    ".lora_magnitude_vector.weight": "peft_magnitude",
    ".lora_magnitude_vector.default.weight": "peft_magnitude",
    ".dora_scale": "magnitude",
    ".ia3_l": "peft_ia3",
    ".weight": "weight",
    ".oft_diag": "oft_blocks",
    **{
        f".{name}": name
        for name in (
            "alpha", "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
            "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
            "oft_blocks", "rescale", "on_input", "diff", "diff_b", "w_norm", "b_norm",
        )
    },
    **{f".{name}.weight": name for name in ("a1", "a2", "b1", "b2")},
}  # fmt: skip
_BY_LENGTH = sorted(_ENDINGS, key=len, reverse=True)
_BUNDLED = "bundle_emb."


@dataclass(frozen=True)
class Layout:
    """What a header says.

    Attributes:
        layers: by the file's name of a layer, what each tensor is → its name.
        bundled: embeddings by name, each one's tensors by their names → names in the file.
        unknown: names that end like nothing known.
    """

    layers: Mapping[str, Mapping[str, str]]
    bundled: Mapping[str, Mapping[str, str]]
    unknown: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class LoraFile:
    """A file in memory; `layers` by the file's names.

    `broken` says of layers that cannot be used why.
    """

    layers: Mapping[str, LayerChange]
    bundled: Mapping[str, Mapping[str, torch.Tensor]]
    unknown: tuple[str, ...]
    broken: Mapping[str, str]
    bytes: int


@dataclass(frozen=True, eq=False)
class LayerChange:
    """What happens to a layer's weight and bias."""

    weight: Kind | None = None
    bias: Kind | None = None


def read_layout(header: CheckpointHeader) -> Layout:
    """Return which layers and embeddings a header names."""
    layers: dict[str, dict[str, str]] = {}
    bundled: dict[str, dict[str, str]] = {}
    unknown = []
    for key in header.tensors:
        if key.startswith(_BUNDLED):
            name, _, part = key[len(_BUNDLED) :].partition(".")
            bundled.setdefault(name, {})[part] = key
            continue
        sided = SIDED.fullmatch(key)
        ending = next((end for end in _BY_LENGTH if key.endswith(end)), None)
        if sided:
            layers.setdefault(sided[1], {})[sided[2]] = key
        elif ending is None:
            unknown.append(key)
        else:
            layers.setdefault(key[: -len(ending)], {})[_ENDINGS[ending]] = key
    for name in [name for name, parts in layers.items() if set(parts) <= {"weight"}]:
        # A weight alone is no adapter: only IA³ calls its numbers so, beside `on_input`.
        unknown += layers.pop(name).values()
    return Layout(layers, bundled, tuple(unknown))


def read_lora(path: Path) -> LoraFile:
    """Read a file whole.

    Raises:
        MissingModel: it cannot be opened.
        UnsupportedCheckpoint: a pickle, or nothing in it is a LoRA.
        CorruptCheckpoint: damaged.
    """
    header = read_header(path)
    layout = read_layout(header)
    if not layout.layers and not layout.bundled:
        raise UnsupportedCheckpoint(
            f"{path.name} holds no LoRA: no tensor has a name as LoRA files have them "
            f"(for one {next(iter(header.tensors), 'none at all')!r})"
        )
    tensors = _read_tensors(header)
    scaling = _Scaling.of(header.metadata)
    layers: dict[str, LayerChange] = {}
    broken: dict[str, str] = {}
    for name, parts in layout.layers.items():
        found = {part: tensors[key] for part, key in parts.items()}
        try:
            layers[name] = _change(found, scaling.of_layer(name))
        except (KeyError, ValueError, IndexError) as error:
            wanted = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            broken[name] = wanted
    return LoraFile(
        layers=layers,
        bundled={
            name: {part: tensors[key] for part, key in parts.items()}
            for name, parts in layout.bundled.items()
        },
        unknown=layout.unknown,
        broken=broken,
        bytes=header.file_bytes,
    )


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a safetensors file, in memory of their own; raises as `read_lora`."""
    return _read_tensors(read_header(path))


def _read_tensors(header: CheckpointHeader) -> dict[str, torch.Tensor]:
    try:
        with header.path.open("rb") as file:
            return {name: _tensor(header, file, name) for name in header.tensors}
    except OSError as error:
        raise MissingModel(f"{header.path} cannot be read: {error.strerror or error}") from error


def _tensor(header: CheckpointHeader, file: BufferedReader, name: str) -> torch.Tensor:
    """Read one tensor into an allocation of its own.

    Where it lies in the file decides nothing so: CPU kernels round differently on memory that is
    not aligned, and adapters would act differently in different memory modes.
    """
    info = header.tensors[name]
    dtype = TORCH_DTYPES.get(info.dtype) or _WHOLE_DTYPES.get(info.dtype)
    if dtype is None:
        raise UnsupportedCheckpoint(
            f"{header.path.name}: {name} holds {info.dtype}, which is no type for weights"
        )
    tensor = torch.empty(info.shape, dtype=dtype)
    if info.size_bytes:
        file.seek(header.data_start + info.start)
        if file.readinto(tensor.reshape(-1).view(torch.uint8).numpy().data) != info.size_bytes:
            raise CorruptCheckpoint(f"{header.path.name} changed while it was being read")
    return tensor


_WHOLE_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
}


@dataclass(frozen=True)
class _LayerScaling:
    """What the file's metadata says of alpha and of how ranks count."""

    alpha: float | None = None
    by_root: bool = False

    def scale(self, parts: Mapping[str, torch.Tensor], rank: int) -> float:
        """Return alpha / rank; a missing alpha is the rank."""
        found = parts.get("alpha")
        alpha = self.alpha if found is None else float(found)
        if alpha is None or not math.isfinite(alpha) or not rank:
            return 1.0
        return alpha / (math.sqrt(rank) if self.by_root else rank)


@dataclass(frozen=True)
class _Scaling:
    """PEFT's configurations, which diffusers keeps in one field of the metadata."""

    config: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> _Scaling:
        try:
            config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        except ValueError:
            config = {}
        return cls(config if isinstance(config, dict) else {})

    def of_layer(self, name: str) -> _LayerScaling:
        """Return what holds for a layer, "unet.down_blocks…"; prefixes name the configuration."""
        prefix, _, layer = name.partition(".")
        alpha = self.config.get(f"{prefix}.lora_alpha")
        patterns = self.config.get(f"{prefix}.alpha_pattern")
        for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
            if layer == pattern or layer.endswith(f".{pattern}"):
                alpha = value
        return _LayerScaling(
            float(alpha) if isinstance(alpha, (int, float)) else None,
            bool(self.config.get(f"{prefix}.use_rslora")),
        )


def _change(parts: Mapping[str, torch.Tensor], scaling: _LayerScaling) -> LayerChange:
    """Return what tensors of one layer mean.

    Raises:
        KeyError: one is missing.
        ValueError: they do not belong together.
    """
    weight = Difference(parts["diff"]) if "diff" in parts else _weight_kind(parts, scaling)
    magnitude = parts.get("magnitude")
    if "peft_magnitude" in parts:
        # (out), or for convolutions (1, out, 1, 1): always one number a row.
        magnitude = parts["peft_magnitude"].reshape(-1)
    if magnitude is not None:
        if not isinstance(weight, Sum):
            raise ValueError("a DoRA magnitude without an additive change")
        weight = Dora(weight, magnitude)
    for name in ("diff_b", "b_norm"):
        if name in parts:
            return LayerChange(weight, Difference(parts[name]))
    if "up_bias" in parts:
        scale = scaling.scale(parts, parts["down"].shape[0])
        return LayerChange(weight, Difference(parts["up_bias"], scale))
    if weight is None:
        raise ValueError(f"{', '.join(sorted(parts))} alone say nothing")
    return LayerChange(weight)


def _weight_kind(parts: Mapping[str, torch.Tensor], scaling: _LayerScaling) -> Kind | None:
    for sign, read in _READERS.items():
        if any(name.startswith(sign) for name in parts):
            return read(parts, scaling)
    return None


def _lora(parts: Mapping[str, torch.Tensor], scaling: _LayerScaling) -> Lora:
    up, down, mid = parts["up"], parts["down"], parts.get("mid")
    if min(up.ndim, down.ndim) < 2 or up.shape[1] != (mid if mid is not None else down).shape[0]:
        raise ValueError(f"up {list(up.shape)} and down {list(down.shape)} do not multiply")
    return Lora(up, down, scaling.scale(parts, down.shape[0]), mid)


def _loha(parts: Mapping[str, torch.Tensor], scaling: _LayerScaling) -> Loha:
    w1 = (parts["hada_w1_a"], parts["hada_w1_b"])
    w2 = (parts["hada_w2_a"], parts["hada_w2_b"])
    has_cores = "hada_t1" in parts
    cores = (parts["hada_t1"], parts["hada_t2"]) if has_cores else None
    return Loha(w1, w2, scaling.scale(parts, w1[1].shape[0]), cores)


def _lokr(parts: Mapping[str, torch.Tensor], scaling: _LayerScaling) -> Lokr:
    rank = 0
    factors: list[tuple[torch.Tensor, ...]] = []
    for name in ("lokr_w1", "lokr_w2"):
        if name in parts:
            factors.append((parts[name],))
            continue
        pair = (parts[f"{name}_a"], parts[f"{name}_b"])
        core = parts.get("lokr_t2") if name == "lokr_w2" else None
        rank = pair[1].shape[0]
        factors.append(pair if core is None else (core, *pair))
    # Two whole factors have no rank that alpha could be divided by.
    return Lokr(factors[0], factors[1], scaling.scale(parts, rank))


def _glora(parts: Mapping[str, torch.Tensor], scaling: _LayerScaling) -> Glora:
    a1, a2, b1, b2 = (parts[name] for name in ("a1", "a2", "b1", "b2"))
    is_old = b1.shape[0] == b2.shape[1]
    if is_old and (b1.shape[1] != b2.shape[0] or b1.shape[0] < b1.shape[1]):
        # LyCORIS once counted them the other way; for square layers the rank tells, being smaller.
        a1, a2, b1, b2 = a2, a1, b2, b1
    return Glora((a1, a2), (b1, b2), scaling.scale(parts, b2.shape[0]))


def _oft(parts: Mapping[str, torch.Tensor], scaling: _LayerScaling) -> Kind:
    blocks, rescale = parts["oft_blocks"], parts.get("rescale")
    constraint = float(parts["alpha"]) if "alpha" in parts else 0.0
    if blocks.ndim not in (3, 4) or blocks.shape[-1] != blocks.shape[-2]:
        raise ValueError(f"OFT blocks of shape {list(blocks.shape)}")
    return (Oft if blocks.ndim == 3 else Boft)(blocks, constraint, rescale)


def _ia3(parts: Mapping[str, torch.Tensor], scaling: _LayerScaling) -> Ia3:
    return Ia3(parts["weight"], bool(parts["on_input"].flatten()[0]))


def _peft_ia3(parts: Mapping[str, torch.Tensor], scaling: _LayerScaling) -> Ia3:
    # PEFT trains the factor itself: (out, 1) or (1, in), and (1, out, 1, 1) for convolutions.
    factor = parts["peft_ia3"]
    return Ia3(factor - 1, on_input=factor.ndim == 2 and factor.shape[0] == 1)


# How the name of a part begins → who reads the parts; the first that is found counts.
_READERS: dict[str, Callable[[Mapping[str, torch.Tensor], _LayerScaling], Kind]] = {
    "up": _lora,
    "down": _lora,
    "hada_": _loha,
    "lokr_": _lokr,
    "oft_blocks": _oft,
    "a1": _glora,
    "on_input": _ia3,
    "peft_ia3": _peft_ia3,
    "w_norm": lambda parts, scaling: Difference(parts["w_norm"]),
}

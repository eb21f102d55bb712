"""Random adapter files of every kind, for tests; names and forms are those of real trainers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

Shape = tuple[int, ...]
Tensors = dict[str, torch.Tensor]

# Kinds that every shape can have; those for convolutions alone are below.
LINEAR_KINDS = (
    "lora", "loha", "lokr", "lokr-factored", "ia3", "ia3-input", "dora", "dora-input", "oft",
    "oft-rescaled", "boft", "glora", "glora-old", "diff",
)  # fmt: skip
CONV_KINDS = (*LINEAR_KINDS, "lora-tucker", "loha-tucker", "lokr-tucker")


class _Draw:
    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._generator) / math.sqrt(shape[-1] if shape else 1)


@dataclass(frozen=True)
class _Side:
    """The sizes of one layer's adapter, and random numbers for it."""

    draw: _Draw
    shape: Shape
    rank: int

    @property
    def out(self) -> int:
        return self.shape[0]

    @property
    def kernel(self) -> Shape:
        return self.shape[2:]

    @property
    def ones(self) -> Shape:
        return tuple(1 for _ in self.kernel)


def _lora(side: _Side, form: str) -> Tensors:
    draw, rank = side.draw, side.rank
    up = {"lora_up.weight": draw(side.out, rank, *side.ones)}
    if form != "tucker":
        return up | {"lora_down.weight": draw(rank, *side.shape[1:])}
    mid = {"lora_mid.weight": draw(rank, rank, *side.kernel)}
    return up | mid | {"lora_down.weight": draw(rank, side.shape[1], *side.ones)}


def _dora(side: _Side, form: str) -> Tensors:
    sides = (1, side.shape[1]) if form == "input" else (side.out, 1)
    return _lora(side, "") | {"dora_scale": side.draw(*sides, *side.ones).abs() + 0.5}


def _loha(side: _Side, form: str) -> Tensors:
    draw, rank, columns = side.draw, side.rank, math.prod(side.shape[1:])
    parts: Tensors = {}
    for n in (1, 2):
        if form == "tucker":
            parts |= {f"hada_w{n}_a": draw(rank, side.out)}
            parts |= {f"hada_w{n}_b": draw(rank, side.shape[1])}
            parts |= {f"hada_t{n}": draw(rank, rank, *side.kernel)}
        else:
            parts |= {f"hada_w{n}_a": draw(side.out, rank), f"hada_w{n}_b": draw(rank, columns)}
    return parts


def _lokr(side: _Side, form: str) -> Tensors:
    draw, rank = side.draw, side.rank
    out, into = side.out // 2, side.shape[1] // 2
    if form == "factored":
        first = {"lokr_w1_a": draw(2, rank), "lokr_w1_b": draw(rank, 2)}
        columns = into * math.prod(side.kernel)
        return first | {"lokr_w2_a": draw(out, rank), "lokr_w2_b": draw(rank, columns)}
    first = {"lokr_w1": draw(2, 2)}
    if form == "tucker":
        core = {"lokr_t2": draw(rank, rank, *side.kernel)}
        return first | core | {"lokr_w2_a": draw(rank, out), "lokr_w2_b": draw(rank, into)}
    return first | {"lokr_w2": draw(out, into, *side.kernel)}


def _ia3(side: _Side, form: str) -> Tensors:
    is_input = form == "input"
    count = side.shape[1] if is_input else side.out
    return {"weight": side.draw(count), "on_input": torch.tensor(is_input)}


def _oft(side: _Side, form: str) -> Tensors:
    parts = {"oft_blocks": side.draw(side.out // 4, 4, 4), "alpha": torch.tensor(0.01)}
    return parts | ({"rescale": side.draw(side.out, 1, *side.ones) + 1} if form else {})


def _boft(side: _Side, form: str) -> Tensors:
    # As many blocks as the butterfly can halve, of at least four rows.
    count = (side.out // 4) & -(side.out // 4)
    size, stages = side.out // count, int(math.log2(count)) + 1
    return {"oft_blocks": side.draw(stages, count, size, size), "alpha": torch.tensor(0.0)}


def _glora(side: _Side, form: str) -> Tensors:
    draw, rank, into = side.draw, side.rank, side.shape[1]
    factors = (
        draw(into, rank, *side.ones),
        draw(rank, into, *side.ones),
        draw(side.out, rank, *side.ones),
        draw(rank, *side.shape[1:]),
    )
    names = ("a2", "a1", "b2", "b1") if form == "old" else ("a1", "a2", "b1", "b2")
    return {f"{name}.weight": factor for name, factor in zip(names, factors, strict=True)}


def _diff(side: _Side, form: str) -> Tensors:
    return {"diff": side.draw(*side.shape), "diff_b": side.draw(side.out)}


_MAKERS = {
    "lora": _lora, "dora": _dora, "loha": _loha, "lokr": _lokr, "ia3": _ia3, "oft": _oft,
    "boft": _boft, "glora": _glora, "diff": _diff,
}  # fmt: skip
_WITHOUT_ALPHA = ("ia3", "diff")


def adapter(
    kind: str, shape: Shape, *, rank: int = 4, alpha: float = 2.0, seed: int = 0
) -> Tensors:
    """Return the tensors of one layer by the ends of their names, such as "lora_up.weight"."""
    base, _, form = kind.partition("-")
    parts = _MAKERS[base](_Side(_Draw(seed), shape, rank), form)
    return parts if base in _WITHOUT_ALPHA else {"alpha": torch.tensor(alpha), **parts}


def write_lora(
    path: Path,
    layers: Mapping[str, Shape],
    *,
    kind: str = "lora",
    rank: int = 4,
    alpha: float = 2.0,
    scale: float = 1.0,
    metadata: Mapping[str, str] | None = None,
    more: Mapping[str, torch.Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write an adapter for layers by the file's names of them; `scale` makes it stronger."""
    tensors: Tensors = {}
    for seed, (name, shape) in enumerate(layers.items()):
        for part, tensor in adapter(kind, shape, rank=rank, alpha=alpha, seed=seed).items():
            is_first = part in ("lora_up.weight", "hada_w1_a", "lokr_w1", "diff", "weight")
            tensors[f"{name}.{part}"] = tensor * scale if is_first else tensor
    tensors |= dict(more or {})
    ready = {
        name: tensor.to(dtype).contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(ready, path, metadata=dict(metadata or {}))
    return path


def kohya_names(
    shapes: Mapping[str, Shape], prefix: str, *, containing: Iterable[str] = ("to_", "proj")
) -> dict[str, Shape]:
    """Return kohya's names of a network's layers whose names hold one of some parts."""
    parts = tuple(containing)
    return {
        prefix + name.removesuffix(".weight").replace(".", "_"): shape
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) > 1 and any(part in name for part in parts)
    }

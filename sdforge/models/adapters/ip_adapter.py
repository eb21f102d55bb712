"""IP-Adapters: a picture as words beside the prompt's, seen by each attention to the text.

Ye et al. 2023, arXiv:2308.06721: to what an attention makes of the text, weight · attention(query,
K·words, V·words) is added, with matrices K and V of the adapter's own. Which file is one, and of
which kind, is `ip_adapter_file.py`'s; what CLIP sees of a picture is `clip_vision.py`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdforge.core.errors import MissingModel, UnsupportedCheckpoint
from sdforge.models.adapters.ip_adapter_file import IpAdapterShape, ip_adapter_shape
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.base import Recipe, Source
from sdforge.models.skeleton import Skeleton

_HEAD_WIDTH = 64
_LAYER = re.compile(r"image_proj\.layers\.(\d+)\.(.+)")
# diffusers' names inside a layer of Plus → the authors'.
_PLUS_NAMES = {
    "ln0": "0.norm1", "ln1": "0.norm2", "attn.to_q": "0.to_q", "attn.to_k": "0.to_kv",
    "attn.to_v": "0.to_kv", "attn.to_out.0": "0.to_out", "ff.0": "1.0", "ff.1.net.0.proj": "1.1",
    "ff.1.net.2": "1.3",
}  # fmt: skip


class IpAdapter(nn.Module):
    """The words that a picture is, and matrices for each attention, by the file's names."""

    def __init__(self, shape: IpAdapterShape, image_proj: nn.Module) -> None:
        """Take what the file tells, and what makes words of CLIP's vectors."""
        super().__init__()
        self.config = {"ip_adapter": "plus" if shape.is_plus else "plain", "seen": shape.seen}
        self.image_proj = image_proj
        self.ip_adapter = nn.ModuleDict(
            {
                str(number): _KeyAndValue(shape.context, width)
                for number, width in sorted(shape.attentions.items())
            }
        )

    @property
    def pairs(self) -> list[Any]:
        """The matrices in order of the U-Net's attentions."""
        return list(self.ip_adapter.values())


class _KeyAndValue(nn.Module):
    def __init__(self, context: int, width: int) -> None:
        super().__init__()
        self.to_k_ip = nn.Linear(context, width, bias=False)
        self.to_v_ip = nn.Linear(context, width, bias=False)


class _Words(nn.Module):
    """One vector (rows, seen) → words (rows, tokens, context)."""

    def __init__(self, shape: IpAdapterShape) -> None:
        super().__init__()
        self.proj = nn.Linear(shape.seen, shape.tokens * shape.context)
        self.norm = nn.LayerNorm(shape.context)

    def forward(self, vector: Tensor) -> Tensor:
        return self.norm(self.proj(vector).unflatten(-1, (-1, self.norm.normalized_shape[0])))


class _WordOfEachPlace(nn.Module):
    """Vectors of a picture's places (rows, places, seen) → words (rows, places, context)."""

    def __init__(self, shape: IpAdapterShape) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Linear(shape.seen, shape.seen),
            nn.GELU(),
            nn.Linear(shape.seen, shape.context),
            nn.LayerNorm(shape.context),
        )

    def forward(self, places: Tensor) -> Tensor:
        words: Tensor = self.proj(places)
        return words


def ip_adapter_recipe(header: CheckpointHeader, role: str) -> Recipe:
    """Return how to make the network of a file, all shapes checked.

    Raises:
        MissingModel: parts of it are missing.
        UnsupportedCheckpoint: it is of another kind, or its shapes do not fit together.
    """
    shape = ip_adapter_shape(header)
    shapes = {name: info.shape for name, info in header.tensors.items()}
    with torch.device("meta"):
        projection = _projection(header, shape, shapes)
        module = IpAdapter(shape, projection)
    sources: dict[str, Source] = {}
    for name, tensor in module.state_dict().items():
        key = _file_name(name)
        wanted = tuple(tensor.shape)
        found = shapes.get(key)
        if found is None:
            raise MissingModel(f"the IP-Adapter in {header.path.name} is incomplete: no {key}")
        whole = (2 * wanted[0], *wanted[1:]) if key.endswith(".to_kv.weight") else wanted
        if found != whole:
            raise UnsupportedCheckpoint(
                f"the IP-Adapter in {header.path.name} cannot be run: {key} has the shape "
                f"{list(found)}, {list(whole)} was expected"
            )
        sources[name] = Source(key, wanted, wanted[0] if ".attn.to_v." in name else 0)
    return Recipe(role=role, layout=header.layout, skeleton=Skeleton(module), sources=sources)


def _projection(
    header: CheckpointHeader, shape: IpAdapterShape, shapes: Mapping[str, tuple[int, ...]]
) -> nn.Module:
    if shape.is_full:
        return _WordOfEachPlace(shape)
    return _resampler(header, shape, shapes) if shape.is_plus else _Words(shape)


def _resampler(
    header: CheckpointHeader, shape: IpAdapterShape, shapes: Mapping[str, tuple[int, ...]]
) -> nn.Module:
    from diffusers.models.embeddings import IPAdapterPlusImageProjection

    hidden = shapes["image_proj.latents"][-1]
    depth = 0
    while f"image_proj.layers.{depth}.0.to_q.weight" in shapes:
        depth += 1
    inner = shapes.get("image_proj.layers.0.1.1.weight")
    if not depth or inner is None:
        raise MissingModel(f"the IP-Adapter in {header.path.name} is incomplete: it has no layers")
    projection: nn.Module = IPAdapterPlusImageProjection(
        embed_dims=shape.seen,
        output_dims=shape.context,
        hidden_dims=hidden,
        depth=depth,
        dim_head=_HEAD_WIDTH,
        heads=max(shapes["image_proj.layers.0.0.to_q.weight"][0] // _HEAD_WIDTH, 1),
        num_queries=shape.tokens,
        ffn_ratio=inner[0] / hidden,
    )
    return projection


def _file_name(name: str) -> str:
    """Return the authors' name of a parameter."""
    match = _LAYER.fullmatch(name)
    if match is None:
        return name
    layer, _, part = match[2].rpartition(".")
    return f"image_proj.layers.{match[1]}.{_PLUS_NAMES.get(layer, layer)}.{part}"


def is_ip_network(module: nn.Module) -> bool:
    """Say whether a network is an IP-Adapter."""
    return "ip_adapter" in (getattr(module, "config", None) or {})


def text_attentions(network: nn.Module) -> list[Any]:
    """Return a U-Net's attentions to the text, in the order that IP-Adapters count them in."""
    blocks = (getattr(module, "attn2", None) for module in network.modules())
    return [attention for attention in blocks if attention is not None]


def check_attentions(name: str, adapter: Any, network: nn.Module, model: str) -> None:
    """Raise `UnsupportedCheckpoint` unless an IP-Adapter has the matrices for a U-Net."""
    has = [(pair.to_k_ip.in_features, pair.to_k_ip.out_features) for pair in adapter.pairs]
    wanted = [
        (one.to_k.in_features, one.to_k.out_features)
        for one in text_attentions(network)
        if hasattr(one.to_k, "in_features")
    ]
    if has != wanted:
        contexts = [str(next(iter(rows), (0, 0))[0]) for rows in (has, wanted)]
        raise UnsupportedCheckpoint(
            f"the IP-Adapter {name} was made for another kind of model than {model}: it is for "
            f"{len(has)} attentions to text states of width {contexts[0]}, the model has "
            f"{len(wanted)} to those of width {contexts[1]}; take one for this kind"
        )


@dataclass(frozen=True, eq=False)
class Look:
    """What one IP-Adapter adds in a call.

    Attributes:
        adapter: placed.
        words: (rows, tokens, context).
        shares: what it is multiplied by, (rows, 1, 1).
        mask: where it acts, (1, 1, height, width) from 0 to 1; None for everywhere.
        size: (height, width) of the latents.
    """

    adapter: Any
    words: Tensor
    shares: Tensor
    mask: Tensor | None
    size: tuple[int, int]


@contextmanager
def looking(attentions: Sequence[Any], looks: Sequence[Look]) -> Iterator[None]:
    """Let a U-Net's attentions to the text see pictures too, while the block runs."""
    handles = []
    try:
        for place, attention in enumerate(attentions):
            query: list[Tensor] = []
            pairs = [(look, look.adapter.pairs[place]) for look in looks]
            handles.append(attention.to_q.register_forward_hook(_keep(query)))
            handles.append(
                attention.to_out[0].register_forward_pre_hook(_add(query, pairs, attention.heads))
            )
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keep(query: list[Tensor]) -> Any:
    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        query[:] = [output]

    return after


def _add(query: list[Tensor], pairs: Sequence[tuple[Look, Any]], heads: int) -> Any:
    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states = inputs[0]
        asked = _split(query.pop(), heads)
        for look, pair in pairs:
            key, value = (
                _split(matrix(look.words), heads) for matrix in (pair.to_k_ip, pair.to_v_ip)
            )
            seen = F.scaled_dot_product_attention(asked, key, value).transpose(1, 2).flatten(2)
            states = states + seen * look.shares * _where(look, seen)
        return (states, *inputs[1:])

    return before


def _split(states: Tensor, heads: int) -> Tensor:
    return states.unflatten(-1, (heads, -1)).transpose(1, 2)


def _where(look: Look, seen: Tensor) -> Tensor | float:
    """Return the mask at an attention's size, (1, places, 1)."""
    if look.mask is None:
        return 1.0
    height, width = look.size
    while height * width > seen.shape[1]:
        height, width = -(-height // 2), -(-width // 2)
    small = F.interpolate(look.mask.to(seen), size=(height, width), mode="area")
    return small.flatten(2).transpose(1, 2)

"""Hypernetworks: small networks that change what a U-Net's attentions look at.

As A1111 trains and applies them: for each width of attended states two perceptrons, one before the
keys' projection and one before the values', each x + m·f(x). They are read, never made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.memory.component import Component
from sdforge.models.adapters.hypernetwork_library import HypernetworkInfo
from sdforge.models.adapters.plain_pickle import read_plain_pickle
from sdforge.models.bundle import ModelBundle

_MOST_BYTES = 4 * 2**30
# Names of A1111's menu; "swish" is a hard one there. Any other name is torch's class in lower case.
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "leakyrelu": nn.LeakyReLU, "elu": nn.ELU, "swish": nn.Hardswish,
    "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "hardswish": nn.Hardswish, "gelu": nn.GELU,
    "silu": nn.SiLU, "mish": nn.Mish, "selu": nn.SELU, "celu": nn.CELU, "relu6": nn.ReLU6,
    "softplus": nn.Softplus, "softsign": nn.Softsign, "hardsigmoid": nn.Hardsigmoid,
    "hardtanh": nn.Hardtanh, "hardshrink": nn.Hardshrink, "softshrink": nn.Softshrink,
    "tanhshrink": nn.Tanhshrink, "logsigmoid": nn.LogSigmoid,
}  # fmt: skip
_LAYER = re.compile(r"linear\.?(\d+)\.(weight|bias)")


@dataclass(frozen=True, eq=False)
class Hypernetwork:
    """What a file holds: by width the layers of (keys, values), each (weight, bias) in order."""

    name: str
    layers: Mapping[int, tuple[Sequence[tuple[Tensor, Tensor]], ...]]
    activation: type[nn.Module] | None
    activates_output: bool

    def component(self, bundle: ModelBundle) -> Component:
        """Return its network on the host, in the type of the bundle's denoiser."""
        dtype = bundle.denoiser.dtype
        module = nn.ModuleDict(
            {
                str(width): nn.ModuleList(
                    _perceptron(stack, self.activation, self.activates_output, dtype)
                    for stack in pair
                )
                for width, pair in self.layers.items()
            }
        )
        return Component(
            role="hypernetwork",
            name=self.name,
            fingerprint=self.name,
            module=module.requires_grad_(False).eval(),
        )


def read_hypernetwork(info: HypernetworkInfo) -> Hypernetwork:
    """Read a file whole; nothing in it is run.

    Raises:
        MissingModel: it cannot be opened.
        UnsupportedCheckpoint: it is no hypernetwork, or one with an activation that torch lacks.
        CorruptCheckpoint: damaged, or it would run code.
    """
    content = read_plain_pickle(info.path, kind="hypernetwork", most_bytes=_MOST_BYTES)
    layers = {
        int(key): tuple(_layers(stack, int(key), info.name) for stack in pair)
        for key, pair in content.items()
        if key.isdecimal() and isinstance(pair, Sequence) and len(pair) == 2
    }
    if not layers:
        raise UnsupportedCheckpoint(
            f"{info.path.name} is no hypernetwork: it has no layers by width, as in 768"
        )
    said = str(content.get("activation_func") or "linear").casefold()
    if said != "linear" and said not in _ACTIVATIONS:
        raise UnsupportedCheckpoint(
            f"the hypernetwork {info.name} has the activation {said!r}, which is not known here"
        )
    return Hypernetwork(
        name=info.name,
        layers=layers,
        activation=_ACTIVATIONS.get(said),
        activates_output=bool(content.get("activate_output", True)),
    )


def check_widths(found: Hypernetwork, bundle: ModelBundle) -> None:
    """Raise `UnsupportedCheckpoint` unless some attention of a bundle's U-Net has its widths."""
    widths = {
        projection.in_features
        for attention in _attentions(bundle.denoiser.component.module)
        for projection in (attention.to_k,)
    }
    if not widths & set(found.layers):
        has, wanted = (", ".join(map(str, sorted(one))) for one in (found.layers, widths))
        raise UnsupportedCheckpoint(
            f"it is for another kind of model: it changes states of width {has}, this model's "
            f"have {wanted or 'no such attention'}"
        )


@contextmanager
def attending_through(network: nn.Module, module: nn.Module, multiplier: float) -> Iterator[None]:
    """Let a U-Net's attentions see what a hypernetwork makes of their context.

    Args:
        network: the U-Net, placed.
        module: of `Hypernetwork.component`, placed.
        multiplier: 0 changes nothing, 1 is as trained.
    """
    pairs: Any = module
    handles = []
    try:
        for attention in _attentions(network):
            width = str(attention.to_k.in_features)
            if width in pairs:
                for projection, part in zip(
                    (attention.to_k, attention.to_v), pairs[width], strict=True
                ):
                    handles.append(projection.register_forward_pre_hook(_changed(part, multiplier)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _attentions(network: nn.Module) -> list[Any]:
    """Return the attentions of a network's transformer blocks, to itself and to the text."""
    return [
        part
        for part in network.modules()
        if isinstance(getattr(part, "to_k", None), nn.Linear) and hasattr(part, "to_v")
    ]


def _changed(part: nn.Module, multiplier: float) -> Any:
    def before(projection: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states = inputs[0]
        return (torch.add(states, part(states), alpha=multiplier), *inputs[1:])

    return before


def _layers(stack: object, width: int, name: str) -> list[tuple[Tensor, Tensor]]:
    """Return (weight, bias) of each layer in order: matrices are linear layers, vectors norms."""
    found: dict[int, dict[str, Tensor]] = {}
    for key, tensor in stack.items() if isinstance(stack, Mapping) else ():
        match = _LAYER.fullmatch(str(key))
        if match and isinstance(tensor, Tensor):
            found.setdefault(int(match[1]), {})[match[2]] = tensor.detach()
    layers = [
        (parts["weight"], parts["bias"])
        for _, parts in sorted(found.items())
        if len(parts) == 2 and parts["weight"].ndim in (1, 2)
    ]
    now = width
    for weight, bias in layers:
        if weight.shape[-1] != now or len(bias) != len(weight):
            layers = []
            break
        now = len(weight)
    if not layers or now != width:
        raise UnsupportedCheckpoint(
            f"the hypernetwork {name} is broken: its layers for width {width} do not fit together"
        )
    return layers


def _perceptron(
    layers: Sequence[tuple[Tensor, Tensor]],
    activation: type[nn.Module] | None,
    activates_output: bool,
    dtype: torch.dtype,
) -> nn.Sequential:
    linear = [number for number, (weight, _) in enumerate(layers) if weight.ndim == 2]
    parts: list[nn.Module] = []
    for number, (weight, bias) in enumerate(layers):
        with torch.device("meta"):
            layer: nn.Linear | nn.LayerNorm = (
                nn.Linear(weight.shape[1], weight.shape[0])
                if weight.ndim == 2
                else nn.LayerNorm(len(weight))
            )
        # Copies: a component's tensors are emptied when it is released, the file's stay.
        layer.weight = nn.Parameter(weight.to(dtype, copy=True), requires_grad=False)
        layer.bias = nn.Parameter(bias.to(dtype, copy=True), requires_grad=False)
        parts.append(layer)
        is_inner = weight.ndim == 2 and (number != linear[-1] or activates_output)
        if activation is not None and is_inner:
            parts.append(activation())
    return nn.Sequential(*parts)

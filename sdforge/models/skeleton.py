"""Networks without weights, built once per architecture and then copied.

Running the constructors of diffusers and transformers takes longer than everything else about
loading mapped weights: half a thousand modules, each with random numbers to fill in. A sweep over
checkpoints of one architecture needs them once. No weights here: `weights.py` puts them in.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sdforge import garbage
from sdforge.memory.component import NamedTensor, named_tensors

_CONTAINERS = (dict, OrderedDict, list, set)
_OWN = ("_parameters", "_buffers", "_modules")


class Built(NamedTuple):
    """A network, and its parameters and buffers with the tensors that they were made from."""

    module: nn.Module
    tensors: Sequence[NamedTensor]


class Skeleton:
    """The structure of a network on the meta device; equal to nothing but itself."""

    def __init__(self, example: nn.Module) -> None:
        """Take a network on the meta device, which is kept and not to be changed any more."""
        self.example = example.requires_grad_(False).eval()
        self.shapes: Mapping[str, tuple[int, ...]] = {
            name: tuple(tensor.shape) for name, tensor in example.state_dict().items()
        }
        # Those that no file holds as well.
        self.tensors = frozenset(
            name
            for named in (example.named_parameters(), example.named_buffers())
            for name, _ in named
        )
        modules = list(example.modules())
        places = {id(module): place for place, module in enumerate(modules)}
        names = {id(module): name for name, module in example.named_modules()}
        self._parts = [_Part(module, names[id(module)], places) for module in modules]
        # A module in two places has two names for each tensor, a part only one.
        self._is_plain = all(part.is_plain for part in self._parts) and len(modules) == sum(
            1 for _ in example.named_modules(remove_duplicate=False)
        )

    def build(self, tensors: Mapping[str, Tensor]) -> Built:
        """Return a new network in eval mode with these tensors, which need no gradients.

        Args:
            tensors: by name, for all of `self.tensors`.
        """
        if not self._is_plain:
            network = _filled(copy.deepcopy(self.example), tensors)
            return Built(network, list(named_tensors(network)))
        named: list[NamedTensor] = []
        with garbage.paused():
            made: list[nn.Module] = [part.kind.__new__(part.kind) for part in self._parts]
            for module, part in zip(made, self._parts, strict=True):
                # Past the module's own way of setting attributes, which looks at each.
                object.__setattr__(module, "__dict__", part.attributes(made, tensors, named))
        return Built(made[0], named)


def _filled(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    for name, tensor in tensors.items():
        owner, _, attribute = name.rpartition(".")
        module = network.get_submodule(owner)
        if attribute in module._parameters:
            module._parameters[attribute] = nn.Parameter(tensor, requires_grad=False)
        else:
            module._buffers[attribute] = tensor
    return network


@contextmanager
def no_initial_weights() -> Iterator[None]:
    """Skip the drawing of random weights in constructors that run in the block."""
    with _NoDrawing():
        yield


class _NoDrawing(TorchFunctionMode):
    """Returns tensors as they are, where they would be filled."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if getattr(func, "__module__", None) == torch.nn.init.__name__:
            return named["tensor"] if "tensor" in named else args[0]
        return func(*args, **named)


class _Part:
    """What one module consists of."""

    def __init__(self, module: nn.Module, prefix: str, places: Mapping[int, int]) -> None:
        self.kind = type(module)
        attributes = {name: value for name, value in vars(module).items() if name not in _OWN}
        containers = {
            name: value for name, value in attributes.items() if type(value) in _CONTAINERS
        }
        shared = {name: value for name, value in attributes.items() if name not in containers}
        # Most are empty: a module has a dozen dictionaries of hooks.
        self._empty = [
            name for name, value in containers.items() if type(value) is OrderedDict and not value
        ]
        self._copied = [
            (name, value) for name, value in containers.items() if name not in self._empty
        ]
        # Every name has its place in it already: filling a copy is cheaper than growing a new one.
        self._template: dict[str, Any] = shared | dict.fromkeys((*containers, *_OWN))
        lead = f"{prefix}." if prefix else ""
        self._parameters, self._buffers = (
            [(name, None if tensor is None else lead + name) for name, tensor in named.items()]
            for named in (module._parameters, module._buffers)
        )
        self._children = [
            (name, None if child is None else places[id(child)])
            for name, child in module._modules.items()
        ]
        inner = [
            part
            for value in containers.values()
            for part in (value.values() if isinstance(value, dict) else value)
        ]
        self.is_plain = not any(map(_is_bound, (*shared.values(), *inner)))

    def attributes(
        self,
        made: list[nn.Module],
        tensors: Mapping[str, Tensor],
        named: list[NamedTensor],
    ) -> dict[str, Any]:
        """Return all that a bare module consists of; its tensors are added to `named`."""
        found = self._template.copy()
        for name in self._empty:
            found[name] = OrderedDict()
        for name, value in self._copied:
            found[name] = value.copy()
        parameters: dict[str, Tensor | None] = {}
        buffers: dict[str, Tensor | None] = {}
        for name, key in self._parameters:
            if key is None:
                parameters[name] = None
            else:
                tensor = tensors[key]
                holder = parameters[name] = _parameter(tensor)
                named.append((key, holder, tensor))
        for name, key in self._buffers:
            if key is None:
                buffers[name] = None
            else:
                tensor = buffers[name] = tensors[key]
                named.append((key, tensor, tensor.data))
        found["_parameters"] = parameters
        found["_buffers"] = buffers
        found["_modules"] = {
            name: None if place is None else made[place] for name, place in self._children
        }
        return found


def _parameter(tensor: Tensor) -> nn.Parameter:
    """Return what `nn.Parameter` makes of a plain tensor that needs no gradient, at its cost alone.

    The class tells many kinds of tensors apart first, which takes as long again.
    """
    made: nn.Parameter = Tensor._make_subclass(nn.Parameter, tensor, False)
    return made


def _is_bound(value: object) -> bool:
    """Tell whether a value belongs to one network, so that two must not share it."""
    return isinstance(value, nn.Module | Tensor | MethodType | list | dict | set) and not (
        # A configuration of diffusers, which refuses to be changed.
        isinstance(value, OrderedDict) and type(value) is not OrderedDict
    )

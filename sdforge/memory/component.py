"""One network whose weights lie on the host as immutable masters.

A master is a storage tensor and, where its numbers are packed (fp8, GGUF, int8), a decoder. Storage
bytes travel to the device and lie there; decoded tensors exist only while the piece of the network
that owns them runs. LoRA patches are applied on that way too. Nothing ever writes to a master, so
taking weights off the device, and taking patches off, copies nothing back.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from sdforge.core.errors import SdforgeError
from sdforge.memory.arena import Arena

# Storage tensor, where it computes → tensor in the compute type and logical shape.
Decode = Callable[[torch.Tensor], torch.Tensor]
# A weight in fp32 → the weight with something added, such as a LoRA. Called on the compute device.
Patch = Callable[[torch.Tensor], torch.Tensor]
# A host tensor → the same where a network computes.
Fetch = Callable[[torch.Tensor], torch.Tensor]


class PatchAmong(ABC):
    """A patch that looks at other weights of the network too, as they are without patches.

    For adapters of a matrix that is one in their file and several here.
    """

    @property
    @abstractmethod
    def beside(self) -> tuple[str, ...]:
        """Names of the parameters that it looks at; () for none, then it is called as others."""

    @abstractmethod
    def __call__(
        self, weight: torch.Tensor, others: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Return the changed weight; all tensors are fp32 and lie where `weight` does."""


# Its name in the network, the parameter or buffer that shows it, the tensor itself.
NamedTensor = tuple[str, torch.Tensor, torch.Tensor]


@dataclass(eq=False, slots=True)
class Master:
    """One tensor of a network on the host; `holders` are the parameters that show it.

    There is more than one holder where parameters are tied. Never changed once it is collected;
    not frozen, because a frozen one takes four times as long to make, a thousand times a model.
    """

    index: int
    name: str
    stored: torch.Tensor
    decode: Decode | None
    holders: list[torch.Tensor] = field(default_factory=list)

    @property
    def stored_bytes(self) -> int:
        """Bytes that travel."""
        return int(self.stored.nbytes)

    def show(self, tensor: torch.Tensor) -> None:
        """Let the network see `tensor` in this place; not to be called in inference mode."""
        for holder in self.holders:
            holder.data = tensor


class Component:
    """A network with its role ('denoiser', 'vae', 'text_encoder', …) and its host bytes."""

    def __init__(
        self,
        *,
        role: str,
        name: str,
        fingerprint: str,
        module: nn.Module,
        arenas: tuple[Arena, ...] = (),
        decoders: Mapping[str, Decode] | None = None,
        tensors: Iterable[NamedTensor] | None = None,
    ) -> None:
        """Take a network whose parameters and buffers are the storage tensors.

        Args:
            role: what it is for.
            name: of the checkpoint, for messages and reports.
            fingerprint: what the component is equal by.
            module: the network.
            arenas: the host memory that its tensors lie in, given back with the component.
            decoders: by parameter or buffer name; the others are computed with as they are.
            tensors: the network's, where whoever built it has them at hand.
        """
        self.role = role
        self.name = name
        self.fingerprint = fingerprint
        self.arenas = arenas
        self._module: nn.Module | None = module
        self._by_name: dict[str, Master] = {}
        self.masters: tuple[Master, ...] = self._collect(
            named_tensors(module) if tensors is None else tensors, decoders or {}
        )
        self.total_bytes = sum(master.stored_bytes for master in self.masters)
        self._patches: dict[int, Patch] = {}
        self._patch_keys = itertools.count(1)
        self.patch_key = ""

    @property
    def module(self) -> nn.Module:
        """The network itself. Raises `SdforgeError` after `release`."""
        if self._module is None:
            raise SdforgeError(f"the {self.role} of {self.name} was released and cannot be used")
        return self._module

    @property
    def is_released(self) -> bool:
        """Whether the host masters are gone."""
        return self._module is None

    def set_patches(self, patches: Mapping[str, Patch], *, key: str | None = None) -> None:
        """Put patches in force from the next lease on, in place of those that were; {} for none.

        Args:
            patches: by parameter name.
            key: what this set of patches is equal by. Setting a key that is in force already
                changes nothing; without one, patches are compared by `==`.

        Raises:
            SdforgeError: no parameter of such a name.
        """
        found = {self.master(name).index: patch for name, patch in patches.items()}
        is_same = key == self.patch_key if key is not None else found == self._patches
        if is_same and bool(found) == bool(self._patches):
            return
        self._patches = found
        made_up = str(next(self._patch_keys)) if key is None else key
        self.patch_key = made_up if found else ""

    def master(self, name: str) -> Master:
        """Return the master of a parameter or buffer; raises `SdforgeError` for unknown names."""
        if name not in self._by_name:
            raise SdforgeError(f"the {self.role} of {self.name} has no tensor {name!r}")
        return self._by_name[name]

    def named_masters(self) -> Iterable[tuple[str, Master]]:
        """Return every name of every tensor; tied ones come once per name."""
        return self._by_name.items()

    def patch_of(self, master: Master) -> Patch | None:
        """Return the patch in force on a master."""
        return self._patches.get(master.index)

    @property
    def has_decoders(self) -> bool:
        """Whether any tensor is packed."""
        return any(master.decode is not None for master in self.masters)

    @property
    def parameter_count(self) -> int:
        """How many numbers the network holds; packed ones count as they are stored."""
        return sum(master.stored.numel() for master in self.masters)

    @property
    def has_patches(self) -> bool:
        """Whether any are in force."""
        return bool(self._patches)

    def read(
        self, master: Master, stored: torch.Tensor, fetch: Fetch | None = None
    ) -> torch.Tensor:
        """Return what the network computes with: `stored` decoded and patched, where it lies.

        `fetch` brings other masters there, where a patch looks at them; None where they are.
        """
        value = stored if master.decode is None else master.decode(stored)
        patch = self.patch_of(master)
        if patch is None:
            return value
        # In fp32 and rounded once, wherever and whenever it happens: so every memory mode gives
        # the same weights.
        beside = patch.beside if isinstance(patch, PatchAmong) else ()
        if not beside or not isinstance(patch, PatchAmong):
            return patch(value.float()).to(value.dtype)
        others = {name: self._fetched(self.master(name), fetch) for name in beside}
        return patch(value.float(), others).to(value.dtype)

    def _fetched(self, master: Master, fetch: Fetch | None) -> torch.Tensor:
        stored = master.stored if fetch is None else fetch(master.stored)
        return (stored if master.decode is None else master.decode(stored)).float()

    def release(self) -> None:
        """Drop the weights, on the host too, even if somebody still holds the module.

        Tensors are emptied first, so that a late use is a shape error and not a wrong picture; then
        the arenas give their pages back, which also covers hidden views.
        """
        for master in self.masters:
            master.show(torch.empty(0, dtype=master.stored.dtype))
        self.masters = ()
        self._by_name = {}
        self._patches = {}
        self._module = None
        for arena in self.arenas:
            arena.release()

    def _collect(
        self, tensors: Iterable[NamedTensor], decoders: Mapping[str, Decode]
    ) -> tuple[Master, ...]:
        found: list[Master] = []
        at: dict[int, list[Master]] = {}
        for name, holder, stored in tensors:
            # Empty tensors, and those without memory, have no place: only the object tells.
            place = stored.data_ptr() or -id(holder)
            there = at.get(place)
            master = there and next((one for one in there if _is_same(one.stored, stored)), None)
            if master:
                if all(holder is not known for known in master.holders):
                    master.holders.append(holder)
            else:
                master = Master(len(found), name, stored, decoders.get(name), [holder])
                found.append(master)
                at[place] = [*(there or ()), master]
            self._by_name[name] = master
        unknown = sorted(set(decoders) - set(self._by_name))
        if unknown:
            raise SdforgeError(f"the {self.role} of {self.name} has no tensor {unknown[0]!r}")
        return tuple(found)


def _is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether two tensors of one place are tied: views of the same bytes in the same form."""
    return (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())


def named_tensors(module: nn.Module) -> Iterator[NamedTensor]:
    """Yield every name of every parameter and buffer; torch's own walk takes thrice as long."""
    ahead: list[tuple[str, nn.Module]] = [("", module)]
    while ahead:
        lead, part = ahead.pop()
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is not None:
                yield lead + name, tensor, tensor.data
        for name, child in reversed(part._modules.items()):
            if child is not None:
                ahead.append((f"{lead}{name}.", child))

"""One network whose weights lie on the host as immutable masters.

The module that a component wraps keeps its parameters on the host. A device copy is made by
pointing each parameter at another tensor for a while; the master is remembered here and never
written to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

from sdforge.core.errors import SdforgeError
from sdforge.memory.arena import Arena


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
    ) -> None:
        self.role = role
        self.name = name
        self.fingerprint = fingerprint
        self.arenas = arenas
        self._module: nn.Module | None = module
        self._masters = [(holder, holder.data) for holder in _holders(module)]
        self.total_bytes = sum(_storage_bytes(master) for _, master in self._masters)

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

    def point_at_copies(self, copy: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replace every tensor by `copy(master)`; masters that are tied stay tied.

        When `copy` raises, all tensors are back at their masters.
        """
        made: dict[int, torch.Tensor] = {}
        try:
            # A copy made in inference mode could not be put into a parameter.
            with torch.inference_mode(mode=False), torch.no_grad():
                for holder, master in self._masters:
                    key = master.data_ptr() or id(holder)
                    if key not in made:
                        made[key] = copy(master)
                    holder.data = made[key].view(master.shape)
        except BaseException:
            self.point_at_masters()
            raise

    def point_at_masters(self) -> None:
        """Let every tensor be its host master again; device copies lose their last reference."""
        for holder, master in self._masters:
            holder.data = master

    def release(self) -> None:
        """Drop the weights, on the host too, even if somebody still holds the module.

        Tensors are emptied first, so that a late use is a shape error and not a wrong picture; then
        the arenas give their pages back, which also covers hidden views.
        """
        for holder, _ in self._masters:
            holder.data = torch.empty(0, dtype=holder.dtype)
        self._masters = []
        self._module = None
        for arena in self.arenas:
            arena.release()


def _holders(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _storage_bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()

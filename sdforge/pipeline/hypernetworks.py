"""The hypernetworks of a batch: from the prompt to what the U-Net's attentions look through."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from torch import nn

from sdforge.core.errors import SdforgeError
from sdforge.core.events import Notice
from sdforge.memory.lease import Lease
from sdforge.memory.manager import MemoryManager
from sdforge.models.adapters.hypernetwork import (
    Hypernetwork,
    attending_through,
    check_widths,
)
from sdforge.models.bundle import ModelBundle
from sdforge.pipeline.context import RunContext
from sdforge.prompt.networks import ExtraNetwork

log = logging.getLogger(__name__)

KIND = "hypernet"


@dataclass(frozen=True, eq=False)
class HypernetworkUse:
    """One mention in a prompt: what was read, and its multiplier."""

    network: Hypernetwork
    multiplier: float


def used_hypernetworks(
    context: RunContext, bundle: ModelBundle, networks: Iterable[ExtraNetwork]
) -> tuple[HypernetworkUse, ...]:
    """Return the hypernetworks that a prompt names; says what is left out, and goes on."""
    found = []
    for network in networks:
        if network.kind != KIND:
            continue
        try:
            multiplier = _multiplier(network)
            read = context.adapters.hypernetwork(network.name)
            check_widths(read, bundle)
        except SdforgeError as error:
            text = f"<{KIND}:{network.name}> was left out: {error.message}"
            log.warning("%s", text)
            context.emit(Notice(text=text))
            continue
        if multiplier:
            found.append(HypernetworkUse(read, multiplier))
    return tuple(found)


def _multiplier(network: ExtraNetwork) -> float:
    text = network.args[1] if len(network.args) > 1 else "1"
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SdforgeError(f"its multiplier is {text!r}, not a number")
    return number


@dataclass(frozen=True, eq=False)
class PlacedHypernetworks:
    """Hypernetworks that can run now, and the leases on them."""

    networks: Sequence[tuple[nn.Module, float]] = ()
    leases: Sequence[Lease] = ()

    @contextmanager
    def around(self, unet: nn.Module) -> Iterator[None]:
        """Let a placed U-Net look through them, the first named first."""
        with ExitStack() as stack:
            for module, multiplier in self.networks:
                stack.enter_context(attending_through(unet, module, multiplier))
            yield


def place_hypernetworks(
    memory: MemoryManager,
    bundle: ModelBundle,
    used: Sequence[HypernetworkUse],
    stack: ExitStack,
    working_bytes: int,
) -> PlacedHypernetworks:
    """Return hypernetworks placed until `stack` is closed, when they are given back.

    Args:
        memory: the manager.
        bundle: whose denoiser they act on.
        used: from `used_hypernetworks`.
        stack: gets the leases; the denoiser's own comes after them.
        working_bytes: of the denoiser's activations, kept free of weights.
    """
    placed, leases = [], []
    for use in used:
        component = use.network.component(bundle)
        stack.callback(memory.release, component)
        lease = memory.lease(component, working_bytes=working_bytes)
        placed.append((stack.enter_context(lease), use.multiplier))
        leases.append(lease)
    return PlacedHypernetworks(placed, leases)

"""What a request's ControlNet units add to the weights of a checkpoint, by headers alone.

Reads files' headers and loads no torch. `preflight.py` asks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sdforge.core.errors import MissingModel, ModelError, UnknownName
from sdforge.core.request import GenerationRequest
from sdforge.memory.estimate import Network
from sdforge.models.adapters.controlnet_shapes import IP_ADAPTER
from sdforge.models.adapters.ip_adapter_file import ip_adapter_shape
from sdforge.models.checkpoint import CheckpointHeader

if TYPE_CHECKING:
    from sdforge.models.adapters.controlnet_library import ControlNetInfo, ControlNetLibrary

_FIRST_OF_VISION = "vision_model.embeddings.class_embedding"


def control_networks(
    request: GenerationRequest,
    library: ControlNetLibrary,
    header_of: Callable[[Path], CheckpointHeader],
    itemsize: int,
) -> tuple[tuple[int, ...], tuple[Network, ...]]:
    """Return the bytes of networks that act in every step, and those that look at pictures once.

    Each file counts once; units that cannot serve are left out.

    Args:
        request: with its units.
        library: of ControlNets.
        header_of: reads a header.
        itemsize: bytes of a number, as they are computed with.
    """
    acting: dict[Path, int] = {}
    eyes: dict[Path, Network] = {}
    for unit in request.control:
        try:
            info = library.find(unit.model)
            if unit.weight <= 0 or info.error is not None:
                continue
            header = header_of(info.path)
            if info.layout == IP_ADAPTER:
                eye = _eye(header, library)
                eyes[eye.path] = _as_network(header_of(eye.path), itemsize)
            acting[info.path] = _bytes(header, itemsize)
        except (UnknownName, ModelError, MissingModel):
            continue
    return tuple(acting.values()), tuple(eyes.values())


def _eye(header: CheckpointHeader, library: ControlNetLibrary) -> ControlNetInfo:
    shape = ip_adapter_shape(header)
    return library.encoder(shape.seen, of_places=shape.is_plus)


def _as_network(header: CheckpointHeader, itemsize: int) -> Network:
    """Return a CLIP encoder of pictures, which the estimate takes for one of texts."""
    width = header.tensors[_FIRST_OF_VISION].shape[0]
    return Network(
        role="vision",
        trace="clip-vision",
        kind="text",
        total_bytes=_bytes(header, itemsize),
        width=width,
        itemsize=itemsize,
    )


def _bytes(header: CheckpointHeader, itemsize: int) -> int:
    return itemsize * sum(math.prod(one.shape) for one in header.tensors.values())

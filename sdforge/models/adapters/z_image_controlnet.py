"""ControlNets of Z-Image, as alibaba publishes them: blocks beside the transformer's own.

They have no embedders and refiners of their own and use those of the transformer that they steer.
Version 1 sees the picture in six blocks; versions 2 see it in the refiner too, and have room for a
picture to be repainted, which stays empty here. The names of all of them are diffusers'.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from sdforge.core.errors import MissingModel
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.sd_shapes import Shapes

_PATCH_NUMBERS = 4
_REFINED, _BY_LAYERS = "control_noise_refiner", "control_layers"
# What it borrows from the transformer.
_SHARED = (
    "t_scale", "t_embedder", "all_x_embedder", "cap_embedder", "rope_embedder", "noise_refiner",
    "context_refiner", "x_pad_token", "cap_pad_token",
)  # fmt: skip
_SAMPLE_BYTES = 65536


def is_z_image_control(module: nn.Module) -> bool:
    """Say whether a network is such a ControlNet."""
    return "control_in_dim" in _of(module)


def z_image_control(header: CheckpointHeader, shapes: Shapes) -> nn.Module:
    """Return the network of a file on the device in force.

    Raises:
        MissingModel: some of it is missing.
        UnsupportedCheckpoint: its shapes do not fit together.
    """
    from diffusers.models.controlnets.controlnet_z_image import ZImageControlNetModel

    first = "control_layers.0.attention"
    width = shapes.dims("control_layers.0.after_proj.weight", 2)[0]
    head = shapes.dims(f"{first}.norm_q.weight", 1)[0]
    keys = shapes.dims(f"{first}.to_k.weight", 2)[0]
    if width % head or keys % head:
        raise shapes.misfit(f"its width {width} cannot be cut into heads of {head}")
    refiners = shapes.count(lambda number: f"{_REFINED}.{number}.attention.to_q.weight")
    network: nn.Module = ZImageControlNetModel(
        # Which of the transformer's layers they are behind is said when these are known.
        control_layers_places=list(
            range(shapes.count(lambda number: f"control_layers.{number}.after_proj.weight"))
        ),
        control_refiner_layers_places=list(range(refiners)),
        control_in_dim=shapes.dims("control_all_x_embedder.2-1.weight", 2)[1] // _PATCH_NUMBERS,
        add_control_noise_refiner=_refined_by(header, shapes),
        dim=width,
        n_refiner_layers=refiners,
        n_heads=width // head,
        n_kv_heads=keys // head,
    )
    return network


def _refined_by(header: CheckpointHeader, shapes: Shapes) -> str | None:
    """Return which blocks see the picture in the refiner, None where it is refined by itself.

    Version 2.0 was trained with its layers there; its own blocks for it are as they began, zeros.
    """
    if f"{_REFINED}.0.after_proj.weight" not in shapes:
        return None
    before = f"{_REFINED}.0.before_proj.weight"
    return _REFINED if before in shapes and not _begins_with_zeros(header, before) else _BY_LAYERS


def _begins_with_zeros(header: CheckpointHeader, name: str) -> bool:
    info = header.tensors[name]
    try:
        with header.path.open("rb") as file:
            file.seek(header.data_start + info.start)
            return not any(file.read(min(info.size_bytes, _SAMPLE_BYTES)))
    except OSError as error:
        raise MissingModel(f"{header.path} cannot be read: {error.strerror or error}") from error


def z_image_facts(module: nn.Module) -> dict[str, object]:
    """Return what such a ControlNet and a transformer must agree in."""
    config = _of(module)
    return {
        "states of width": config.get("dim"),
        "heads": config.get("n_heads"),
        "heads of keys": config.get("n_kv_heads"),
    }


def z_image_numbers(module: nn.Module, patches: int) -> int:
    """Return how many numbers such a ControlNet holds for a row of so many patches."""
    config = _of(module)
    # What each block says is kept beside what was said before, while it is put together.
    return 2 * (len(config["control_layers_places"]) + 1) * int(config["dim"]) * patches


def z_image_places(module: nn.Module, depth: int) -> list[int]:
    """Return behind which of a transformer's layers the ControlNet's say something.

    As published, of 30: 0, 5, … 25 (version 1); 0, 2, … 28 and, in small ones, 0, 14, 28.
    """
    config = _of(module)
    count = len(config["control_layers_places"])
    if config["add_control_noise_refiner"] is None:
        return [number * depth // count for number in range(count)]
    return [number * max(depth - 2, 0) // max(count - 1, 1) for number in range(count)]


@contextmanager
def borrowing(control: nn.Module, transformer: nn.Module) -> Iterator[Any]:
    """Lend a ControlNet the parts of the transformer that it runs with, while the block lasts.

    They are no children of it then either, so that nobody takes them for its own weights.
    """
    lent = {name: getattr(transformer, name) for name in _SHARED}
    control.__dict__.update(lent)
    try:
        yield control
    finally:
        control.__dict__.update(dict.fromkeys(lent))


def _of(module: nn.Module) -> Mapping[str, Any]:
    return getattr(module, "config", None) or {}

"""The VAE: latents to pixels and back, under its own lease, whole or tile by tile.

Pictures run one at a time, which makes each independent of its batch. One that would not fit beside
the VAE's weights runs in tiles (`memory/vae_mode.py`): layer by layer, with the whole picture's
result (`vae_layers.py`), or where that cannot be, tiles that are blended (`vae_tiles.py`). Where
memory runs out all the same it is tried again, leaner (`memory/ladder.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from sdforge.core.errors import SdforgeError
from sdforge.memory.calibration import Key
from sdforge.memory.component import Component, Master
from sdforge.memory.estimate import activation_bytes
from sdforge.memory.ladder import size_hint, vae_rungs
from sdforge.memory.lease import Lease
from sdforge.memory.manager import MemoryManager
from sdforge.memory.placement import ResidencyPlan, VaeOption
from sdforge.memory.pressure import read_host_memory
from sdforge.memory.vae_mode import VaeKind, VaeMode, choices
from sdforge.models.bundle import LatentFormat
from sdforge.models.edits import circular_padding
from sdforge.models.vae_layers import LayerRun, attention_numbers, can_run, host_numbers
from sdforge.models.vae_tiles import Compute, OnTile, nothing, run_tiled

log = logging.getLogger(__name__)

# What the ladder calls the two ways, in logs and the infotext.
_STAGES = {"decode": "VAE", "encode": "VAE encode"}


@dataclass(frozen=True)
class _Attempt:
    """How the VAE last set to work: on how many pixels at once, how many ways take less memory."""

    leaner: int = 0
    plan: ResidencyPlan | None = None
    width: int = 0
    height: int = 0

    def hint(self) -> str:
        return size_hint(self.plan, self.width, self.height)


class Vae:
    """The VAE of a bundle; pixels are floats from 0 to 1, shape (n, 3, height, width)."""

    def __init__(
        self,
        component: Component,
        memory: MemoryManager,
        latent_format: LatentFormat,
        *,
        trace: str = "",
    ) -> None:
        """Take the network and the manager that places it.

        `trace` names its activations in `memory/activations.json`, if they are not those of a KL
        VAE of so many channels.
        """
        first = next(component.module.parameters())
        self.component = component
        self.dtype = first.dtype
        self.width = first.shape[0]
        self._memory = memory
        # What others see of it may be another format (`flux2_vae.py`).
        self.latent_format = self._own = latent_format
        self._trace = trace or f"vae-{latent_format.channels}"
        self._needs_fp32 = False
        self._last = _Attempt()
        self._on_tile: OnTile = nothing

    @property
    def patch(self) -> int:
        """How many latents lie along each side of what others see as one."""
        return 1

    def unpatched(self, latents: torch.Tensor) -> torch.Tensor:
        """Return latents one by one where they come in patches; their numbers stay."""
        return latents

    @contextmanager
    def stoppable(self, on_tile: OnTile) -> Iterator[None]:
        """Call `on_tile` after each tile that the block runs; what it raises ends the work."""
        self._on_tile = on_tile
        try:
            yield
        finally:
            self._on_tile = nothing

    @torch.inference_mode()
    def decode(
        self, latents: torch.Tensor, mode: VaeMode | None = None, *, tiling: bool = False
    ) -> torch.Tensor:
        """Return the pictures of latents, on the host in fp32.

        A picture that comes out as not-a-number in half precision is decoded again in fp32, and
        from then on all are.

        Args:
            latents: (n, channels, height, width), scaled as the denoiser has them.
            mode: how to go about it; None takes what the plan says, else the best that fits.
            tiling: opposite edges belong together.

        Raises:
            SdforgeError: a picture is not-a-number in fp32 too; its latents are to blame.
            OutOfMemory: not even the smallest tiles fit.
        """
        height, width = latents.shape[-2:]

        def attempt() -> torch.Tensor:
            lease = self._lease("decode", mode, height, width)
            with lease as module, _padding(module, tiling):
                chosen = self._mode(lease, "decode", height, width)
                return torch.cat(
                    [
                        self._decode_one(module, one.to(lease.device), chosen)
                        for one in latents.split(1)
                    ]
                )

        return self._guarded("decode", attempt)

    @torch.inference_mode()
    def encode(
        self,
        pixels: torch.Tensor,
        mode: VaeMode | None = None,
        *,
        noise: torch.Tensor | None = None,
        tiling: bool = False,
    ) -> torch.Tensor:
        """Return the latents of pictures: the mean of the VAE's distribution, in fp32.

        Args:
            pixels: (n, 3, height, width) from 0 to 1; sides are multiples of the downscale.
            mode: how to go about it; None takes what the plan says, else the best that fits.
            noise: of the latents' shape and unit variance; with it, the distribution is drawn from.
            tiling: opposite edges belong together.

        Raises:
            OutOfMemory: not even the smallest tiles fit.
        """
        latent = self._own
        height, width = (side // latent.downscale for side in pixels.shape[-2:])

        def attempt() -> torch.Tensor:
            lease = self._lease("encode", mode, height, width)
            with lease as module, _padding(module, tiling):
                chosen = self._mode(lease, "encode", height, width)
                moments = [
                    self._encode_one(module, one, chosen, lease.device) for one in pixels.split(1)
                ]
            mean, deviation = torch.cat(moments).chunk(2, dim=1)
            latents = mean if noise is None else mean + deviation * noise.to(mean.device)
            return (latents - latent.shift) * latent.scale

        return self._guarded("encode", attempt)

    def ways(self, way: str, height: int, width: int) -> list[tuple[VaeMode, int]]:
        """Return the ways to run one picture, best first, with the activations of each in bytes.

        Args:
            way: 'decode' or 'encode'.
            height: of the latents.
            width: of the latents.
        """
        return [
            (mode, self._needed(way, mode, height, width)) for mode in choices(1, height, width)
        ]

    def fitting_mode(self, way: str, height: int, width: int) -> VaeMode:
        """Return the best of the `ways` that fits the memory there is besides the VAE's weights.

        Ways that ran out of memory in this job are not tried again.
        """
        room = self._memory.budget().physical_bytes - self.component.total_bytes
        ways = self.ways(way, height, width)
        left = ways[min(self._memory.pressure.vae_skip, len(ways) - 1) :]
        return next((mode for mode, needed in left if needed <= room), left[-1][0])

    def learns(self, way: str) -> Key:
        """Return what running the VAE teaches about; `way` is 'decode' or 'encode'."""
        phase = "decode" if way == "decode" else "vae-encode"
        return self._memory.learning.key(self._trace, phase)

    def _lease(self, way: str, mode: VaeMode | None, height: int, width: int) -> Lease:
        ways = self.ways(way, height, width)
        if mode is not None:
            ways = [(mode, self._needed(way, mode, height, width))]
        options = [VaeOption(mode=one, working_bytes=needed) for one, needed in ways]
        return self._memory.lease(
            self.component,
            working_bytes=options[0].working_bytes,
            vae_options=options,
            learns=self.learns(way),
        )

    def _mode(self, lease: Lease, way: str, height: int, width: int) -> VaeMode:
        """Return the plan's mode; on the host, where there is no plan, the best that fits."""
        modes = [option.mode for option in lease.work.vae_options]
        chosen = lease.vae_mode
        if lease.plan is None and len(modes) > 1:
            chosen = self.fitting_mode(way, height, width)
        _, rows, columns = chosen.extent(1, height, width)
        scale = self._own.downscale
        leaner = len(modes) - 1 - modes.index(chosen)
        self._last = _Attempt(leaner, lease.plan, columns * scale, rows * scale)
        return chosen

    def _guarded(self, way: str, attempt: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return the result of an attempt, repeated with less and less memory while that lacks."""
        rungs = vae_rungs(self._memory, lambda: self._last.leaner)
        return self._memory.ladder.run(
            _STAGES[way], attempt, rungs, lambda: self._last.hint(), learns=self.learns(way)
        )

    def _needed(self, way: str, mode: VaeMode, height: int, width: int) -> int:
        _, rows, columns = mode.extent(1, height, width)
        return self._bytes(way, rows, columns)

    def _bytes(self, way: str, height: int, width: int) -> int:
        traced = activation_bytes(
            f"{self._trace}.{way}",
            kind=f"vae-{way}",
            width=self.width,
            latent_pixels=height * width,
            itemsize=4 if self._needs_fp32 else self.dtype.itemsize,
        )
        return int(traced * self._memory.learning.factor(self.learns(way)))

    def _encode_one(
        self, module: nn.Module, pixels: torch.Tensor, mode: VaeMode, device: torch.device
    ) -> torch.Tensor:
        scale = self._own.downscale

        def compute(part: torch.Tensor) -> torch.Tensor:
            return _moments(module, part.to(device, self.dtype) * 2 - 1)

        if mode.kind is not VaeKind.TILED:
            return compute(pixels)
        if layers := self._by_layers(module, mode, "encode", *pixels.shape[-2:]):
            mean, spread = layers.moments(pixels * 2 - 1).chunk(2, dim=1)
            return torch.cat([mean, (spread.clamp(-30, 20) / 2).exp()], 1).to(device)
        log.info("encoding %d × %d pixels: %s", *pixels.shape[:1:-1], mode.describe())
        tile, overlap = mode.tile * scale, mode.overlap * scale
        # Tiles begin at multiples of the downscale, so that latents line up.
        latents = run_tiled(
            pixels,
            compute,
            tile=tile,
            overlap=overlap,
            ratio=1 / scale,
            multiple=scale,
            on_tile=self._on_tile,
        )
        return latents.to(device)

    def _decode_one(self, module: nn.Module, latents: torch.Tensor, mode: VaeMode) -> torch.Tensor:
        plain = latents.to(torch.float32) / self._own.scale + self._own.shift
        picture = self._run_decoder(module, plain, mode)
        if picture.isnan().any() and not self._needs_fp32 and self.dtype != torch.float32:
            log.warning("the VAE gave not-a-number in %s; decoding in float32", self.dtype)
            self._needs_fp32 = True
            picture = self._run_decoder(module, plain, mode)
        if picture.isnan().any():
            raise SdforgeError(
                "the picture came out as not-a-number: the denoiser overflowed; if it does so with "
                "other settings too, start with --no-half, or the checkpoint is broken"
            )
        return (picture / 2 + 0.5).clamp(0, 1).cpu()

    def _run_decoder(self, module: nn.Module, plain: torch.Tensor, mode: VaeMode) -> torch.Tensor:
        compute = self._decoder(module)
        if mode.kind is not VaeKind.TILED:
            return compute(plain)
        scale = self._own.downscale
        height, width = (side * scale for side in plain.shape[-2:])
        if layers := self._by_layers(module, mode, "decode", height, width):
            return layers.decoded(plain)
        log.info("decoding %d × %d latent pixels: %s", *plain.shape[:1:-1], mode.describe())
        tile, overlap = mode.tile, mode.overlap
        on_tile = self._on_tile
        return run_tiled(plain, compute, tile=tile, overlap=overlap, ratio=scale, on_tile=on_tile)

    def _by_layers(
        self, module: nn.Module, mode: VaeMode, way: str, height: int, width: int
    ) -> LayerRun | None:
        """Return a way through all tiles that gives the whole picture's result, where there is one.

        It takes layers that are known, main memory for what they make, and no more than a tile's
        bytes for the attention in the middle.

        Args:
            module: the network.
            mode: tiles.
            way: 'decode' or 'encode'.
            height: of the picture, in pixels.
            width: of that.
        """
        if not can_run(module):
            return None
        dtype = torch.float32 if self._needs_fp32 else self.dtype
        scale, there = self._own.downscale, self._memory.compute_device_of(self.component)
        latent = (height // scale, width // scale)
        needed = self._needed(way, mode, *latent)
        on_host = host_numbers(module, height, width) * dtype.itemsize
        room = read_host_memory().available // 2
        if there.type == "cpu" and self._memory.device.is_host:
            budget = self._memory.budget().physical_bytes
            room = min(room, budget - self.component.total_bytes - needed)
        if (
            on_host > room
            or attention_numbers(module, *latent, mode.tile * scale) * dtype.itemsize > needed
        ):
            return None
        log.info("%s %d × %d pixels layer by layer: %s", way, width, height, mode.describe())
        wraps = module.get_submodule("decoder.conv_in").padding_mode == "circular"
        weights = partial(self._weight, dict(self.component.named_masters()), dtype)
        return LayerRun(module, weights, there, dtype, mode.tile, wraps, scale, self._on_tile)

    def _weight(self, masters: Mapping[str, Master], dtype: torch.dtype, name: str) -> torch.Tensor:
        """Return a tensor where the VAE computes, from its master."""
        component, device, master = self.component, self._memory.device, masters[name]
        is_there = self._memory.compute_device_of(component) == device.compute_device
        stored = device.upload(master.stored) if is_there else master.stored
        return component.read(master, stored).to(dtype)

    def _decoder(self, module: nn.Module) -> Compute:
        """Return what maps latents to a picture, in fp32 when half precision has failed."""
        if not self._needs_fp32:
            return lambda plain: _decode(module, plain.to(self.dtype)).float()
        weights = self._fp32_weights()
        return lambda plain: _decode_with(module, weights, plain)

    def _fp32_weights(self) -> dict[str, torch.Tensor]:
        """Return all weights where the VAE computes, in fp32.

        From the masters, not from the module: what streams shows host memory until its turn.
        """
        masters = dict(self.component.named_masters())
        return {name: self._weight(masters, torch.float32, name) for name in masters}


def _padding(module: nn.Module, tiling: bool) -> AbstractContextManager[None]:
    return circular_padding(module) if tiling else nullcontext()


def _moments(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Return mean and deviation of the latents' distribution, one behind the other."""
    found = vae.encode(pixels).latent_dist
    return torch.cat([found.mean, found.std], dim=1).float()


def _decode(vae: Any, plain: torch.Tensor) -> torch.Tensor:
    return vae.decode(plain, return_dict=False)[0]


def _decode_with(
    module: nn.Module, weights: Mapping[str, torch.Tensor], plain: torch.Tensor
) -> torch.Tensor:
    """Decode with other weights than the module's, which stay as they are."""
    named = {f"vae.{name}": tensor for name, tensor in weights.items()}
    picture: torch.Tensor = functional_call(_Decoder(module), named, (plain,))
    return picture


class _Decoder(nn.Module):
    """`functional_call` runs `forward`; a VAE's own would encode as well."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, plain: torch.Tensor) -> torch.Tensor:
        return _decode(self.vae, plain)

"""Small decoders of TAESD's kind: latents → pixels in a fraction of the VAE's time.

Files hold the layers under the numbers that they have in their row (madebyollin/taesd, MIT; the
first layer squeezes latents and has no weights), alone or behind "decoder.", or as diffusers saves
its `AutoencoderTiny`. TAEF2, for Flux.2, normalises in its first level (`pool`; the layout is that
of leejet/stable-diffusion.cpp, MIT). Which latents a file was trained on does not stand in it, so a
decoder is tried: it counts for a checkpoint if it gives back what that checkpoint's VAE encoded.
Model thread only.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sdforge.core.errors import MissingModel, ModelError, UnsupportedCheckpoint
from sdforge.memory.arena import ALIGNMENT
from sdforge.memory.component import Component
from sdforge.memory.holdings import Limits, StoreReport
from sdforge.memory.ladder import weight_rungs
from sdforge.memory.manager import MemoryManager
from sdforge.memory.store import HostStore
from sdforge.models.checkpoint import CheckpointHeader, read_header
from sdforge.models.content import Content
from sdforge.models.families.base import Recipe, Source
from sdforge.models.hashes import Stamp
from sdforge.models.preview import flowing_colours
from sdforge.models.quant import Storage
from sdforge.models.skeleton import Skeleton
from sdforge.models.vae import Vae
from sdforge.models.weights import LoadPlan, load_component

log = logging.getLogger(__name__)

ROLE = "preview decoder"
# Between what fits and what does not lie 10 dB and more: the demo's own decoder reaches 30, on
# latents of another VAE none came above 12.
LEAST_DB = 18.0
_WIDTH, _COLOURS, _DOWNSCALE = 64, 3, 8
_PROBE_SIDE = 8
# Where files keep the row, and what they add to its numbers: diffusers leaves the squeeze out.
_PLACES = (("", 0), ("decoder.", 0), ("decoder.layers.", -1))
_LEVELS, _BLOCKS_PER_LEVEL = int(math.log2(_DOWNSCALE)), 3
_POOL_FACTOR, _POOL_GROUPS = 4, 4
# Numbers per pixel of the picture: a block's input and result, and two steps inside it.
_NUMBERS_PER_PIXEL = 4 * _WIDTH


class _Squeeze(nn.Module):
    """Keeps latents within ±3, which is all that the rest was trained on."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, bent."""
        return torch.tanh(x / 3) * 3


class _Block(nn.Module):
    """Three convolutions beside a straight way."""

    def __init__(self, *, has_pool: bool) -> None:
        super().__init__()
        inner = [_convolution(), nn.ReLU(), _convolution(), nn.ReLU(), _convolution()]
        self.conv = nn.Sequential(*inner)
        wide = _POOL_FACTOR * _WIDTH
        self.pool = (
            nn.Sequential(
                nn.Conv2d(_WIDTH, wide, 1, bias=False),
                nn.GroupNorm(_POOL_GROUPS, wide),
                nn.ReLU(),
                nn.Conv2d(wide, _WIDTH, 1, bias=False),
            )
            if has_pool
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


def make_decoder(channels: int, *, has_pools: bool = False) -> nn.Module:
    """Return the row of layers for latents of so many channels, on torch's default device.

    Takes (n, channels, height, width) as the denoiser has them; returns (n, 3, 8 × height, 8 ×
    width), about from 0 to 1. With `has_pools` the first level's blocks add normalised features to
    what they see, as TAEF2's do.
    """
    row: list[nn.Module] = [_Squeeze(), nn.Conv2d(channels, _WIDTH, 3, padding=1), nn.ReLU()]
    for level in range(_LEVELS):
        row += [_Block(has_pool=has_pools and level == 0) for _ in range(_BLOCKS_PER_LEVEL)]
        row += [nn.Upsample(scale_factor=2), _convolution(bias=False)]
    row += [_Block(has_pool=False), nn.Conv2d(_WIDTH, _COLOURS, 3, padding=1)]
    return nn.Sequential(*row)


def _convolution(*, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1, bias=bias)


def decoder_recipe(header: CheckpointHeader) -> Recipe:
    """Return how to make a decoder from a file, all shapes checked.

    Raises:
        UnsupportedCheckpoint: the file holds something else.
    """
    tensors = header.tensors
    prefix, shift = next(
        (place for place in _PLACES if _key(*place, "18.conv.4.weight") in tensors), ("", 0)
    )
    first = header.shape(_key(prefix, shift, "1.weight"))
    if first is None or len(first) != 4:
        raise UnsupportedCheckpoint(f"{header.path.name} holds no decoder of TAESD's kind")
    has_pools = _key(prefix, shift, "3.pool.0.weight") in tensors
    with torch.device("meta"):
        skeleton = Skeleton(make_decoder(first[1], has_pools=has_pools))
    sources = {
        name: Source(_key(prefix, shift, name), shape) for name, shape in skeleton.shapes.items()
    }
    for source in sources.values():
        if header.shape(source.key) != source.shape:
            raise UnsupportedCheckpoint(
                f"{header.path.name} holds no decoder of TAESD's kind: {source.key} has the shape "
                f"{header.shape(source.key)}, {source.shape} was expected"
            )
    return Recipe(role=ROLE, layout=header.layout, skeleton=skeleton, sources=sources)


def _key(prefix: str, shift: int, name: str) -> str:
    """Return what a file calls a weight of the row."""
    number, _, rest = name.partition(".")
    return f"{prefix}{int(number) + shift}.{rest}"


class PreviewDecoders:
    """Finds the decoder that goes with a checkpoint's VAE, and runs it."""

    def __init__(
        self, files: Callable[[], Sequence[Path]], memory: MemoryManager, *, compute: torch.dtype
    ) -> None:
        """Load nothing yet; `files` lists what may be decoders, `compute` is the denoisers' type.

        Decoders take fp16 where that has 16 bits: bf16 has fewer steps than a picture.
        """
        self._files = files
        self._memory = memory
        self._storage = Storage(torch.float32 if compute == torch.float32 else torch.float16)
        self._store = HostStore(memory.release)
        self._store.configure(Limits(holdings=1))
        self._found: WeakKeyDictionary[Vae, Path | None] = WeakKeyDictionary()

    @torch.inference_mode()
    def decode(self, vae: Vae, latents: Tensor, *, vital: bool = True) -> Tensor | None:
        """Return the pictures of latents, 0 to 1 where they were computed; None without a decoder.

        Args:
            vae: whose latents they are.
            latents: (n, channels, height, width) as the denoiser has them.
            vital: try again with less memory when it runs out; otherwise nothing gives way.

        Raises:
            OutOfMemory: it does not fit.
            ModelError: the file went bad since it was found.
        """
        path = self._path_for(vae)
        return None if path is None else self._decoded(path, vae.unpatched(latents), vital=vital)

    def fits(self, vae: Vae) -> bool:
        """Return whether there is a decoder for a VAE's latents; looks for it once."""
        return self._path_for(vae) is not None

    def unload(self) -> int:
        """Give back all memory; return the bytes freed."""
        return self._store.evict_all()

    def report(self) -> StoreReport:
        """Return who holds main memory; for any thread."""
        return self._store.report()

    def _path_for(self, vae: Vae) -> Path | None:
        if vae not in self._found:
            self._found[vae] = self._best(vae)
        return self._found[vae]

    def _best(self, vae: Vae) -> Path | None:
        """Return the file that gives back best what the VAE encodes, None where none does."""
        if vae.latent_format.downscale != _DOWNSCALE * vae.patch:
            return None
        channels = vae.latent_format.channels // vae.patch**2
        picture = flowing_colours(_PROBE_SIDE * _DOWNSCALE)
        latents: Tensor | None = None
        best: tuple[float, Path] | None = None
        for path in self._files():
            try:
                header = read_header(path)
                recipe = decoder_recipe(header)
                if recipe.skeleton.shapes["1.weight"][1] != channels:
                    continue
                latents = vae.unpatched(vae.encode(picture)) if latents is None else latents
                found = _decibels(self._decoded(path, latents).cpu().float(), picture)
            except ModelError as error:
                log.info("no preview decoder: %s", error)
                continue
            log.debug("%s gives back the latents of %s with %.1f dB", path.name,
                      vae.component.name, found)  # fmt: skip
            if found >= LEAST_DB and (best is None or found > best[0]):
                best = found, path
        if best is not None:
            log.info("%s decodes previews of %s (%.1f dB)", best[1].name,
                     vae.component.name, best[0])  # fmt: skip
        return best[1] if best else None

    def _decoded(self, path: Path, latents: Tensor, *, vital: bool = True) -> Tensor:
        height, width = (side * _DOWNSCALE for side in latents.shape[-2:])
        dtype = self._storage.compute
        working = _NUMBERS_PER_PIXEL * height * width * len(latents) * dtype.itemsize

        def attempt() -> Tensor:
            with self._memory.lease(component, working_bytes=working) as module:
                device = self._memory.compute_device_of(component)
                picture: Tensor = module(latents.to(device, dtype))
                return picture.nan_to_num(0.5).clamp(0, 1)

        component = self._component(path)
        if not vital:
            return attempt()
        return self._memory.ladder.run(ROLE, attempt, weight_rungs(self._memory))

    def _component(self, path: Path) -> Component:
        try:
            stamp = Stamp.of(path)
        except OSError as error:
            raise MissingModel(f"{path} cannot be opened: {error.strerror or error}") from error
        key = f"{stamp}|{self._storage}"
        held = self._store.holding(key)
        if held is None:
            header = read_header(path)
            recipe = decoder_recipe(header)
            content = Content.of(recipe, header, self._storage, stamp)
            alignment = ALIGNMENT if self._memory.device.is_host else 1
            plan = LoadPlan(recipe, header, self._storage, alignment)

            def make() -> Component:
                return load_component(
                    plan, name=path.stem, fingerprint=content.key, on_progress=lambda done: None
                )

            with self._store.loading(plan.host_bytes):
                if self._store.component(content.key) is None:
                    self._store.load(content.key, ROLE, path.stem, make)
                held = self._store.hold(key, path.stem, [content.key], path)
        component = self._store.component(held.slots[0])
        if component is None:
            raise MissingModel(f"{path.name} left memory while it was being taken")
        return component


def _decibels(found: Tensor, wanted: Tensor) -> float:
    """Return the peak signal-to-noise ratio of pictures from 0 to 1."""
    error = float((found - wanted).square().mean())
    return 10 * math.log10(1 / max(error, 1e-10))

"""Noise from seeds: every picture has its own generator, so a batch equals single pictures.

Draws in A1111's order and with its quirks, so that its seeds give its pictures. Sources: "GPU"
(the device's own generator), "CPU", and "NV" (CUDA's numbers on any device, `philox.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from sdforge.core.errors import UnknownName
from sdforge.sampling.brownian import BrownianNoise, BrownianPath
from sdforge.sampling.philox import PhiloxGenerator

SOURCES = ("GPU", "CPU", "NV")
# Above this cosine A1111 mixes linearly; two independent draws never get there.
_SAME_DIRECTION = 0.9995

Draw: TypeAlias = Callable[[Sequence[int]], Tensor]


class ImageNoise:
    """Noise of the pictures of one batch; float32 on the device that computes.

    Call `initial()` first, once: the draws that follow continue the same generators. Calling the
    object gives the noise of a sampling step.
    """

    def __init__(
        self,
        *,
        seeds: Sequence[int],
        shape: tuple[int, int, int],
        device: torch.device | str = "cpu",
        source: str = "GPU",
        subseeds: Sequence[int] = (),
        subseed_strength: float = 0.0,
        resize_from: tuple[int, int] | None = None,
        ensd: int = 0,
    ) -> None:
        """Prepare generators; nothing is drawn yet.

        Args:
            seeds: one per picture.
            shape: (channels, height, width) of the latents.
            device: where the noise is needed.
            source: one of `SOURCES`.
            subseeds: one per picture, used with a `subseed_strength` above 0.
            subseed_strength: how far towards the subseed's noise, 0…1.
            resize_from: (height, width) in latents of the picture whose composition to keep.
            ensd: eta noise seed delta, added to seeds for all draws after the first.

        Raises:
            UnknownName: no such source.
        """
        if source not in SOURCES:
            raise UnknownName("noise source", source, SOURCES, "randn_source")
        self._seeds = tuple(seeds)
        self._shape = shape
        self._device = torch.device(device)
        self._source = source
        self._subseeds = tuple(subseeds)
        self._subseed_strength = subseed_strength
        self._first_shape = (shape[0], *resize_from) if resize_from else shape
        self._ensd = ensd
        self._draws = [self._generator(seed) for seed in self._seeds]

    def initial(self) -> Tensor:
        """Return the first noise, (pictures, channels, height, width), unit variance."""
        noise = torch.stack([self._first(index) for index in range(len(self._seeds))])
        if self._ensd:
            self._draws = [self._generator(seed + self._ensd) for seed in self._seeds]
        return noise

    def __call__(self, sigma: float, sigma_next: float) -> Tensor:
        """Return the next draw of every picture's generator; sigmas make no difference to it."""
        return torch.stack([draw(self._shape) for draw in self._draws])

    def brownian(self, sigma_min: float, sigma_max: float) -> BrownianNoise:
        """Return noise from one Brownian path per picture, over [sigma_min, sigma_max]."""

        def draw(seed: int) -> Tensor:
            return self._generator(seed)(self._shape)

        return BrownianNoise(
            [BrownianPath(sigma_min, sigma_max, seed, draw) for seed in self._seeds]
        )

    def _first(self, index: int) -> Tensor:
        seed, shape = self._seeds[index], self._first_shape
        is_resized = shape != self._shape
        noise = self._generator(seed)(shape) if is_resized else self._draws[index](shape)
        if self._subseed_strength:
            subseed = self._subseeds[index] if index < len(self._subseeds) else 0
            noise = slerp(self._subseed_strength, noise, self._generator(subseed)(shape))
        return paste_centred(noise, self._draws[index](self._shape)) if is_resized else noise

    def _generator(self, seed: int) -> Draw:
        """Return a function that draws noise of a shape, starting from `seed`."""
        device = self._device
        if self._source == "NV":
            philox = PhiloxGenerator(seed)
            return lambda shape: philox.randn(shape).to(device)
        # Metal's generator gives other numbers than CUDA's and than the CPU's; A1111 takes the CPU.
        on_host = self._source == "CPU" or device.type == "mps"
        home = torch.device("cpu") if on_host else device
        generator = torch.Generator(home).manual_seed(seed)
        return lambda shape: torch.randn(
            tuple(shape), generator=generator, device=home, dtype=torch.float32
        ).to(device)


def slerp(strength: float, low: Tensor, high: Tensor) -> Tensor:
    """Return noise between two draws of shape (channels, height, width), of their variance.

    Angles are taken along the height, one for each column, and two draws of nearly the same
    direction are mixed with the strength on the wrong side: both as in A1111, whose pictures
    depend on it.
    """
    low_unit = low / torch.norm(low, dim=1, keepdim=True)
    high_unit = high / torch.norm(high, dim=1, keepdim=True)
    cosine = (low_unit * high_unit).sum(1)
    if cosine.mean() > _SAME_DIRECTION:
        return low * strength + high * (1 - strength)
    angle = torch.acos(cosine)
    sine = torch.sin(angle)
    from_low = (torch.sin((1.0 - strength) * angle) / sine).unsqueeze(1)
    from_high = (torch.sin(strength * angle) / sine).unsqueeze(1)
    return from_low * low + from_high * high


def paste_centred(patch: Tensor, canvas: Tensor) -> Tensor:
    """Return `canvas` with `patch` in its middle, cropped where larger; both (c, h, w)."""
    result = canvas.clone()
    to_rows, from_rows = _overlap(patch.shape[1], canvas.shape[1])
    to_columns, from_columns = _overlap(patch.shape[2], canvas.shape[2])
    result[:, to_rows, to_columns] = patch[:, from_rows, from_columns]
    return result


def _overlap(patch: int, canvas: int) -> tuple[slice, slice]:
    """Return where the patch lies on the canvas along one axis, and which part of it."""
    offset = (canvas - patch) // 2
    # A patch larger by an odd count loses one more on each side than it needs to (A1111).
    length = patch if offset >= 0 else patch + 2 * offset
    return slice(max(offset, 0), max(offset, 0) + length), slice(
        max(-offset, 0), max(-offset, 0) + length
    )

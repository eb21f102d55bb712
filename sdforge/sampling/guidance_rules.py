"""Other ways to combine the guesses with and without the prompt than plain guidance.

Pure functions of tensors (batch, channels, height, width); `sdforge.extensions` turns them into
extensions. Guesses are of the clean latents ("denoised"); rules that their papers state for noise
or velocity go through `direction`, which is both: the noise of an epsilon model and the velocity of
a flow, whatever the network was trained to say.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TINY = 1e-8


def direction(x: Tensor, denoised: Tensor, sigma: float) -> Tensor:
    """Return where the latents move with sigma: (x − denoised) / sigma."""
    return (x - denoised) / sigma


def rescaled(x: Tensor, sigma: float, cond: Tensor, guided: Tensor, amount: float) -> Tensor:
    """Return `guided` with the contrast that `cond` has, mixed in by `amount` (0 to 1).

    Guidance raises the deviation of the prediction and so over-exposes; Lin et al. 2023,
    arXiv:2305.08891, section 3.4, scale it back. Theirs is a velocity model, so deviations are
    measured on the velocity v = (x / √(σ²+1) − denoised·√(σ²+1)) / σ.
    """
    root = math.sqrt(sigma * sigma + 1)
    wanted, given = (((x / root) - guess * root) / sigma for guess in (cond, guided))
    factor = _deviation(wanted) / _deviation(given).clamp_min(_TINY)
    velocity = given * (amount * factor + (1 - amount))
    return (x / root - velocity * sigma) / root


def _deviation(tensor: Tensor) -> Tensor:
    return tensor.std(dim=tuple(range(1, tensor.ndim)), keepdim=True)


class ProjectedGuidance:
    """Adaptive projected guidance: keeps what guidance adds across the guess, damps it along.

    The part of (cond − uncond) that is parallel to cond saturates colours. Sadat et al. 2024,
    arXiv:2410.02416: momentum over the steps (negative: away from repeating itself), a bound on the
    length, and `eta` times the parallel part. Keeps state: one object per pass.
    """

    def __init__(self, *, eta: float, norm_threshold: float, momentum: float) -> None:
        """Take `eta` (1 is plain guidance), the bound on the length (0: none) and the momentum."""
        self._eta = eta
        self._threshold = norm_threshold
        self._momentum = momentum
        self._running: Tensor | None = None

    def __call__(self, cond: Tensor, uncond: Tensor, cfg_scale: float) -> Tensor:
        """Return the guided guess."""
        added = cond - uncond
        if self._momentum and self._running is not None:
            added = added + self._momentum * self._running
        self._running = added
        if self._threshold > 0:
            length = _length(added)
            added = added * (self._threshold / length.clamp_min(_TINY)).clamp(max=1.0)
        along = _parallel(added, cond)
        return cond + (cfg_scale - 1) * (added - along + self._eta * along)


def zero_star(x: Tensor, sigma: float, cond: Tensor, uncond: Tensor, cfg_scale: float) -> Tensor:
    """Return guidance against the best multiple of the uncond direction.

    CFG-Zero*: Fan et al. 2025, arXiv:2503.18886, equations 8 to 10; the multiple is the projection
    of the cond direction on the uncond one, per picture.
    """
    with_prompt, without = direction(x, cond, sigma), direction(x, uncond, sigma)
    scaled = _parallel(with_prompt, without)
    return x - (scaled + cfg_scale * (with_prompt - scaled)) * sigma


def perpendicular_negative(
    empty: Tensor, cond: Tensor, negative: Tensor, cfg_scale: float, negative_scale: float
) -> Tensor:
    """Return guidance from which the negative prompt takes only what the prompt does not ask for.

    Perp-Neg: Armandpour et al. 2023, arXiv:2304.04968, equation 7; `empty` is the guess without any
    prompt.
    """
    wanted, unwanted = cond - empty, negative - empty
    across = unwanted - _parallel(unwanted, wanted)
    return empty + cfg_scale * (wanted - negative_scale * across)


def mimicked(
    cond: Tensor,
    uncond: Tensor,
    *,
    cfg_scale: float,
    mimic_scale: float,
    percentile: float = 1.0,
    by_channel: bool = True,
    around_mean: bool = True,
    by_deviation: bool = False,
    amount: float = 1.0,
) -> Tensor:
    """Return guidance of `cfg_scale` squeezed into the range that `mimic_scale` would have.

    Dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487, section 2.3) in the form that
    users of latent models know as "CFG-Fix".

    Args:
        cond: guess with the prompt.
        uncond: guess without.
        cfg_scale: the strong scale, for content.
        mimic_scale: the scale whose range of values to keep.
        percentile: share of the values that must lie in the range; others are cut off.
        by_channel: one range per channel instead of one per picture.
        around_mean: ranges are around the mean instead of around zero.
        by_deviation: measure ranges by standard deviation; nothing is cut off then.
        amount: how much of the result counts, the rest is plain guidance.
    """
    added = cond - uncond
    strong, gentle = (
        (uncond + scale * added).flatten(2 if by_channel else 1)
        for scale in (cfg_scale, mimic_scale)
    )
    centre_strong, centre_gentle = (
        values.mean(-1, keepdim=True) if around_mean else torch.zeros_like(values[..., :1])
        for values in (strong, gentle)
    )
    strong_offset, gentle_offset = strong - centre_strong, gentle - centre_gentle
    if by_deviation:
        wanted = gentle_offset.std(-1, keepdim=True)
        limit = strong_offset.std(-1, keepdim=True)
        kept = strong_offset
    else:
        wanted = gentle_offset.abs().amax(-1, keepdim=True)
        reach = torch.quantile(strong_offset.abs().float(), percentile, dim=-1, keepdim=True)
        limit = torch.maximum(wanted, reach.to(wanted.dtype))
        kept = strong_offset.clamp(-limit, limit)
    squeezed = kept / limit.clamp_min(_TINY) * wanted + centre_strong
    plain = uncond + cfg_scale * added
    return torch.lerp(plain, squeezed.view_as(plain), amount)


def blurred_where(clean: Tensor, attention: Tensor, *, threshold: float, sigma: float) -> Tensor:
    """Return latents blurred where attention gathers, untouched elsewhere.

    Self-attention guidance's degradation (Hong et al. 2022, arXiv:2210.00939): a place counts when
    the attention it gets, summed over queries and averaged over heads, is above `threshold`.

    Args:
        clean: (rows, channels, height, width).
        attention: probabilities of some layer, (rows, heads, places, places attended to); its map
            is smaller than the latents by a power of two.
        threshold: 1 is what each place gets when attention is even.
        sigma: of the Gaussian blur, in latent pixels.
    """
    height, width = clean.shape[-2:]
    gathered = attention.mean(1).sum(1)
    factor = max(round(math.sqrt(height * width / gathered.shape[-1])), 1)
    size = (math.ceil(height / factor), math.ceil(width / factor))
    mask = (gathered > threshold).to(clean.dtype).view(len(clean), 1, *size)
    mask = torch.nn.functional.interpolate(mask, (height, width), mode="nearest")
    return torch.lerp(clean, _gaussian_blur(clean, sigma), mask)


def _gaussian_blur(latents: Tensor, sigma: float) -> Tensor:
    """Blur with a kernel of nine places, edges mirrored."""
    if sigma == 0:
        return latents
    radius = min(4, latents.shape[-1] - 1, latents.shape[-2] - 1)
    offsets = torch.arange(-radius, radius + 1, device=latents.device, dtype=latents.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    channels = latents.shape[1]
    padded = torch.nn.functional.pad(latents, (radius,) * 4, mode="reflect")
    across = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    down = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    half = torch.nn.functional.conv2d(padded, across, groups=channels)
    return torch.nn.functional.conv2d(half, down, groups=channels)


def _length(tensor: Tensor) -> Tensor:
    return tensor.square().sum(dim=tuple(range(1, tensor.ndim)), keepdim=True).sqrt()


def _parallel(tensor: Tensor, onto: Tensor) -> Tensor:
    """Return the projection of each picture of `tensor` onto that of `onto`."""
    dims = tuple(range(1, tensor.ndim))
    share = (tensor * onto).sum(dim=dims, keepdim=True)
    return onto * (share / onto.square().sum(dim=dims, keepdim=True).clamp_min(_TINY))

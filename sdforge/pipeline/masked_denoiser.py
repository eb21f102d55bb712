"""A denoiser that keeps a part of the latents: what the sampler calls when a mask is given."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sdforge.core.extension import Guided, NetworkEdit


class MaskedDenoiser:
    """Guesses as another does, but outside of the mask always answers the latents of the start.

    The blend lies outside of all guidance and extensions, on the clean guess (A1111).
    """

    def __init__(self, inner: Guided, blend: Callable[[Tensor, float], Tensor]) -> None:
        """`blend` returns what stands for a guess at a noise."""
        self._inner = inner
        self._blend = blend

    @property
    def cfg_scale(self) -> float:
        """Scale of the guidance."""
        return self._inner.cfg_scale

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Return the guided guess inside of the mask, the start outside."""
        return self._blend(self._inner(x, sigma), sigma)

    def with_uncond(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Return the guided guess and the negative prompt's, both blended."""
        guided, uncond = self._inner.with_uncond(x, sigma)
        return self._blend(guided, sigma), self._blend(uncond, sigma)

    def guesses(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor | None]:
        """Return what the network says, unguided and unblended."""
        return self._inner.guesses(x, sigma)

    def guess(
        self, x: Tensor, sigma: float, *, of: str = "cond", edit: NetworkEdit | None = None
    ) -> Tensor:
        """Ask the network once more; the answer is not blended."""
        return self._inner.guess(x, sigma, of=of, edit=edit)


def blended(drawn: Tensor, latents: Tensor, mask: Tensor) -> Tensor:
    """Return `drawn` where the mask is 1 and `latents` where it is 0, exactly."""
    return drawn * mask + latents * (1 - mask)

"""Guided denoisers that change what another one does, to be returned by `wrap_denoiser`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sdforge.core.extension import Guided, NetworkEdit

if TYPE_CHECKING:
    from torch import Tensor, nn


class Wrapped:
    """Base: does what `inner` does."""

    def __init__(self, inner: Guided) -> None:
        self.inner = inner

    @property
    def cfg_scale(self) -> float:
        """Scale of the guidance."""
        return self.inner.cfg_scale

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Return the guided guess of the clean latents."""
        return self.inner(x, sigma)

    def with_uncond(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Return the guided guess and the one of the negative prompt (the guided one if none)."""
        guided = self(x, sigma)
        uncond = self.guesses(x, sigma)[1]
        return guided, guided if uncond is None else uncond

    def guesses(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor | None]:
        """Return what the network says with the prompt and with the negative one."""
        return self.inner.guesses(x, sigma)

    def guess(
        self, x: Tensor, sigma: float, *, of: str = "cond", edit: NetworkEdit | None = None
    ) -> Tensor:
        """Ask the network once more."""
        return self.inner.guess(x, sigma, of=of, edit=edit)


Combine = Callable[["Tensor", float, "Tensor", "Tensor"], "Tensor"]
Adjust = Callable[["Tensor", float, "Tensor"], "Tensor"]


class Combined(Wrapped):
    """Combines the two guesses by another rule: `combine(x, sigma, cond, uncond)`.

    Where there is no negative guess (CFG scale 1, skipped steps) the inner rule holds.
    """

    def __init__(self, inner: Guided, combine: Combine) -> None:
        super().__init__(inner)
        self._combine = combine

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Return the guided guess of the clean latents."""
        cond, uncond = self.guesses(x, sigma)
        return self.inner(x, sigma) if uncond is None else self._combine(x, sigma, cond, uncond)


class Adjusted(Wrapped):
    """Changes the guided guess afterwards: `adjust(x, sigma, guided)`."""

    def __init__(self, inner: Guided, adjust: Adjust) -> None:
        super().__init__(inner)
        self._adjust = adjust

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Return the guided guess of the clean latents."""
        return self._adjust(x, sigma, self.inner(x, sigma))


class Edited(Wrapped):
    """Runs the network under an edit wherever `applies(sigma)`."""

    def __init__(
        self,
        inner: Guided,
        network: nn.Module,
        edit: NetworkEdit,
        applies: Callable[[float], bool],
    ) -> None:
        super().__init__(inner)
        self._network = network
        self._edit = edit
        self._applies = applies

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Return the guided guess of the clean latents."""
        if not self._applies(sigma):
            return self.inner(x, sigma)
        with self._edit(self._network):
            return self.inner(x, sigma)

    def guesses(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor | None]:
        """Return what the edited network says with the prompt and with the negative one."""
        if not self._applies(sigma):
            return self.inner.guesses(x, sigma)
        with self._edit(self._network):
            return self.inner.guesses(x, sigma)

    def guess(
        self, x: Tensor, sigma: float, *, of: str = "cond", edit: NetworkEdit | None = None
    ) -> Tensor:
        """Ask the edited network once more."""
        if not self._applies(sigma):
            return self.inner.guess(x, sigma, of=of, edit=edit)
        with self._edit(self._network):
            return self.inner.guess(x, sigma, of=of, edit=edit)

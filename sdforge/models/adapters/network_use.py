"""One mention of a LoRA in a prompt, as values. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sdforge.models.adapters.block_weights import BlockWeights
from sdforge.models.adapters.step_weights import StepWeights


@dataclass(frozen=True, kw_only=True)
class NetworkUse:
    """What a prompt says of a LoRA: `te` multiplies in text encoders, `unet` in the denoiser.

    Attributes:
        name: any that `LoraLibrary.find` knows.
        te: multiplier.
        unet: multiplier; None for the same.
        dyn: use this many ranks only.
        blocks: further multipliers by block of the denoiser.
        over_steps: further multiplier of the denoiser by time; text is encoded before the first
            step, so text encoders know none.
    """

    name: str
    te: float = 1.0
    unet: float | None = None
    dyn: int | None = None
    blocks: BlockWeights | None = None
    over_steps: StepWeights | None = None

    def multiplier(self, role: str, layer: Callable[[], str]) -> float:
        """Return what counts for a layer; `layer` gives its original name."""
        if role != "denoiser":
            return self.te if self.blocks is None else self.te * self.blocks.base
        plain = self.te if self.unet is None else self.unet
        return plain if self.blocks is None else plain * self.blocks.of_layer(layer())

    def at(self, step: int, steps: int) -> NetworkUse:
        """Return what it says when `step` of a pass's `steps` steps are done."""
        if self.over_steps is None:
            return self
        plain = self.te if self.unet is None else self.unet
        return replace(self, unet=plain * self.over_steps.at(step, steps), over_steps=None)

"""What a client wants to see now, checked, with what may be left to the server left open."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sdforge.core.errors import InvalidRequest
from sdforge.core.frame import DECODERS

AUTO = "auto"
# What a frame starts from: noise alone, the picture that the client sent, the frame before.
NOISE, PICTURE, FRAME = "noise", "picture", "frame"
SOURCES = (NOISE, PICTURE, FRAME)
MOST_STEPS = 50
LEAST_BUDGET_MS, MOST_BUDGET_MS = 20, 60_000
# The sides that a client may ask for; the settings' `max_pixels_per_image` counts as well.
LEAST_SIDE, MOST_SIDE = 64, 2048
MOST_TEXT = 20_000


@dataclass(frozen=True, kw_only=True)
class Wish:
    """One wish. `number` is the client's own, rising from wish to wish.

    0 for `steps`, `width` and `height`, and "auto" for `decoder`, leave the choice to the latency
    budget; `cfg_scale` None, `sampler` "" and `seed` −1 to the checkpoint and the session.

    Attributes:
        strength: how far a frame goes from the picture or frame that it starts from, 0 to 1.
        budget_ms: what a frame may take, from the wish to the finished pixels.
        speed_lora: whether a LoRA for few steps is put in force where there is a fitting one.
    """

    number: int
    prompt: str = ""
    negative_prompt: str = ""
    seed: int = -1
    steps: int = 0
    width: int = 0
    height: int = 0
    cfg_scale: float | None = None
    sampler: str = ""
    source: str = NOISE
    strength: float = 0.6
    decoder: str = AUTO
    budget_ms: int = 400
    speed_lora: bool = True

    def check(self) -> None:
        """Raise `InvalidRequest`, naming the field, unless every value can be used."""
        _within("number", self.number, 0, 2**53)
        _within("seed", self.seed, -1, 2**32 - 1)
        _within("steps", self.steps, 0, MOST_STEPS)
        _within("budget_ms", self.budget_ms, LEAST_BUDGET_MS, MOST_BUDGET_MS)
        _within("strength", self.strength, 0.0, 1.0)
        if self.cfg_scale is not None:
            _within("cfg_scale", self.cfg_scale, 0.0, 100.0)
        for name in ("width", "height"):
            side = getattr(self, name)
            if side:
                _within(name, side, LEAST_SIDE, MOST_SIDE)
        if bool(self.width) != bool(self.height):
            allowed = "both sides, or neither"
            raise InvalidRequest("width", f"{self.width}x{self.height}", allowed)
        for name in ("prompt", "negative_prompt"):
            if len(getattr(self, name)) > MOST_TEXT:
                text = getattr(self, name)
                raise InvalidRequest(name, f"{len(text)} characters", f"at most {MOST_TEXT}")
        _one_of("source", self.source, SOURCES)
        _one_of("decoder", self.decoder, (AUTO, *DECODERS))


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise InvalidRequest(name, value, f"{least} to {most}")


def _one_of(name: str, value: str, allowed: Collection[str]) -> None:
    if value not in allowed:
        raise InvalidRequest(name, value, ", ".join(allowed))

"""Weights of a LoRA by block of a U-Net: `<lora:name:1:lbw=1,0,0,…>`.

The lists of numbers are those of the extension LoRA Block Weight: one for the text encoder, then
one a block in the order of the network. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass

# Blocks by their original numbers. The short lists leave out those without attention.
_SHORT = "BASE IN01 IN02 IN04 IN05 IN07 IN08 MID " + " ".join(f"OUT{n:02}" for n in range(3, 12))
_SHORT_XL = "BASE IN04 IN05 IN07 IN08 MID " + " ".join(f"OUT{n:02}" for n in range(6))


def _full(count: int) -> str:
    sides = (" ".join(f"{side}{n:02}" for n in range(count)) for side in ("IN", "OUT"))
    before, after = sides
    return f"BASE {before} MID {after}"


LISTS: dict[int, tuple[str, ...]] = {
    17: tuple(_SHORT.split()),
    26: tuple(_full(12).split()),
    12: tuple(_SHORT_XL.split()),
    20: tuple(_full(9).split()),
}


@dataclass(frozen=True)
class BlockWeights:
    """Multipliers by block, in the order of `LISTS`."""

    numbers: tuple[float, ...]

    @property
    def base(self) -> float:
        """Multiplier of text encoders."""
        return self.numbers[0]

    def of_layer(self, original_name: str) -> float:
        """Return the multiplier of a layer of the denoiser; what is in no block has 1."""
        block = _block(original_name)
        names = LISTS[len(self.numbers)]
        return self.numbers[names.index(block)] if block in names else 1.0


def parse_block_weights(text: str) -> BlockWeights | None:
    """Return the weights of a list such as '1,0.5,0,…', None when it is no list of a known length.

    Lengths are 17 or 26 (SD 1.x), 12 or 20 (SDXL).
    """
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        return None
    return BlockWeights(numbers) if len(numbers) in LISTS else None


def _block(name: str) -> str:
    kind, _, rest = name.partition(".")
    if kind == "middle_block":
        return "MID"
    side = {"input_blocks": "IN", "output_blocks": "OUT"}.get(kind)
    number = rest.partition(".")[0]
    return f"{side}{int(number):02}" if side and number.isdecimal() else ""

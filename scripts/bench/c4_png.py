"""C4: a finished picture becomes a PNG file with infotext; the peer is Pillow with its defaults.

Three pictures of noise with the spectrum of photographs (amplitude falls as 1/f), cut off at
different fineness: flat or white-noise pictures would flatter one coder or the other. The time is
that of the middle one; for the bytes the worst of the three counts.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from timing import Row, compare

from sdforge.output.images import encode_image, read_infotext

SIDE = 1024
# Highest spatial frequency, in cycles a pixel: a soft picture, a usual one, a grainy one.
CUTOFFS = (0.05, 0.12, 0.3)
TEXT = "a cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler a, CFG scale: 7.0, Seed: 1"


def picture(cutoff: float, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return band-limited noise, uint8 of shape (1024, 1024, 3)."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(rng.standard_normal((3, SIDE, SIDE)))
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])
    spectrum *= (frequency < cutoff) / np.maximum(frequency, 0.01)
    waves = np.fft.irfft2(spectrum, s=(SIDE, SIDE))
    scaled = (waves - waves.min()) / (waves.max() - waves.min()) * 255
    return np.ascontiguousarray(scaled.transpose(1, 2, 0).astype(np.uint8))


def ours(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encode with our writer."""
    return encode_image(pixels, "png", infotext=TEXT)


def theirs(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encode as A1111 does: a Pillow image and `save`."""
    info = PngInfo()
    info.add_text("parameters", TEXT)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def check(pixels: npt.NDArray[np.uint8]) -> None:
    """Raise unless our file holds exactly the picture and the text."""
    data = ours(pixels)
    with Image.open(io.BytesIO(data)) as image:
        if not np.array_equal(np.asarray(image), pixels) or image.info["parameters"] != TEXT:
            raise RuntimeError("the PNG file does not hold what was written")
    if read_infotext(data) != TEXT:
        raise RuntimeError("the infotext cannot be read back")


def measure() -> list[Row]:
    """Return the ratios of time and of bytes."""
    pictures = [picture(cutoff) for cutoff in CUTOFFS]
    for pixels in pictures:
        check(pixels)
    middle = pictures[1]
    peer = "Pillow `save`, defaults"
    times = compare(lambda: ours(middle), lambda: theirs(middle))
    sizes = [(len(ours(pixels)), len(theirs(pixels))) for pixels in pictures]
    mine, other = max(sizes, key=lambda pair: pair[0] / pair[1])
    return [
        times.row("C4", "PNG with infotext, 1024²: time", peer, 0.10),
        Row(id="C4", name="PNG with infotext, 1024²: bytes, worst of 3", peer=peer,
            ratio=mine / other, target=1.15, ours=mine, theirs=other, unit="bytes",
            details={"sizes": sizes}),
    ]  # fmt: skip

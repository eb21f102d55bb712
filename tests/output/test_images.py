"""Pictures of each format are what went in, text included."""

import io

import numpy as np
import pytest
from PIL import Image

from sdforge.core.errors import InvalidRequest
from sdforge.output.images import MEDIA_TYPES, encode_image, read_infotext

TEXT = 'a "cat", 猫 ünd 🐈\nNegative prompt: dog\nSteps: 20, Sampler: Euler a, Seed: 1'


@pytest.fixture
def pixels() -> np.ndarray:
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([x * 4, y * 5, 255 - x - y], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("format", MEDIA_TYPES)
def test_infotext_can_be_read_from_each_format(format: str, pixels: np.ndarray) -> None:
    data = encode_image(pixels, format, infotext=TEXT)
    assert read_infotext(data) == TEXT
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (64, 48)
        assert Image.MIME[str(image.format)] == MEDIA_TYPES[format]


@pytest.mark.parametrize("format", MEDIA_TYPES)
def test_without_infotext_there_is_no_metadata(format: str, pixels: np.ndarray) -> None:
    for nothing in (None, ""):
        data = encode_image(pixels, format, infotext=nothing)
        assert read_infotext(data) == ""
        assert b"parameters" not in data


@pytest.mark.parametrize(("format", "lossless"), [("png", False), ("webp", True)])
def test_lossless_formats_keep_every_pixel(format: str, lossless: bool, pixels: np.ndarray) -> None:
    data = encode_image(pixels, format, infotext=TEXT, lossless=lossless)
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), pixels)


def test_quality_makes_jpegs_larger(pixels: np.ndarray) -> None:
    low, high = (encode_image(pixels, "jpg", infotext=None, quality=q) for q in (20, 95))
    assert len(low) < len(high)


def test_an_infotext_too_long_for_jpeg_does_not_lose_the_picture(pixels: np.ndarray) -> None:
    data = encode_image(pixels, "jpg", infotext="x" * 40_000)
    assert read_infotext(data) == ""
    assert read_infotext(encode_image(pixels, "jpg", infotext="x" * 32_000)) == "x" * 32_000


def test_an_unknown_format_is_named(pixels: np.ndarray) -> None:
    with pytest.raises(InvalidRequest, match="tiff"):
        encode_image(pixels, "tiff", infotext=None)


def test_a_picture_too_wide_for_its_format_is_refused_in_words() -> None:
    wide = np.zeros((1, 16_384, 3), np.uint8)
    with pytest.raises(InvalidRequest, match="16383"):
        encode_image(wide, "webp", infotext=None)


def test_pixels_of_another_shape_or_type_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        encode_image(pixels.astype(np.float32), "png", infotext=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="uint8"):
        encode_image(pixels[..., 0], "png", infotext=None)

"""Our own PNG writer against Pillow's reader, and the reader of texts against damaged files."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, PngImagePlugin

from sdforge.output import png
from sdforge.output.png import encode_png, is_png, read_png_text


def decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.mode == "RGB"
        return np.asarray(image)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 70), st.integers(1, 9), st.just(3))))
def test_every_picture_decodes_to_the_same_pixels(pixels: np.ndarray) -> None:
    assert np.array_equal(decoded(encode_png(pixels, {})), pixels)


def test_a_picture_that_is_not_contiguous_is_written_right() -> None:
    pixels = noise(50, 60)[::2, ::-1]
    assert np.array_equal(decoded(encode_png(pixels, {})), pixels)


def test_without_isal_the_file_holds_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal", None)
    monkeypatch.setattr(png, "_deflate", png._find_deflate())
    pixels = noise(33, 17)
    assert np.array_equal(decoded(encode_png(pixels, {"parameters": "x"})), pixels)


def test_a_smooth_picture_is_about_as_small_as_pillows() -> None:
    y, x = np.mgrid[0:256, 0:256]
    pixels = np.stack([x, y, (x + y) // 2], axis=-1).astype(np.uint8)
    pixels = pixels + noise(256, 256) // 32
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    assert len(encode_png(pixels, {})) < 1.2 * len(buffer.getvalue())


def test_latin_text_is_a_text_chunk_and_other_text_an_international_one() -> None:
    latin = encode_png(noise(2, 2), {"parameters": "café\nSteps: 1"})
    japanese = encode_png(noise(2, 2), {"parameters": "猫\nSteps: 1"})
    assert b"tEXtparameters" in latin and b"iTXt" not in latin
    assert b"iTXtparameters" in japanese
    for data, text in ((latin, "café\nSteps: 1"), (japanese, "猫\nSteps: 1")):
        with Image.open(io.BytesIO(data)) as image:
            assert image.info["parameters"] == text
        assert read_png_text(data) == {"parameters": text}


@given(st.text())
def test_any_text_is_written_and_read(text: str) -> None:
    expected = text.replace("\0", "").encode("utf-8", "replace").decode()
    assert read_png_text(encode_png(noise(1, 1), {"parameters": text})) == {"parameters": expected}


@pytest.mark.parametrize("compressed", [False, True])
def test_text_written_by_pillow_is_read(compressed: bool) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a cat", zip=compressed)
    text.add_itxt("other", "ein Kätzchen 猫", zip=compressed)
    buffer = io.BytesIO()
    Image.fromarray(noise(4, 4)).save(buffer, "PNG", pnginfo=text)
    expected = {"parameters": "a cat", "other": "ein Kätzchen 猫"}
    assert read_png_text(buffer.getvalue()) == expected


@given(st.integers(0, 400), st.binary(max_size=20))
def test_damaged_files_never_raise(cut: int, rubbish: bytes) -> None:
    data = encode_png(noise(8, 8), {"parameters": "text 猫"})
    read_png_text(data[:cut] + rubbish)


def test_compressed_text_that_grows_without_measure_is_left_out() -> None:
    body = b"parameters\0\0" + zlib.compress(bytes(40 * 1024 * 1024))
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + bytes(4)
    data = encode_png(noise(1, 1), {})
    assert is_png(data)
    assert read_png_text(data[:8] + chunk + data[8:]) == {}


def test_many_compressed_texts_grow_no_further_than_one_may() -> None:
    """A hundred of 8 MiB each, in a file of a megabyte."""
    squeezed = zlib.compress(b"x" * (8 * 1024 * 1024))
    chunks = b""
    for number in range(100):
        body = b"text%d\0\0" % number + squeezed
        chunks += struct.pack(">I", len(body)) + b"zTXt" + body + bytes(4)
    data = encode_png(noise(1, 1), {"parameters": "a cat"})
    found = read_png_text(data[:8] + chunks + data[8:])
    assert sum(map(len, found.values())) <= 16 * 1024 * 1024 + 5
    assert found["parameters"] == "a cat"

"""Pictures of every kind that clients send, and files that are none."""

from __future__ import annotations

import base64
import contextlib
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdforge.core.errors import InvalidRequest
from sdforge.postprocess.decoding import decode_base64, decode_picture, flattened

LIMIT = 10_000


def file_of(image: Image.Image, format: str = "PNG", **more: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **more)
    return file.getvalue()


def read(data: bytes) -> Image.Image:
    return decode_picture(data, "init_images", max_pixels=LIMIT)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises a size and whose data is nearly nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = (
        chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + data


def test_base64_with_and_without_a_prefix_and_with_white_space() -> None:
    text = base64.b64encode(b"picture").decode()
    for sent in (text, f"data:image/png;base64,{text}", f"data:image/png;charset=x;base64,{text}",
                 f" {text[:4]}\r\n{text[4:]}\n"):  # fmt: skip
        assert decode_base64(sent, "mask") == b"picture"


@pytest.mark.parametrize("sent", ["", "data:image/png;base64,", "not base64!", "abc", "ä"])
def test_what_is_no_base64_is_refused_by_its_field(sent: str) -> None:
    with pytest.raises(InvalidRequest, match="^mask: "):
        decode_base64(sent, "mask")


@pytest.mark.parametrize("link", ["http://127.0.0.1/x.png", "HTTPS://example.org/a", " https://a"])
def test_links_are_never_fetched(link: str) -> None:
    with pytest.raises(InvalidRequest, match="no links are taken"):
        decode_base64(link, "init_images")


@pytest.mark.parametrize(
    ("mode", "colour", "seen"),
    [
        ("RGB", (10, 200, 30), (10, 200, 30)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("P", 3, None),
        ("I;16", 0x8000, (128, 128, 128)),
    ],
)
def test_modes_become_colours(mode: str, colour: object, seen: tuple[int, ...] | None) -> None:
    picture = read(file_of(Image.new(mode, (3, 2), colour)))
    assert (picture.mode, picture.size) == ("RGB", (3, 2))
    if seen is not None:
        assert picture.getpixel((0, 0)) == seen


def test_a_single_pixel_and_cmyk_and_floats_are_read() -> None:
    assert read(file_of(Image.new("RGB", (1, 1), "red"))).getpixel((0, 0)) == (255, 0, 0)
    cmyk = read(file_of(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))
    assert cmyk.mode == "RGB"
    assert np.abs(np.array(cmyk.getpixel((4, 4))) - (255, 0, 0)).max() < 12
    floats = read(file_of(Image.new("F", (2, 2), 0.5), "TIFF"))
    assert floats.getpixel((0, 0)) == (127, 127, 127)


def test_transparency_of_any_kind_is_kept_and_flattened_on_a_colour() -> None:
    clear = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    grey = Image.new("LA", (2, 2), (9, 0))
    palette = Image.new("P", (2, 2), 0)
    for data in (file_of(clear), file_of(grey), file_of(palette, transparency=0)):
        picture = read(data)
        assert picture.mode == "RGBA"
        assert flattened(picture, "#102030").getpixel((0, 0)) == (16, 32, 48)
        assert flattened(picture, "no colour").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_counts(format: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    picture = read(file_of(frames[0], format, save_all=True, append_images=frames[1:]))
    red, _, blue = picture.convert("RGB").getpixel((8, 8))
    assert red > 240 and blue < 15


def test_a_picture_is_turned_as_its_exif_data_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("RGB", (4, 2), "red")
    picture.putpixel((0, 0), (0, 0, 255))
    turned = read(file_of(picture, exif=exif))
    assert turned.size == (2, 4)
    assert turned.getpixel((1, 0)) == (0, 0, 255)


@pytest.mark.parametrize("size", [(101, 100), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_header_that_promises_too_much_is_refused_unread(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidRequest, match="^init_images: "):
        read(png_of_size(*size))


PNG = file_of(Image.effect_noise((20, 20), 50))


@pytest.mark.parametrize(
    "data", [b"", b"hello", PNG[:200], png_of_size(50, 50), b"%!PS-Adobe-3.0 EPSF"]
)
def test_damaged_files_and_other_formats_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="allowed: a whole PNG"):
        read(data)


@settings(max_examples=60, deadline=None)
@given(place=st.integers(8, len(PNG) - 1), byte=st.integers(0, 255))
def test_a_flipped_byte_is_read_or_refused_and_nothing_else(place: int, byte: int) -> None:
    with contextlib.suppress(InvalidRequest):
        read(PNG[:place] + bytes([byte]) + PNG[place + 1 :])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "kind",
    [
        "transparent",
        pytest.param("deep", marks=pytest.mark.slow),
        pytest.param("cmyk", marks=pytest.mark.slow),
    ],
)
def test_the_largest_picture_that_is_taken_needs_a_bounded_share_of_memory(
    tmp_path: Path, kind: str
) -> None:
    """64 megapixels on their way to 64 × 64: measured in a process of its own.

    Three copies as RGBA, and what Python and the reader need, are the most it may ever hold.
    """
    made = {
        "deep": lambda: Image.fromarray(np.full((8192, 8192), 40_000, np.uint16)),
        "cmyk": lambda: Image.new("CMYK", (8192, 8192), (10, 20, 30, 40)),
        "transparent": lambda: Image.new("RGBA", (8192, 8192), (10, 20, 30, 40)),
    }[kind]()
    path = tmp_path / "large"
    made.save(path, "JPEG" if kind == "cmyk" else "PNG", compress_level=1)
    del made
    code = (
        "import sys, pathlib\n"
        "from sdforge.postprocess.decoding import decode_picture, flattened\n"
        "from sdforge.postprocess.resizing import resized\n"
        "data = pathlib.Path(sys.argv[1]).read_bytes()\n"
        "picture = decode_picture(data, 'mask', max_pixels=8192 * 8192)\n"
        "small = resized(flattened(picture, '#ffffff'), 1, 64, 64)\n"
        "assert small.size == (64, 64)\n"
        # Not ru_maxrss, which begins with what the process that started this one held.
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "print(status.split('VmHWM:')[1].split()[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 3.6 * 4 * 8192 * 8192 / 1024

"""Infotext in the files of other programs: formats, encodings, damage."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from sdforge.output.infotext import parse_infotext
from sdforge.output.metadata import (
    EXIF_IFD,
    USER_COMMENT,
    decode_user_comment,
    encode_user_comment,
    read_infotext,
    read_text_items,
)

TEXT = "a cat, 猫\nNegative prompt: dog\nSteps: 20, Sampler: Euler a, Seed: 1"


def picture(format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, format, **options)
    return buffer.getvalue()


def exif(comment: bytes) -> bytes:
    block = Image.Exif()
    block.get_ifd(EXIF_IFD)[USER_COMMENT] = comment
    return block.tobytes()


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "AVIF"])
def test_a_user_comment_is_read(format: str) -> None:
    data = picture(format, exif=exif(encode_user_comment(TEXT)))
    assert read_infotext(data) == TEXT


@pytest.mark.parametrize(
    "comment",
    [
        b"UNICODE\0" + TEXT.encode("utf-16-be"),
        b"UNICODE\0" + TEXT.encode("utf-16-le"),
        b"UNICODE\0" + TEXT.encode("utf-16"),
        b"ASCII\0\0\0" + TEXT.encode(),
        bytes(8) + TEXT.encode(),
        TEXT.encode(),
        TEXT.encode() + b"\0",
    ],
    ids=["big endian", "little endian", "with mark", "ascii", "undefined", "raw", "raw with zero"],
)
def test_every_encoding_of_a_user_comment_is_understood(comment: bytes) -> None:
    assert decode_user_comment(comment) == TEXT


def test_a_gif_comment_is_read() -> None:
    assert read_infotext(picture("GIF", comment=TEXT.encode())) == TEXT


def test_a_path_is_read_like_its_content(tmp_path: Path) -> None:
    path = tmp_path / "picture.webp"
    path.write_bytes(picture("WEBP", exif=exif(encode_user_comment(TEXT))))
    assert read_infotext(path) == read_infotext(str(path)) == TEXT


def test_a_missing_or_foreign_file_has_no_infotext(tmp_path: Path) -> None:
    assert read_infotext(tmp_path / "nothing.png") == ""
    assert read_infotext(b"no picture") == ""
    assert read_infotext(b"") == ""
    assert read_infotext(picture("JPEG")) == ""


def test_a_truncated_jpeg_does_not_raise() -> None:
    data = picture("JPEG", exif=exif(encode_user_comment(TEXT)))
    for end in range(0, len(data), 7):
        read_infotext(data[:end])


def test_novelai_is_translated() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", "NovelAI")
    text.add_text("Description", "a fox")
    made = {"steps": 28, "sampler": "k_euler_ancestral", "seed": 5, "scale": 11.0, "uc": "ugly",
            "width": 512, "height": 768}  # fmt: skip
    text.add_text("Comment", json.dumps(made))
    parsed = parse_infotext(read_infotext(picture("PNG", pnginfo=text)))
    assert parsed.prompt == "a fox"
    assert parsed.negative_prompt == "ugly"
    assert parsed.fields["Sampler"] == "Euler a"
    assert parsed.fields["Size"] == "512x768"


def test_novelai_with_a_strange_comment_has_no_infotext() -> None:
    for comment in ("{}", "[1]", "no json"):
        text = PngImagePlugin.PngInfo()
        text.add_text("Software", "NovelAI")
        text.add_text("Comment", comment)
        data = picture("PNG", pnginfo=text)
        assert read_infotext(data) == ""
        assert read_text_items(data) == {"Software": "NovelAI", "Comment": comment}

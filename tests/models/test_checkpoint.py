import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdforge.core.errors import (
    CorruptCheckpoint,
    MissingModel,
    ModelError,
)
from sdforge.models.checkpoint import read_header


def entry(start: int, end: int, shape: list[Any] | None = None, dtype: str = "F32") -> Any:
    shape = [(end - start) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def write(path: Path, header: Any, data_bytes: int = 0, *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + text + bytes(data_bytes))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def test_a_header_is_read_with_places_shapes_and_metadata(file: Path) -> None:
    header = {
        "__metadata__": {"a": "b", "n": 3},
        "x": entry(0, 24, [2, 3]),
        "y": entry(24, 24, [0]),
    }
    read = read_header(write(file, header, 24))

    assert read.tensors["x"].shape == (2, 3)
    assert (read.tensors["x"].start, read.tensors["x"].end) == (0, 24)
    assert read.metadata == {"a": "b"}
    assert read.data_start + 24 == read.file_bytes == file.stat().st_size
    assert read.shape("y") == (0,)
    assert read.shape("z") is None


@pytest.mark.parametrize(
    ("tensors", "data_bytes", "says"),
    [
        ({"x": entry(0, 24)}, 20, "truncated: 4 bytes are missing"),
        ({"x": entry(0, 16), "y": entry(12, 24)}, 24, "'x' and 'y' overlap"),
        ({"x": entry(0, 16, [5])}, 16, "takes 20"),
        ({"x": entry(0, 16, [4], "F17")}, 16, "unknown type of numbers, F17"),
        ({"x": entry(0, 16, [-4])}, 16, "no valid shape"),
        ({"x": entry(0, 16, [True])}, 16, "no valid shape"),
        ({"x": entry(0, 16, [2.0])}, 16, "no valid shape"),
        ({"x": entry(16, 0, [4])}, 16, "no valid place"),
        ({"x": {"dtype": "F32", "shape": [4], "data_offsets": [0]}}, 16, "no valid place"),
        ({"x": {"dtype": "F32"}}, 16, "no valid shape"),
        ({"x": 3}, 16, "not described"),
        ({"x": entry(0, 16, [2**62] * 60)}, 16, "takes 16 bytes"),
    ],
)
def test_a_damaged_header_is_refused_with_what_is_wrong(
    file: Path, tensors: Any, data_bytes: int, says: str
) -> None:
    with pytest.raises(CorruptCheckpoint, match=says):
        read_header(write(file, tensors, data_bytes))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "only 0 bytes"),
        (b"short", "only 5 bytes"),
        (b"I am a letter to a friend, nothing more.", "but text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html><head></head></html>", "a web page"),
        (b'{"error": "Repository not found, please log in"}', "JSON text"),
        (b"PK\x03\x04" + bytes(40), "zip or PyTorch"),
        (b"\x80\x02}q\x00(X\x0a" + b"\xff" * 40, "pickle"),
        ((10**12).to_bytes(8, "little") + bytes(40), "would take 1000000000000 bytes"),
        ((1000).to_bytes(8, "little") + b'{"x": {' + bytes(40), "is truncated: its header"),
        ((5).to_bytes(8, "little") + b"\xff\xfe\x00\x01\x02", "not JSON"),
        ((2).to_bytes(8, "little") + b"[]", "no JSON object"),
    ],
)
def test_what_is_no_safetensors_file_is_named(file: Path, content: bytes, says: str) -> None:
    file.write_bytes(content)
    with pytest.raises(CorruptCheckpoint, match=says):
        read_header(file)


def test_a_header_of_nested_brackets_is_an_error_and_no_crash(file: Path) -> None:
    with pytest.raises(CorruptCheckpoint, match="not JSON"):
        read_header(write(file, b"[" * 200_000))


def test_the_size_of_a_header_is_limited(file: Path) -> None:
    with file.open("wb") as stream:
        stream.write((100_000_001).to_bytes(8, "little"))
        stream.truncate(200_000_000)
    with pytest.raises(CorruptCheckpoint, match="its header would take 100000001 bytes"):
        read_header(file)


def test_a_file_that_cannot_be_opened_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingModel, match="No such file"):
        read_header(tmp_path / "nothing.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(MissingModel):
        read_header(tmp_path / "folder.safetensors")


VALID = json.dumps(
    {"__metadata__": {"k": "v"}, "x": entry(0, 24, [2, 3]), "y": entry(24, 40)}
).encode()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_to_a_header_gives_a_header_or_a_clear_error(file: Path, data: Any) -> None:
    whole = bytearray(len(VALID).to_bytes(8, "little") + VALID + bytes(40))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place] = data.draw(st.integers(0, 255))
    file.write_bytes(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    try:
        read = read_header(file)
    except ModelError as error:
        assert "model.safetensors" in error.message
    else:
        size = file.stat().st_size
        assert all(0 <= info.start <= info.end <= size for info in read.tensors.values())

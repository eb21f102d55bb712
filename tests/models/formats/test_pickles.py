"""PyTorch's files: read to headers without running anything, and refused with the reason."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from sdforge.core.errors import CorruptCheckpoint, ModelError, UnsupportedCheckpoint
from sdforge.models.checkpoint import CheckpointHeader, read_header
from sdforge.models.formats import pickle_machine
from tests.tiny import Parts, make_checkpoint, tiny_server_parts


def tensor_of(header: CheckpointHeader, name: str, dtype: torch.dtype) -> torch.Tensor:
    info = header.tensors[name]
    with header.path.open("rb") as file:
        file.seek(header.data_start + info.start)
        numbers = bytearray(file.read(info.size_bytes))
    return torch.frombuffer(numbers, dtype=dtype).view(info.shape)


def saved(folder: Path, content: Any, *, old: bool = False, name: str = "m.ckpt") -> Path:
    torch.save(content, folder / name, _use_new_zipfile_serialization=not old)
    return folder / name


@pytest.mark.parametrize("old", [False, True], ids=["archive", "row"])
def test_tensors_lie_where_the_header_says(tmp_path: Path, old: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    wide = torch.randn(6, 8, generator=draw)
    tensors = {
        "a.weight": wide,
        "a.part": wide[2:4],
        "half": torch.randn(5, generator=draw).half(),
        "bf": torch.randn(3, 2, generator=draw).bfloat16(),
        "number": torch.tensor(7),
        "empty": torch.empty(0, 4),
        "parameter": torch.nn.Parameter(torch.ones(4)),
    }
    content = {
        "state_dict": collections.OrderedDict(tensors),
        "epoch": 3,
        "global_step": 470_000,
        "optimizer": {"state": {0: {"step": torch.zeros(3)}}},
    }

    header = read_header(saved(tmp_path, content, old=old))

    assert set(header.tensors) == set(tensors)
    assert header.metadata == {"epoch": "3", "global_step": "470000"}
    for name, tensor in tensors.items():
        if tensor.numel():
            assert torch.equal(tensor_of(header, name, tensor.dtype), tensor), name


def test_tensors_without_a_state_dict_and_in_parameter_dicts_are_found(tmp_path: Path) -> None:
    embedding = {
        "string_to_token": {"*": torch.tensor(265)},
        "string_to_param": torch.nn.ParameterDict({"*": torch.ones(2, 4)}),
        "name": "oasis",
    }
    header = read_header(saved(tmp_path, embedding, name="e.pt"))
    assert header.tensors["string_to_param.*"].shape == (2, 4)
    assert header.metadata == {"name": "oasis"}

    header = read_header(saved(tmp_path, {"x": torch.ones(3)}, name="x.bin"))
    assert list(header.tensors) == ["x"]


def test_a_safetensors_file_named_bin_is_read_as_what_it_is(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "a.safetensors").rename(tmp_path / "a.bin")
    assert len(read_header(tmp_path / "a.bin").tensors) > 100


@pytest.mark.parametrize("old", [False, True], ids=["archive", "row"])
def test_a_checkpoint_loads_to_the_same_weights_as_its_safetensors(
    tmp_path: Path, old: bool
) -> None:
    path = make_checkpoint(tmp_path / "source.safetensors")
    parts = tiny_server_parts(tmp_path / "data", path)
    folder = parts.paths.checkpoints[0]
    saved(folder, {"state_dict": load_file(path)}, old=old, name="same.ckpt")
    parts.library.refresh()

    assert parts.library.find("same.ckpt").error is None
    assert _weights(parts, "source") == _weights(parts, "same.ckpt")


def _weights(parts: Parts, name: str) -> dict[str, bytes]:
    bundle = parts.provider.get(name)
    return {
        f"{role}.{key}": master.stored.contiguous().view(torch.uint8).numpy().tobytes()
        for role, component in bundle.components.items()
        for key, master in component.named_masters()
        if master.stored.numel()
    }


# --- what is refused ------------------------------------------------------------------------------


class _Runs:
    """What an attacker would save: something that is called when Python unpickles it."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


def test_code_in_a_pickle_is_named_and_never_run(tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    for old in (False, True):
        content = {"state_dict": {"w": torch.ones(2)}, "x": _Runs(os.system, f"touch {proof}")}
        with pytest.raises(UnsupportedCheckpoint, match=r"names '(posix|nt)\.system'"):
            read_header(saved(tmp_path, content, old=old))
    content = {"w": torch.ones(2), "x": _Runs(eval, "1/0")}
    with pytest.raises(UnsupportedCheckpoint, match=r"builtins?__\.eval"):
        read_header(saved(tmp_path, content))
    assert not proof.exists()


@pytest.mark.parametrize(
    "name", ["builtins.getattr", "torch.load", "torch.hub.load", "numpy.load", "collections.abc.x"]
)
def test_only_names_that_models_need_are_let_through(tmp_path: Path, name: str) -> None:
    module, _, own = name.rpartition(".")
    text = b"\x80\x02c" + f"{module}\n{own}\n".encode() + b"."
    path = tmp_path / "x.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", text)
    with pytest.raises(UnsupportedCheckpoint, match=name.replace(".", r"\.")):
        read_header(path)


def _archive(path: Path, description: bytes, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", description)
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _no_model(path: Path, words: str) -> None:
    """Expect a refusal that names the file, in little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match=words) as caught:
            read_header(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert path.name in caught.value.message
    assert peak < 100 * 2**20


def test_pickle_bombs_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_machine, "MOST_STEPS", 30_000)  # the tracing of memory is slow
    # Lists of lists: a billion billions once walked through; and a tuple that is hashed for ever.
    doubling = b"]q\x00" + b"".join(
        b"]q" + bytes([i + 1]) + b"(h" + bytes([i]) + b"h" + bytes([i]) + b"e" for i in range(60)
    )
    path = _archive(tmp_path / "a.ckpt", b"\x80\x02" + doubling + b".")
    assert not read_header(path).tensors
    nested = b"\x80\x02}(" + b"K\x01" + b"2\x86" * 40 + b"K\x01u."
    assert not read_header(_archive(tmp_path / "b.ckpt", nested)).tensors
    _no_model(_archive(tmp_path / "c.ckpt", b"\x80\x02" + b"]" * 40_000), "more than any model")
    _no_model(_archive(tmp_path / "d.ckpt", b"\x80\x02\x8b\xff\xff\xff\x7f."), "absurd length")
    _no_model(_archive(tmp_path / "e.ckpt", b"\x80\x04\x8d" + b"\xff" * 8), "breaks off")
    deep = b"\x80\x02" + b"}U\x01a" * 5000 + b"N" + b"s" * 5000 + b"."
    _no_model(_archive(tmp_path / "f.ckpt", deep), "deeper than any model")


def test_zip_tricks_are_refused(tmp_path: Path) -> None:
    plain = pickle.dumps({}, protocol=2)
    slip = _archive(tmp_path / "slip.ckpt", plain, **{"archive/data/../../../../etc/passwd": b"x"})
    _no_model(slip, "points out of the archive")
    with zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    _no_model(tmp_path / "bomb.ckpt", "compressed")
    _no_model(_archive(tmp_path / "big.ckpt", bytes(40_000_000)), "larger than any model")
    with zipfile.ZipFile(tmp_path / "other.ckpt", "w") as archive:
        archive.writestr("letter.txt", "hello")
    _no_model(tmp_path / "other.ckpt", "not one that PyTorch wrote")


def test_a_list_of_contents_that_lies_is_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path, {"state_dict": {"w": torch.ones(100)}}).read_bytes()
    end = whole.rfind(b"PK\x06\x06")  # of the record with 64 bits, which PyTorch writes
    far, many = struct.pack("<QQ", 2**40, 16), struct.pack("<Q", 2**33)
    for number, (text, words) in enumerate([
        (whole[:-30], "end of the archive|breaks off|truncated"),
        (whole[: end + 40] + far + whole[end + 56 :], "list of contents"),
        (whole[:1000], "end of the archive"),
        (b"PK\x03\x04", "end of the archive"),
        (whole[: end + 32] + many + whole[end + 40 :], "list of contents"),
    ]):  # fmt: skip
        path = tmp_path / f"{number}.ckpt"
        path.write_bytes(text)
        _no_model(path, words)


def test_numbers_outside_of_their_storage_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {"w": torch.ones(4)})
    text = path.read_bytes()
    # The shape (4,) and stride (1,) in the description: K\x04\x85…; a larger one is a lie.
    assert text.count(b"K\x04\x85") == 1
    path.write_bytes(text.replace(b"K\x04\x85", b"K\xf0\x85"))
    _no_model(path, "outside of it")


def test_dimensions_out_of_order_are_refused_by_name(tmp_path: Path) -> None:
    turned = torch.ones(3, 5).T
    with pytest.raises(CorruptCheckpoint, match="'w' with its dimensions out of order"):
        read_header(saved(tmp_path, {"w": turned}))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_files_end_in_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    buffer = io.BytesIO()
    old = data.draw(st.booleans())
    torch.save(
        {"state_dict": {"a": torch.ones(20), "b": torch.zeros(3, 4)}},
        buffer,
        _use_new_zipfile_serialization=not old,
    )
    text = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(text)))
    path = tmp_path_factory.mktemp("fuzz") / "x.ckpt"
    path.write_bytes(text[:cut] if data.draw(st.booleans()) else text)
    try:
        header = read_header(path)
    except ModelError as error:
        assert error.message.startswith("x.ckpt")
        return
    for info in header.tensors.values():
        assert 0 <= info.start <= info.end <= header.file_bytes

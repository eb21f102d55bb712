"""Unpacking GGUF's blocks, compared with the `gguf` package bit for bit."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.models.formats.ggml_types import GGML_TYPES
from sdforge.models.ggml_blocks import _UNPACKERS, Unpack, unpack_into


def random_blocks(kind: str, rows: int, columns: int) -> np.ndarray:
    """Return bytes whose scales are numbers, everything else being any bits."""
    qtype = gguf.GGMLQuantizationType[kind]
    numbers, size = gguf.GGML_QUANT_SIZES[qtype]
    draw = np.random.default_rng(7)
    blocks = draw.integers(0, 256, (rows * columns // numbers, size), dtype=np.uint8)
    halves = {
        "Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q4_1": (0, 2), "Q5_1": (0, 2),
        "Q4_K": (0, 2), "Q5_K": (0, 2),
    }.get(kind, (0,))  # fmt: skip
    for place in halves:
        scale = draw.normal(0, 0.1, len(blocks)).astype(np.float16)
        blocks[:, place : place + 2] = scale[:, None].view(np.uint8)
    return blocks.reshape(rows, -1)


@pytest.mark.parametrize("kind", list(_UNPACKERS))
def test_every_type_equals_the_gguf_package_bit_for_bit(kind: str) -> None:
    stored = random_blocks(kind, 24, 512)
    wanted = gguf.dequantize(stored, gguf.GGMLQuantizationType[kind])

    found = Unpack(kind, (24, 512), torch.float32)(torch.from_numpy(stored.reshape(-1)))

    assert found.numpy().tobytes() == wanted.astype(np.float32).tobytes()


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "Q4_K"])
def test_pieces_and_16_bits_change_nothing_but_the_rounding(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = torch.from_numpy(random_blocks(kind, 8, 1024).reshape(-1))
    whole = Unpack(kind, (8, 1024), torch.float32)(stored)
    monkeypatch.setattr("sdforge.models.ggml_blocks._PIECE_NUMBERS", 1000)
    assert torch.equal(Unpack(kind, (8, 1024), torch.float32)(stored), whole)
    assert torch.equal(Unpack(kind, (8, 1024), torch.bfloat16)(stored), whole.bfloat16())


def test_the_table_of_types_is_that_of_the_gguf_package() -> None:
    for number, kind in GGML_TYPES.items():
        qtype = gguf.GGMLQuantizationType(number)
        assert qtype.name == kind.name
        assert gguf.GGML_QUANT_SIZES[qtype] == (kind.numbers, kind.bytes)


def test_types_that_are_only_known_by_name_are_refused() -> None:
    with pytest.raises(UnsupportedCheckpoint, match="IQ2_XXS"):
        unpack_into("IQ2_XXS", torch.zeros(66, dtype=torch.uint8), torch.zeros(256))

from pathlib import Path

import pytest
import torch

from sdforge.models.checkpoint import CheckpointHeader, read_header
from sdforge.models.families.base import Source
from sdforge.models.key_map import key_map
from tests.tiny import sparse_checkpoint


@pytest.fixture
def header(tmp_path: Path) -> CheckpointHeader:
    shapes: dict[str, tuple[int, ...]] = {
        "p.a": (400, 300, 50, 50),
        "p.b": (8, 8, 1, 1),
        "p.c": (),
        "p.unused": (3,),
    }
    return read_header(sparse_checkpoint(tmp_path / "m.safetensors", shapes))


def test_renamed_and_reshaped_tensors_are_traced_to_their_source(header: CheckpointHeader) -> None:
    def convert(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"x": tensors["b"][:, :, 0, 0], "y": tensors["a"], "z": tensors["c"]}

    assert key_map(header.layout, header.under("p."), convert) == {
        "x": Source("p.b", (8, 8)),
        "y": Source("p.a", (400, 300, 50, 50)),
        "z": Source("p.c", (1,)),
    }


def test_a_converter_that_computes_is_noticed(header: CheckpointHeader) -> None:
    with pytest.raises(KeyError):
        key_map(header.layout, header.under("p."), lambda tensors: {"x": tensors["b"] * 2})

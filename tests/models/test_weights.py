import mmap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sdforge.core.errors import CorruptCheckpoint, MissingModel, UnsupportedCheckpoint
from sdforge.memory.component import Component
from sdforge.models import weights
from sdforge.models.checkpoint import read_header
from sdforge.models.families.base import Recipe, Source
from sdforge.models.weights import host_bytes, load_component

SHAPES = {"weight": (300, 200), "bias": (300,)}


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(200, 300)
        self.register_buffer("places", torch.arange(7), persistent=False)


def recipe_for(path: Path) -> Recipe:
    with torch.device("meta"):
        module = _Net()
    return Recipe(
        role="vae",
        header=read_header(path),
        module=module,
        sources={
            "linear.weight": Source("first.weight", (300, 200)),
            "linear.bias": Source("first.bias", (300,)),
        },
        buffers={"places": lambda: torch.arange(7)},
    )


def load(path: Path, dtype: torch.dtype, progress: list[int] | None = None) -> Component:
    steps: list[int] = [] if progress is None else progress
    return load_component(
        recipe_for(path), dtype, name="m", fingerprint="f", on_progress=steps.append
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    path = tmp_path / "m.safetensors"
    tensors = {
        "first.weight": torch.randn(300, 200, 1, 1, generator=generator).half(),
        "first.bias": torch.randn(300, generator=generator),
    }
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_parameters_are_the_files_numbers_in_the_wanted_type(
    file: Path, dtype: torch.dtype
) -> None:
    module = load(file, dtype).module
    tensors = load_file(file)
    assert torch.equal(module.linear.weight, tensors["first.weight"].to(dtype).view(300, 200))
    assert torch.equal(module.linear.bias, tensors["first.bias"].to(dtype))
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_nothing_is_left_on_the_meta_device(file: Path) -> None:
    module = load(file, torch.float32).module
    assert not any(t.is_meta for t in [*module.parameters(), *module.buffers()])
    assert module.places.tolist() == list(range(7))


def test_only_tensors_that_change_type_take_memory(file: Path) -> None:
    half = load(file, torch.float16)
    assert [arena.total_bytes for arena in half.arenas] == [640]  # 300 × 2 bytes, aligned
    assert host_bytes(recipe_for(file), torch.float16) == 640
    full = load(file, torch.float32)
    assert [arena.total_bytes for arena in full.arenas] == [240_000]
    assert half.total_bytes == 300 * 201 * 2 + 7 * 8


def test_a_write_into_a_mapped_parameter_does_not_reach_the_file(file: Path) -> None:
    before = file.read_bytes()
    load(file, torch.float16).module.linear.weight.fill_(3)
    assert file.read_bytes() == before


def test_tensors_larger_than_the_buffer_are_read_in_pieces(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "BUFFER_BYTES", 1024)
    progress: list[int] = []
    module = load(file, torch.float32, progress).module
    wanted = load_file(file)["first.weight"].float().view(300, 200)
    assert torch.equal(module.linear.weight, wanted)
    assert len(progress) > 100
    assert sum(progress) == 300 * 200 * 2 + 300 * 4


def test_misaligned_tensors_are_copied_instead_of_mapped(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({"first.weight": torch.ones(300, 200), "first.bias": torch.ones(300)}, path)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    path.write_bytes((size + 1).to_bytes(8, "little") + b" " + content[8:])
    component = load(path, torch.float32)
    assert len(component.arenas) == 1
    assert torch.equal(component.module.linear.weight, torch.ones(300, 200))


def test_a_file_that_changed_since_its_header_was_read_is_refused(file: Path) -> None:
    recipe = recipe_for(file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CorruptCheckpoint, match="changed"):
        load_component(recipe, torch.float32, name="m", fingerprint="f", on_progress=lambda _: None)
    file.unlink()
    with pytest.raises(MissingModel):
        load_component(recipe, torch.float32, name="m", fingerprint="f", on_progress=lambda _: None)


def test_numbers_that_are_no_weights_are_refused_and_memory_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "i.safetensors"
    save_file(
        {"first.weight": torch.ones(300, 200), "first.bias": torch.ones(300, dtype=torch.int32)},
        path,
    )
    made: list[weights.Arena] = []

    def remember(total_bytes: int) -> weights.Arena:
        made.append(_arena(total_bytes))
        return made[-1]

    _arena = weights.Arena
    monkeypatch.setattr(weights, "Arena", remember)
    with pytest.raises(UnsupportedCheckpoint, match="I32"):
        load(path, torch.float16)
    assert [arena.released for arena in made] == [True]


def test_releasing_a_mapped_component_ends_the_mapping(file: Path) -> None:
    component = load(file, torch.float16)
    module = component.module
    component.release()
    assert module.linear.weight.numel() == 0
    assert not any(isinstance(value, mmap.mmap) for value in vars(component).values())

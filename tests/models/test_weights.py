import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sdforge.core.errors import CorruptCheckpoint, MissingModel, UnsupportedCheckpoint
from sdforge.memory.component import Component
from sdforge.models import weight_files, weights
from sdforge.models.checkpoint import read_header
from sdforge.models.families.base import Recipe, Source
from sdforge.models.quant import Storage
from sdforge.models.skeleton import Skeleton
from sdforge.models.weights import LoadPlan, load_component

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
        layout=read_header(path).layout,
        skeleton=Skeleton(module),
        sources={
            "linear.weight": Source("first.weight", (300, 200)),
            "linear.bias": Source("first.bias", (300,)),
        },
        buffers={"places": lambda: torch.arange(7)},
    )


def plan_for(path: Path, dtype: torch.dtype, alignment: int = 1) -> LoadPlan:
    return LoadPlan(recipe_for(path), read_header(path), Storage(dtype), alignment)


def load(
    path: Path, dtype: torch.dtype, progress: list[int] | None = None, alignment: int = 1
) -> Component:
    steps: list[int] = [] if progress is None else progress
    plan = plan_for(path, dtype, alignment)
    return load_component(plan, name="m", fingerprint="f", on_progress=steps.append)


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
    assert plan_for(file, torch.float16).host_bytes == 640
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
    monkeypatch.setattr(weight_files, "BUFFER_BYTES", 1024)
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


def test_where_weights_compute_as_they_lie_only_aligned_ones_are_mapped(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"first.weight": torch.ones(300, 200), "first.bias": torch.ones(300)}, path)
    start = read_header(path).data_start
    content = path.read_bytes()
    # The bias comes first and takes 1200 bytes, so that the weight behind it is never aligned.
    for shift, copied in ((0, 240_000), (8, 240_000 + 1216)):
        pad = -start % 64 + shift
        size = int.from_bytes(content[:8], "little")
        padded = content[8 : 8 + size] + b" " * pad + content[8 + size :]
        path.write_bytes((size + pad).to_bytes(8, "little") + padded)
        component = load(path, torch.float32, alignment=64)
        assert [arena.total_bytes for arena in component.arenas] == [copied]
        assert all(p.data_ptr() % 64 == 0 for p in component.module.parameters())
        assert load(path, torch.float32).arenas == ()


def test_a_file_that_changed_since_its_header_was_read_is_refused(file: Path) -> None:
    plan = plan_for(file, torch.float32)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CorruptCheckpoint, match="changed"):
        load_component(plan, name="m", fingerprint="f", on_progress=lambda _: None)
    file.unlink()
    with pytest.raises(MissingModel):
        load_component(plan, name="m", fingerprint="f", on_progress=lambda _: None)


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


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_releasing_a_mapped_component_ends_the_mapping(file: Path) -> None:
    def mappings() -> int:
        return Path("/proc/self/maps").read_text().count(str(file))

    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    component = load(file, torch.float16)
    module = component.module
    assert mappings() > 0
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    component.release()
    assert module.linear.weight.numel() == 0
    assert mappings() == 0

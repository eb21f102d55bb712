"""Each kind against its definition, written out again in the plainest way."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sdforge.models.adapters.kinds import Lora
from sdforge.models.adapters.lora_file import LayerChange, read_lora
from sdforge.models.adapters.row_kinds import HalvesSwapped, RowsOf, first_ranks
from tests.tiny_lora import CONV_KINDS, LINEAR_KINDS, Shape, Tensors, adapter

LINEAR, CONV = (16, 24), (16, 24, 3, 3)
ALPHA, RANK = 2.0, 4
CASES = [
    *((kind, LINEAR) for kind in LINEAR_KINDS),
    *((kind, CONV) for kind in CONV_KINDS),
    *((kind, (16, 24, 1, 1)) for kind in LINEAR_KINDS),
]
Read = Callable[[Tensors], LayerChange]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Return what reads parts of one layer from a file that holds them."""

    def read_parts(parts: Tensors) -> LayerChange:
        path = tmp_path / "one.safetensors"
        save_file({f"lora_unet_x.{name}": tensor for name, tensor in parts.items()}, path)
        return read_lora(path).layers["lora_unet_x"]

    return read_parts


def weight_of(shape: Shape) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(99))


def product(up: torch.Tensor, down: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Sum outer products, rank by rank."""
    total = torch.zeros(math.prod(shape))
    for rank in range(up.shape[1]):
        total += torch.outer(up[:, rank].flatten(), down[rank].flatten()).flatten()
    return total.view(shape)


def cored(core: torch.Tensor, out: torch.Tensor, into: torch.Tensor) -> torch.Tensor:
    """Core (r, r, h, w), out (r, out), into (r, in): place by place of the kernel."""
    result = torch.zeros(out.shape[1], into.shape[1], *core.shape[2:])
    for y in range(core.shape[2]):
        for x in range(core.shape[3]):
            result[:, :, y, x] = out.T @ core[:, :, y, x] @ into
    return result


def kron(first: torch.Tensor, second: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Put scaled copies of `second` side by side."""
    second = second.reshape(second.shape[0], -1, *shape[2:])
    rows = [torch.cat([number * second for number in row], dim=1) for row in first]
    return torch.cat(rows).reshape(shape)


def rotation(block: torch.Tensor, factor: float) -> torch.Tensor:
    skew = (block - block.T) * factor
    unit = torch.eye(len(block))
    return (unit + skew) @ torch.linalg.inv(unit - skew)


def channels(vector: torch.Tensor, shape: Shape, axis: int) -> torch.Tensor:
    """Return one number per channel, to be multiplied with a weight."""
    return vector.view([-1 if place == axis else 1 for place in range(len(shape))])


def lora(parts: Tensors, weight: torch.Tensor, m: float) -> torch.Tensor:
    up, down = parts["lora_up.weight"], parts["lora_down.weight"]
    return weight + m * ALPHA / RANK * product(up, down, tuple(weight.shape))


def lora_tucker(parts: Tensors, weight: torch.Tensor, m: float) -> torch.Tensor:
    up, down = parts["lora_up.weight"].flatten(1), parts["lora_down.weight"].flatten(1)
    return weight + m * ALPHA / RANK * cored(parts["lora_mid.weight"], up.T, down)


def dora(parts: Tensors, weight: torch.Tensor, m: float, axis: int = 0) -> torch.Tensor:
    moved = lora(parts, weight, 1.0)
    lengths = moved.transpose(0, axis).flatten(1).norm(dim=1)
    factor = channels(parts["dora_scale"].flatten() / lengths, tuple(weight.shape), axis)
    return weight + m * (moved * factor - weight)


def loha(parts: Tensors, weight: torch.Tensor, m: float) -> torch.Tensor:
    first, second = (parts[f"hada_w{n}_a"] @ parts[f"hada_w{n}_b"] for n in (1, 2))
    return weight + m * ALPHA / RANK * (first * second).view(weight.shape)


def loha_tucker(parts: Tensors, weight: torch.Tensor, m: float) -> torch.Tensor:
    first, second = (
        cored(*(parts[f"hada_{name}"] for name in (f"t{n}", f"w{n}_a", f"w{n}_b"))) for n in (1, 2)
    )
    return weight + m * ALPHA / RANK * first * second


def lokr(parts: Tensors, weight: torch.Tensor, m: float) -> torch.Tensor:
    # Both factors whole: there is no rank that alpha could be divided by.
    return weight + m * kron(parts["lokr_w1"], parts["lokr_w2"], tuple(weight.shape))


def lokr_factored(parts: Tensors, weight: torch.Tensor, m: float) -> torch.Tensor:
    first, second = (parts[f"lokr_w{n}_a"] @ parts[f"lokr_w{n}_b"] for n in (1, 2))
    return weight + m * ALPHA / RANK * kron(first, second, tuple(weight.shape))


def lokr_tucker(parts: Tensors, weight: torch.Tensor, m: float) -> torch.Tensor:
    second = cored(*(parts[f"lokr_{name}"] for name in ("t2", "w2_a", "w2_b")))
    return weight + m * ALPHA / RANK * kron(parts["lokr_w1"], second, tuple(weight.shape))


def ia3(parts: Tensors, weight: torch.Tensor, m: float, axis: int = 0) -> torch.Tensor:
    return weight * (1 + m * channels(parts["weight"], tuple(weight.shape), axis))


def oft(parts: Tensors, weight: torch.Tensor, m: float) -> torch.Tensor:
    most = float(parts["alpha"]) * len(weight)
    norm = float(torch.stack([block - block.T for block in parts["oft_blocks"]]).norm())
    assert norm > most
    turns = [rotation(block, most / norm).T for block in parts["oft_blocks"]]
    turned = (torch.block_diag(*turns) @ weight.flatten(1)).view(weight.shape)
    if "rescale" in parts:
        turned = turned * channels(parts["rescale"].flatten(), tuple(weight.shape), 0)
    return weight + m * (turned - weight)


def boft(parts: Tensors, weight: torch.Tensor, m: float) -> torch.Tensor:
    """Put rows in order by a written-out index, rotate, put them back, stage by stage."""
    result = weight.flatten(1)
    size = parts["oft_blocks"].shape[-1]
    for stage, blocks in enumerate(parts["oft_blocks"]):
        half = 2**stage * size // 2
        order = [
            start + side * half + place
            for start in range(0, len(result), 2 * half)
            for place in range(half)
            for side in range(2)
        ]
        unit = torch.eye(size)
        turns = [m * rotation(block, 1.0) + (1 - m) * unit for block in blocks]
        mixed = torch.block_diag(*turns) @ result[order]
        result = torch.empty_like(mixed)
        result[order] = mixed
    return result.view(weight.shape)


def glora(parts: Tensors, weight: torch.Tensor, m: float, names: str = "a1a2b1b2") -> torch.Tensor:
    a1, a2, b1, b2 = (parts[f"{names[n : n + 2]}.weight"] for n in (0, 2, 4, 6))
    turn = a1.flatten(1) @ a2.flatten(1)
    places = weight.flatten(2).unbind(2) if weight.ndim > 2 else (weight,)
    own = torch.stack([place @ turn for place in places], dim=2).view(weight.shape)
    return weight + m * ALPHA / RANK * (product(b1, b2, tuple(weight.shape)) + own)


DEFINITIONS: dict[str, Callable[[Tensors, torch.Tensor, float], torch.Tensor]] = {
    "lora": lora,
    "lora-tucker": lora_tucker,
    "dora": dora,
    "dora-input": lambda parts, weight, m: dora(parts, weight, m, axis=1),
    "loha": loha,
    "loha-tucker": loha_tucker,
    "lokr": lokr,
    "lokr-factored": lokr_factored,
    "lokr-tucker": lokr_tucker,
    "ia3": ia3,
    "ia3-input": lambda parts, weight, m: ia3(parts, weight, m, axis=1),
    "oft": oft,
    "oft-rescaled": oft,
    "boft": boft,
    "glora": glora,
    "glora-old": lambda parts, weight, m: glora(parts, weight, m, "a2a1b2b1"),
    "diff": lambda parts, weight, m: weight + m * parts["diff"],
}


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_a_kind_does_what_its_definition_says(read: Read, kind: str, shape: Shape) -> None:
    parts = adapter(kind, shape, rank=RANK, alpha=ALPHA)
    weight = weight_of(shape)
    before = weight.clone()
    change = read(parts).weight
    assert change is not None
    assert change.fits(shape)
    for multiplier in (1.0, 0.5, -0.75):
        got = change.apply(weight, multiplier)
        wanted = DEFINITIONS[kind](parts, weight, multiplier)
        assert torch.allclose(got, wanted, atol=1e-4), multiplier
        assert not torch.allclose(got, weight, atol=1e-2)
    assert torch.allclose(change.apply(weight, 0.0), weight, atol=1e-5)
    assert torch.equal(weight, before)


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_a_weight_of_another_shape_does_not_fit(read: Read, kind: str, shape: Shape) -> None:
    change = read(adapter(kind, shape)).weight
    assert change is not None
    if kind != "ia3-input":
        assert not change.fits((32, *shape[1:]))
    if kind.partition("-")[0] not in ("oft", "boft", "ia3"):
        assert not change.fits((shape[0], 48, *shape[2:]))


@pytest.mark.parametrize("kind", ["oft", "boft"])
def test_rotations_keep_lengths(read: Read, kind: str) -> None:
    change = read(adapter(kind, LINEAR)).weight
    assert change is not None
    turned = change.apply(weight_of(LINEAR), 1.0)
    assert torch.allclose(turned.norm(dim=0), weight_of(LINEAR).norm(dim=0), atol=1e-4)


def test_the_old_form_of_glora_is_told_apart_on_square_layers_too(read: Read) -> None:
    parts = adapter("glora-old", (16, 16))
    change = read(parts).weight
    assert change is not None
    wanted = DEFINITIONS["glora-old"](parts, weight_of((16, 16)), 1.0)
    assert torch.allclose(change.apply(weight_of((16, 16)), 1.0), wanted, atol=1e-4)


def test_without_alpha_the_scale_is_1(read: Read) -> None:
    parts = adapter("lora", LINEAR)
    del parts["alpha"]
    change = read(parts).weight
    assert isinstance(change, Lora)
    assert change.scale == 1.0


def test_dyn_keeps_the_first_ranks_at_the_scale_of_all(read: Read) -> None:
    parts = adapter("lora", LINEAR, rank=RANK, alpha=ALPHA)
    change = read(parts).weight
    assert isinstance(change, Lora)
    up, down = parts["lora_up.weight"][:, :1], parts["lora_down.weight"][:1]
    wanted = weight_of(LINEAR) + ALPHA / RANK * product(up, down, LINEAR)
    assert torch.allclose(change.cut(1).apply(weight_of(LINEAR), 1.0), wanted, atol=1e-5)
    assert change.cut(9) is change


def test_biases_change_with_their_layer(read: Read) -> None:
    parts = adapter("diff", LINEAR)
    change = read(parts).bias
    assert change is not None
    assert torch.allclose(change.apply(torch.ones(16), 0.5), 1 + 0.5 * parts["diff_b"])


def test_parts_of_a_fused_layer_are_taken_by_rows(read: Read) -> None:
    fused = (48, 24)
    whole = read(adapter("lora", fused)).weight
    assert isinstance(whole, Lora)
    weight = weight_of(fused)
    starts = (0, 16, 32)
    rows = [
        RowsOf(whole, start, start + 16, 48).apply(weight[start : start + 16], 1.0)
        for start in starts
    ]
    assert torch.allclose(torch.cat(rows), whole.apply(weight, 1.0), atol=1e-6)
    assert RowsOf(whole, 0, 16, 48).fits((16, 24))
    assert not RowsOf(whole, 0, 16, 64).fits((16, 24))
    cut = first_ranks(RowsOf(whole, 16, 32, 48), 1).apply(weight[16:32], 1.0)
    assert torch.allclose(cut, whole.cut(1).apply(weight, 1.0)[16:32], atol=1e-6)
    swapped = first_ranks(HalvesSwapped(whole), 1).apply(weight, 1.0)
    wanted = whole.cut(1).apply(torch.cat([weight[24:], weight[:24]]), 1.0)
    assert torch.allclose(swapped, torch.cat([wanted[24:], wanted[:24]]), atol=1e-6)

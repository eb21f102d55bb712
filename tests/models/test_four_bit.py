"""bitsandbytes' 4 bits: what they mean, under which shapes files are seen, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from scripts.make_tiny_checkpoints import write_checkpoint
from sdforge.core.errors import CorruptCheckpoint
from sdforge.models.checkpoint import read_header
from sdforge.models.four_bit import read_four_bit, unpack_four_bit
from sdforge.models.inspect import inspect
from sdforge.models.weight_files import WeightFiles
from tests.four_bit_files import FP4, NF4, four_bit
from tests.tiny import tiny_server_parts

KINDS = [("nf4", False), ("nf4", True), ("fp4", False)]


def test_the_table_is_that_of_normal_numbers() -> None:
    """NF4 as the paper defines it: quantiles of the normal distribution, 8 below and 9 above 0."""
    offset = 0.9677083
    above = torch.special.ndtri(torch.linspace(offset, 0.5, 9, dtype=torch.float64)[:-1])
    below = -torch.special.ndtri(torch.linspace(offset, 0.5, 8, dtype=torch.float64)[:-1])
    numbers = torch.cat([above, torch.zeros(1, dtype=torch.float64), below]).sort().values
    table = torch.tensor(NF4, dtype=torch.float64)
    assert torch.allclose(numbers / numbers.max(), table, atol=2e-6)


@pytest.mark.parametrize("table", [NF4, FP4])
def test_every_pair_of_numbers_is_unpacked(table: tuple[float, ...]) -> None:
    packed = torch.arange(256, dtype=torch.uint8)
    scales = torch.linspace(0.5, 2, 8)
    made = unpack_four_bit(packed, scales, torch.tensor(table), 64)
    wanted = torch.tensor([table[n] for byte in range(256) for n in (byte >> 4, byte & 15)])
    assert torch.equal(made, wanted * scales.repeat_interleave(64))
    short = unpack_four_bit(packed[:50], scales[:2], torch.tensor(table), 64)
    assert torch.equal(short, made[:100])


@pytest.mark.parametrize(("kind", "nested"), KINDS)
@pytest.mark.parametrize("shape", [(48, 40), (7, 3), (16, 8, 3, 3)])
def test_files_are_seen_under_their_true_shapes(
    tmp_path: Path, kind: str, nested: bool, shape: tuple[int, ...]
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    written = four_bit("x.weight", weight, kind, nested=nested)
    path = tmp_path / "x.safetensors"
    save_file(written.tensors | {"other": torch.ones(3)}, path)
    header = read_header(path)
    assert set(header.tensors) == {"x.weight", "other"}
    info = header.tensors["x.weight"]
    assert (info.dtype, info.shape) == (kind.upper(), shape)
    with WeightFiles(header) as file:
        whole = torch.empty(shape)
        read_four_bit(file, info, 0, whole, shape)
        assert torch.equal(whole, written.meant)
        # Rows of a fused matrix, which need not begin with a block.
        rows = (shape[0] // 2, *shape[1:])
        first = (shape[0] - rows[0]) * written.meant[0].numel()
        some = torch.empty(rows, dtype=torch.bfloat16)
        read_four_bit(file, info, first, some, rows)
        assert torch.equal(some, written.meant[-rows[0] :].to(torch.bfloat16))
        packed = torch.empty(rows)
        read_four_bit(file, info, first, packed, rows, lambda made, out: out.copy_(made * 2))
        assert torch.equal(packed, written.meant[-rows[0] :] * 2)


def test_a_checkpoint_in_four_bits_loads_as_the_numbers_it_means(tmp_path: Path) -> None:
    plain = load_file(write_checkpoint(tmp_path / "p.safetensors", metadata={}))
    packed, meant = {}, {}
    for number, (name, one) in enumerate(plain.items()):
        if name.startswith("model.diffusion_model.") and one.ndim == 2:
            kind, nested = KINDS[number % len(KINDS)]
            written = four_bit(name, one, kind, nested=nested)
            packed |= written.tensors
            meant[name] = written.meant
        else:
            packed[name] = meant[name] = one
    found = []
    for label, tensors in (("packed", packed), ("meant", meant)):
        path = tmp_path / f"{label}.safetensors"
        save_file(tensors, path)
        parts = tiny_server_parts(tmp_path / label, path)
        bundle = parts.provider.get(parts.library.find("").title)
        module = bundle.components["denoiser"].module
        found.append({name: one.clone() for name, one in module.state_dict().items()})
        parts.provider.unload()
    ours, theirs = found
    assert ours.keys() == theirs.keys()
    for name, one in theirs.items():
        assert torch.equal(ours[name], one), name
    report = inspect(tmp_path / "packed.safetensors")
    assert report.problem is None
    assert {"NF4", "FP4"} <= set(report.parts[0].types)


@pytest.mark.parametrize(
    "harm",
    ["no json", "no shape", "huge", "other shape", "no scales", "few scales", "no weight", "kind"],
)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, harm: str) -> None:
    tensors = dict(four_bit("x.weight", torch.randn(16, 16)).tensors)
    state_name = "x.weight.quant_state.bitsandbytes__nf4"
    state = json.loads(bytes(tensors[state_name].tolist()))
    if harm == "no shape":
        state["shape"] = [-1, 16]
    elif harm == "huge":
        state["shape"] = [2**40, 2**40]
    elif harm == "other shape":
        state["shape"] = [16, 17]
    elif harm == "no scales":
        del tensors["x.weight.absmax"]
    elif harm == "few scales":
        tensors["x.weight.absmax"] = torch.ones(3)
    elif harm == "no weight":
        del tensors["x.weight"]
    text = b"{" if harm == "no json" else json.dumps(state).encode()
    tensors[state_name] = torch.tensor(list(text), dtype=torch.uint8)
    if harm == "kind":
        tensors["x.weight.quant_state.bitsandbytes__nf9"] = tensors.pop(state_name)
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(CorruptCheckpoint, match="x.safetensors"):
        read_header(tmp_path / "x.safetensors")

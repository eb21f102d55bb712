"""XLabs' LoRA files, as diffusers' own converter reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_xlabs_flux_lora_to_diffusers
from safetensors.torch import save_file

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.models.checkpoint import read_header
from sdforge.models.detect import detect
from tests.models.families.test_loras import MULTIPLIER, Loaded, load

WIDTH, MLP, RANK = 64, 256, 4
Tensors = dict[str, torch.Tensor]


def xlabs_file() -> Tensors:
    """One layer of each kind, and no alpha, as in `lora.safetensors` of the realism LoRA."""
    layers = {
        **{f"double_blocks.0.processor.qkv_lora{side}": (3 * WIDTH, WIDTH) for side in (1, 2)},
        **{f"double_blocks.0.processor.proj_lora{side}": (WIDTH, WIDTH) for side in (1, 2)},
        "single_blocks.1.processor.qkv_lora": (3 * WIDTH, WIDTH),
        "single_blocks.1.processor.proj_lora": (WIDTH, WIDTH + MLP),
    }
    generator = torch.Generator().manual_seed(1)
    tensors: Tensors = {}
    for name, (rows, columns) in layers.items():
        tensors[f"{name}.down.weight"] = torch.randn(RANK, columns, generator=generator)
        tensors[f"{name}.up.weight"] = torch.randn(rows, RANK, generator=generator)
    return tensors


@pytest.mark.parametrize("prefix", ["", "diffusion_model."])
def test_a_lora_of_xlabs_is_what_diffusers_takes_it_for(prefix: str, tmp_path: Path) -> None:
    loaded = load("flux", tmp_path)
    tensors = {prefix + name: tensor for name, tensor in xlabs_file().items()}
    read = _convert_xlabs_flux_lora_to_diffusers(dict(tensors))
    changed = sorted({name.partition(".lora_")[0].partition(".")[2] for name in read})
    assert len(changed) == 3 + 3 + 1 + 1 + 3 + 1
    plain = {name: weight(loaded, name) for name in changed}
    assert loaded.apply(tensors) == ()
    for name in changed:
        up, down = (read[f"transformer.{name}.lora_{end}.weight"] for end in "BA")
        wanted = plain[name] + MULTIPLIER * up @ down
        assert torch.allclose(weight(loaded, name), wanted, atol=1e-4), name
    loaded.patcher.apply(loaded.bundle, [])
    assert all(torch.equal(weight(loaded, name), plain[name]) for name in changed)


def weight(loaded: Loaded, layer: str) -> torch.Tensor:
    return loaded.read("denoiser", f"{layer}.weight").clone()


def test_one_among_the_checkpoints_is_named_for_what_it_is(tmp_path: Path) -> None:
    file = tmp_path / "realism.safetensors"
    save_file(xlabs_file(), file)
    with pytest.raises(UnsupportedCheckpoint, match="belongs into models/Lora"):
        detect(read_header(file))

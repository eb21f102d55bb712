"""The same weights as PEFT merges from files that PEFT writes, where it is installed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sdforge.models.adapters.lora_file import read_lora

KINDS = ("lora", "dora", "loha", "lokr", "ia3")


def config(peft: Any, kind: str, layers: list[str]) -> Any:
    """Return the configuration; alpha is the rank, since PEFT keeps it in a file of its own."""
    makers = {
        "lora": lambda: peft.LoraConfig(r=4, lora_alpha=4, target_modules=layers),
        "dora": lambda: peft.LoraConfig(r=4, lora_alpha=4, use_dora=True, target_modules=layers),
        "loha": lambda: peft.LoHaConfig(r=4, alpha=4, target_modules=layers),
        "lokr": lambda: peft.LoKrConfig(r=4, alpha=4, target_modules=layers),
        "ia3": lambda: peft.IA3Config(target_modules=layers, feedforward_modules=["1"]),
    }
    return makers[kind]()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_peft_gives_the_weights_that_peft_merges(kind: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(24, 16), nn.Linear(16, 32), nn.Conv2d(8, 12, 3))
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    model: Any = peft.get_peft_model(base, config(peft, kind, ["0", "1", "2"]))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.rand_like(parameter) * 0.3 + (kind != "ia3") * 0.05)
    state = peft.get_peft_model_state_dict(model)
    path = tmp_path / "one.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    merged = model.merge_and_unload().state_dict()

    file = read_lora(path)
    assert (file.unknown, file.broken) == ((), {})
    for layer in ("0", "1", "2"):
        change = file.layers[f"base_model.model.{layer}"].weight
        assert change is not None
        got = change.apply(before[f"{layer}.weight"], 1.0)
        assert torch.allclose(got, merged[f"{layer}.weight"], atol=1e-5)
        assert not torch.allclose(got, before[f"{layer}.weight"], atol=1e-2)

"""Each kind of LoRA on each family, in the spellings that trainers write, by its definition.

The definition is applied to a matrix as the checkpoint has it; what the family's networks make of
it, in one layer or several, has to be the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sdforge.memory.simulated import SimulatedDevice
from sdforge.models.adapters.lora import LoraPatcher, NetworkUse
from sdforge.models.bundle import ModelBundle
from tests.models.adapters.test_kinds import DEFINITIONS
from tests.models.families.conftest import Draw
from tests.models.families.lora_layers import (
    AUTHORS,
    DIFFUSERS,
    FAMILIES,
    FLAT,
    KOHYA,
    Layer,
    write,
)
from tests.tiny import Parts, tiny_server_parts
from tests.tiny_lora import LINEAR_KINDS, Tensors, adapter

MULTIPLIER, ALPHA, RANK = 0.5, 2.0, 4
SPELLINGS = (KOHYA, AUTHORS, DIFFUSERS, FLAT)
# Those that are only other forms of the same.
_FORMS = ("ia3-input", "lokr-factored", "oft-rescaled", "glora-old")
KINDS = [
    pytest.param(kind, marks=pytest.mark.slow if kind in _FORMS else ()) for kind in LINEAR_KINDS
]


@dataclass
class Loaded:
    """A family's bundle, and what its layers compute with."""

    family: str
    parts: Parts
    bundle: ModelBundle
    patcher: LoraPatcher

    def read(self, role: str, name: str) -> torch.Tensor:
        component = self.bundle.components[role]
        master = component.master(name)
        return component.read(master, master.stored)

    def pieces(self, layer: Layer, end: str) -> list[torch.Tensor]:
        """Return what a layer's parts compute with now; [] where they have no such tensor."""
        known = dict(self.bundle.components[layer.role].named_masters())
        names = [f"{part}.{end}" for part in layer.parts]
        return [self.read(layer.role, name).clone() for name in names if name in known]

    def apply(self, tensors: Tensors) -> tuple[str, ...]:
        path = self.parts.paths.loras[0] / "mine.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)
        self.parts.library.loras.refresh()
        return self.patcher.apply(self.bundle, [NetworkUse(name="mine", te=MULTIPLIER)]).notes


@pytest.fixture(scope="module", params=list(FAMILIES))
def loaded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Loaded]:
    folder = tmp_path_factory.mktemp(request.param)
    loaded = load(request.param, folder)
    yield loaded
    loaded.parts.provider.unload()


def load(family: str, folder: Path, device: SimulatedDevice | None = None) -> Loaded:
    main, *others = write(family, folder / "files")
    parts = tiny_server_parts(folder / "data", main, device=device)
    for file in others:
        place = parts.paths.models / ("VAE" if file.stem == "VAE" else "text_encoder")
        place.mkdir(parents=True, exist_ok=True)
        shutil.move(file, place / file.name)
    bundle = parts.provider.get("", modules=[file.name for file in others])
    assert bundle.family == family
    return Loaded(family, parts, bundle, LoraPatcher(parts.library.loras))


def swapped(weight: torch.Tensor) -> torch.Tensor:
    return torch.cat(weight.chunk(2)[::-1])


def expected(
    kind: str, spelling: str, layer: Layer, pieces: list[torch.Tensor]
) -> tuple[Tensors, torch.Tensor, torch.Tensor | None]:
    """Return a file's tensors for a layer, its matrix by the definition, and its bias' change."""
    names = layer.names(spelling)
    is_swapped = layer.is_shift_first and spelling in (DIFFUSERS, FLAT)
    turn = swapped if is_swapped else torch.Tensor.clone
    tensors: Tensors = {}
    weights, biases = [], []
    for seed, name in enumerate(names):
        seen = turn(torch.cat(pieces) if len(names) == 1 else pieces[seed])
        parts = adapter(kind, tuple(seen.shape), rank=RANK, alpha=ALPHA, seed=seed)
        tensors |= {f"{name}.{end}": tensor for end, tensor in parts.items()}
        weights.append(turn(DEFINITIONS[kind](parts, seen, MULTIPLIER)))
        biases += [turn(parts["diff_b"])] if "diff_b" in parts else []
    return tensors, torch.cat(weights), torch.cat(biases) if biases else None


def chosen(family: str, kind: str) -> list[tuple[str, list[Layer]]]:
    """Return spellings, and the layers that a file of a kind is made for.

    Spellings differ in names alone: a plain LoRA shows them on all layers. Kinds differ where a
    matrix is several layers, or has its halves swapped, in one spelling that fuses and one that
    does not.
    """
    layers = FAMILIES[family].layers
    if kind == "lora":
        return [(one, [each for each in layers if each.names(one)]) for one in SPELLINGS]
    some = [layer for layer in layers if layer is layers[0] or layer.is_shift_first]
    return [(KOHYA, some), (DIFFUSERS, some)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_acts_on_the_layers_of_every_family(loaded: Loaded, kind: str) -> None:
    for spelling, layers in chosen(loaded.family, kind):
        tensors: Tensors = {}
        wanted: list[tuple[Layer, str, torch.Tensor]] = []
        for layer in layers:
            biases = loaded.pieces(layer, "bias")
            made, weight, bias = expected(kind, spelling, layer, loaded.pieces(layer, "weight"))
            wanted.append((layer, "weight", weight))
            if bias is not None and biases:
                wanted.append((layer, "bias", torch.cat(biases) + MULTIPLIER * bias))
            tensors |= {
                name: tensor for name, tensor in made.items() if biases or "diff_b" not in name
            }
        assert loaded.apply(tensors) == (), spelling
        for layer, end, value in wanted:
            got = torch.cat(loaded.pieces(layer, end))
            assert torch.allclose(got, value, atol=1e-4), (spelling, layer.parts, end)
        loaded.patcher.apply(loaded.bundle, [])
        for layer, end, value in wanted:
            got = torch.cat(loaded.pieces(layer, end))
            assert not torch.allclose(got, value, atol=1e-3), (spelling, layer.parts, end)


def test_norms_change_under_either_name(loaded: Loaded) -> None:
    for ours, theirs in FAMILIES[loaded.family].norms.items():
        plain = loaded.read("denoiser", f"{ours}.weight").clone()
        change = torch.randn(plain.shape, generator=torch.Generator().manual_seed(3))
        for name in (ours, theirs):
            flat = "lora_unet_" + name.replace(".", "_")
            assert loaded.apply({f"{flat}.w_norm": change}) == (), name
            got = loaded.read("denoiser", f"{ours}.weight")
            assert torch.allclose(got, plain + MULTIPLIER * change, atol=1e-5), name
        loaded.patcher.apply(loaded.bundle, [])


FUSED = FAMILIES["flux"].layers[2]


def test_adapters_that_look_at_all_rows_of_a_fused_matrix_stack(tmp_path: Path) -> None:
    """Each sees what those before it left, in the layers beside too."""
    loaded = load("flux", tmp_path)
    whole = torch.cat(loaded.pieces(FUSED, "weight"))
    name = FUSED.names(KOHYA)[0]
    for kind in ("dora-input", "oft"):
        _write(loaded.parts.paths.loras[0], kind, name, whole)
        parts = adapter(kind, tuple(whole.shape), rank=RANK, alpha=ALPHA)
        whole = DEFINITIONS[kind](parts, whole, MULTIPLIER)
    uses = [NetworkUse(name=kind, te=MULTIPLIER) for kind in ("dora-input", "oft")]
    assert loaded.patcher.apply(loaded.bundle, uses).notes == ()
    assert torch.allclose(torch.cat(loaded.pieces(FUSED, "weight")), whole, atol=1e-4)


def _write(folder: Path, kind: str, name: str, whole: torch.Tensor) -> None:
    parts = adapter(kind, tuple(whole.shape), rank=RANK, alpha=ALPHA)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind}.safetensors"
    save_file({f"{name}.{end}": tensor for end, tensor in parts.items()}, path)


def test_such_an_adapter_draws_the_same_in_every_memory_mode(draw: Draw, tmp_path: Path) -> None:
    main, *others = write("flux", tmp_path / "files")
    modules = {
        "VAE" if file.stem == "VAE" else f"text_encoder:{file.stem}": file for file in others
    }
    latents = []
    for number, (mode, said) in enumerate(
        [("normal", ""), ("normal", "<lora:boft:0.5>"), ("lowvram", "<lora:boft:0.5>")]
    ):
        folder = tmp_path / f"run{number}" / "models" / "Lora"
        _write(folder, "boft", FUSED.names(AUTHORS)[0], torch.empty(448, 64))
        prompt = f"a cat {said}"
        drawn = draw(
            main,
            mode=mode,
            modules=modules,
            prompt=prompt,
            prompts=(prompt,),
            steps=1,
            cfg_scale=1.0,
        )
        latents.append(drawn.latents)
    plain, normal, streamed = latents
    assert torch.equal(normal, streamed)
    assert not torch.allclose(plain, normal, atol=1e-3)

"""LoRA on a loaded model: the weights that result, what is refused, what stays behind: nothing."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sdforge.core.paths import Paths
from sdforge.memory.component import Component
from sdforge.models.adapters.block_weights import parse_block_weights
from sdforge.models.adapters.lora import LoraPatcher, NetworkUse
from sdforge.models.adapters.lora_library import LoraLibrary
from sdforge.models.adapters.lora_patches import LayerPatch
from sdforge.models.bundle import ModelBundle
from sdforge.models.families.sd_keys import clip_shapes
from tests.tiny import TINY, Parts
from tests.tiny_lora import Shape, kohya_names, write_lora

UNET, CLIP = "lora_unet_", "lora_te_text_model_"
TO_Q = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
KOHYA_TO_Q = UNET + TO_Q.replace(".", "_")
Q_SHAPE = (64, 64)


@pytest.fixture
def library(tmp_path: Path) -> LoraLibrary:
    return LoraLibrary(Paths.under(tmp_path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models" / "Lora"


@pytest.fixture
def patcher(library: LoraLibrary, bundle: ModelBundle) -> Iterator[LoraPatcher]:
    patcher = LoraPatcher(library)
    yield patcher
    patcher.apply(bundle, [])


@pytest.fixture
def shapes(bundle: ModelBundle) -> dict[str, Shape]:
    """The U-Net's weights by diffusers' names."""
    module = bundle.components["denoiser"].module
    return {name: tuple(tensor.shape) for name, tensor in module.named_parameters()}


def patched(component: Component, name: str) -> torch.Tensor:
    """Return a weight as the network computes with it."""
    master = component.master(name)
    return component.read(master, master.stored)


def denoised(loaded: Parts, bundle: ModelBundle) -> torch.Tensor:
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    hidden = torch.randn(1, 77, 32, generator=torch.Generator().manual_seed(1))
    with loaded.memory.lease(bundle.components["denoiser"]) as module, torch.no_grad():
        result: torch.Tensor = module(x, 500.0, encoder_hidden_states=hidden).sample
    return result


def plain_delta(path: Path, layer: str) -> torch.Tensor:
    """Return alpha / rank × up × down, read with nothing of ours."""
    from safetensors.torch import load_file

    tensors = load_file(path)
    up, down = (tensors[f"{layer}.lora_{end}.weight"] for end in ("up", "down"))
    return tensors[f"{layer}.alpha"] / len(down) * up @ down


def test_the_merged_weight_is_the_master_and_the_scaled_product(
    patcher: LoraPatcher, bundle: ModelBundle, folder: Path
) -> None:
    path = write_lora(folder / "x.safetensors", {KOHYA_TO_Q: Q_SHAPE})
    unet = bundle.components["denoiser"]
    master = unet.master(f"{TO_Q}.weight").stored.clone()
    applied = patcher.apply(bundle, [NetworkUse(name="x", te=0.7)])
    assert [(lora.mentioned, lora.layers) for lora in applied.loras] == [("x", 1)]
    assert applied.notes == ()
    wanted = master + 0.7 * plain_delta(path, KOHYA_TO_Q)
    assert torch.allclose(patched(unet, f"{TO_Q}.weight"), wanted, atol=1e-5)
    assert torch.equal(unet.master(f"{TO_Q}.weight").stored, master)


@pytest.mark.parametrize("kind", ["lora", "dora", "oft"])
def test_a_network_with_patches_computes_as_one_with_merged_weights(
    kind: str,
    patcher: LoraPatcher,
    loaded: Parts,
    bundle: ModelBundle,
    folder: Path,
    shapes: dict[str, Shape],
) -> None:
    layers = kohya_names(shapes, UNET, containing=("attn1.to_", "resnets.0.conv1"))
    write_lora(folder / "x.safetensors", layers, kind=kind)
    plain = denoised(loaded, bundle)
    patcher.apply(bundle, [NetworkUse(name="x", te=0.5)])
    unet = bundle.components["denoiser"]
    with_patches = denoised(loaded, bundle)
    merged = {name: patched(unet, name).clone() for name, _ in unet.module.named_parameters()}
    patcher.apply(bundle, [])
    inputs = (torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), 500.0)
    hidden = torch.randn(1, 77, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = torch.func.functional_call(
            unet.module, merged, inputs, {"encoder_hidden_states": hidden}
        ).sample
    assert torch.allclose(with_patches, wanted, atol=1e-4)
    assert not torch.allclose(with_patches, plain, atol=1e-3)


def test_merged_weights_cost_nothing_in_a_step(
    patcher: LoraPatcher,
    loaded: Parts,
    bundle: ModelBundle,
    folder: Path,
    shapes: dict[str, Shape],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each weight is merged once however many steps follow, and a step runs the same operations."""
    merges = 0
    merge = LayerPatch.__call__

    def counted(patch: LayerPatch, weight: torch.Tensor) -> torch.Tensor:
        nonlocal merges
        merges += 1
        return merge(patch, weight)

    monkeypatch.setattr(LayerPatch, "__call__", counted)
    layers = kohya_names(shapes, UNET, containing=("attn1.to_", "resnets.0.conv1"))
    write_lora(folder / "x.safetensors", layers)
    plain = _operations(loaded, bundle)
    patcher.apply(bundle, [NetworkUse(name="x"), NetworkUse(name="x", te=0.5)])
    with_patches = [_operations(loaded, bundle) for _ in range(3)]
    assert merges == len(layers)
    assert with_patches == [plain] * 3


def _operations(loaded: Parts, bundle: ModelBundle) -> Counter[str]:
    """Return what a step computes, by operation, when weights have been placed."""
    found: Counter[str] = Counter()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            found[str(func)] += 1
            return func(*args, **(kwargs or {}))

    x, hidden = torch.zeros(1, 4, 8, 8), torch.zeros(1, 77, 32)
    with loaded.memory.lease(bundle.components["denoiser"]) as module, torch.no_grad(), Watch():
        module(x, 500.0, encoder_hidden_states=hidden)
    return found


def test_off_again_the_network_is_bit_equal_a_hundred_times_and_memory_stays(
    patcher: LoraPatcher,
    loaded: Parts,
    bundle: ModelBundle,
    folder: Path,
    shapes: dict[str, Shape],
) -> None:
    write_lora(folder / "x.safetensors", kohya_names(shapes, UNET, containing=("attn1.to_q",)))
    plain = denoised(loaded, bundle)
    on: torch.Tensor | None = None
    sizes = []
    unet = bundle.components["denoiser"]
    for _ in range(100):
        patcher.apply(bundle, [NetworkUse(name="x")])
        with loaded.memory.lease(unet) as module:
            weight = module.get_submodule(TO_Q).weight.detach().clone()
        assert on is None or torch.equal(weight, on)
        on = weight
        patcher.apply(bundle, [])
        with loaded.memory.lease(unet) as module:
            weight = module.get_submodule(TO_Q).weight
            assert torch.equal(weight, unet.master(f"{TO_Q}.weight").stored)
        sizes.append(psutil.Process().memory_info().rss)
    assert on is not None
    assert not torch.equal(on, unet.master(f"{TO_Q}.weight").stored)
    assert torch.equal(denoised(loaded, bundle), plain)
    # The U-Net has 13 MB: a copy that stayed behind each time would be a thousand.
    assert sizes[-1] - sizes[10] < 30e6
    assert patcher.held_bytes == 0


def test_several_add_up_and_a_repeated_name_too(
    patcher: LoraPatcher, bundle: ModelBundle, folder: Path
) -> None:
    first = write_lora(folder / "a.safetensors", {KOHYA_TO_Q: Q_SHAPE})
    second = write_lora(folder / "b.safetensors", {KOHYA_TO_Q: Q_SHAPE}, alpha=4.0, rank=8)
    unet = bundle.components["denoiser"]
    uses = [NetworkUse(name="a"), NetworkUse(name="b", te=0.5), NetworkUse(name="a", te=0.25)]
    applied = patcher.apply(bundle, uses)
    assert [lora.mentioned for lora in applied.loras] == ["a", "b"]
    deltas = 1.25 * plain_delta(first, KOHYA_TO_Q) + 0.5 * plain_delta(second, KOHYA_TO_Q)
    master = unet.master(f"{TO_Q}.weight").stored
    assert torch.allclose(patched(unet, f"{TO_Q}.weight"), master + deltas, atol=1e-5)


def test_te_and_unet_have_multipliers_of_their_own(
    patcher: LoraPatcher, bundle: ModelBundle, folder: Path
) -> None:
    layer = "encoder.layers.1.self_attn.q_proj"
    name = CLIP + layer.replace(".", "_")
    path = write_lora(folder / "x.safetensors", {KOHYA_TO_Q: Q_SHAPE, name: (32, 32)})
    patcher.apply(bundle, [NetworkUse(name="x", te=0.5, unet=0.0)])
    text, unet = bundle.components["text_encoder"], bundle.components["denoiser"]
    assert not unet.has_patches
    master = text.master(f"{layer}.weight").stored
    wanted = master + 0.5 * plain_delta(path, name)
    assert torch.allclose(patched(text, f"{layer}.weight"), wanted, atol=1e-5)
    patcher.apply(bundle, [NetworkUse(name="x", te=0.0, unet=1.0)])
    assert not text.has_patches
    assert unet.has_patches


def test_equal_uses_keep_the_patches_and_other_ones_change_the_key(
    patcher: LoraPatcher, bundle: ModelBundle, folder: Path
) -> None:
    write_lora(folder / "x.safetensors", {KOHYA_TO_Q: Q_SHAPE})
    unet = bundle.components["denoiser"]
    first = patcher.apply(bundle, [NetworkUse(name="x")])
    key = unet.patch_key
    assert key
    assert patcher.apply(bundle, [NetworkUse(name="x")]) is first
    assert unet.patch_key == key
    patcher.apply(bundle, [NetworkUse(name="x", te=0.9)])
    assert unet.patch_key != key
    patcher.apply(bundle, [NetworkUse(name="x")])
    assert unet.patch_key == key
    write_lora(folder / "x.safetensors", {KOHYA_TO_Q: Q_SHAPE}, rank=2)
    patcher.apply(bundle, [NetworkUse(name="x")])
    assert unet.patch_key not in ("", key)
    patcher.apply(bundle, [])
    assert unet.patch_key == ""


def test_a_lora_of_another_family_is_left_out_with_the_reason(
    patcher: LoraPatcher, bundle: ModelBundle, folder: Path
) -> None:
    layer = UNET + TO_Q.replace("attn1.to_q", "attn2.to_k").replace(".", "_")
    write_lora(folder / "xl.safetensors", {layer: (64, 2048)})
    write_lora(folder / "odd.safetensors", {layer: (64, 48)})
    write_lora(folder / "flux.safetensors", {f"{UNET}double_blocks_0_img_attn_qkv": (96, 32)})
    uses = [NetworkUse(name=name) for name in ("xl", "odd", "flux")]
    applied = patcher.apply(bundle, uses)
    assert applied.loras == ()
    assert not bundle.components["denoiser"].has_patches
    xl, odd, flux = applied.notes
    assert "is for SDXL (its lora_unet_down_blocks_1" in xl
    assert "width 2048), the model is Stable Diffusion 1.x" in xl
    assert "does not fit" in odd
    assert "is for Flux" in flux


def test_what_is_missing_broken_or_unmatched_is_told_and_the_rest_is_applied(
    patcher: LoraPatcher, bundle: ModelBundle, folder: Path
) -> None:
    extra = {f"lora_unet_nowhere_{n}": (8, 8) for n in range(5)}
    write_lora(folder / "style.safetensors", {KOHYA_TO_Q: Q_SHAPE, **extra})
    (folder / "bad.safetensors").write_bytes(b"<html>")
    uses = [NetworkUse(name=name) for name in ("stile", "bad", "style")]
    applied = patcher.apply(bundle, uses)
    assert [lora.mentioned for lora in applied.loras] == ["style"]
    assert applied.missing == ("stile",)
    missing, bad, unmatched = applied.notes
    assert missing == "there is no LoRA named 'stile'; did you mean style?"
    assert "bad was left out" in bad
    assert "5 of 6 parts of the LoRA style" in unmatched
    assert unmatched.count("lora_unet_nowhere_") == 3


def test_block_weights_count_by_place_in_the_network(
    patcher: LoraPatcher, bundle: ModelBundle, folder: Path
) -> None:
    other = "up_blocks.3.attentions.2.transformer_blocks.0.attn1.to_q"
    layers = {KOHYA_TO_Q: Q_SHAPE, UNET + other.replace(".", "_"): (32, 32)}
    path = write_lora(folder / "x.safetensors", layers)
    # 17 numbers: BASE, IN01, IN02, IN04 (this layer's), …, OUT11 (the other's) last.
    blocks = parse_block_weights("1,0,0,0.25,0,0,0,0,0,0,0,0,0,0,0,0,0")
    patcher.apply(bundle, [NetworkUse(name="x", te=2.0, blocks=blocks)])
    unet = bundle.components["denoiser"]
    master = unet.master(f"{TO_Q}.weight").stored
    wanted = master + 0.5 * plain_delta(path, KOHYA_TO_Q)
    assert torch.allclose(patched(unet, f"{TO_Q}.weight"), wanted, atol=1e-5)
    assert unet.patch_of(unet.master(f"{other}.weight")) is None
    assert parse_block_weights("1,2,3") is None
    assert parse_block_weights("ALL") is None


def test_fp8_masters_take_a_lora_after_decoding(
    patcher: LoraPatcher, bundle: ModelBundle, folder: Path
) -> None:
    path = write_lora(folder / "x.safetensors", {KOHYA_TO_Q: Q_SHAPE})
    patcher.apply(bundle, [NetworkUse(name="x")])
    patch = bundle.components["denoiser"].patch_of(
        bundle.components["denoiser"].master(f"{TO_Q}.weight")
    )
    assert patch is not None
    layer = torch.nn.Linear(64, 64, bias=False).requires_grad_(False)
    stored = layer.weight.data.to(torch.float8_e4m3fn)
    layer.weight.data = stored
    decode: Callable[[torch.Tensor], torch.Tensor] = lambda packed: packed.to(torch.float16)  # noqa: E731
    component = Component(
        role="denoiser", name="x", fingerprint="x", module=layer, decoders={"weight": decode}
    )
    component.set_patches({"weight": patch})
    wanted = stored.float() + plain_delta(path, KOHYA_TO_Q)
    got = component.read(component.master("weight"), stored)
    assert got.dtype == torch.float16
    assert torch.allclose(got.float(), wanted, atol=2e-3)


def test_files_beyond_those_in_use_are_kept_as_asked(
    patcher: LoraPatcher, bundle: ModelBundle, folder: Path
) -> None:
    sizes = {
        name: write_lora(folder / f"{name}.safetensors", {KOHYA_TO_Q: Q_SHAPE}).stat().st_size
        for name in ("a", "b", "c")
    }
    for name in sizes:
        patcher.apply(bundle, [NetworkUse(name=name)], keep=1)
    assert patcher.held_bytes == sizes["b"] + sizes["c"]
    patcher.apply(bundle, [])
    assert patcher.held_bytes == 0


def test_text_layers_of_the_tiny_model_are_all_found(
    patcher: LoraPatcher, bundle: ModelBundle, folder: Path
) -> None:
    layers = kohya_names(clip_shapes(TINY), CLIP, containing=("_proj", "mlp.fc"))
    write_lora(folder / "x.safetensors", layers)
    applied = patcher.apply(bundle, [NetworkUse(name="x")])
    assert [lora.layers for lora in applied.loras] == [12]
    assert applied.notes == ()

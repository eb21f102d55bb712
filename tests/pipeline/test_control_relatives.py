"""T2I-Adapters and Control-LoRAs act as diffusers' networks with the same weights say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from PIL import Image

from scripts.tiny_models.catalogue import sdxl
from scripts.tiny_models.files import random_tensors, write_safetensors
from scripts.tiny_models.unet import SDXL, controlnet
from sdforge.core.control import BALANCED, CONTROL_FIRST, PROMPT_FIRST, ControlUnit
from sdforge.core.events import Notice
from sdforge.memory.simulated import SimulatedDevice
from sdforge.models.adapters.controlnet import controlnet_recipe
from sdforge.models.checkpoint import read_header
from sdforge.models.denoiser import Conditioning
from sdforge.pipeline.controlled import Control
from sdforge.pipeline.placed import PlacedUnit
from tests.pipeline.conftest import Pipeline
from tests.tiny import tiny_server_parts
from tests.tiny_control import random_weights
from tests.tiny_lora import write_lora
from tests.tiny_relatives import (
    control_lora_tensors,
    light_names,
    make_adapter,
    make_union,
    numbered_through,
    saved,
)

MakePipeline = Callable[..., Pipeline]
CAP, GB = 200_000, 10**9 // 400
SIZE = 64


def _scene() -> Image.Image:
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[16:32, 16:] = (250, 120, 40)
    return Image.fromarray(pixels)


@pytest.fixture
def folder(pipeline: Pipeline) -> Iterator[Path]:
    """The folder of ControlNets with one of each relative in it."""
    folder = pipeline.parts.paths.controlnets[0]
    unet = pipeline.parts.provider.get("").denoiser.component
    weights = {name: master.stored for name, master in unet.named_masters()}
    files = [
        saved(numbered_through(make_adapter()), folder / "t2i.safetensors"),
        saved(make_adapter().state_dict(), folder / "theirs.safetensors"),
        saved(light_names(make_adapter("light_adapter")), folder / "light.safetensors"),
        saved(make_adapter(grey=True).state_dict(), folder / "grey.safetensors"),
        saved(control_lora_tensors(weights), folder / "low-rank.safetensors"),
        saved(make_union().state_dict(), folder / "union.safetensors"),
    ]
    yield folder
    for file in files:
        file.unlink()


def _unit(pipeline: Pipeline, model: str, **values: Any) -> ControlUnit:
    image = pipeline.put(_scene())
    return ControlUnit(**{"model": model, "module": "none", "image": image} | values)


def _drawn(pipeline: Pipeline, *units: ControlUnit, **values: Any) -> np.ndarray:
    return pipeline.draw(**{"steps": 1} | values, control=units)[0].pixels


def _hint() -> torch.Tensor:
    pixels = torch.from_numpy(np.asarray(_scene()).copy())
    return pixels.permute(2, 0, 1)[None].float() / 255


def _inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (2, 4, SIZE // 8, SIZE // 8)
    return torch.randn(shape, generator=generator), torch.randn(2, 77, 32, generator=generator)


def _unet(ours: Any) -> UNet2DConditionModel:
    config = {key: value for key, value in ours.config.items() if not key.startswith("_")}
    unet = UNet2DConditionModel(**config).eval()
    unet.load_state_dict(ours.state_dict())
    return unet


@pytest.mark.parametrize("mode", [BALANCED, PROMPT_FIRST, CONTROL_FIRST])
def test_an_adapter_adds_inside_the_unet_what_diffusers_adds(
    pipeline: Pipeline, folder: Path, mode: str
) -> None:
    bundle, nets = pipeline.parts.provider.get(""), pipeline.controlnets
    ours = bundle.denoiser.component.module
    x, states = _inputs()
    unit = _unit(pipeline, "t2i", weight=0.7, control_mode=mode)
    with nets.lease(nets.library.find("t2i"), bundle) as component:
        lease = pipeline.parts.memory.lease(component)
        placed = PlacedUnit(
            unit=unit, lease=lease, network=component.module, hint=_hint(),
            is_soft=mode != BALANCED,
        )  # fmt: skip
        network = Control([placed], lambda sigma: 0.0).around(ours, 1.0, (False, True))
        said = bundle.denoiser.predict(network, x, 1.0, Conditioning(states))
    shares = [1.0] * 4 if mode == BALANCED else [0.25, 0.62, 0.825, 1.0]
    sides = torch.tensor([1.0, 0.0 if mode == CONTROL_FIRST else 1.0]).view(2, 1, 1, 1)
    with torch.inference_mode():
        features = [
            one * 0.7 * share * sides
            for one, share in zip(make_adapter()(_hint()), shares, strict=True)
        ]
        time = torch.tensor([bundle.denoiser.sigma_to_t(1.0)])
        expected = x - _unet(ours)(
            x / 2**0.5, time, states, down_intrablock_additional_residuals=features,
            return_dict=False,
        )[0]  # fmt: skip
        plain = bundle.denoiser.predict(ours, x, 1.0, Conditioning(states))
    assert (said - expected).abs().max() < 1e-5
    assert (said - plain).abs().max() > 1e-2


def test_both_layouts_of_an_adapter_are_the_same_network(pipeline: Pipeline, folder: Path) -> None:
    nets = pipeline.controlnets
    for name, kind, grey in (
        ("t2i", "full_adapter", False),
        ("theirs", "full_adapter", False),
        ("light", "light_adapter", False),
        ("grey", "full_adapter", True),
    ):
        expected = make_adapter(kind, grey=grey)
        info = nets.library.find(name)
        assert info.family == "sd1"
        found = nets.get(info).module
        for key, tensor in expected.state_dict().items():
            assert torch.equal(found.state_dict()[key], tensor), (name, key)
        picture = _hint()[:, : 1 if grey else 3]
        with torch.inference_mode():
            said, wanted = found(picture), expected(picture)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(said, wanted, strict=True))


def test_an_adapter_of_sdxl_is_recognised_and_refused_here(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    from diffusers import T2IAdapter

    adapter = T2IAdapter(3, [8, 16, 32, 32], 2, 16, "full_adapter_xl")
    path = saved(adapter.state_dict(), pipeline.parts.paths.controlnets[0] / "xl.safetensors")
    try:
        found = controlnet_recipe(read_header(path)).skeleton.example.config
        assert dict(found)["adapter_type"] == "full_adapter_xl"
        _drawn(pipeline, _unit(pipeline, "xl"))
    finally:
        path.unlink()
    (notice,) = (event.text for event in pipeline.events if isinstance(event, Notice))
    assert "made for another kind of model" in notice


def test_a_control_lora_is_the_controlnet_with_its_weights_merged(
    pipeline: Pipeline, folder: Path
) -> None:
    bundle, nets = pipeline.parts.provider.get(""), pipeline.controlnets
    unet = bundle.denoiser.component
    before = {name: master.stored.clone() for name, master in unet.named_masters()}
    info = nets.library.find("low-rank")
    assert (info.layout, info.family, info.error) == ("Control-LoRA", "sd1", None)
    x, states = _inputs()
    inputs = {"encoder_hidden_states": states, "controlnet_cond": _hint(), "return_dict": False}
    memory = pipeline.parts.memory
    with (
        nets.lease(info, bundle) as component,
        memory.lease(component) as network,
        torch.inference_mode(),
    ):
        skips, middle = network(x, torch.tensor([500.0]), **inputs)
        config = {k: v for k, v in network.config.items() if not k.startswith("_")}
        merged = _merged(before, control_lora_tensors(before), network)
    assert component.is_released
    theirs = ControlNetModel(**config).eval()
    theirs.load_state_dict(merged)
    with torch.inference_mode():
        own_skips, own_middle = theirs(x, torch.tensor([500.0]), **inputs)
    for one, other in zip((*skips, middle), (*own_skips, own_middle), strict=True):
        assert (one - other).abs().max() < 1e-4
        assert one.abs().max() > 1e-3
    for name, master in unet.named_masters():
        assert torch.equal(master.stored, before[name])


def _merged(
    unet: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor], network: Any
) -> dict[str, torch.Tensor]:
    """Return diffusers' names → weights, by the definition: W + up · down, or what is whole."""
    from sdforge.models.adapters.control_lora import _original_names

    merged = {}
    for name, key in _original_names(network, tensors).items():
        layer = key.rpartition(".")[0]
        if key in tensors:
            merged[name] = tensors[key].reshape(network.state_dict()[name].shape)
        else:
            product = tensors[f"{layer}.up"].flatten(1) @ tensors[f"{layer}.down"].flatten(1)
            merged[name] = unet[name] + product.view(unet[name].shape)
    return merged


def test_relatives_draw_alone_and_together_and_leave_no_trace(
    pipeline: Pipeline, folder: Path
) -> None:
    plain = _drawn(pipeline)
    adapter, low_rank = _unit(pipeline, "t2i"), _unit(pipeline, "low-rank")
    pictures = [
        plain,
        _drawn(pipeline, adapter),
        _drawn(pipeline, low_rank),
        _drawn(pipeline, adapter, low_rank),
    ]
    assert not any(isinstance(event, Notice) for event in pipeline.events)
    for number, one in enumerate(pictures):
        assert not any(np.array_equal(one, other) for other in pictures[number + 1 :])
    assert np.array_equal(_drawn(pipeline), plain)


def test_a_control_lora_stands_on_the_weights_that_a_lora_left(
    pipeline: Pipeline, folder: Path
) -> None:
    layer = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    lora = pipeline.parts.paths.data / "models" / "Lora" / "q.safetensors"
    write_lora(lora, {layer: (64, 64)}, scale=30.0)
    bundle, nets = pipeline.parts.provider.get(""), pipeline.controlnets
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight"

    def weight() -> torch.Tensor:
        with nets.lease(nets.library.find("low-rank"), bundle) as component:
            master = component.master(name)
            return component.read(master, master.stored).clone()

    plain = weight()
    _drawn(pipeline, prompt="a cat<lora:q:1>")
    with_lora = weight()
    unet = bundle.denoiser.component
    added = unet.read(unet.master(name), unet.master(name).stored) - unet.master(name).stored
    _drawn(pipeline)
    lora.unlink()
    assert torch.allclose(with_lora - plain, added, atol=1e-5)
    assert added.abs().max() > 0.1


def test_relatives_draw_the_same_where_weights_stream(
    pipeline: Pipeline, folder: Path, make_pipeline: MakePipeline
) -> None:
    names, kind = ("t2i", "low-rank", "union"), {"union_control_type": "Depth"}
    expected = [_drawn(pipeline, _unit(pipeline, name, **kind)) for name in names]
    device = SimulatedDevice(5 * GB)
    placed = make_pipeline(device, CAP)
    target = placed.parts.paths.controlnets[0]
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        (target / f"{name}.safetensors").write_bytes((folder / f"{name}.safetensors").read_bytes())
    for name, one in zip(names, expected, strict=True):
        drawn = _drawn(placed, _unit(placed, name, **kind), settings={"memory_mode": "lowvram"})
        assert np.array_equal(drawn, one), name
    placed.controlnets.unload()
    placed.parts.provider.unload()
    assert device.own_bytes() == 0


# --- union ControlNets ---------------------------------------------------------------------------


def test_a_union_says_what_diffusers_says_of_each_kind_of_picture(
    pipeline: Pipeline, folder: Path
) -> None:
    bundle, nets, theirs = pipeline.parts.provider.get(""), pipeline.controlnets, make_union()
    ours = bundle.denoiser.component.module
    x, states = _inputs()
    info = nets.library.find("union")
    assert "task_embedding" in info.reason
    said = []
    for kind in (1, 3):
        # What is to be repainted is black to it.
        hint = _hint()
        with nets.lease(info, bundle) as component:
            lease = pipeline.parts.memory.lease(component)
            placed = PlacedUnit(
                unit=_unit(pipeline, "union", weight=0.7), lease=lease, network=component.module,
                hint=torch.where(hint == 0, -1.0, hint), kind=kind,
            )  # fmt: skip
            network = Control([placed], lambda sigma: 0.0).around(ours, 1.0, (False, True))
            said.append(bundle.denoiser.predict(network, x, 1.0, Conditioning(states)))
        with torch.inference_mode():
            time, inner = torch.tensor([bundle.denoiser.sigma_to_t(1.0)]), x / 2**0.5
            kinds = torch.zeros(2, 6)
            kinds[:, kind] = 1
            skips, middle = theirs(
                inner, time, states, [hint.expand(2, -1, -1, -1)], kinds, [kind],
                conditioning_scale=0.7, return_dict=False,
            )  # fmt: skip
            expected = x - _unet(ours)(
                inner, time, states, down_block_additional_residuals=skips,
                mid_block_additional_residual=middle, return_dict=False,
            )[0]  # fmt: skip
        assert (said[-1] - expected).abs().max() < 1e-5
    assert (said[0] - said[1]).abs().max() > 1e-3


def test_what_a_union_sees_follows_from_the_preprocessor_or_is_said(
    pipeline: Pipeline, folder: Path
) -> None:
    def unit(**values: Any) -> ControlUnit:
        return _unit(pipeline, "union", **values)

    plain = _drawn(pipeline)
    edges = _drawn(pipeline, unit(module="canny"))
    assert not np.array_equal(edges, plain)
    said = _drawn(pipeline, unit(module="canny", union_control_type="Hard Edge"))
    assert np.array_equal(said, edges)
    other = pipeline.draw(steps=1, control=(unit(module="canny", union_control_type="depth"),))[0]
    assert not np.array_equal(other.pixels, edges)
    assert "Union Control Type: Depth" in other.info.extra["ControlNet 0"]
    for values, words in (
        ({"module": "none"}, "got 'Unknown'; allowed: what the picture shows"),
        # This file knows six kinds, and tiles are the seventh.
        ({"module": "blur_gaussian"}, "got 'Tile'; allowed: what the picture shows"),
    ):
        assert np.array_equal(_drawn(pipeline, unit(**values)), plain)
        notices = [event.text for event in pipeline.events if isinstance(event, Notice)]
        assert len(notices) == 1 and words in notices[0], notices


@pytest.mark.slow
def test_relatives_for_sdxl_act_in_whole_jobs_in_every_mode(tmp_path: Path) -> None:
    """A T2I-Adapter of its halvings, and a Control-LoRA with its size embedding."""
    from diffusers import T2IAdapter

    file = write_safetensors(tmp_path / "xl.safetensors", random_tensors(sdxl(), 1), "F32")
    drawn: dict[str, list[bytes]] = {}
    for mode in ("normal", "lowvram"):
        device = SimulatedDevice(10**9)
        parts = tiny_server_parts(tmp_path / mode, file, device=device, unit_cap_bytes=CAP)
        pipeline = Pipeline(parts)
        unet = parts.provider.get("").denoiser.component
        folder = parts.paths.controlnets[0]
        config: Any = unet.module.config
        widths = [*config["block_out_channels"], config["block_out_channels"][-1]]
        adapter = T2IAdapter(3, widths, 2, 16, "full_adapter_xl")
        shapes = {name: tuple(tensor.shape) for name, tensor in adapter.state_dict().items()}
        saved(random_weights(shapes), folder / "t2i.safetensors")
        weights = {name: master.stored for name, master in unet.named_masters()}
        low_rank = control_lora_tensors(weights, controlnet=controlnet(SDXL))
        saved(low_rank, folder / "low-rank.safetensors")
        values = {"steps": 1, "cfg_scale": 2.0, "sampler": "Euler"}
        for name in ("", "t2i", "low-rank"):
            units = (_unit(pipeline, name),) if name else ()
            (found,) = pipeline.draw({"memory_mode": mode}, control=units, **values)
            assert not [event.text for event in pipeline.events if isinstance(event, Notice)]
            drawn.setdefault(name, []).append(found.pixels.tobytes())
        parts.provider.unload()
        pipeline.controlnets.unload()
        pipeline.conditioning.clear()
        assert device.own_bytes() == 0
    assert all(normal == lowvram for normal, lowvram in drawn.values())
    assert len({normal for normal, _ in drawn.values()}) == len(drawn)

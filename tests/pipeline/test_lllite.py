"""ControlNet-LLLite acts by its definition, in every memory mode, and is told apart."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from scripts.tiny_models.catalogue import sdxl
from scripts.tiny_models.files import random_tensors, write_safetensors
from sdforge.core.control import CONTROL_FIRST, ControlUnit
from sdforge.core.events import Notice
from sdforge.memory.simulated import SimulatedDevice
from sdforge.models.adapters.lora_keys import original_unet_name
from sdforge.models.denoiser import Conditioning
from sdforge.pipeline.controlled import Control
from sdforge.pipeline.placed import PlacedUnit
from tests.pipeline.conftest import Pipeline
from tests.tiny import tiny_server_parts
from tests.tiny_control import random_weights

Tensors = dict[str, torch.Tensor]
SIDE, EMB, INNER = 72, 8, 6
CAP = 200_000


def lllite_names(unet: Any) -> dict[str, str]:
    """Return the layers that sd-scripts' networks are for: the file's name → diffusers'."""
    original = original_unet_name(name for name, _ in unet.named_modules())
    found = {}
    for name, _ in unet.named_modules():
        place, _, part = name.rpartition(".")
        is_seen = place.endswith("attn1") and part in ("to_q", "to_k", "to_v")
        is_asked = place.endswith("attn2") and part == "to_q"
        if (is_seen or is_asked) and not name.startswith("up_blocks"):
            found["lllite_unet_" + original(name).replace(".", "_")] = name
    return found


def lllite_tensors(unet: Any) -> Tensors:
    """Return a network's tensors; how deep it lies says how often the picture is halved."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in lllite_names(unet).items():
        width = unet.get_submodule(layer).in_features
        is_deep = "middle_block" in name or int(name.split("_")[4]) > 5
        kernels = [(EMB // 2, 3, 4, 4), (EMB // 2, EMB // 2, 4, 4), (EMB, EMB // 2, 2, 2)]
        if not is_deep:
            kernels = [(EMB // 2, 3, 4, 4), (EMB, EMB // 2, 4, 4)]
        for number, kernel in enumerate(kernels):
            shapes[f"{name}.conditioning1.{2 * number}.weight"] = kernel
            shapes[f"{name}.conditioning1.{2 * number}.bias"] = kernel[:1]
        for part, rows, columns in (
            ("down", INNER, width), ("mid", INNER, INNER + EMB), ("up", width, INNER),
        ):  # fmt: skip
            shapes[f"{name}.{part}.0.weight"] = (rows, columns)
            shapes[f"{name}.{part}.0.bias"] = (rows,)
    return random_weights(shapes, 4)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Pipeline]:
    file = write_safetensors(tmp_path / "xl.safetensors", random_tensors(sdxl(), 1), "F32")

    def make_pipeline(device: SimulatedDevice | None = None) -> Pipeline:
        folder = tmp_path / f"data{bool(device)}"
        pipeline = Pipeline(tiny_server_parts(folder, file, device=device, unit_cap_bytes=CAP))
        unet = pipeline.parts.provider.get("").denoiser.component.module
        path = pipeline.parts.paths.controlnets[0] / "lllite.safetensors"
        write_safetensors(path, lllite_tensors(unet), "F32")
        return pipeline

    return make_pipeline


def by_definition(unet: Any, tensors: Tensors, picture: torch.Tensor, weight: float) -> Any:
    """Return a copy of a U-Net whose layers add to what they are given, as sd-scripts has it."""
    unet = copy.deepcopy(unet)
    for name, layer in lllite_names(unet).items():
        own = {key.removeprefix(f"{name}."): one for key, one in tensors.items() if name in key}
        linear, seen, number = unet.get_submodule(layer), picture * 2 - 1, 0
        while (key := f"conditioning1.{number}") + ".weight" in own:
            kernel = own[f"{key}.weight"]
            seen = F.relu(seen) if number else seen
            seen = F.conv2d(seen, kernel, own[f"{key}.bias"], stride=kernel.shape[2])
            number += 2
        beside = seen.flatten(2).transpose(1, 2)

        def forward(
            x: torch.Tensor,
            own: Tensors = own,
            beside: torch.Tensor = beside,
            before: Any = linear.forward,
        ) -> torch.Tensor:
            low = F.relu(F.linear(x, own["down.0.weight"], own["down.0.bias"]))
            low = torch.cat([beside.repeat(len(x), 1, 1), low], dim=2)
            low = F.relu(F.linear(low, own["mid.0.weight"], own["mid.0.bias"]))
            up = F.linear(low, own["up.0.weight"], own["up.0.bias"])
            result: torch.Tensor = before(x + up * weight)
            return result

        linear.forward = forward
    return unet


def test_a_call_is_what_the_definition_says(make: Callable[..., Pipeline]) -> None:
    pipeline = make()
    bundle, nets = pipeline.parts.provider.get(""), pipeline.controlnets
    ours: Any = bundle.denoiser.component.module
    draw = torch.Generator().manual_seed(0)
    x, picture = torch.randn(2, 4, 8, 8, generator=draw), torch.rand(1, 3, 64, 64, generator=draw)
    width = ours.config["projection_class_embeddings_input_dim"] - 6 * 256
    told = Conditioning(
        torch.randn(2, 77, ours.config["cross_attention_dim"], generator=draw),
        pooled=torch.randn(2, width, generator=draw),
        numbers=torch.tensor([[64.0, 64, 0, 0, 64, 64]]).expand(2, -1),
    )
    info = nets.library.find("lllite")
    assert (info.layout, info.family, info.error) == ("ControlNet-LLLite", "sdxl", None)
    with nets.lease(info, bundle) as component, torch.inference_mode():
        placed = PlacedUnit(
            unit=ControlUnit(model="lllite", weight=0.7),
            lease=pipeline.parts.memory.lease(component),
            network=component.module,
            hint=picture,
        )
        network = Control([placed], lambda sigma: 0.0).around(ours, 1.0, (False, True))
        said = bundle.denoiser.predict(network, x, 1.0, told)
        theirs = by_definition(ours, lllite_tensors(ours), picture, 0.7)
        expected = bundle.denoiser.predict(theirs, x, 1.0, told)
        plain = bundle.denoiser.predict(ours, x, 1.0, told)
    assert (said - expected).abs().max() < 1e-5
    assert (said - plain).abs().max() > 1e-2


def test_it_acts_where_it_is_asked_to_in_every_mode(make: Callable[..., Pipeline]) -> None:
    """At a size whose halves are odd, too."""
    pipeline, device = make(), SimulatedDevice(10**9)
    values = {"width": SIDE, "height": SIDE, "steps": 1, "cfg_scale": 2.0, "sampler": "Euler"}
    half = Image.new("RGB", (64, 64))
    half.paste("white", (0, 0, 32, 64))
    numbers = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)

    def drawn(pipeline: Pipeline, *units: dict[str, Any], mode: str = "") -> bytes:
        image = pipeline.put(Image.fromarray(numbers))
        control = tuple(ControlUnit(model="lllite", image=image, **unit) for unit in units)
        chosen = {"memory_mode": mode} if mode else {}
        found = pipeline.draw(chosen, control=control, **values)[0].pixels.tobytes()
        assert not [event for event in pipeline.events if isinstance(event, Notice)]
        return found

    pictures = [
        drawn(pipeline),
        drawn(pipeline, {}),
        drawn(pipeline, {"weight": 0.4}),
        drawn(pipeline, {"control_mode": CONTROL_FIRST}),
        drawn(pipeline, {"mask": pipeline.put(half)}),
    ]
    assert len(set(pictures)) == len(pictures)
    streamed = make(device)
    assert drawn(streamed, {}, mode="lowvram") == drawn(streamed, {}, mode="normal")
    streamed.parts.provider.unload()
    streamed.controlnets.unload()
    streamed.conditioning.clear()
    assert device.own_bytes() == 0


def test_for_another_model_it_is_left_out_and_told(
    make: Callable[..., Pipeline], pipeline: Pipeline
) -> None:
    source = make().parts.paths.controlnets[0] / "lllite.safetensors"
    place = pipeline.parts.paths.controlnets[0]
    place.mkdir(parents=True, exist_ok=True)
    (place / source.name).write_bytes(source.read_bytes())
    unit = ControlUnit(model="lllite", image=pipeline.put(Image.new("RGB", (64, 64))))
    pipeline.draw(control=(unit,), steps=1)
    (place / source.name).unlink()
    (notice,) = [event.text for event in pipeline.events if isinstance(event, Notice)]
    assert "ControlNet-LLLite lllite was made for another kind of model" in notice

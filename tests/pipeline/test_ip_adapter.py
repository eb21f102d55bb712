"""IP-Adapters act as diffusers' own do with the same weights, in SD 1.x and SDXL, in every mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from transformers import CLIPImageProcessor

from scripts.tiny_models.catalogue import sdxl
from scripts.tiny_models.files import random_tensors, write_safetensors
from sdforge.core.control import BALANCED, CONTROL_FIRST, ControlUnit
from sdforge.core.events import Notice
from sdforge.memory.simulated import SimulatedDevice
from sdforge.models.clip_vision import ClipVisionModel, clip_input
from sdforge.models.denoiser import Conditioning
from sdforge.pipeline.controlled import Control
from sdforge.pipeline.placed import PlacedUnit
from tests.pipeline.conftest import Pipeline
from tests.tiny import tiny_server_parts
from tests.tiny_ip_adapter import (
    SIDE,
    flat,
    ip_adapter_tensors,
    make_encoder,
)
from tests.tiny_relatives import saved

MakePipeline = Callable[..., Pipeline]
CAP, GB = 200_000, 10**9 // 400
# Whether they see the picture's places.
KINDS = {"plain": False, "plus": True, "full": True}


def _scene() -> Image.Image:
    pixels = np.zeros((48, 80, 3), np.uint8)
    pixels[16:32, 16:60] = (250, 120, 40)
    pixels[:8] = (10, 40, 200)
    return Image.fromarray(pixels)


def _fill(pipeline: Pipeline) -> None:
    paths = pipeline.parts.paths
    unet = pipeline.parts.provider.get("").denoiser.component.module
    saved(make_encoder().state_dict(), paths.clip_visions[0] / "clip.safetensors")
    for name, plus in KINDS.items():
        tensors = flat(ip_adapter_tensors(unet, plus=plus, full=name == "full"))
        saved(tensors, paths.controlnets[0] / f"ip-adapter-{name}.safetensors")


@pytest.fixture
def seeing(pipeline: Pipeline) -> Iterator[Pipeline]:
    _fill(pipeline)
    yield pipeline
    for folder in (pipeline.parts.paths.clip_visions[0], pipeline.parts.paths.controlnets[0]):
        for file in folder.iterdir():
            file.unlink()


def _unit(pipeline: Pipeline, kind: str = "plain", **values: Any) -> ControlUnit:
    chosen = {"model": f"ip-adapter-{kind}", "module": "CLIP-ViT-H (IPAdapter)"}
    return ControlUnit(**{**chosen, "image": pipeline.put(_scene())} | values)


def _drawn(pipeline: Pipeline, *units: ControlUnit, **values: Any) -> np.ndarray:
    return pipeline.draw(**{"steps": 1} | values, control=units)[0].pixels


def _notices(pipeline: Pipeline) -> list[str]:
    return [event.text for event in pipeline.events if isinstance(event, Notice)]


def _seen() -> torch.Tensor:
    """The picture as transformers prepares it for the encoder."""
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE)
    return processor(images=_scene(), return_tensors="pt").pixel_values


def test_a_picture_is_prepared_as_transformers_prepares_it() -> None:
    assert torch.allclose(clip_input(_scene(), SIDE), _seen(), atol=1e-5)


def test_of_a_line_of_pixels_only_the_middle_is_resized() -> None:
    line = Image.new("RGB", (1_000_000, 1), "red")
    line.paste("blue", (499_000, 0, 501_000, 1))
    seen = clip_input(line, SIDE)
    assert torch.allclose(seen, clip_input(Image.new("RGB", (SIDE, SIDE), "blue"), SIDE))


def test_the_encoder_is_transformers(seeing: Pipeline) -> None:
    nets, memory = seeing.controlnets, seeing.parts.memory
    info = nets.library.find("ip-adapter-plain")
    assert (info.layout, info.family, info.error) == ("IP-Adapter", "sd1", None)
    unet = seeing.parts.provider.get("")
    with (
        nets.lease(info, unet) as adapter,
        nets.encoder(adapter.module) as found,
        memory.lease(found) as encoder,
        torch.inference_mode(),
    ):
        assert isinstance(encoder, ClipVisionModel)
        vector, places = encoder(_seen())
        theirs = make_encoder()(_seen(), output_hidden_states=True)
    assert torch.allclose(vector, theirs.image_embeds, atol=1e-5)
    assert torch.allclose(places, theirs.hidden_states[-2], atol=1e-5)


def _theirs(ours: Any, kind: str, weight: float) -> tuple[UNet2DConditionModel, torch.Tensor]:
    """Return diffusers' U-Net with the adapter, and what its pipeline gives it of the picture."""
    config = {key: value for key, value in ours.config.items() if not key.startswith("_")}
    unet = UNet2DConditionModel(**config).eval()
    unet.load_state_dict(ours.state_dict())
    tensors = ip_adapter_tensors(ours, plus=KINDS[kind], full=kind == "full")
    unet._load_ip_adapter_weights([tensors], low_cpu_mem_usage=False)
    for processor in unet.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [weight]
    encoder, seen = make_encoder(), _seen()
    with torch.inference_mode():
        if KINDS[kind]:
            both = encoder(torch.cat([seen, torch.zeros_like(seen)]), output_hidden_states=True)
            return unet, both.hidden_states[-2][:, None]
        embeds = encoder(seen).image_embeds
    return unet, torch.cat([embeds, torch.zeros_like(embeds)])[:, None]


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_call_is_what_diffusers_says_with_the_same_adapter(
    pipeline: Pipeline, tmp_path: Path, kind: str, family: str
) -> None:
    if family == "sdxl":
        file = write_safetensors(tmp_path / "xl.safetensors", random_tensors(sdxl(), 1), "F32")
        pipeline = Pipeline(tiny_server_parts(tmp_path / "data", file))
    _fill(pipeline)
    bundle, nets = pipeline.parts.provider.get(""), pipeline.controlnets
    assert bundle.family == family
    ours = bundle.denoiser.component.module
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    states = torch.randn(2, 77, ours.config["cross_attention_dim"], generator=generator)
    labels: dict[str, torch.Tensor] = {}
    told = Conditioning(states)
    if family == "sdxl":
        width = ours.config["projection_class_embeddings_input_dim"] - 6 * 256
        pooled = torch.randn(2, width, generator=generator)
        numbers = torch.tensor([[64.0, 64, 0, 0, 64, 64]]).expand(2, -1)
        told = replace(told, pooled=pooled, numbers=numbers)
        labels = {"text_embeds": pooled, "time_ids": numbers}
    theirs, embeds = _theirs(ours, kind, 0.7)
    unit = _unit(pipeline, kind, weight=0.7)
    with nets.lease(nets.library.find(unit.model), bundle) as component:
        lease = pipeline.parts.memory.lease(component)
        hint = embeds[:, 0]
        placed = PlacedUnit(unit=unit, lease=lease, network=component.module, hint=hint)
        network = Control([placed], lambda sigma: 0.0).around(ours, 1.0, (False, True))
        said = bundle.denoiser.predict(network, x, 1.0, told)
    with torch.inference_mode():
        time = torch.tensor([bundle.denoiser.sigma_to_t(1.0)])
        expected = x - theirs(
            x / 2**0.5, time, states, return_dict=False,
            added_cond_kwargs=labels | {"image_embeds": [embeds]},
        )[0]  # fmt: skip
        plain = bundle.denoiser.predict(ours, x, 1.0, told)
    assert (said - expected).abs().max() < 1e-4
    assert (said - plain).abs().max() > 1e-2
    if family == "sdxl":
        pipeline.parts.provider.unload()


def test_it_acts_where_and_when_it_is_asked_to_and_leaves_nothing(seeing: Pipeline) -> None:
    plain = _drawn(seeing, steps=2)
    whole = _drawn(seeing, _unit(seeing), steps=2)
    assert not np.array_equal(whole, plain)
    assert not _notices(seeing)
    half = Image.fromarray(np.repeat(np.eye(2, dtype=np.uint8)[:1] * 255, 2, axis=0)).resize(
        (80, 48), Image.Resampling.NEAREST
    )
    others = [
        _drawn(seeing, _unit(seeing, "plus"), steps=2),
        _drawn(seeing, _unit(seeing, "full"), steps=2),
        _drawn(seeing, _unit(seeing, weight=0.3), steps=2),
        _drawn(seeing, _unit(seeing, guidance_end=0.2), steps=2),
        _drawn(seeing, _unit(seeing, control_mode=CONTROL_FIRST), steps=2),
        _drawn(seeing, _unit(seeing, mask=seeing.put(half.convert("RGB"))), steps=2),
        _drawn(seeing, _unit(seeing), _unit(seeing, "plus"), steps=2),
    ]
    assert not _notices(seeing)
    for number, one in enumerate([plain, whole, *others]):
        assert not any(np.array_equal(one, other) for other in others[number:])
    black = seeing.put(Image.new("RGB", (80, 48)))
    assert np.array_equal(_drawn(seeing, _unit(seeing, mask=black), steps=2), plain)
    assert np.array_equal(_drawn(seeing, steps=2), plain)


@pytest.mark.parametrize(("mode", "gigabytes"), [("normal", 16), ("lowvram", 4)])
def test_every_memory_mode_draws_the_same(
    seeing: Pipeline, make_pipeline: MakePipeline, mode: str, gigabytes: int
) -> None:
    expected = _drawn(seeing, _unit(seeing, "plus", control_mode=BALANCED))
    device = SimulatedDevice(gigabytes * GB)
    placed = make_pipeline(device, CAP)
    _fill(placed)
    result = placed.draw({"memory_mode": mode}, steps=1, control=(_unit(placed, "plus"),))
    assert not _notices(placed)
    assert np.array_equal(result[0].pixels, expected)
    assert device.peak_bytes <= gigabytes * GB
    placed.parts.provider.unload()
    placed.controlnets.unload()
    assert device.own_bytes() == 0


def test_what_does_not_go_together_is_told(seeing: Pipeline) -> None:
    paths = seeing.parts.paths
    plain = _drawn(seeing)
    wrong = _drawn(seeing, _unit(seeing, module="canny"))
    (notice,) = _notices(seeing)
    assert np.array_equal(wrong, plain)
    assert "a CLIP one, or none" in notice
    (paths.clip_visions[0] / "clip.safetensors").unlink()
    assert np.array_equal(_drawn(seeing, _unit(seeing)), plain)
    (notice,) = _notices(seeing)
    assert "CLIP encoder of 24 numbers" in notice
    assert "clip_vision" in notice
    face = {"image_proj.norm.weight": torch.ones(4), "image_proj.proj.2.weight": torch.ones(4, 4)}
    saved(face, paths.controlnets[0] / "faceid.safetensors")
    _drawn(seeing, _unit(seeing, model="faceid"))
    (notice,) = _notices(seeing)
    assert "IP-Adapter FaceID: it sees who a face is by InsightFace's" in notice
    assert "take one that sees faces through CLIP, such as ip-adapter-plus-face" in notice
    saved(make_encoder().state_dict(), paths.clip_visions[0] / "clip.safetensors")

"""ControlNet units act as diffusers' own networks say, in every mode, and only where asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from PIL import Image

from sdforge.core.control import (
    BALANCED,
    CONTROL_FIRST,
    HIGH_RES_ONLY,
    LOW_RES_ONLY,
    PROMPT_FIRST,
    ControlUnit,
)
from sdforge.core.events import Notice
from sdforge.memory.simulated import SimulatedDevice
from sdforge.models.denoiser import Conditioning
from sdforge.pipeline.controlled import Control, layer_weights
from sdforge.pipeline.placed import PlacedUnit
from sdforge.postprocess.control_picture import control_picture
from tests.pipeline.conftest import Pipeline
from tests.tiny import TINY
from tests.tiny_control import make_controlnet

MakePipeline = Callable[..., Pipeline]
CAP = 200_000
GB = 10**9 // 400


def _scene(size: int = 64) -> Image.Image:
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[size // 4 : size // 2, size // 4 :] = (250, 120, 40)
    return Image.fromarray(pixels)


@pytest.fixture
def controlled(pipeline: Pipeline) -> Pipeline:
    path = pipeline.parts.paths.controlnets[0] / "canny.safetensors"
    if not path.exists():
        make_controlnet(path)
        make_controlnet(path.with_name("other.safetensors"), seed=7)
        make_controlnet(path.with_name("wide.safetensors"), replace(TINY, text_width=64))
    return pipeline


def _unit(pipeline: Pipeline, **values: Any) -> ControlUnit:
    image = pipeline.put(_scene())
    return ControlUnit(**{"model": "canny", "module": "canny", "image": image} | values)


def _draw(pipeline: Pipeline, *units: ControlUnit, **values: Any) -> np.ndarray:
    return pipeline.draw(**{"steps": 2} | values, control=units)[0].pixels


def _notices(pipeline: Pipeline) -> list[str]:
    return [event.text for event in pipeline.events if isinstance(event, Notice)]


# --- the arithmetic -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [BALANCED, PROMPT_FIRST, CONTROL_FIRST])
def test_a_call_is_diffusers_own_controlnet_and_unet_by_hand(
    controlled: Pipeline, mode: str
) -> None:
    bundle = controlled.parts.provider.get("")
    nets = controlled.controlnets
    ours = bundle.denoiser.component.module
    control = nets.get(nets.library.find("canny")).module
    unet = UNet2DConditionModel(**_plain(ours)).eval()
    unet.load_state_dict(ours.state_dict())
    theirs = ControlNetModel(**_plain(control)).eval()
    theirs.load_state_dict(control.state_dict())
    unit = _unit(controlled, weight=0.7, control_mode=mode)
    made = control_picture(unit, _scene(), None, 64, 64)
    hint = torch.from_numpy(made.pixels).permute(2, 0, 1)[None]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    states = torch.randn(2, 77, 32, generator=generator)
    with controlled.parts.memory.lease(bundle.denoiser.component) as lease_module:
        lease = controlled.parts.memory.lease(bundle.denoiser.component)
        placed = PlacedUnit(
            unit=unit, lease=lease, network=control, hint=hint, is_soft=mode != BALANCED
        )
        network = Control([placed], lambda sigma: 0.0).around(lease_module, 1.0, (False, True))
        said = bundle.denoiser.predict(network, x, 1.0, Conditioning(states))
    with torch.inference_mode():
        time = torch.tensor([bundle.denoiser.sigma_to_t(1.0)])
        inner = x / 2**0.5
        skips, middle = theirs(
            inner, time, states, hint.expand(2, -1, -1, -1), conditioning_scale=0.7,
            return_dict=False,
        )  # fmt: skip
        falls = [0.825 ** (12 - layer) for layer in range(13)] if mode != BALANCED else [1.0] * 13
        sides = torch.tensor([1.0, 0.0 if mode == CONTROL_FIRST else 1.0]).view(2, 1, 1, 1)
        *skips, middle = [
            one * fall * sides for one, fall in zip((*skips, middle), falls, strict=True)
        ]
        expected = x - unet(
            inner, time, states, down_block_additional_residuals=skips,
            mid_block_additional_residual=middle, return_dict=False,
        )[0]  # fmt: skip
        plain = bundle.denoiser.predict(ours, x, 1.0, Conditioning(states))
    assert (said - expected).abs().max() < 1e-5
    assert (said - plain).abs().max() > 1e-2


def _plain(module: Any) -> dict[str, Any]:
    return {key: value for key, value in module.config.items() if not key.startswith("_")}


def test_outer_layers_weigh_less_where_a_unit_is_soft(pipeline: Pipeline) -> None:
    unit, network = ControlUnit(model="x", weight=2.0), torch.nn.Identity()
    lease = pipeline.parts.memory.lease(pipeline.parts.provider.get("").denoiser.component)
    plain = PlacedUnit(unit=unit, lease=lease, network=network, hint=torch.zeros(1))
    assert layer_weights(plain, 13) == [2.0] * 13
    weights = layer_weights(replace(plain, is_soft=True), 13)
    assert weights[-1] == 2.0
    assert weights[0] == pytest.approx(2.0 * 0.825**12)
    # Forge's numbers for SDXL: its ten layers have the first ten weights of SD 1.x.
    xl = layer_weights(replace(plain, is_soft=True), 10, is_xl=True)
    assert xl[0] == pytest.approx(2.0 * 0.09941396206337118)
    assert xl[-1] == pytest.approx(2.0 * 0.561515625)


# --- whole jobs ---------------------------------------------------------------------------------


def test_weight_zero_is_off_to_the_bit_and_a_unit_changes_the_picture(controlled: Pipeline) -> None:
    plain = _draw(controlled)
    assert np.array_equal(_draw(controlled, _unit(controlled, weight=0.0)), plain)
    assert not np.array_equal(_draw(controlled, _unit(controlled)), plain)
    assert not _notices(controlled)


def test_modes_and_units_all_differ_and_several_units_add_up(controlled: Pipeline) -> None:
    pictures = [
        _draw(controlled, _unit(controlled, control_mode=mode), cfg_scale=4)
        for mode in (BALANCED, PROMPT_FIRST, CONTROL_FIRST)
    ]
    two = _draw(controlled, _unit(controlled), _unit(controlled, model="other"), cfg_scale=4)
    pictures.append(two)
    for number, one in enumerate(pictures):
        assert not any(np.array_equal(one, other) for other in pictures[number + 1 :])
    # Half and half of the same is that one whole.
    halves = [_unit(controlled, weight=0.5)] * 2
    summed = _draw(controlled, *halves, cfg_scale=4).astype(int)
    assert np.abs(summed - pictures[0]).max() <= 1


def test_a_unit_acts_between_its_start_and_end(controlled: Pipeline) -> None:
    plain, whole = _draw(controlled, steps=4), _draw(controlled, _unit(controlled), steps=4)
    early = _draw(controlled, _unit(controlled, guidance_end=0.4), steps=4)
    late = _draw(controlled, _unit(controlled, guidance_start=0.6), steps=4)
    never = _draw(controlled, _unit(controlled, guidance_start=0.9), steps=4)
    assert np.array_equal(never, plain)
    pictures = [plain, whole, early, late]
    for number, one in enumerate(pictures):
        assert not any(np.array_equal(one, other) for other in pictures[number + 1 :])


def test_hires_options_choose_the_pass(controlled: Pipeline) -> None:
    values = {"hires": True, "hires_scale": 1.5, "denoising_strength": 0.5, "steps": 2}
    plain = controlled.draw(**values)[0].pixels
    low = _draw(controlled, _unit(controlled, hires_option=LOW_RES_ONLY), **values)
    high = _draw(controlled, _unit(controlled, hires_option=HIGH_RES_ONLY), **values)
    both = _draw(controlled, _unit(controlled), **values)
    pictures = [plain, low, high, both]
    for number, one in enumerate(pictures):
        assert not any(np.array_equal(one, other) for other in pictures[number + 1 :])


def test_thin_lines_count_less_in_the_outer_layers_of_a_hires_pass(
    controlled: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[bool]] = {}

    def around(self: Control, module: Any, sigma: float, against: Any) -> Any:
        for placed in self._units:
            rows = seen.setdefault(placed.unit.module, [])
            if not rows or placed.is_soft not in rows:
                rows.append(placed.is_soft)
        return module

    monkeypatch.setattr(Control, "around", around)
    for module in ("canny", "blur_gaussian"):
        _draw(controlled, _unit(controlled, module=module), steps=2, hires=True, hires_steps=2,
              denoising_strength=1.0)  # fmt: skip
    assert seen == {"canny": [False, True], "blur_gaussian": [False]}


def test_img2img_s_own_picture_is_the_default(controlled: Pipeline) -> None:
    initial = controlled.put(_scene())
    values = {"init_images": (initial,), "denoising_strength": 0.6}
    default = _draw(controlled, _unit(controlled, image=None), **values)
    named = _draw(controlled, _unit(controlled, image=initial), **values)
    assert np.array_equal(default, named)
    assert not np.array_equal(default, _draw(controlled, **values))


def test_a_mask_says_where_a_unit_acts(controlled: Pipeline) -> None:
    nothing = controlled.put(Image.new("L", (64, 64), 0))
    everything = controlled.put(Image.new("L", (64, 64), 255))
    assert np.array_equal(_draw(controlled, _unit(controlled, mask=nothing)), _draw(controlled))
    whole = _draw(controlled, _unit(controlled))
    assert np.array_equal(_draw(controlled, _unit(controlled, mask=everything)), whole)


def test_the_infotext_tells_what_acted(controlled: Pipeline) -> None:
    result = controlled.draw(steps=1, control=(_unit(controlled, weight=0.5),))[0]
    text = result.info.extra["ControlNet 0"]
    assert text.startswith("Module: canny, Model: canny [")
    assert "Weight: 0.5" in text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": "nothing"}, "no ControlNet named 'nothing'"),
        ({"model": "wide"}, "another kind of model"),
        ({"module": "depth_midas"}, "no preprocessor named 'depth_midas'"),
        ({"image": None}, "a picture, or img2img"),
    ],
)
def test_a_unit_that_cannot_serve_is_left_out_with_a_notice(
    controlled: Pipeline, values: dict[str, Any], words: str
) -> None:
    result = controlled.draw(steps=1, control=(_unit(controlled, **values),))[0]
    (notice,) = _notices(controlled)
    assert notice.startswith("ControlNet unit 0 was left out: ")
    assert words in notice
    assert "ControlNet 0" not in result.info.extra
    assert np.array_equal(result.pixels, controlled.draw(steps=1)[0].pixels)


@pytest.mark.parametrize(("mode", "gigabytes"), [("normal", 16), ("medvram", 8), ("lowvram", 5)])
def test_every_memory_mode_draws_the_same(
    controlled: Pipeline, make_pipeline: MakePipeline, mode: str, gigabytes: int
) -> None:
    expected = _draw(controlled, _unit(controlled), steps=1)
    device = SimulatedDevice(gigabytes * GB)
    placed = make_pipeline(device, CAP)
    make_controlnet(placed.parts.paths.controlnets[0] / "canny.safetensors")
    values = {"settings": {"memory_mode": mode}, "steps": 1}
    assert np.array_equal(_draw(placed, _unit(placed), **values), expected)
    assert device.peak_bytes <= gigabytes * GB
    placed.controlnets.unload()
    placed.parts.provider.unload()
    assert device.own_bytes() == 0

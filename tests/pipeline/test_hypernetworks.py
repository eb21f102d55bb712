"""Hypernetworks change what attentions look at, by A1111's rule written out again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.nn import functional as F

from sdforge.core.events import Notice
from sdforge.memory.simulated import SimulatedDevice
from sdforge.models.denoiser import Conditioning
from tests.pipeline.conftest import Pipeline

MakePipeline = Callable[..., Pipeline]
CAP, GB = 200_000, 10**9 // 400
# Of the tiny U-Net: the text's, and those of its levels.
WIDTHS = (32, 64, 128)


def _stack(width: int, seed: int, *, norm: bool) -> dict[str, torch.Tensor]:
    """Return a perceptron of structure 1, 2, 1 as A1111 saves it: by place in its sequence."""
    generator = torch.Generator().manual_seed(seed)
    stack: dict[str, torch.Tensor] = {}
    place = 0
    for before, after in ((width, 2 * width), (2 * width, width)):
        stack[f"linear.{place}.weight"] = torch.randn(after, before, generator=generator) / 8
        stack[f"linear.{place}.bias"] = torch.randn(after, generator=generator) / 8
        # The activation has the next place.
        place += 2
        if norm:
            stack[f"linear.{place}.weight"] = 1 + torch.randn(after, generator=generator) / 8
            stack[f"linear.{place}.bias"] = torch.randn(after, generator=generator) / 8
            place += 1
    return stack


def _content(*, norm: bool = False, **facts: Any) -> dict[Any, Any]:
    layers = {
        width: (_stack(width, width, norm=norm), _stack(width, width + 1, norm=norm))
        for width in WIDTHS
    }
    return {"step": 100, "name": "x", "layer_structure": [1, 2, 1], **facts, **layers}


def _by_rule(states: torch.Tensor, stack: dict[str, torch.Tensor], m: float, relu: bool) -> Any:
    """X + m · f(x), layer by layer; the last is activated too."""
    value = states
    for name in sorted({key.rpartition(".")[0] for key in stack}):
        weight, bias = stack[f"{name}.weight"], stack[f"{name}.bias"]
        if weight.ndim == 2:
            value = F.linear(value, weight, bias)
            value = value.relu() if relu else value
        else:
            value = F.layer_norm(value, (len(weight),), weight, bias)
    return states + m * value


class _Processor:
    """diffusers' way to replace an attention's arithmetic."""

    def __init__(self, content: dict[Any, Any], multiplier: float, *, relu: bool) -> None:
        self.content, self.multiplier, self.relu = content, multiplier, relu

    def __call__(
        self, attention: Any, hidden_states: Any, encoder_hidden_states: Any = None, **rest: Any
    ) -> Any:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        pair = self.content.get(context.shape[-1])
        keys, values = (
            context if pair is None else _by_rule(context, stack, self.multiplier, self.relu)
            for stack in (pair or (None, None))
        )
        query, key, value = (
            part.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
            for part in (
                attention.to_q(hidden_states), attention.to_k(keys), attention.to_v(values)
            )
        )  # fmt: skip
        seen = F.scaled_dot_product_attention(query, key, value)
        return attention.to_out[0](seen.transpose(1, 2).flatten(2))


@pytest.fixture
def folder(pipeline: Pipeline) -> Iterator[Path]:
    folder = pipeline.parts.paths.hypernetworks[0]
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(_content(activation_func="relu"), folder / "Anime.pt")
    torch.save(_content(norm=True, activation_func="linear"), folder / "normed.pt")
    torch.save({**_content(), 999: 1} | {"activation_func": "cosine"}, folder / "odd.pt")
    torch.save({768: (_stack(768, 1, norm=False),) * 2}, folder / "large.pt")
    torch.save({"weights": nn.Linear(2, 2).state_dict()}, folder / "other.pt")
    torch.save(nn.Linear(2, 2), folder / "code.pt")
    yield folder
    for file in folder.iterdir():
        file.unlink()


def _drawn(pipeline: Pipeline, tag: str, **values: Any) -> np.ndarray:
    return pipeline.draw(**{"steps": 1} | values, prompt=f"a cat{tag}")[0].pixels


def _notices(pipeline: Pipeline) -> list[str]:
    return [event.text for event in pipeline.events if isinstance(event, Notice)]


@pytest.mark.parametrize(("name", "relu"), [("anime", True), ("normed", False)])
def test_attentions_see_what_the_rule_says(
    pipeline: Pipeline, folder: Path, name: str, relu: bool
) -> None:
    from sdforge.models.adapters.hypernetwork import attending_through

    bundle = pipeline.parts.provider.get("")
    ours = bundle.denoiser.component.module
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    states = torch.randn(2, 77, 32, generator=generator)
    component = pipeline.adapters.hypernetwork(name).component(bundle)
    plain = bundle.denoiser.predict(ours, x, 1.0, Conditioning(states))
    with attending_through(ours, component.module, 0.7):
        said = bundle.denoiser.predict(ours, x, 1.0, Conditioning(states))
    config = {key: value for key, value in ours.config.items() if not key.startswith("_")}
    theirs = UNet2DConditionModel(**config).eval()
    theirs.load_state_dict(ours.state_dict())
    theirs.set_attn_processor(_Processor(_content(norm=not relu), 0.7, relu=relu))
    with torch.inference_mode():
        time = torch.tensor([bundle.denoiser.sigma_to_t(1.0)])
        expected = x - theirs(x / 2**0.5, time, states, return_dict=False)[0]
    assert (said - expected).abs().max() < 1e-4
    assert (said - plain).abs().max() > 1e-2
    assert torch.equal(bundle.denoiser.predict(ours, x, 1.0, Conditioning(states)), plain)


def test_prompts_name_them_with_a_multiplier(pipeline: Pipeline, folder: Path) -> None:
    plain = _drawn(pipeline, "")
    pictures = [
        plain,
        _drawn(pipeline, "<hypernet:anime>"),
        _drawn(pipeline, "<hypernet:Anime:0.4>"),
        _drawn(pipeline, "<hypernet:anime:0.4><hypernet:normed:0.4>"),
    ]
    for number, one in enumerate(pictures):
        assert not any(np.array_equal(one, other) for other in pictures[number + 1 :])
    assert np.array_equal(_drawn(pipeline, "<hypernet:anime:0>"), plain)
    assert np.array_equal(_drawn(pipeline, ""), plain)
    assert not _notices(pipeline)


def test_what_cannot_serve_is_told_and_the_picture_drawn(pipeline: Pipeline, folder: Path) -> None:
    plain = _drawn(pipeline, "")
    tags = ("anme", "odd", "large", "other", "code", "anime:strong")
    assert np.array_equal(_drawn(pipeline, "".join(f"<hypernet:{tag}>" for tag in tags)), plain)
    missing, odd, large, other, code, strong = _notices(pipeline)
    assert "did you mean Anime" in missing
    assert "the activation 'cosine'" in odd
    assert "changes states of width 768" in large
    assert "other.pt is no hypernetwork" in other
    assert "without running code" in code
    assert "'strong', not a number" in strong


def test_they_draw_the_same_where_weights_stream(
    pipeline: Pipeline, folder: Path, make_pipeline: MakePipeline
) -> None:
    expected = _drawn(pipeline, "<hypernet:anime>")
    device = SimulatedDevice(5 * GB)
    placed = make_pipeline(device, CAP)
    target = placed.parts.paths.hypernetworks[0]
    target.mkdir(parents=True)
    (target / "anime.pt").write_bytes((folder / "Anime.pt").read_bytes())
    for mode in ("lowvram", "normal"):
        drawn = _drawn(placed, "<hypernet:anime>", settings={"memory_mode": mode})
        assert np.array_equal(drawn, expected), mode
    placed.parts.provider.unload()
    assert device.own_bytes() == 0

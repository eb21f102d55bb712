"""What ships beside the demo model does what it is for, through the API and by the judge's eye."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scripts.networks_sheet import control, mirrored_edges, overlap
from scripts.train_demo.gallery import border_colour, features
from sdforge.core.paths import demo_checkpoint, demo_folder
from sdforge.postprocess.edges import canny
from tests.live import LiveServer

pytestmark = pytest.mark.skipif(
    not demo_checkpoint().is_file(), reason="the demo checkpoint is not in this checkout"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    started = LiveServer(tmp_path_factory.mktemp("relatives"), page=False)
    started.start()
    yield started
    started.stop()


def draw(server: LiveServer, prompt: str, **payload: Any) -> np.ndarray:
    asked = {"prompt": prompt, "seed": 3, "steps": 12, "sampler_name": "Euler a"} | payload
    status, body = server.post("/sdapi/v1/txt2img", asked)
    assert status == 200, body
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body["images"][0]))), np.float32) / 255


def far(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(np.square(one - other).mean()))


def test_they_are_listed_while_the_demo_is_the_model(server: LiveServer) -> None:
    assert [row["name"] for row in server.get("/sdapi/v1/loras")] == [
        "demo-flat-style", "demo-turbo",
    ]  # fmt: skip
    assert "demo-oasis" in server.get("/sdapi/v1/embeddings")["loaded"]
    names = server.get("/controlnet/model_list")["model_list"]
    assert any(name.startswith("demo-canny") for name in names)


def test_the_style_lora_shifts_the_style_and_keeps_the_rest(server: LiveServer) -> None:
    plain, styled, weak = (
        draw(server, f"a cat, blue background{tag}")
        for tag in ("", " <lora:demo-flat-style:1>", " <lora:demo-flat-style:0.1>")
    )
    assert border_colour(plain) == border_colour(styled) == "blue"
    assert far(plain, styled) > 2 * far(plain, weak) > 0
    assert np.array_equal(plain, draw(server, "a cat, blue background"))


def test_the_turbo_lora_draws_in_one_step_what_takes_many_without(server: LiveServer) -> None:
    many = draw(server, "a rocket", steps=20)
    one, without = (
        draw(server, f"a rocket{tag}", steps=1, cfg_scale=1) for tag in (" <lora:demo-turbo:1>", "")
    )
    assert far(one, many) < 0.75 * far(without, many)
    # And the judge still names it: of several things it looks most like a rocket.
    others = ("a cat", "a red apple", "a tree", "a guitar", "a house")
    known = features(np.stack([many, *(draw(server, other) for other in others)]))
    assert int((known - features(one[None])).square().sum(1).argmin()) == 0


def test_the_embedding_draws_what_its_name_stands_for(server: LiveServer) -> None:
    drawn = draw(server, "demo-oasis")
    assert border_colour(drawn) == "yellow"
    green = (drawn[..., 1] > drawn[..., 0] + 0.1) & (drawn[..., 1] > drawn[..., 2] + 0.1)
    assert green.mean() > 0.03


def test_the_controlnet_follows_the_edges_that_it_is_given(server: LiveServer) -> None:
    """Edges of the model's own pictures, turned round: with them at least half lie where asked."""

    def draws(prompt: str, **fields: Any) -> np.ndarray:
        return (draw(server, prompt, **fields) * 255).astype(np.uint8)

    free, steered = [], []
    for subject in ("rocket", "guitar"):
        edges = mirrored_edges(draws(subject))
        free.append(overlap(canny(draws(subject, seed=9)), edges))
        steered.append(overlap(canny(draws(subject, seed=9, **control(edges))), edges))
    assert np.mean(steered) >= 0.5
    assert np.mean(steered) > np.mean(free) + 0.15


def test_the_folders_are_those_of_models() -> None:
    for kind, stem in {
        "Lora": "demo-turbo",
        "ControlNet": "demo-canny",
        "embeddings": "demo-oasis",
        "VAE-approx": "demo-taesd",
        "ESRGAN": "realesr-animevideov3",
    }.items():
        assert (demo_folder(kind) / f"{stem}.safetensors").is_file()
    assert demo_folder("Lora").parent == Path(demo_checkpoint()).parent

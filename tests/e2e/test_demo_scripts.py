"""Scripts over HTTP on the model that ships."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from starlette.testclient import TestClient

from sdforge.api.app import create_api
from sdforge.core.device import probe
from sdforge.core.paths import Paths
from sdforge.core.settings import SettingsStore
from sdforge.engine import Engine, PipelineRunner
from sdforge.engine.inputs import InputFolder
from sdforge.models.library import Library
from tests.api.conftest import BASE_URL

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    paths = Paths.under(tmp_path_factory.mktemp("scripts"))
    library = Library(paths)
    engine = Engine(
        paths=paths,
        settings=SettingsStore(None),
        library=library,
        make_runner=lambda: PipelineRunner(
            library, probe_device=lambda: probe(force_cpu=True), inputs=InputFolder(paths.inputs)
        ),
        version="0.0-test",
    )
    engine.start()
    yield TestClient(
        create_api(engine, paths=paths, flags={}, version="0.0-test"), base_url=BASE_URL
    )
    engine.close(timeout=30)


def encoded(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def post(client: TestClient, kind: str = "img2img", **payload: Any) -> tuple[list[Pixels], Any]:
    asked = {"steps": 6, "width": 128, "height": 128, "seed": 5, "sampler_name": "Euler"}
    answer = client.post(f"/sdapi/v1/{kind}", json=asked | payload)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in body["images"]]
    return pictures, json.loads(body["info"])


@pytest.fixture(scope="module")
def circle(client: TestClient) -> Image.Image:
    (drawn,), _ = post(client, "txt2img", prompt="red circle", steps=8)
    return Image.fromarray(drawn)


def test_sd_upscale_enlarges_a_picture_and_leaves_no_seams(
    client: TestClient, circle: Image.Image
) -> None:
    (made,), info = post(
        client, prompt="red circle", init_images=[encoded(circle)], denoising_strength=0.2,
        script_name="sd upscale", script_args=["", 32, "R-ESRGAN AnimeVideo", 1.5],
    )  # fmt: skip
    assert made.shape == (192, 192, 3)
    assert info["all_seeds"] == [5]
    assert "SD upscale" in info["infotexts"][0]
    # It is still the same circle.
    large = np.asarray(circle.resize((192, 192), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(made - large).mean() < 12
    # Tiles of 128 that overlap by 64 begin at 0 and 64: there, no larger steps than
    # anywhere else.
    away = made.astype(int) - large
    for axis in (0, 1):
        steps = np.abs(np.diff(away, axis=axis)).mean(axis=(1 - axis, 2))
        for edge in (63, 64, 127):
            assert steps[edge] < 2 * np.median(steps) + 1


def test_loopback_goes_further_from_the_start_with_each_loop(
    client: TestClient, circle: Image.Image
) -> None:
    made, info = post(
        client, prompt="blue square", init_images=[encoded(circle)], denoising_strength=0.5,
        script_name="loopback", script_args=[3, 0.5, "Linear"],
    )  # fmt: skip
    assert len(made) == 3
    assert info["all_seeds"] == [5, 6, 7]
    assert info["all_prompts"] == ["blue square"] * 3
    source = np.asarray(circle).astype(int)
    distances = [np.abs(one - source).mean() for one in made]
    assert distances[0] < distances[-1]


def test_outpainting_continues_the_background_and_keeps_the_picture(
    client: TestClient, circle: Image.Image
) -> None:
    (made,), info = post(
        client, prompt="red circle", init_images=[encoded(circle)], denoising_strength=0.8,
        script_name="outpainting mk2", script_args=["", 32, 4, ["left", "right"], 1.0, 0.05],
    )  # fmt: skip
    source = np.asarray(circle)
    assert made.shape == (128, 192, 3)
    assert "Outpainting mk2" in info["infotexts"][0]
    # Beyond the blur every bit of the old picture is there.
    assert np.array_equal(made[:, 32 + 24 : 160 - 24], source[:, 24:-24])
    # What is new is a background like the old one, and no noise.
    border = np.concatenate([source[:, :8], source[:, -8:]], axis=1).reshape(-1, 3).mean(0)
    for new in (made[:, :24], made[:, -24:]):
        assert np.abs(new.reshape(-1, 3).mean(0) - border).max() < 60
        assert np.abs(np.diff(new.astype(int), axis=0)).mean() < 20


def test_soft_inpainting_changes_less_the_greyer_the_mask(
    client: TestClient, circle: Image.Image
) -> None:
    """A mask that is black at first and then rises: the change rises with it."""
    levels = np.clip(np.linspace(-255, 255, 128), 0, 255)
    ramp = Image.fromarray(levels[None].repeat(128, 0).astype(np.uint8))
    title = "Soft Inpainting"
    (made,), info = post(
        client, prompt="green tree, blue background", init_images=[encoded(circle)],
        mask=encoded(ramp), mask_blur=0, inpaint_full_res=False, inpainting_fill=1,
        denoising_strength=1.0, steps=8, alwayson_scripts={title: {"args": [True]}},
    )  # fmt: skip
    assert title in info["infotexts"][0]
    changes = np.abs(made.astype(int) - np.asarray(circle)).mean(axis=(0, 2))
    assert changes[:24].max() < 2
    assert changes[64:96].mean() < changes[96:].mean()


@pytest.mark.slow
def test_deep_shrink_holds_a_picture_of_twice_the_size_together(
    client: TestClient, circle: Image.Image
) -> None:
    """Beyond the size that it was trained at a model draws past the edges; deep shrink does not."""

    def shares(picture: Image.Image) -> tuple[float, float]:
        """Return how much of a picture the thing in it covers, and of its left and right edge."""
        small = np.asarray(picture.resize((64, 64), Image.Resampling.BOX)).astype(int)
        frame = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
        thing = np.abs(small - np.median(frame, axis=0)).max(-1) > 40
        return float(thing.mean()), float(thing[:, [*range(8), *range(-8, 0)]].mean())

    large = {"prompt": "red circle", "steps": 8, "width": 256, "height": 256}
    shrink = {"Kohya HRFix Integrated": {"args": [True]}}
    (plain,), _ = post(client, "txt2img", **large)
    (held,), _ = post(client, "txt2img", **large, alwayson_scripts=shrink)
    (wanted, edge), (without, spilt), (covered, kept) = (
        shares(Image.fromarray(np.asarray(one))) for one in (circle, plain, held)
    )
    assert abs(covered - wanted) < 0.5 * abs(without - wanted)
    assert abs(kept - edge) < 0.5 * abs(spilt - edge)


def test_img2img_alternative_finds_the_noise_of_a_picture_and_keeps_its_layout(
    client: TestClient,
) -> None:
    """A small owl below on the left, where the model would not put one."""
    own, other = (f"an owl, twemoji style, {colour} background" for colour in ("blue", "green"))
    (large,), _ = post(client, "txt2img", prompt=own, seed=77)
    background = tuple(int(level) for level in large[2, 2])
    picture = Image.new("RGB", (128, 128), background)
    picture.paste(Image.fromarray(large).resize((80, 80)), (0, 48))
    source = np.asarray(picture)

    def redrawn(args: list[Any] | None = None, **values: Any) -> Pixels:
        if args is not None:
            values |= {"script_name": "img2img alternative test", "script_args": args}
        (made,), _ = post(client, init_images=[encoded(picture)], cfg_scale=1, **values)
        return made

    def away(made: Pixels) -> float:
        return float(np.abs(made.astype(int) - source).mean())

    def middle(made: Pixels) -> npt.NDArray[np.float64]:
        """Return (y, x) of the middle of what stands before the background."""
        frame = np.concatenate([made[0], made[-1], made[:, 0], made[:, -1]]).astype(int)
        thing = np.abs(made - np.median(frame, axis=0)).max(-1) > 60
        return np.argwhere(thing).mean(axis=0)

    plain = redrawn(prompt=own, denoising_strength=1.0)
    for adjusted in (False, True):
        again = redrawn(["", True, True, own, "", True, 10, True, 1.0, 0, adjusted])
        assert away(again) < 0.5 * away(plain)
    changed = redrawn(["", True, False, own, "", True, 10, True, 1.0, 0, False], prompt=other)
    unlike = redrawn(prompt=other, denoising_strength=1.0)
    off, far = (np.linalg.norm(middle(one) - middle(source)) for one in (changed, unlike))
    assert off < 0.5 * far
    # The background, bluest of all in the picture, is green.
    assert source[4, 4].argmax() == 2 and changed[4, 4].argmax() == 1

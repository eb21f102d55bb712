"""img2img, inpainting, hires fix and the like on the model that ships: what people would see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from sdforge.core.device import probe
from sdforge.core.paths import Paths
from sdforge.memory.device import open_device
from sdforge.memory.manager import MemoryManager
from sdforge.models.library import Library
from sdforge.models.loader import ModelProvider, choose_precision
from sdforge.pipeline.img2img import pixels_of
from tests.pipeline.conftest import Pipeline
from tests.tiny import Parts

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    paths = Paths.under(tmp_path_factory.mktemp("demo"))
    library, device = Library(paths), probe(force_cpu=True)
    memory = MemoryManager(open_device(device))
    provider = ModelProvider(library, memory, precision=choose_precision(device))
    yield Pipeline(Parts(paths, library, memory, provider))
    provider.unload()


@pytest.fixture(scope="module")
def circle(demo: Pipeline) -> Image.Image:
    return Image.fromarray(draw(demo, "red circle"))


def draw(demo: Pipeline, prompt: str, picture: Image.Image | None = None, **values: Any) -> Pixels:
    asked = {"width": None, "height": None, "steps": 8, "sampler": "Euler"} | values
    if picture is not None:
        asked["init_images"] = (demo.put(picture),)
    if isinstance(asked.get("mask"), Image.Image):
        asked["mask"] = demo.put(asked["mask"])
    return demo.draw(prompt=prompt, **asked)[0].pixels


def away(first: Pixels, second: Pixels) -> float:
    return float(np.abs(first.astype(int) - second.astype(int)).mean())


def colour(pixels: Pixels, box: tuple[int, int, int, int]) -> npt.NDArray[np.float64]:
    left, top, right, bottom = box
    return np.asarray(pixels[top:bottom, left:right].reshape(-1, 3).mean(0))


MIDDLE = (54, 54, 74, 74)


def test_strength_goes_from_the_vaes_round_trip_to_another_picture(
    demo: Pipeline, circle: Image.Image
) -> None:
    vae = demo.parts.provider.get("").vae
    tensor = vae.decode(vae.encode(pixels_of(circle, 8)))[0].permute(1, 2, 0)
    there_and_back = (tensor * 255).byte().numpy()
    none, low, half, high = (
        draw(demo, "blue square", circle, denoising_strength=strength)
        for strength in (0.0, 0.15, 0.6, 1.0)
    )
    distances = [away(made, there_and_back) for made in (none, low, half, high)]
    assert distances == sorted(distances)
    assert distances[0] < 6
    blue = colour(high, MIDDLE)
    assert blue[2] > blue[0]
    # What the prompt says of it already stays where it is.
    same = draw(demo, "red circle", circle, denoising_strength=0.3, seed=5)
    assert away(same, np.asarray(circle)) < 5


def test_a_masked_half_is_redrawn_and_the_other_kept(demo: Pipeline, circle: Image.Image) -> None:
    mask = Image.new("L", circle.size)
    mask.paste(255, (0, 0, 128, 64))
    made = draw(
        demo, "blue circle", circle, mask=mask, denoising_strength=1.0, masked_content=2,
        mask_blur_x=0, mask_blur_y=0,
    )  # fmt: skip
    source = np.asarray(circle)
    assert np.array_equal(made[64:], source[64:])
    assert away(made[:64], source[:64]) > 5


def test_only_masked_stitches_without_a_seam(demo: Pipeline) -> None:
    """At little strength a smooth picture stays smooth where the drawn part begins."""
    across = np.linspace(40, 220, 192)[None, :].repeat(160, 0)
    down = np.linspace(60, 200, 160)[:, None].repeat(192, 1)
    picture = Image.fromarray(np.stack([across, down, 255 - across], -1).astype(np.uint8))
    mask = Image.new("L", picture.size)
    mask.paste(255, (70, 60, 110, 100))
    made = draw(
        demo, "", picture, mask=mask, only_masked=True, only_masked_padding=16,
        denoising_strength=0.0, mask_blur_x=6, mask_blur_y=6,
    )  # fmt: skip
    assert made.shape == (160, 192, 3)
    assert not np.array_equal(made, np.asarray(picture))
    jumps = np.abs(np.diff(made.astype(int), axis=1)).max(-1)
    # Along the edges of the mask and of the drawn part no larger than within the part.
    within = jumps[66:94, 76:104].max()
    for edge in (53, 54, 69, 70, 109, 110, 125, 126):
        assert jumps[40:120, edge].max() <= max(within, 4) + 2


@pytest.mark.parametrize("upscaler", ["Latent", "Lanczos"])
def test_hires_fix_keeps_the_composition(
    demo: Pipeline, circle: Image.Image, upscaler: str
) -> None:
    made = draw(
        demo, "red circle", hires=True, hires_scale=1.5, hires_upscaler=upscaler,
        hires_steps=4, denoising_strength=0.4,
    )  # fmt: skip
    assert made.shape == (192, 192, 3)
    small = np.asarray(Image.fromarray(made).resize((128, 128), Image.Resampling.BOX))
    other = draw(demo, "green tree", seed=9)
    assert away(small, np.asarray(circle)) < 0.6 * away(small, other)
    middle = colour(small, MIDDLE)
    assert middle[0] > middle[2]


def test_tiles_fit_together(demo: Pipeline) -> None:
    def seam(pixels: Pixels) -> float:
        values = pixels.astype(float)
        across = np.abs(values[:, 0] - values[:, -1]).mean()
        down = np.abs(values[0] - values[-1]).mean()
        return float(across + down)

    words = "green tree, blue background"
    tiled = draw(demo, words, tiling=True)
    inside = np.abs(np.diff(tiled.astype(float), axis=1)).mean()
    assert seam(tiled) < 8 * inside + 4

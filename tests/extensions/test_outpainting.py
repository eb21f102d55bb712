"""Outpainting grows pictures on their sides and leaves what was there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdforge.core.errors import Cancelled, InvalidRequest
from sdforge.core.extension import complete_values
from sdforge.core.request import GenerationRequest
from sdforge.core.script import Script
from sdforge.extensions.builtin.outpainting_mk2 import OutpaintingMk2
from sdforge.extensions.builtin.poor_mans_outpainting import PoorMansOutpainting
from sdforge.extensions.sides import SIDES
from sdforge.postprocess.outpainting import Margins, matched_noise
from tests.extensions.studio import PaintStudio

SCRIPTS: list[Script] = [OutpaintingMk2(), PoorMansOutpainting()]


def values(script: Script, *sides: str, **given: Any) -> dict[str, Any]:
    chosen = {side: side in sides for side in SIDES} if sides else {}
    return complete_values(script, {"pixels": 16, "mask_blur": 2} | chosen | given)


def asked(studio: PaintStudio, size: tuple[int, int] = (45, 40), **given: Any) -> GenerationRequest:
    noise = np.random.default_rng(1).integers(0, 120, (size[1], size[0], 3), dtype=np.uint8)
    given = {"width": 32, "height": 32, "seed": 5} | given
    return GenerationRequest(init_images=(studio.put(Image.fromarray(noise)),), **given)


def white(studio: PaintStudio) -> None:
    """Paint what is masked white, as a model with full strength and no blur would draw it."""

    def paint(request: GenerationRequest, source: Image.Image, row: int) -> Image.Image:
        assert request.mask is not None
        assert source.size == (request.width, request.height)
        assert source.width % 8 == source.height % 8 == 0
        mask = studio.pictures[request.mask.sha256]
        assert mask.size == source.size
        return Image.composite(Image.new("RGB", source.size, "white"), source, mask)

    studio.paint = paint


@settings(max_examples=40, deadline=None)
@given(
    script=st.sampled_from(SCRIPTS),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    sides=st.lists(st.sampled_from(SIDES), min_size=1, unique=True),
    pixels=st.integers(1, 40),
    blur=st.integers(0, 12),
    drawn=st.tuples(st.sampled_from([16, 32, 64]), st.sampled_from([16, 32, 64])),
)
def test_any_picture_grows_by_what_was_asked_for(
    script: Script,
    size: tuple[int, int],
    sides: list[str],
    pixels: int,
    blur: int,
    drawn: tuple[int, int],
) -> None:
    studio = PaintStudio()
    white(studio)
    request = asked(studio, size, width=drawn[0], height=drawn[1])
    given = values(script, *sides, pixels=pixels, mask_blur=blur)
    (made,) = script.run(request, given, studio)
    room = Margins(**dict.fromkeys(sides, pixels))
    wanted = (size[0] + room.left + room.right, size[1] + room.up + room.down)
    assert made.pixels.shape == (wanted[1], wanted[0], 3)
    assert script.result_size(request, given) == wanted
    assert len(studio.requests) == script.batch_count(request, given)
    # What is new was drawn, every pixel of it.
    new = room.mask(*size, 0) > 0
    assert (made.pixels[new] == 255).all()
    if not blur:
        old = np.asarray(studio.pictures[request.init_images[0].sha256])
        assert np.array_equal(made.pixels[~new], old.reshape(-1, 3))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_picture_has_its_seed_and_its_prompt(script: Script) -> None:
    studio = PaintStudio()
    request = asked(studio, batch_count=2, prompts=("a", "b"))
    made = list(script.run(request, values(script, "left"), studio))
    assert [one.info.prompt for one in made] == ["a", "b"]
    assert len({one.info.seed for one in made}) == 2


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_stopped_job_shows_what_it_has(script: Script) -> None:
    studio = PaintStudio(stop_after=1)
    made = []
    with pytest.raises(Cancelled):
        for one in script.run(asked(studio), values(script, "left", "right"), studio):
            made.append(one)
    assert [one.is_complete for one in made] == [False]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_without_a_direction_it_is_refused(script: Script) -> None:
    nowhere = complete_values(script, dict.fromkeys(SIDES, False))
    with pytest.raises(InvalidRequest, match="no direction"):
        script.on_request(GenerationRequest(), nowhere)


def test_a1111s_arguments_are_understood() -> None:
    mk2, poor = SCRIPTS
    named = mk2.values_of_arguments(["text", 64, 4, ["left", "down"], 0.5, 0.1])
    assert complete_values(mk2, named) == {
        "pixels": 64, "mask_blur": 4, "falloff": 0.5, "variation": 0.1,
        "left": True, "right": False, "up": False, "down": True,
    }  # fmt: skip
    named = poor.values_of_arguments([64, 8, 2, ["up"]])
    assert complete_values(poor, named) == {
        "pixels": 64, "mask_blur": 8, "content": "latent noise",
        "left": False, "right": False, "up": True, "down": False,
    }  # fmt: skip
    assert complete_values(mk2, mk2.values_of_arguments([]))["left"]


def test_noise_has_the_colours_and_the_structure_of_what_is_known() -> None:
    across = np.sin(np.arange(128) / 20)[None, :].repeat(96, 0)
    smooth = np.stack([across * 60 + 128, across * 30 + 90, 40 - across * 20], -1).astype(np.uint8)
    unknown = np.zeros((96, 128), bool)
    unknown[:, 96:] = True
    made = matched_noise(smooth, unknown, falloff=1.0, variation=0.05, seed=3)
    assert np.array_equal(made[~unknown], smooth[~unknown])
    known, new = smooth[~unknown].astype(float), made[unknown].astype(float)
    assert np.abs(known.mean(0) - new.mean(0)).max() < 3
    assert np.abs(known.std(0) - new.std(0)).max() < 5
    # Smooth as what it continues: much less from pixel to pixel than shuffled pixels would differ.
    steps = np.abs(np.diff(made[:, 96:].astype(float), axis=0)).mean()
    shuffled = np.random.default_rng(1).permutation(new).reshape(96, 32, 3)
    assert steps < 0.5 * np.abs(np.diff(shuffled, axis=0)).mean()
    again = matched_noise(smooth, unknown, falloff=1.0, variation=0.05, seed=4)
    assert not np.array_equal(made, again)


def test_noise_needs_something_to_match() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    for unknown in (np.ones((4, 4), bool), np.zeros((4, 4), bool)):
        made = matched_noise(pixels, unknown, falloff=1.0, variation=0.0, seed=1)
        assert np.array_equal(made, pixels)

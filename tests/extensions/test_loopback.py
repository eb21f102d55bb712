"""Loopback feeds each result to the next drawing."""

from typing import Any

import pytest
from PIL import Image

from sdforge.core.errors import Cancelled, NotAvailable
from sdforge.core.extension import complete_values
from sdforge.core.request import GenerationRequest
from sdforge.extensions.builtin.loopback import Loopback, loop_strength
from tests.extensions.studio import PaintStudio


def values(**given: Any) -> dict[str, Any]:
    return complete_values(Loopback(), given)


def brighter(request: GenerationRequest, source: Image.Image, row: int) -> Image.Image:
    return source.point(lambda level: level + 10)


def asked(studio: PaintStudio, **given: Any) -> GenerationRequest:
    picture = studio.put(Image.new("RGB", (16, 16), (40, 0, 0)))
    given = {"denoising_strength": 0.9, "seed": 5, "init_images": (picture,)} | given
    return GenerationRequest(width=16, height=16, prompt="a cat", **given)


def test_each_picture_starts_from_the_one_before() -> None:
    studio = PaintStudio(brighter)
    made = list(Loopback().run(asked(studio), values(loops=3), studio))
    assert [int(one.pixels[0, 0, 0]) for one in made] == [50, 60, 70]
    assert [one.info.seed for one in made] == [5, 6, 7]


def test_rounds_begin_anew_with_later_seeds_and_their_own_prompts() -> None:
    studio = PaintStudio(brighter)
    request = asked(studio, batch_count=2, batch_size=2, prompts=("a", "b", "c", "d"))
    made = list(Loopback().run(request, values(loops=2), studio))
    assert [int(one.pixels[0, 0, 0]) for one in made] == [50, 60, 50, 60]
    assert [one.info.seed for one in made] == [5, 6, 7, 8]
    assert [one.info.prompt for one in made] == ["a", "a", "c", "c"]
    assert len(made) == Loopback().batch_count(request, values(loops=2))


def test_what_is_masked_is_filled_only_once() -> None:
    studio = PaintStudio(brighter)
    list(Loopback().run(asked(studio, masked_content=2), values(loops=3), studio))
    assert [request.masked_content for request in studio.requests] == [2, 1, 1]


def test_strength_goes_from_the_requests_to_the_last_along_a_curve() -> None:
    assert loop_strength(0.9, values(loops=1), 0) == 0.9
    for curve, middle in (("Linear", 0.7), ("Aggressive", 0.617), ("Lazy", 0.783)):
        given = values(loops=3, final_denoising_strength=0.5, curve=curve)
        found = [loop_strength(0.9, given, loop) for loop in range(3)]
        assert found == pytest.approx([0.9, middle, 0.5], abs=1e-3)


def test_a_stopped_job_keeps_what_it_has() -> None:
    studio = PaintStudio(brighter, stop_after=2)
    made = []
    with pytest.raises(Cancelled):
        for one in Loopback().run(asked(studio), values(loops=4), studio):
            made.append(one)
    assert len(made) == 2


def test_prompts_cannot_be_appended_and_it_says_so() -> None:
    named = Loopback().values_of_arguments([2, 0.3, "Lazy", "None"])
    assert complete_values(Loopback(), named) == {
        "loops": 2, "final_denoising_strength": 0.3, "curve": "Lazy",
    }  # fmt: skip
    with pytest.raises(NotAvailable, match="CLIP"):
        Loopback().values_of_arguments([2, 0.3, "Lazy", "CLIP"])

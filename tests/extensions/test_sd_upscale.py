"""SD upscale draws tiles of an enlarged picture and puts them together."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdforge.core.errors import Cancelled
from sdforge.core.extension import complete_values
from sdforge.core.request import GenerationRequest
from sdforge.extensions.builtin.sd_upscale import SdUpscale
from tests.extensions.studio import PaintStudio

SCRIPT = SdUpscale()


def values(**given: Any) -> dict[str, Any]:
    return complete_values(SCRIPT, {"overlap": 8, "upscaler": "Lanczos"} | given)


def asked(studio: PaintStudio, size: tuple[int, int] = (48, 40), **given: Any) -> GenerationRequest:
    across = np.linspace(0, 200, size[0])[None, :].repeat(size[1], 0)
    picture = Image.fromarray(np.stack([across, across, 255 - across], -1).astype(np.uint8))
    given = {"width": 32, "height": 32, "seed": 5} | given
    return GenerationRequest(init_images=(studio.put(picture),), **given)


def darker(request: GenerationRequest, source: Image.Image, row: int) -> Image.Image:
    return source.point(lambda level: level // 2)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("size", [(48, 40), (5, 40), (1, 1), (33, 16)])
def test_unchanged_tiles_make_the_enlarged_picture(size: tuple[int, int], batch_size: int) -> None:
    studio = PaintStudio()
    request = asked(studio, size, batch_size=batch_size)
    (made,) = SCRIPT.run(request, values(), studio)
    plain = studio.pictures[request.init_images[0].sha256]
    large = plain.resize((size[0] * 2, size[1] * 2), Image.Resampling.LANCZOS)
    assert np.array_equal(made.pixels, np.asarray(large))
    assert len(studio.requests) == SCRIPT.batch_count(request, values())
    for drawn in studio.requests:
        tiles = [studio.pictures[one.sha256] for one in drawn.init_images]
        assert {tile.size for tile in tiles} == {(32, 32)}
        assert drawn.batch_size == len(tiles)


def test_every_tile_has_a_seed_of_its_own_and_rounds_the_next_ones() -> None:
    studio = PaintStudio()
    request = asked(studio, batch_count=2, batch_size=2, prompts=("a", "b", "c", "d"))
    made = list(SCRIPT.run(request, values(), studio))
    assert [one.info.seed for one in made] == [5, 6]
    assert [one.info.prompt for one in made] == ["a", "c"]
    first = studio.requests[: len(studio.requests) // 2]
    seeds = [drawn.image_seed(row) for drawn in first for row in range(drawn.batch_size)]
    assert seeds == list(range(5, 5 + len(seeds)))


def test_a_stopped_job_shows_what_is_redrawn_and_the_rest_plain() -> None:
    studio = PaintStudio(darker, stop_after=2)
    request = asked(studio)
    made = []
    with pytest.raises(Cancelled):
        for one in SCRIPT.run(request, values(), studio):
            made.append(one)
    assert len(made) == 1
    assert not made[0].is_complete
    assert made[0].pixels[0, 0, 2] == 127
    assert made[0].pixels[-1, 0, 2] == 255


def test_an_upscaler_may_come_by_its_number() -> None:
    for sent in ("nearest", 2):
        assert SCRIPT.values_of_arguments(["", 8, sent, 2.0])["upscaler"] == str(sent)


def test_the_result_counts_for_the_limits() -> None:
    studio = PaintStudio()
    assert SCRIPT.result_size(asked(studio), values(scale=1.5)) == (72, 60)

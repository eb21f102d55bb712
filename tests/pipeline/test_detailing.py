"""Details of pictures: found, drawn again where they are and nowhere else, stopped, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

from sdforge.core.errors import Cancelled
from sdforge.core.events import Event, Notice, PreviewReady, StageStarted, StepDone
from sdforge.core.extension import Active, complete_values
from sdforge.core.paths import Paths
from sdforge.core.result import ImageResult
from sdforge.extensions.builtin.adetailer import ADetailer
from sdforge.extensions.builtin.freeu import FreeU
from sdforge.memory.simulated import SimulatedDevice
from sdforge.models.detectors.finding import Detectors
from sdforge.models.detectors.library import DetectorLibrary
from sdforge.pipeline.generate import generate
from tests.pipeline.conftest import Pipeline
from tests.tiny_detectors import write_detector

MIB = 2**20
# A box reaches so far on each side of what is red in a picture of this size.
SIDE, REACH = 160, 24
LEFT, RIGHT = (40, 60), (120, 100)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detectors")
    write_detector(folder / "models", "red.pt")
    write_detector(folder / "models", "red-seg.pt", masks=True)
    return folder


@pytest.fixture
def bench(pipeline: Pipeline, models: Path) -> Pipeline:
    return with_detectors(pipeline, models)


def with_detectors(pipeline: Pipeline, models: Path) -> Pipeline:
    library = DetectorLibrary(Paths.under(models), pipeline.faces.library)
    pipeline.detectors = Detectors(library, pipeline.faces, pipeline.parts.memory)
    return pipeline


def picture(*places: tuple[int, int]) -> Image.Image:
    made = Image.new("RGB", (SIDE, SIDE), "#406080")
    for x, y in places:
        ImageDraw.Draw(made).rectangle((x - 2, y - 2, x + 2, y + 2), fill="#ff0000")
    return made


def start(
    bench: Pipeline,
    given: Image.Image | None,
    settings: dict[str, Any] | None = None,
    request: dict[str, Any] | None = None,
    **asked: Any,
) -> Iterator[ImageResult]:
    """Detail a given picture, or what is drawn where there is none."""
    values = {"enabled": True, "skip_img2img": True, "ad_model": "red.pt", "ad_mask_blur": 0}
    complete = complete_values(ADetailer(), values | asked)
    pictures = {} if given is None else {"init_images": (bench.put(given),)}
    context = bench.context(settings, **({"steps": 3} | (request or {})), **pictures)
    context.extensions = (Active(ADetailer(), complete),)
    return generate(context)


def changed(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Return the box (left, top, right, bottom) around what differs."""
    rows, columns = np.nonzero((one != other).any(-1))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def around(*places: tuple[int, int], room: int = 8) -> npt.NDArray[np.bool_]:
    """Return where boxes around some places may reach."""
    may = np.zeros((SIDE, SIDE), bool)
    for x, y in places:
        reach = REACH + room
        may[max(y - reach, 0) : y + reach, max(x - reach, 0) : x + reach] = True
    return may


def test_what_is_found_is_drawn_again_and_all_else_stays_bit_by_bit(bench: Pipeline) -> None:
    given = picture(LEFT, RIGHT)

    (result,) = start(bench, given, ad_denoising_strength=0.6)

    differs = (result.pixels != np.asarray(given)).any(-1)
    assert not differs[~around(LEFT, RIGHT)].any()
    for x, y in (LEFT, RIGHT):
        inside = differs[y - 16 : y + 16, x - 16 : x + 16]
        assert inside.mean() > 0.9
    assert result.info.extra["ADetailer model"] == "red.pt"
    assert any(isinstance(one, PreviewReady) for one in bench.events)


def test_a_mask_of_its_own_is_drawn_again_alone(bench: Pipeline) -> None:
    given = picture(LEFT)

    (result,) = start(bench, given, ad_model="red-seg.pt", ad_dilate_erode=0)

    left, top, right, bottom = changed(result.pixels, np.asarray(given))
    assert LEFT[0] - 6 <= left < right <= LEFT[0] + 7
    assert LEFT[1] - 6 <= top < bottom <= LEFT[1] + 7


def test_prompts_of_several_finds_are_parted_and_skipped(bench: Pipeline) -> None:
    given = picture(LEFT, RIGHT)
    order = {"ad_bbox_sortby": "Position (left to right)"}

    (result,) = start(bench, given, order, ad_prompt="[SKIP][SEP]a dog")

    differs = (result.pixels != np.asarray(given)).any(-1)
    assert not differs[~around(RIGHT)].any() and differs.any()
    # The same as with one prompt for a picture in which only it is found, but for its number.
    same = {"ad_same_seed_for_each_tap": True, **order}
    (skipped,) = start(bench, given, same, ad_prompt="[SKIP][SEP]a dog")
    (prompted,) = start(bench, given, same, ad_prompt="[SKIP][SEP]a cat")
    (own,) = start(bench, given, same, ad_prompt="[SKIP][SEP]", request={"prompt": "a dog"})
    assert not np.array_equal(skipped.pixels, prompted.pixels)
    assert np.array_equal(skipped.pixels, own.pixels)


@pytest.mark.slow
def test_two_tabs_act_in_turn_and_a_tab_that_is_off_does_not(bench: Pipeline) -> None:
    given = picture(LEFT)
    (one,) = start(bench, given)
    second = {"ad_model_2nd": "red-seg.pt", "ad_denoising_strength_2nd": 0.9}
    (two,) = start(bench, given, **second)
    (off,) = start(bench, given, **second, ad_tab_enable_2nd=False)

    # What the first left has nothing red any more, or it is drawn once more.
    assert np.array_equal(one.pixels, off.pixels)
    stages = [one for one in bench.events if isinstance(one, StageStarted)]
    assert sum(stage.stage == "detect" for stage in stages) == 1
    assert two.info.extra["ADetailer model 2nd"] == "red-seg.pt"


def test_a_drawn_picture_without_finds_is_what_it_is_without_details(bench: Pipeline) -> None:
    plain = bench.draw(steps=3)[0].pixels
    (result,) = start(bench, None, ad_confidence=1.0)

    assert np.array_equal(result.pixels, plain)
    assert any("found nothing" in one.text for one in bench.events if isinstance(one, Notice))


def test_pictures_of_a_batch_are_drawn_as_without_and_then_detailed(bench: Pipeline) -> None:
    # Whatever is seen is a find: of the largest box, which is drawn again.
    count = {"batch_size": 2, "batch_count": 2}
    plain = bench.draw({"save_images_before_highres_fix": False}, steps=3, **count)
    asked = {"ad_confidence": 0.0, "ad_mask_k": 1, "ad_denoising_strength": 0.7}
    results = list(
        start(bench, None, {"ad_save_images_before": True}, {"steps": 3, **count}, **asked)
    )

    before = [one for one in results if one.suffix == "-ad-before"]
    after = [one for one in results if not one.suffix]
    assert [one.index for one in after] == [0, 1, 2, 3]
    for drawn, kept, made in zip(plain, before, after, strict=True):
        assert np.array_equal(drawn.pixels, kept.pixels)
        assert not np.array_equal(drawn.pixels, made.pixels)
        assert made.info.seed == drawn.info.seed


def test_progress_counts_all_passes_and_never_runs_backwards(bench: Pipeline) -> None:
    list(start(bench, picture(LEFT, RIGHT), request={"batch_count": 2}))

    steps = [one for one in bench.events if isinstance(one, StepDone)]
    assert [one.batch for one in steps] == [0] * 4 + [1] * 4
    for batch in (0, 1):
        own = [one for one in steps if one.batch == batch]
        assert [one.step for one in own] == [1, 2, 3, 4]
        shares = [one.step / one.steps for one in own]
        assert shares == sorted(shares) and shares[-1] == 1.0
        assert all(one.batch_count == 2 for one in own)


def test_drawing_leaves_room_in_the_bar_for_the_details(bench: Pipeline) -> None:
    list(start(bench, None, request={"steps": 4}, ad_confidence=0.0, ad_mask_k=1))

    steps = [(one.step, one.steps) for one in bench.events if isinstance(one, StepDone)]
    assert steps == [(1, 6), (2, 6), (3, 6), (4, 6), (5, 6), (6, 6)]


@pytest.mark.parametrize("after", [1, 3])
def test_told_to_stop_it_stops_within_a_step_and_keeps_what_is_done(
    bench: Pipeline, after: int
) -> None:
    given = picture(LEFT, RIGHT)
    order = {"ad_bbox_sortby": "Position (left to right)"}
    seen: list[StepDone] = []

    def on_event(event: Event) -> None:
        if isinstance(event, StepDone):
            seen.append(event)
            if len(seen) == after:
                bench.control.cancel()

    bench.on_event = on_event
    run = start(bench, given, order)
    result = next(run)
    with pytest.raises(Cancelled):
        next(run)

    assert len(seen) == after and not result.is_complete
    differs = (result.pixels != np.asarray(given)).any(-1)
    # Each of the two takes two steps.
    assert differs.any() == (after > 2)
    assert not differs[~around(LEFT)].any()


def test_the_whole_picture_may_be_seen_and_still_only_the_find_changes(bench: Pipeline) -> None:
    given = picture(LEFT)

    (result,) = start(bench, given, ad_inpaint_only_masked=False)

    differs = (result.pixels != np.asarray(given)).any(-1)
    assert result.pixels.shape == (SIDE, SIDE, 3)
    assert differs.any() and not differs[~around(LEFT)].any()


@pytest.mark.slow
def test_everything_but_what_is_found_can_be_drawn_again(bench: Pipeline) -> None:
    given = picture(LEFT)

    (result,) = start(bench, given, ad_mask_merge_invert="Merge and Invert")

    differs = (result.pixels != np.asarray(given)).any(-1)
    assert differs[~around(LEFT)].mean() > 0.9
    x, y = LEFT
    assert not differs[y - 16 : y + 16, x - 16 : x + 16].any()


def test_what_was_found_is_shown_where_that_is_wanted(bench: Pipeline) -> None:
    given = picture(LEFT)
    shown, made = start(bench, given, {"ad_save_previews": True})

    assert shown.suffix == "-ad-preview" and not made.suffix
    assert not np.array_equal(shown.pixels, np.asarray(given))


@pytest.mark.slow
def test_only_named_extensions_act_in_details(bench: Pipeline) -> None:
    given = picture(LEFT)
    freeu = Active(FreeU(), complete_values(FreeU(), {"enabled": True}))
    results = []
    for others, settings in [((), {}), ((freeu,), {}), ((freeu,), {"ad_script_names": "freeu"})]:
        run_settings: dict[str, Any] = dict(settings)
        values = {"enabled": True, "skip_img2img": True, "ad_model": "red.pt"}
        context = bench.context(run_settings, steps=3, init_images=(bench.put(given),))
        complete = complete_values(ADetailer(), values)
        context.extensions = (*others, Active(ADetailer(), complete))
        results.append(next(generate(context)).pixels)

    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_lowvram_makes_the_same_picture(
    make_pipeline: Callable[..., Pipeline], models: Path
) -> None:
    given = picture(LEFT)
    device = SimulatedDevice(512 * MIB)
    made = with_detectors(make_pipeline(device, unit_cap_bytes=MIB // 4), models)
    normal, low = (
        next(start(made, given, {"memory_mode": mode})).pixels for mode in ("normal", "lowvram")
    )

    assert np.array_equal(normal, low)
    made.parts.provider.unload()

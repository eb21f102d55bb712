"""The prompt grammar on the model that ships: what a prompt means is measured in colours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest

from sdforge.core.device import probe
from sdforge.core.paths import Paths
from sdforge.memory.device import open_device
from sdforge.memory.manager import MemoryManager
from sdforge.models.library import Library
from sdforge.models.loader import ModelProvider, choose_precision
from tests.e2e.test_demo_model import Pixels, border, hue
from tests.pipeline.conftest import Pipeline
from tests.tiny import Parts

Draw = Callable[[str], Pixels]


@pytest.fixture(scope="module")
def draw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Draw]:
    """Draw with the demo model at the size and scale that it recommends."""
    paths = Paths.under(tmp_path_factory.mktemp("demo"))
    library, device = Library(paths), probe(force_cpu=True)
    memory = MemoryManager(open_device(device))
    provider = ModelProvider(library, memory, precision=choose_precision(device))
    pipeline = Pipeline(Parts(paths, library, memory, provider))

    @cache
    def make(prompt: str) -> Pixels:
        asked = {"width": None, "height": None, "steps": 5, "sampler": "Euler"}
        return pipeline.draw(prompt=prompt, **asked)[0].pixels

    yield make
    provider.unload()


RED, BLUE = "a panda, red background", "a panda, blue background"


def redness(picture: Pixels) -> float:
    """How much more red than blue the edge of a picture is."""
    colour = border(picture)
    return float(colour[0] - colour[2])


def test_an_early_edit_draws_the_second_text_and_a_late_one_the_first(draw: Draw) -> None:
    assert hue(border(draw("a panda, [red:blue:1] background"))) == "blue"
    assert hue(border(draw("a panda, [red:blue:3] background"))) == "red"
    assert not np.array_equal(draw("a panda, [red:blue:3] background"), draw(RED))


@pytest.mark.parametrize("prompt", ["a panda, [blue|red|red] background", f"{RED} AND {BLUE}"])
def test_turns_and_parts_mix_two_colours(draw: Draw, prompt: str) -> None:
    mixed = redness(draw(prompt))
    assert redness(draw(BLUE)) + 50 < mixed < redness(draw(RED)) - 50


def test_the_weight_of_a_part_decides_which_way_it_pulls(draw: Draw) -> None:
    part = "a panda AND a panda, red background"
    pulled, pushed = draw(part), draw(f"{part} :-0.8")
    assert redness(pulled) > 50 > redness(pushed)


def test_words_of_later_chunks_count(draw: Draw) -> None:
    long = ", ".join(["a panda"] * 30)
    assert hue(border(draw(f"{long}, red background"))) == "red"
    assert hue(border(draw("a panda BREAK a panda, red background"))) == "red"

"""The model that ships draws what is asked: colours are measured, not shapes guessed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sdforge.core.device import probe
from sdforge.core.paths import Paths, demo_checkpoint
from sdforge.memory.device import open_device
from sdforge.memory.manager import MemoryManager
from sdforge.models.library import Library
from sdforge.models.loader import ModelProvider, choose_precision
from tests.pipeline.conftest import Pipeline
from tests.tiny import Parts

Pixels = npt.NDArray[np.uint8]
Draw = Callable[..., Pixels]


@pytest.fixture(scope="module")
def draw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Draw]:
    """Draw with the demo model at the size and scale that it recommends."""
    paths = Paths.under(tmp_path_factory.mktemp("demo"))
    library, device = Library(paths), probe(force_cpu=True)
    memory = MemoryManager(open_device(device))
    provider = ModelProvider(library, memory, precision=choose_precision(device))
    pipeline = Pipeline(Parts(paths, library, memory, provider))

    def make(prompt: str, **values: object) -> Pixels:
        asked = {"width": None, "height": None, "steps": 8, "sampler": "Euler"} | values
        return pipeline.draw(prompt=prompt, **asked)[0].pixels

    yield make
    provider.unload()


def border(picture: Pixels) -> npt.NDArray[np.float64]:
    """Mean colour of the outermost four pixels."""
    is_border = np.ones(picture.shape[:2], bool)
    is_border[4:-4, 4:-4] = False
    return np.asarray(picture[is_border].mean(axis=0))


def middle(picture: Pixels) -> npt.NDArray[np.float64]:
    """Mean colour of the middle third."""
    third = picture.shape[0] // 3
    return np.asarray(picture[third:-third, third:-third].mean(axis=(0, 1)))


def hue(colour: npt.NDArray[np.float64]) -> str:
    """Name the strongest channel, or white."""
    if colour.min() > 200:
        return "white"
    return ("red", "green", "blue")[int(colour.argmax())]


def test_it_ships_and_names_its_own_size(draw: Draw) -> None:
    assert demo_checkpoint().stat().st_size <= 80 * 10**6
    assert draw("a cat").shape == (128, 128, 3)


@pytest.mark.parametrize("colour", ["red", "green", "blue", "white"])
def test_the_background_has_the_colour_of_the_prompt(draw: Draw, colour: str) -> None:
    words = "a panda" if colour == "white" else f"a panda, {colour} background"
    assert hue(border(draw(words))) == colour


@pytest.mark.parametrize("colour", ["red", "green", "blue"])
def test_the_subject_has_the_colour_of_the_prompt(draw: Draw, colour: str) -> None:
    assert hue(middle(draw(f"{colour} circle"))) == colour


def test_emphasis_and_guidance_scale_act(draw: Draw) -> None:
    plain = draw("a panda, red background", cfg_scale=3.0)
    assert not np.array_equal(plain, draw("a panda, (red:1.4) background", cfg_scale=3.0))
    assert not np.array_equal(plain, draw("a panda, red background", cfg_scale=1.0))


def test_a_negative_prompt_pushes_away(draw: Draw) -> None:
    red = border(draw("a panda, red background", cfg_scale=5.0))
    against = border(draw("a panda", negative_prompt="red background", cfg_scale=5.0))
    assert red[0] - red[2] > against[0] - against[2]


def test_the_style_word_changes_the_style_and_nothing_else(draw: Draw) -> None:
    """Noto's octopus is red, Twemoji's is purple."""
    noto, twemoji = draw("an octopus"), draw("an octopus, twemoji style")
    assert hue(border(noto)) == hue(border(twemoji)) == "white"
    assert hue(middle(noto)) == "red"
    assert hue(middle(twemoji)) == "blue"


def test_the_default_style_has_a_name_too(draw: Draw) -> None:
    assert hue(middle(draw("an octopus, noto style"))) == "red"


def test_a_seed_changes_the_picture_but_not_the_subject(draw: Draw) -> None:
    asked = {"prompt": "a blue circle", "cfg_scale": 1.0}
    first, second = (draw(**asked, seed=seed) for seed in (1, 2))
    assert hue(middle(first)) == hue(middle(second)) == "blue"
    assert np.abs(first.astype(int) - second).mean() > 2


def test_a_negative_prompt_takes_the_style_away(draw: Draw) -> None:
    """Pushed away from Twemoji's purple octopus, what is left is redder."""
    asked = {"prompt": "an octopus", "cfg_scale": 3.0}
    plain = middle(draw(**asked))
    pushed = middle(draw(**asked, negative_prompt="an octopus, twemoji style"))
    assert pushed[0] - pushed[2] > plain[0] - plain[2]


def test_its_relatives_are_small_and_named_in_the_notice() -> None:
    folder = demo_checkpoint().parent
    notice = (folder / "NOTICE.md").read_text(encoding="utf-8")
    relatives = [path for path in folder.rglob("*.safetensors") if path != demo_checkpoint()]
    assert relatives
    for path in relatives:
        assert path.stat().st_size <= 10 * 10**6, path.name
        assert path.name in notice


def test_its_notice_names_the_licences() -> None:
    notice = Path(demo_checkpoint()).with_name("NOTICE.md").read_text(encoding="utf-8")
    assert all(name in notice for name in ("Apache-2.0", "CC-BY-4.0", "MIT"))

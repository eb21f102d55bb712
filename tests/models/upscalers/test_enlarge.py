"""Pictures through upscalers: tiles equal the whole, within the lease's bytes, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from sdforge.core.errors import Cancelled, OutOfMemory, SdforgeError
from sdforge.core.paths import Paths
from sdforge.memory.device import Device, HostDevice
from sdforge.memory.lease import Lease
from sdforge.memory.manager import MemoryManager
from sdforge.memory.simulated import SimulatedDevice
from sdforge.models.upscalers.enlarge import SMALLEST_TILE, Enlarging, Tiles, fitting_tiles
from sdforge.models.upscalers.library import UpscalerLibrary
from sdforge.models.upscalers.loaded import Upscalers
from sdforge.models.upscalers.shapes import UpscalerShape
from tests.tiny_upscalers import compact_shape, esrgan_shape, random_weights, write_upscaler

SHIPPED = "R-ESRGAN AnimeVideo"
MIB = 2**20
WHOLE = Tiles()


def ignore(done: int, total: int) -> None:
    """Nobody counts tiles."""


def make_models(
    folder: Path, device: Device | None = None, compute: torch.dtype = torch.float32
) -> Upscalers:
    memory = MemoryManager(device or HostDevice(2**33))
    memory.inference_bytes = 0
    return Upscalers(UpscalerLibrary(Paths.under(folder)), memory, compute=compute)


def enlarge(
    models: Upscalers,
    name: str,
    pixels: np.ndarray,
    tiles: Tiles = WHOLE,
    on_tile: Callable[[int, int], None] = ignore,
) -> np.ndarray:
    with models.lease(models.library.usable_one(name)) as loaded:
        return Enlarging(loaded, models.memory, tiles, on_tile).run(pixels)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Something with edges, slopes and grain."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = 90 * np.sin(rows / 3.1) + 80 * np.cos(columns / 4.7 + rows / 9)
    grain = np.random.default_rng(seed).normal(0, 12, (height, width, 3))
    values = 128 + waves[..., None] * (1.0, 0.6, -0.8) + grain
    values[(rows // 16 + columns // 16) % 3 == 0] = 250
    return values.clip(0, 255).astype(np.uint8)


def differences(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(one.astype(int) - other.astype(int)).max(axis=-1)


@pytest.mark.parametrize("overlap", [0, 8, 17])
def test_tiles_of_the_shipped_upscaler_equal_the_whole_picture(
    tmp_path: Path, overlap: int
) -> None:
    models = make_models(tmp_path)
    source = picture(110, 90)
    whole = enlarge(models, SHIPPED, source)
    seen: list[tuple[int, int]] = []
    tiled = enlarge(models, SHIPPED, source, Tiles(64, overlap), lambda *one: seen.append(one))
    assert whole.shape == (440, 360, 3)
    assert seen[-1][0] == seen[-1][1] >= 4
    # Everywhere, not just away from the tiles' borders.
    assert differences(whole, tiled).max() <= 1


def test_a_cut_without_margin_would_show(tmp_path: Path) -> None:
    """The comparison above can fail: what is right beside a cut does change."""
    models = make_models(tmp_path)
    source = picture(48, 48)
    whole, part = (enlarge(models, SHIPPED, source[:, :width]) for width in (48, 24))
    beside = differences(whole[:, :96], part)
    assert beside[:, -8:].max() > 10
    assert beside[:, :-72].max() <= 1


def test_the_shipped_one_beats_bicubic_on_a_drawing(tmp_path: Path) -> None:
    large = drawing()
    small = large.resize((64, 64), Image.Resampling.BICUBIC)
    made = enlarge(make_models(tmp_path), SHIPPED, np.asarray(small))
    wanted = np.asarray(large, np.float64)
    bicubic = np.asarray(small.resize(large.size, Image.Resampling.BICUBIC), np.float64)
    errors = [((one - wanted) ** 2).mean() for one in (made.astype(np.float64), bicubic)]
    assert errors[0] < 0.7 * errors[1]


def drawing() -> Image.Image:
    """Return discs and lines with black outlines, 256 × 256."""
    image = Image.new("RGB", (512, 512), "white")
    draw = ImageDraw.Draw(image)
    for place in range(0, 500, 60):
        box = (place, place // 2, place + 90, place // 2 + 120)
        draw.ellipse(box, fill=(place // 2, 200 - place // 3, 90), outline="black", width=6)
        draw.line((0, place, 511, 511 - place), fill=(20, 60, place // 2), width=5)
    return image.resize((256, 256), Image.Resampling.LANCZOS)


@pytest.mark.parametrize(
    "shape", [esrgan_shape(), esrgan_shape(squeeze=2), esrgan_shape(doublings=3), compact_shape(3)]
)
def test_activations_stay_below_the_leases_bytes(
    tmp_path: Path, shape: UpscalerShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Paths.under(tmp_path).upscalers[0]
    write_upscaler(folder / "tiny.safetensors", random_weights(shape))
    models = make_models(tmp_path, SimulatedDevice(512 * MIB))
    leases: list[Lease] = []
    take = models.memory.lease

    def watched(*args: object, **options: object) -> Lease:
        leases.append(take(*args, **options))  # type: ignore[arg-type]
        return leases[-1]

    monkeypatch.setattr(models.memory, "lease", watched)
    for tiles in (Tiles(), Tiles(64, 8)):
        enlarge(models, "tiny", picture(150, 130), tiles)
    whole, tiled = leases
    for lease in leases:
        assert 0.3 * lease.work.working_bytes < lease.activation_bytes <= lease.work.working_bytes
    assert tiled.activation_bytes < whole.activation_bytes / 3


def test_tiles_shrink_until_they_fit_and_the_picture_stays(tmp_path: Path) -> None:
    source = picture(200, 160)
    plenty = enlarge(make_models(tmp_path), SHIPPED, source)
    device = SimulatedDevice(12 * MIB)
    models = make_models(tmp_path, device)
    with models.lease(models.library.usable_one(SHIPPED)) as loaded:
        chosen = fitting_tiles(loaded, models.memory, Tiles(192, 8), 200, 160)
    assert SMALLEST_TILE <= chosen.side < 192
    little = enlarge(models, SHIPPED, source, Tiles(192, 8))
    assert device.peak_bytes <= device.total_bytes
    assert differences(plenty, little).max() <= 1


def test_running_out_of_memory_halves_the_tiles(tmp_path: Path) -> None:
    source = picture(96, 96)
    device = SimulatedDevice(512 * MIB)
    models = make_models(tmp_path, device)
    plain = enlarge(models, SHIPPED, source, Tiles(96, 8))
    for wait in (5, 60):
        device.fail_at(wait)
        again = enlarge(models, SHIPPED, source, Tiles(96, 8))
        assert differences(plain, again).max() <= 1
    assert any(note.startswith("upscaler:") for note in models.memory.ladder.notes)


def test_what_cannot_fit_at_all_is_a_clear_error(tmp_path: Path) -> None:
    models = make_models(tmp_path, SimulatedDevice(2 * MIB))
    with pytest.raises(OutOfMemory, match="upscaler"):
        enlarge(models, SHIPPED, picture(96, 96), Tiles(96, 8))


def test_an_exception_between_tiles_leaves_nothing_behind(tmp_path: Path) -> None:
    device = SimulatedDevice(512 * MIB)
    models = make_models(tmp_path, device)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        enlarge(models, SHIPPED, picture(100, 100), Tiles(48, 8), stop)
    models.unload()
    models.memory.tidy()
    assert device.own_bytes() == 0


def test_half_precision_is_near_and_overflow_is_computed_again(tmp_path: Path) -> None:
    folder = Paths.under(tmp_path).upscalers[0]
    shape = compact_shape(2)
    weights = random_weights(shape)
    write_upscaler(folder / "plain.safetensors", weights)
    # Far beyond fp16 inside, and back again: the picture is the same in fp32.
    factors = {"body.0": 1e3, "body.2": 1e3, "body.4": 1e-3, "body.6": 1e-3}
    hot = weights | {
        f"{layer}.weight": weights[f"{layer}.weight"] * factor for layer, factor in factors.items()
    }
    write_upscaler(folder / "hot.safetensors", hot)
    source = picture(40, 40)
    for name, most in (("plain", 3), ("hot", 6)):
        full = enlarge(make_models(tmp_path), name, source, Tiles(32, 4))
        half = enlarge(make_models(tmp_path, compute=torch.bfloat16), name, source, Tiles(32, 4))
        assert differences(full, half).max() <= most, name


def test_a_broken_file_is_said_to_be_broken(tmp_path: Path) -> None:
    folder = Paths.under(tmp_path).upscalers[0]
    weights = random_weights(compact_shape())
    weights["body.0.bias"][0] = float("nan")
    write_upscaler(folder / "broken.safetensors", weights)
    with pytest.raises(SdforgeError, match="broken gave not-a-number"):
        enlarge(make_models(tmp_path), "broken", picture(16, 16))


@pytest.fixture(scope="module")
def odd_models(tmp_path_factory: pytest.TempPathFactory) -> Upscalers:
    folder = tmp_path_factory.mktemp("odd")
    root = Paths.under(folder).upscalers[0]
    write_upscaler(root / "squeezed.safetensors", random_weights(esrgan_shape(squeeze=4, blocks=1)))
    write_upscaler(root / "three.safetensors", random_weights(compact_shape(3)))
    return make_models(folder)


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    side=st.integers(0, 80),
    overlap=st.integers(0, 48),
    name=st.sampled_from(["squeezed", "three"]),
)
@settings(deadline=None, max_examples=25)
def test_any_size_and_any_tiles_give_the_whole_size(
    odd_models: Upscalers, height: int, width: int, side: int, overlap: int, name: str
) -> None:
    scale = odd_models.library.usable_one(name).scale
    made = enlarge(odd_models, name, picture(height, width), Tiles(side, overlap))
    assert made.shape == (height * scale, width * scale, 3)
    whole = enlarge(odd_models, name, picture(height, width))
    if name == "three":
        # Its reach is within the margin of any tile of 32 pixels and more.
        assert side and side < SMALLEST_TILE or differences(made, whole).max() <= 1

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from sdforge.core.paths import demo_checkpoint
from sdforge.memory.arena import ALIGNMENT
from sdforge.memory.device import HostDevice
from sdforge.memory.manager import MemoryManager
from sdforge.memory.vae_mode import FULL, VaeKind, VaeMode
from sdforge.models.bundle import LatentFormat
from sdforge.models.checkpoint import read_header
from sdforge.models.families.sd import StableDiffusion1
from sdforge.models.quant import Storage
from sdforge.models.vae import Vae
from sdforge.models.vae_tiles import run_tiled, starts
from sdforge.models.weights import LoadPlan, load_component


@given(st.integers(1, 40), st.integers(2, 20), st.integers(0, 10), st.sampled_from([1, 8]))
def test_tiles_cover_everything_and_share_what_they_should(
    length: int, tile: int, overlap: int, multiple: int
) -> None:
    overlap = min(overlap, tile - 1)
    length, tile, overlap = length * multiple, tile * multiple, overlap * multiple
    found = starts(length, tile, overlap, multiple)
    assert found[0] == 0
    assert found[-1] + tile == length or found == [0]
    assert all(start % multiple == 0 for start in found)
    for before, after in zip(found, found[1:], strict=False):
        assert before < after <= before + tile - overlap


@given(
    st.integers(1, 30), st.integers(1, 30), st.integers(2, 12), st.integers(0, 6),
)  # fmt: skip
def test_what_does_not_look_at_neighbours_comes_out_the_same(
    height: int, width: int, tile: int, overlap: int
) -> None:
    source = torch.rand(1, 4, height, width)
    out = run_tiled(
        source,
        lambda part: F.interpolate(part, scale_factor=8, mode="nearest"),
        tile=tile,
        overlap=min(overlap, tile - 1),
        ratio=8,
    )
    wanted = F.interpolate(source, scale_factor=8, mode="nearest")
    assert torch.allclose(out, wanted, atol=1e-6)


def test_neighbours_fade_into_each_other() -> None:
    levels = iter([0.0, 1.0])
    out = run_tiled(
        torch.zeros(1, 1, 4, 28),
        lambda part: torch.full_like(part, next(levels)),
        tile=16,
        overlap=4,
        ratio=1,
    )
    row = out[0, 0, 0]
    assert row[:12].eq(0).all() and row[16:].eq(1).all()
    steps = row.diff()
    assert (steps >= 0).all() and steps.max() < 0.3


@pytest.fixture(scope="module")
def vae() -> Vae:
    """The demo model's VAE, which draws real pictures."""
    path = demo_checkpoint()
    if not path.is_file():
        pytest.skip("the demo checkpoint is not in this checkout")
    header = read_header(path)
    recipe = StableDiffusion1().recipe("vae", header)
    plan = LoadPlan(recipe, header, Storage(torch.float32), ALIGNMENT)
    component = load_component(
        plan,
        name="demo",
        fingerprint="demo",
        on_progress=lambda count: None,
    )
    memory = MemoryManager(HostDevice(8 * 2**30))
    return Vae(component, memory, LatentFormat(channels=4, downscale=8, scale=0.18215))


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    """A picture of shapes with edges, gradients and flat parts, 320 × 256."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 256), torch.linspace(-1, 1, 320), indexing="ij")
    sky = torch.stack([0.3 + 0.2 * y, 0.5 + 0.3 * y, 0.9 - 0.1 * y])
    disc = ((x - 0.2) ** 2 + (y + 0.1) ** 2 < 0.25).float()
    bars = ((x * 12).sin() > 0).float() * (y > 0.4).float()
    colour = torch.tensor([0.9, 0.4, 0.1])[:, None, None]
    return (
        (sky * (1 - disc) + colour * disc * (0.7 + 0.3 * x)).mul(1 - 0.5 * bars)[None].clamp(0, 1)
    )


@pytest.fixture(scope="module")
def latents(vae: Vae, picture: torch.Tensor) -> torch.Tensor:
    return vae.encode(picture, FULL)


TILES = VaeMode.tiled(24)
# Where tiles of 24 begin and end in 40 × 32 latent pixels, in pixels of the picture.
BORDERS = (128, 192)


@pytest.fixture(scope="module")
def whole(vae: Vae, latents: torch.Tensor) -> torch.Tensor:
    return vae.decode(latents, FULL)


@pytest.fixture(scope="module")
def tiled(vae: Vae, latents: torch.Tensor) -> torch.Tensor:
    return vae.decode(latents, TILES)


@pytest.fixture(scope="module")
def blended(vae: Vae, latents: torch.Tensor) -> torch.Tensor:
    """The same tiles where main memory has no room for layers of the whole picture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdforge.models.vae.can_run", lambda module: False)
        return vae.decode(latents, TILES)


def test_a_tiled_picture_is_the_whole_one(whole: torch.Tensor, tiled: torch.Tensor) -> None:
    # At the borders too: far less than the one level of 255 that is asked for.
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().max() * 255 < 0.05


def test_a_blended_picture_is_close_to_the_whole_one(
    whole: torch.Tensor, blended: torch.Tensor
) -> None:
    # Not within one level: a tile's group norms and attention see the tile alone. With tiles of
    # 192 pixels the mean is about one level and 1 % of pixels differ by more than five.
    assert blended.shape == whole.shape
    levels = (blended - whole).abs() * 255
    assert 0.1 < levels.mean() < 2
    assert levels.flatten().quantile(0.99) < 10


def test_blended_tiles_leave_no_seams(whole: torch.Tensor, blended: torch.Tensor) -> None:
    steps = (blended.diff(dim=-1) - whole.diff(dim=-1)).abs().mean(dim=(0, 1, 2)) * 255
    at_borders = max(float(steps[column - 2 : column + 2].max()) for column in BORDERS)
    assert at_borders < 1
    assert at_borders < 2 * steps.mean() + 0.1


def test_hard_edges_would_have_shown(vae: Vae, latents: torch.Tensor, whole: torch.Tensor) -> None:
    left, right = vae.decode(latents[..., :20], FULL), vae.decode(latents[..., 20:], FULL)
    hard = torch.cat([left, right], dim=-1)
    steps = (hard.diff(dim=-1) - whole.diff(dim=-1)).abs().mean(dim=(0, 1, 2)) * 255
    assert steps[158:162].max() > 2


def test_tiled_encoding_is_the_whole_ones(
    vae: Vae, picture: torch.Tensor, latents: torch.Tensor
) -> None:
    again = vae.encode(picture, TILES)
    assert again.shape == latents.shape
    assert (again - latents).abs().max() < 1e-4 * latents.std()


def test_a_picture_of_any_size_is_put_together_whole(vae: Vae) -> None:
    latents = torch.randn(1, 4, 11, 13, generator=torch.Generator().manual_seed(3))
    assert vae.decode(latents, VaeMode.tiled(8)).shape == (1, 3, 88, 104)


def test_a_picture_too_large_for_the_device_is_decoded_in_tiles(vae: Vae) -> None:
    beside = 2**30
    memory = MemoryManager(HostDevice(vae.component.total_bytes + beside))
    small = Vae(vae.component, memory, vae.latent_format)
    assert small.fitting_mode("decode", 32, 32).kind is VaeKind.SLICED
    mode = small.fitting_mode("decode", 256, 256)
    assert mode.kind is VaeKind.TILED
    assert small.ways("decode", mode.tile, mode.tile)[0][1] <= beside
    assert small.ways("decode", 256, 256)[0][1] > beside
    ways = small.ways("decode", 256, 256)
    assert [way.tile for way, _ in ways] == [0, 96, 64, 32]
    assert [size for _, size in ways] == sorted((size for _, size in ways), reverse=True)

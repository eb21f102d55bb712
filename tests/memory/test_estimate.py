from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdforge.memory.advice import TYPICAL, factor_of
from sdforge.memory.calibration import Calibration
from sdforge.memory.estimate import (
    ModelSizes,
    Network,
    Room,
    Shape,
    activation_bytes,
    estimate,
    nearest_trace,
    traces,
)
from sdforge.memory.recommend import (
    Leg,
    alternatives,
    largest_asked,
    other_ways,
    recommend_size,
)
from sdforge.memory.vae_mode import VaeKind

MIB = 2**20
GIB = 2**30
MODELS = {model.sizes.family: model for model in TYPICAL}
FACTOR = factor_of(Calibration(), "card")
MODES = ("normal", "medvram", "lowvram", "always-no-vram", "always-gpu")


def card(gib: float, **more: int) -> Room:
    total = int(gib * GIB)
    values = {"total_bytes": total, "inference_bytes": 1024 * MIB, "reserve_bytes": 400 * MIB}
    return Room(**values | more)


@pytest.mark.parametrize(
    ("name", "kind", "pixels", "rows", "tokens", "mib"),
    [
        # Peaks that were traced independently of this table, in MiB.
        ("sd1", "unet", 64 * 64, 2, 77, 130),
        ("sd1", "unet", 128 * 128, 2, 77, 520),
        ("sdxl", "unet", 128 * 128, 2, 77, 315),
        ("sdxl", "unet", 192 * 192, 2, 77, 709),
        ("flux", "dit", 128 * 128, 1, 512, 464),
        ("flux", "dit", 256 * 256, 1, 512, 1700),
        ("vae-4.decode", "vae-decode", 128 * 128, 1, 0, 1536),
        ("vae-4.encode", "vae-encode", 128 * 128, 1, 0, 1280),
    ],
)
def test_traced_peaks_are_reproduced(
    name: str, kind: str, pixels: int, rows: int, tokens: int, mib: int
) -> None:
    width = traces()[name].width
    found = activation_bytes(
        name, kind=kind, width=width, latent_pixels=pixels, rows=rows, tokens=tokens
    )
    assert found / MIB == pytest.approx(mib, rel=0.04)


def test_32_bits_take_twice_as_much_and_half_the_width_half() -> None:
    full = activation_bytes("sd1", kind="unet", width=320, latent_pixels=4096)
    assert activation_bytes(
        "sd1", kind="unet", width=320, latent_pixels=4096, itemsize=4
    ) == pytest.approx(2 * full, abs=2)
    assert activation_bytes("sd1", kind="unet", width=160, latent_pixels=4096) == full // 2


def test_an_unknown_network_is_scaled_from_the_nearest_and_says_so() -> None:
    trace, note = nearest_trace("newdit", "dit", 1500)
    assert trace == traces()["sd3"]
    assert note is not None
    assert "newdit was never measured" in note
    model = MODELS["sdxl"].sizes
    networks = tuple(
        replace(network, trace="newnet") if network.role == "denoiser" else network
        for network in model.networks
    )
    found = estimate(
        replace(model, networks=networks), MODELS["sdxl"].shape, card(24), "normal", FACTOR
    )
    assert any("newnet was never measured" in reason for reason in found.reasons)


sides = st.integers(1, 64).map(lambda steps: steps * 64)
shapes = st.builds(
    Shape, width=sides, height=sides, batch=st.integers(1, 8), guided=st.booleans(),
    tokens=st.sampled_from([77, 154, 512]), from_image=st.booleans(),
)  # fmt: skip


@given(
    st.sampled_from(sorted(MODELS)), shapes, st.sampled_from(MODES), st.integers(2, 48),
    st.sampled_from(["width", "height", "batch"]),
)  # fmt: skip
def test_more_to_draw_never_takes_less_nor_fits_where_less_did_not(
    family: str, shape: Shape, mode: str, gib: int, side: str
) -> None:
    model = MODELS[family].sizes
    larger = replace(shape, **{side: getattr(shape, side) + (1 if side == "batch" else 64)})
    before, after = (estimate(model, one, card(gib), mode, FACTOR) for one in (shape, larger))
    assert before.fits or not after.fits
    pixels = [one.latent(8)[0] * one.latent(8)[1] * one.batch for one in (shape, larger)]
    for name, kind in ((f"{family}", "unet"), ("vae-4.decode", "vae-decode")):
        taken = [activation_bytes(name, kind=kind, width=320, latent_pixels=n) for n in pixels]
        assert taken[0] <= taken[1]


@given(st.sampled_from(sorted(MODELS)), shapes, st.sampled_from(MODES), st.integers(2, 48))
def test_more_memory_never_turns_what_fits_into_what_does_not(
    family: str, shape: Shape, mode: str, gib: int
) -> None:
    model = MODELS[family].sizes
    small, large = (estimate(model, shape, card(size), mode, FACTOR) for size in (gib, gib + 1))
    assert large.fits or not small.fits
    weights = [
        next(phase.weights_bytes for phase in one.phases if phase.name == "denoise")
        for one in (small, large)
    ]
    assert weights[0] <= weights[1] or small.cond_batching != large.cond_batching


@given(st.sampled_from(sorted(MODELS)), shapes, st.sampled_from(MODES), st.integers(2, 48))
def test_what_fits_stays_within_the_device_in_every_phase(
    family: str, shape: Shape, mode: str, gib: int
) -> None:
    room = card(gib, foreign_bytes=300 * MIB)
    found = estimate(MODELS[family].sizes, shape, room, mode, FACTOR)
    if found.fits:
        limit = room.total_bytes - room.foreign_bytes - room.reserve_bytes
        assert all(phase.peak_bytes <= limit for phase in found.phases)
        assert found.peak_bytes == max(phase.peak_bytes for phase in found.phases)


def test_the_phases_come_in_order_with_the_weights_that_stay() -> None:
    sdxl = MODELS["sdxl"]
    shape = replace(sdxl.shape, from_image=True)
    found = estimate(sdxl.sizes, shape, card(24), "normal", FACTOR)
    assert [phase.name for phase in found.phases] == ["encode", "vae-encode", "denoise", "decode"]
    assert {phase.weights_bytes for phase in found.phases} == {sdxl.sizes.total_bytes}
    alone = estimate(sdxl.sizes, sdxl.shape, card(24), "medvram", FACTOR)
    assert [phase.weights_bytes // MIB for phase in alone.phases] == [1325, 4897, 160]
    low = estimate(sdxl.sizes, sdxl.shape, card(24), "lowvram", FACTOR)
    assert low.phases[1].weights_bytes == 3 * 64 * MIB
    assert low.phases[1].streams


def test_networks_beside_take_room_in_the_steps_and_are_streamed_where_all_is() -> None:
    sdxl = MODELS["sdxl"]
    steered = replace(sdxl.shape, beside=(2386 * MIB,))
    with_it = estimate(sdxl.sizes, steered, card(24), "medvram", FACTOR)
    assert [phase.weights_bytes // MIB for phase in with_it.phases] == [1325, 4897 + 2386, 160]
    low = estimate(sdxl.sizes, steered, card(24), "lowvram", FACTOR)
    assert low.phases[1].weights_bytes == 2 * 3 * 64 * MIB
    small = estimate(sdxl.sizes, steered, card(8), "normal", FACTOR)
    assert small.fits and small.phases[1].streams
    assert small.phases[1].peak_bytes <= 8 * GIB - 400 * MIB
    assert not estimate(sdxl.sizes, steered, card(7), "always-gpu", FACTOR).fits


def test_inference_memory_is_what_weights_leave_free() -> None:
    sdxl = MODELS["sdxl"]
    room = card(8, inference_bytes=6000 * MIB)
    found = estimate(sdxl.sizes, sdxl.shape, room, "normal", FACTOR)
    assert all(phase.weights_bytes <= (8192 - 6000) * MIB for phase in found.phases)
    assert found.phases[1].streams


def test_a_picture_too_large_for_one_decode_is_decoded_in_tiles() -> None:
    sdxl = MODELS["sdxl"]
    small = estimate(sdxl.sizes, sdxl.shape, card(8), "medvram", FACTOR)
    assert small.vae_mode.kind is VaeKind.SLICED
    big = replace(sdxl.shape, width=2048, height=2048)
    large = estimate(sdxl.sizes, big, card(8), "medvram", FACTOR)
    assert large.fits
    assert large.vae_mode.kind is VaeKind.TILED
    assert any("tiles of 768 pixels" in reason for reason in large.reasons)


def test_what_does_not_fit_says_which_part_and_what_would() -> None:
    flux = MODELS["flux"]
    room = card(12, host_available_bytes=16 * GIB)
    found = estimate(flux.sizes, flux.shape, room, "normal", FACTOR)
    assert not found.fits
    assert "32,178 MiB of main memory, 16,384 MiB can be had" in found.reasons[0]
    huge = Shape(width=8192, height=8192, batch=4)
    sdxl = MODELS["sdxl"].sizes
    lost = estimate(sdxl, huge, card(8), "normal", FACTOR)
    assert not lost.fits
    assert lost.reasons[0].startswith("denoise takes")


def test_the_recommended_size_fits_and_the_next_one_does_not() -> None:
    sdxl = MODELS["sdxl"]
    wide = Shape(width=1536, height=640, batch=4)
    best = recommend_size(sdxl.sizes, wide, card(6), "lowvram", FACTOR)
    assert best is not None
    assert best.width % 64 == best.height % 64 == 0
    assert best.width / best.height == pytest.approx(1536 / 640, rel=0.1)
    assert estimate(sdxl.sizes, best, card(6), "lowvram", FACTOR).fits
    more = replace(best, width=best.width + 64, height=best.height + 64)
    assert not estimate(sdxl.sizes, more, card(6), "lowvram", FACTOR).fits


def test_nothing_is_recommended_where_nothing_fits() -> None:
    sdxl = MODELS["sdxl"]
    assert recommend_size(sdxl.sizes, sdxl.shape, card(0.5), "lowvram", FACTOR) is None


def test_alternatives_fit_and_try_one_picture_at_a_time() -> None:
    sdxl = MODELS["sdxl"]
    shape = Shape(width=2048, height=2048, batch=8)
    room = card(6)
    assert not estimate(sdxl.sizes, shape, room, "normal", FACTOR).fits
    found = alternatives(sdxl.sizes, shape, room, FACTOR)
    assert found
    assert all(entry[2].fits and entry[1].batch == 1 for entry in found)


def test_of_several_checkpoints_all_have_to_fit() -> None:
    """SDXL draws at a small size and Flux at twice that: Flux is the one that has to shrink."""
    small, large = MODELS["sdxl"].sizes, MODELS["flux"].sizes
    shape = Shape(width=1024, height=768, batch=2)
    legs = [
        Leg("base", "small", small, shape),
        Leg("hires", "large", large, replace(shape, width=2048, height=1536)),
    ]
    both, alone = (largest_asked(some, card(8), "lowvram", FACTOR) for some in (legs, legs[1:]))
    assert both is not None and alone is not None
    assert both.width <= alone.width
    assert (both.width, both.height) == (both.width // 64 * 64, both.height // 64 * 64)
    assert largest_asked(legs, card(0.5), "normal", FACTOR) is None
    assert largest_asked(legs[:1], card(6), "lowvram", FACTOR) == recommend_size(
        small, shape, card(6), "lowvram", FACTOR
    )
    ways = other_ways(legs, card(8), FACTOR)
    assert "lowvram" in {way["mode"] for way in ways}
    for way in ways:
        shapes = [
            replace(leg.shape, width=way["width"] // part, height=way["height"] // part, batch=1)
            for leg, part in zip(legs, (2, 1), strict=True)
        ]
        assert all(
            estimate(leg.model, made, card(8), way["mode"], FACTOR).fits
            for leg, made in zip(legs, shapes, strict=True)
        )


def test_on_the_host_weights_and_activations_share_the_main_memory() -> None:
    network = Network(
        role="denoiser", trace="sd1", kind="unet", total_bytes=3 * GIB, width=320, itemsize=4
    )
    vae = Network(role="vae", trace="vae-4", kind="vae", total_bytes=GIB, width=128, itemsize=4)
    model = ModelSizes(family="sd1", networks=(network, vae))
    room = Room(total_bytes=8 * GIB, inference_bytes=0, is_host=True)
    found = estimate(model, Shape(width=512, height=512), room, "normal", FACTOR)
    assert found.fits
    assert all(phase.weights_bytes == 4 * GIB for phase in found.phases)
    tight = replace(room, foreign_bytes=4 * GIB)
    assert not estimate(model, Shape(width=512, height=512), tight, "normal", FACTOR).fits

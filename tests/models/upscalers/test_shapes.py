"""Which upscaler a file holds, in every spelling; and that spellings change no number."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from sdforge.core.errors import MissingModel, UnsupportedCheckpoint
from sdforge.core.paths import demo_folder
from sdforge.memory.device import HostDevice
from sdforge.memory.manager import MemoryManager
from sdforge.models.checkpoint import read_header
from sdforge.models.upscalers.library import UpscalerInfo, UpscalerLibrary
from sdforge.models.upscalers.loaded import Upscalers, upscaler_recipe
from sdforge.models.upscalers.networks import make_network, reach
from sdforge.models.upscalers.shapes import COMPACT, ESRGAN, UpscalerShape, upscaler_shape
from tests.tiny_upscalers import (
    compact_shape,
    early_names,
    esrgan_shape,
    oldest_names,
    random_weights,
    write_upscaler,
)

FACTS = ("kind", "scale", "features", "blocks", "growth", "squeeze", "doublings", "has_shortcuts")


def facts(shape: UpscalerShape) -> dict[str, object]:
    return {name: getattr(shape, name) for name in FACTS}


def loaded_network(path: Path) -> torch.nn.Module:
    """Return the network of a file as the program loads it; it stays loaded."""
    memory = MemoryManager(HostDevice(2**33))
    models = Upscalers(UpscalerLibrary(_no_paths(path)), memory, compute=torch.float32)
    info = models.library.find(path.stem)
    assert isinstance(info, UpscalerInfo)
    assert info.error is None, info.error
    with models.lease(info) as loaded:
        return loaded.component.module


def _no_paths(path: Path) -> object:
    class Paths:
        upscalers = (path.parent,)

    return Paths()


@pytest.mark.parametrize("doublings", [0, 1, 2, 3])
@pytest.mark.parametrize("shortcuts", [False, True])
def test_three_spellings_of_an_esrgan_are_one_network(
    tmp_path: Path, doublings: int, shortcuts: bool
) -> None:
    wanted = esrgan_shape(doublings=doublings, shortcuts=shortcuts)
    weights = random_weights(wanted)
    reference = make_network(wanted)
    reference.load_state_dict(weights)
    picture = torch.rand(1, 3, 7, 9, generator=torch.Generator().manual_seed(1))
    spellings = {"new": weights, "early": early_names(weights), "oldest": oldest_names(weights)}
    with torch.inference_mode():
        expected = reference(picture)
        assert expected.shape == (1, 3, 7 * wanted.scale, 9 * wanted.scale)
        for name, renamed in spellings.items():
            path = write_upscaler(tmp_path / f"{name}.safetensors", renamed)
            assert facts(upscaler_shape(read_header(path))) == facts(wanted), name
            torch.testing.assert_close(loaded_network(path)(picture), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("squeeze", [2, 4])
def test_a_squeeze_in_front_lowers_the_scale(tmp_path: Path, squeeze: int) -> None:
    wanted = esrgan_shape(squeeze=squeeze)
    path = write_upscaler(tmp_path / "x.safetensors", random_weights(wanted))
    found = upscaler_shape(read_header(path))
    assert facts(found) == facts(wanted)
    assert found.scale == 4 // squeeze


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("wrapper", ["", "params.", "params_ema."])
def test_compact_ones_of_any_scale_and_depth(tmp_path: Path, scale: int, wrapper: str) -> None:
    wanted = compact_shape(scale, blocks=scale)
    weights = {wrapper + name: value for name, value in random_weights(wanted).items()}
    path = write_upscaler(tmp_path / "x.safetensors", weights)
    assert facts(upscaler_shape(read_header(path))) == facts(wanted)


def test_averaged_weights_count_where_a_file_has_both(tmp_path: Path) -> None:
    shape = compact_shape()
    plain, averaged = random_weights(shape, 1), random_weights(shape, 2)
    both = {f"params.{name}": value for name, value in plain.items()}
    both |= {f"params_ema.{name}": value for name, value in averaged.items()}
    module = loaded_network(write_upscaler(tmp_path / "both.safetensors", both))
    torch.testing.assert_close(module.state_dict()["body.0.weight"], averaged["body.0.weight"])


def test_the_shipped_one_is_compact_and_four_times() -> None:
    path = demo_folder("ESRGAN") / "realesr-animevideov3.safetensors"
    shape = upscaler_shape(read_header(path))
    assert (shape.kind, shape.scale, shape.features, shape.blocks) == (COMPACT, 4, 64, 16)


@pytest.mark.parametrize("shape", [compact_shape(2, 3), esrgan_shape(blocks=1, doublings=1)])
def test_reach_is_as_far_as_a_pixel_counts(shape: UpscalerShape) -> None:
    network = make_network(shape)
    network.load_state_dict({name: value * 4 for name, value in random_weights(shape).items()})
    side = 2 * reach(shape) + 5
    picture = torch.rand(1, 3, 3, side, generator=torch.Generator().manual_seed(0))
    changed = picture.clone()
    changed[..., 0] = 1 - changed[..., 0]
    with torch.inference_mode():
        differs = (network(picture) - network(changed)).abs().amax(dim=(0, 1, 2))
    far = differs.reshape(side, shape.scale).amax(1).nonzero().max().item()
    assert far <= reach(shape)
    # Not much less either, or tiles would be larger than they need be.
    assert far >= reach(shape) - 2 * shape.doublings - 2


def test_what_is_no_upscaler_is_refused_with_the_reason(tmp_path: Path) -> None:
    weights = random_weights(esrgan_shape())
    grey = {
        name: value[:1] if name.startswith("conv_last") else value
        for name, value in weights.items()
    }
    cases = {
        "nothing": ({"some.weight": torch.zeros(2)}, "no upscaler that this version knows"),
        "grey": (grey, "not 3 to 3"),
        "gap": (
            {n: v for n, v in random_weights(compact_shape()).items() if "body.2." not in n},
            "gaps",
        ),
    }
    for name, (tensors, said) in cases.items():
        path = write_upscaler(tmp_path / f"{name}.safetensors", tensors)
        with pytest.raises(UnsupportedCheckpoint, match=said):
            upscaler_shape(read_header(path))


def test_missing_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    weights = random_weights(esrgan_shape())
    lacking = {n: v for n, v in weights.items() if n != "body.1.rdb2.conv3.weight"}
    header = read_header(write_upscaler(tmp_path / "lacking.safetensors", lacking))
    with pytest.raises(MissingModel, match=r"body\.1\.rdb2\.conv3\.weight"):
        upscaler_recipe(header, upscaler_shape(header))
    weights["body.1.rdb2.conv3.weight"] = torch.zeros(1, 2, 3, 3)
    header = read_header(write_upscaler(tmp_path / "odd.safetensors", weights))
    with pytest.raises(UnsupportedCheckpoint, match="was expected"):
        upscaler_recipe(header, upscaler_shape(header))


def test_kinds_say_what_they_are() -> None:
    assert ESRGAN in esrgan_shape().reason
    assert "×2" in compact_shape(2).reason


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("wrapper", [None, "params", "params_ema", "state_dict"])
def test_pytorch_files_are_the_same_networks(
    tmp_path: Path, is_old: bool, wrapper: str | None
) -> None:
    shape = esrgan_shape()
    weights = random_weights(shape)
    renamed = oldest_names(weights)
    path = tmp_path / "x.pth"
    content = renamed if wrapper is None else {wrapper: renamed}
    torch.save(content, path, _use_new_zipfile_serialization=not is_old)
    assert facts(upscaler_shape(read_header(path))) == facts(shape)
    for name, value in loaded_network(path).state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=0)


def test_averaged_weights_count_in_pytorch_files_too(tmp_path: Path) -> None:
    plain, averaged = random_weights(compact_shape(), 1), random_weights(compact_shape(), 2)
    path = tmp_path / "both.pth"
    torch.save({"params": plain, "params_ema": averaged}, path)
    module = loaded_network(path)
    torch.testing.assert_close(module.state_dict()["body.0.weight"], averaged["body.0.weight"])


class _Run:
    """Runs something when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("exit 1",)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"params": random_weights(compact_shape()), "more": _Run()}, path)
    library = UpscalerLibrary(_no_paths(path))
    info = library.find("evil")
    assert info is not None and info.error
    assert library.canonical("evil") is None
    with pytest.raises(UnsupportedCheckpoint):
        library.usable_one("evil")

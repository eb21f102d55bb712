import gc
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sdforge.core.device import DeviceInfo
from sdforge.core.errors import (
    Cancelled,
    CorruptCheckpoint,
    MissingModel,
    OutOfMemory,
    SdforgeError,
    UnknownName,
    UnsupportedCheckpoint,
)
from sdforge.core.settings import Settings
from sdforge.memory import pressure
from sdforge.memory.simulated import SimulatedDevice
from sdforge.models import bundle as bundle_module
from sdforge.models import loader, wanted
from sdforge.models.bundle import ModelBundle
from sdforge.models.checkpoint import read_header
from sdforge.models.families.sd_keys import Sizes
from sdforge.models.hashes import HashCache
from sdforge.models.loader import Precision, choose_precision
from tests.tiny import GIB, TINY, Parts, make_checkpoint, tiny_server_parts

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> dict[str, Path]:
    """A second checkpoint in fp16, a v-prediction one and a VAE alone."""
    folder = tmp_path_factory.mktemp("models")
    v = {"modelspec.prediction_type": "v"}
    return {
        "tiny": checkpoint,
        "half": make_checkpoint(folder / "half.safetensors", seed=1, dtype="F16"),
        "velocity": make_checkpoint(folder / "velocity.safetensors", seed=0, metadata=v),
        "vae": make_checkpoint(folder / "other.safetensors", seed=3, prefix="first_stage_model."),
    }


@pytest.fixture
def parts(tmp_path: Path, files: dict[str, Path]) -> Parts:
    made = tiny_server_parts(tmp_path, files["tiny"], files["half"], files["velocity"])
    made.paths.vaes[0].mkdir(parents=True)
    shutil.copy(files["vae"], made.paths.vaes[0] / "other.safetensors")
    return made


def picture(parts: Parts, bundle: ModelBundle) -> torch.Tensor:
    """One denoiser call and a decode: touches every component."""

    class Window:
        ids = (49406, 320, 2368, *[49407] * 74)
        weights = (1.0,) * 77

    cond = bundle.text.encode([Window()])
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 5
    with parts.memory.lease(bundle.denoiser.component) as module:
        latents = bundle.denoiser.predict(module, x, 5.0, cond)
    return bundle.vae.decode(latents)


def test_a_bundle_has_all_parts_and_says_what_it_is(parts: Parts) -> None:
    bundle = parts.provider.get("tiny")
    assert set(bundle.components) == {"text_encoder", "denoiser", "vae"}
    assert bundle.family == "sd1"
    assert bundle.denoiser.prediction == "epsilon"
    assert (bundle.latent_format.channels, bundle.latent_format.downscale) == (4, 8)
    assert bundle.latent_format.scale == 0.18215
    identity = bundle.identity
    assert identity.name == "tiny"
    assert identity.title == f"tiny.safetensors [{identity.short_hash}]"
    assert identity.vae_name is None


def test_the_same_checkpoint_is_not_loaded_twice(parts: Parts) -> None:
    first = parts.provider.get("tiny")
    identity = first.identity
    for name in ("tiny.safetensors", identity.title, str(identity.short_hash)):
        assert parts.provider.get(name) is first


def test_progress_rises_from_0_to_1(parts: Parts) -> None:
    fractions: list[float] = []
    parts.provider.get("half", on_progress=fractions.append)
    assert fractions[0] == 0.0
    assert fractions[-1] == 1.0
    assert fractions == sorted(fractions)
    assert 10 < len(fractions) < 110


def test_switching_back_and_forth_gives_the_same_pictures(parts: Parts) -> None:
    first = picture(parts, parts.provider.get("tiny"))
    other = picture(parts, parts.provider.get("half"))
    again = picture(parts, parts.provider.get("tiny"))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.01)


def test_with_a_limit_of_one_the_old_bundle_is_released_before_the_new_one_is_read(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.provider.configure(Settings(sd_checkpoints_limit=1))
    old = parts.provider.get("tiny")
    load = loader.load_component

    def check(*args: object, **kwargs: object) -> object:
        assert all(component.is_released for component in old.components.values())
        return load(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(loader, "load_component", check)
    parts.provider.get("half")
    with pytest.raises(SdforgeError, match="released"):
        picture(parts, old)


def test_checkpoints_stay_in_memory_and_coming_back_reads_nothing(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = parts.provider.get("tiny"), parts.provider.get("half")
    before = picture(parts, first)
    assert not torch.allclose(before, picture(parts, other), atol=0.01)

    def refuse(path: Path) -> None:
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr(wanted, "open_model", refuse)
    assert parts.provider.get("tiny") is first
    assert parts.provider.get("half") is other
    assert torch.equal(picture(parts, first), before)


def test_equal_parts_of_different_files_are_held_once(parts: Parts) -> None:
    # velocity.safetensors has tiny's weights under other metadata.
    first, other = parts.provider.get("tiny"), parts.provider.get("velocity")
    for role, component in first.components.items():
        assert other.components[role] is component
    assert (first.denoiser.prediction, other.denoiser.prediction) == ("epsilon", "v")
    report = parts.provider.report()
    assert len(report.components) == 3
    assert {row.checkpoints for row in report.components} == {
        ("tiny.safetensors", "velocity.safetensors")
    }
    assert [row.own_bytes for row in report.checkpoints] == [0, 0]

    parts.provider.unload_one("tiny")
    assert not any(component.is_released for component in other.components.values())
    assert picture(parts, other).shape == (1, 3, 64, 64)
    parts.provider.unload_one("velocity")
    assert all(component.is_released for component in other.components.values())


def test_parts_that_differ_in_one_byte_are_not_taken_for_equal(parts: Parts) -> None:
    folder = parts.paths.checkpoints[0]
    content = bytearray((folder / "tiny.safetensors").read_bytes())
    header = read_header(folder / "tiny.safetensors")
    # At the start of a large tensor, where no sample is taken.
    place = header.tensors["model.diffusion_model.input_blocks.0.0.weight"].start
    content[header.data_start + place] ^= 1
    (folder / "near.safetensors").write_bytes(content)
    parts.library.refresh()
    first, other = parts.provider.get("tiny"), parts.provider.get("near")
    assert other.components["denoiser"] is not first.components["denoiser"]
    assert other.components["vae"] is first.components["vae"]
    assert other.components["text_encoder"] is first.components["text_encoder"]


def test_a_leased_bundle_outlives_a_switch_and_leaves_with_its_lease(parts: Parts) -> None:
    parts.provider.configure(Settings(sd_checkpoints_limit=1))
    first = parts.provider.get("tiny")
    with parts.provider.lease(first):
        before = picture(parts, first)
        parts.provider.get("half")
        assert torch.equal(picture(parts, first), before)
        parts.provider.unload()
        assert not any(component.is_released for component in first.components.values())
    assert all(component.is_released for component in first.components.values())


def test_a_load_can_be_cancelled_and_leaves_what_was_there(parts: Parts) -> None:
    old = parts.provider.get("tiny")
    before = picture(parts, old)

    def cancel(fraction: float) -> None:
        if fraction > 0.4:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        parts.provider.get("half", on_progress=cancel)
    assert parts.provider.get("tiny") is old
    assert len(parts.provider.report().components) == 3
    assert torch.equal(picture(parts, old), before)


def test_the_first_picture_does_not_wait_for_a_hash(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed, may_hash = threading.Event(), threading.Event()
    compute = HashCache.compute

    def slow(cache: HashCache, path: Path) -> str:
        assert may_hash.wait(20)
        return compute(cache, path)

    monkeypatch.setattr(HashCache, "compute", slow)
    monkeypatch.setattr(bundle_module, "_HASH_PATIENCE_SECONDS", 0.01)
    bundle = parts.provider.get("half")
    assert (bundle.identity.name, bundle.identity.sha256) == ("half", None)
    may_hash.set()
    while bundle.identity.sha256 is None:
        hashed.wait(0.01)
    assert bundle.identity.title == f"half.safetensors [{bundle.identity.short_hash}]"


def test_v_prediction_reaches_the_denoiser(parts: Parts) -> None:
    assert parts.provider.get("velocity").denoiser.prediction == "v"


def test_another_vae_changes_the_decoding_and_keeps_the_rest(parts: Parts) -> None:
    own = parts.provider.get("tiny")
    denoiser, text = own.components["denoiser"], own.components["text_encoder"]
    own_picture = picture(parts, own)
    other = parts.provider.get("tiny", vae="other.safetensors")
    assert other.components["denoiser"] is denoiser
    assert other.components["text_encoder"] is text
    assert other.identity.vae_name == "other.safetensors"
    assert other.identity.vae_sha256
    assert not torch.allclose(picture(parts, other), own_picture, atol=0.01)

    back = parts.provider.get("tiny", vae="None")
    assert back.identity.vae_name is None
    assert torch.equal(picture(parts, back), own_picture)


def test_a_vae_stands_in_for_a_checkpoint_without_one(parts: Parts) -> None:
    from safetensors.torch import load_file, save_file

    folder = parts.paths.checkpoints[0]
    tensors = load_file(folder / "tiny.safetensors")
    rest = {k: v for k, v in tensors.items() if not k.startswith("first_stage_model.")}
    save_file(rest, folder / "bare.safetensors")
    parts.library.refresh()
    with pytest.raises(MissingModel, match="holds no VAE"):
        parts.provider.get("bare")
    assert picture(parts, parts.provider.get("bare", vae="other")).shape == (1, 3, 64, 64)


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _text(path: Path) -> None:
    path.write_text("This is not a model, it is a text that somebody renamed.")


def _with_seven_channels(path: Path) -> None:
    make_checkpoint(path, Sizes(**{**vars(TINY), "in_channels": 7}))


def _without_layer(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    del tensors["model.diffusion_model.output_blocks.5.0.in_layers.2.weight"]
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (_truncated, CorruptCheckpoint),
        (_text, CorruptCheckpoint),
        (_with_seven_channels, UnsupportedCheckpoint),
        (_without_layer, MissingModel),
        (Path.unlink, MissingModel),
    ],
)
def test_a_checkpoint_that_cannot_serve_leaves_the_old_one_in_place(
    parts: Parts, spoil: Callable[[Path], None], error: type[SdforgeError]
) -> None:
    old = parts.provider.get("tiny")
    before = picture(parts, old)
    spoil(parts.paths.checkpoints[0] / "half.safetensors")
    with pytest.raises(error, match=r"half\.safetensors"):
        parts.provider.get("half")
    assert parts.provider.get("tiny") is old
    assert torch.equal(picture(parts, old), before)


def test_unknown_names_leave_the_old_model_in_place(parts: Parts) -> None:
    old = parts.provider.get("tiny")
    with pytest.raises(UnknownName):
        parts.provider.get("no such model")
    with pytest.raises(UnknownName):
        parts.provider.get("half", vae="no such vae")
    assert parts.provider.current is old


def test_a_failure_in_the_middle_leaves_nothing_half_loaded(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.provider.configure(Settings(sd_checkpoints_limit=1))
    parts.provider.get("tiny")
    made = []
    load = loader.load_component

    def fail_at_third(*args: object, **kwargs: object) -> object:
        if len(made) == 2:
            raise OSError("the disk went away")
        made.append(load(*args, **kwargs))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(loader, "load_component", fail_at_third)
    with pytest.raises(OSError, match="went away"):
        parts.provider.get("half")
    assert parts.provider.current is None
    assert all(component.is_released for component in made)
    monkeypatch.undo()
    assert picture(parts, parts.provider.get("half")).shape == (1, 3, 64, 64)


class Little:
    """What psutil says on a machine whose memory is full."""

    total = available = free = 1024


def test_a_model_that_does_not_fit_into_memory_is_refused_before_anything_is_dropped(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = parts.provider.get("tiny")
    with parts.provider.lease(old):
        monkeypatch.setattr(pressure.psutil, "virtual_memory", Little)
        monkeypatch.setattr(pressure.psutil, "swap_memory", Little)
        with pytest.raises(OutOfMemory, match=r"needs \d+ MiB of main memory, 0 MiB can be had"):
            parts.provider.get("half")
    assert parts.provider.current is old
    assert picture(parts, old).shape == (1, 3, 64, 64)


def test_other_checkpoints_make_room_when_memory_is_short(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = parts.provider.get("tiny")
    monkeypatch.setattr(pressure.psutil, "virtual_memory", Little)
    monkeypatch.setattr(pressure.psutil, "swap_memory", Little)
    assert picture(parts, parts.provider.get("half")).shape == (1, 3, 64, 64)
    assert all(component.is_released for component in old.components.values())


def test_unloading_gives_everything_back_and_the_next_get_loads_again(parts: Parts) -> None:
    old = parts.provider.get("tiny")
    before = picture(parts, old)
    parts.provider.unload()
    parts.provider.unload()
    assert all(component.is_released for component in old.components.values())
    new = parts.provider.get("tiny")
    assert new is not old
    assert torch.equal(picture(parts, new), before)


def test_a_replaced_file_is_loaded_anew(parts: Parts, files: dict[str, Path]) -> None:
    old = parts.provider.get("tiny")
    target = parts.paths.checkpoints[0] / "tiny.safetensors"
    fresh = make_checkpoint(target.with_name("fresh.tmp"), seed=9)
    fresh.replace(target)
    assert parts.provider.get("tiny") is not old


def test_half_precision_serves_as_well_as_full(
    tmp_path: Path, files: dict[str, Path], parts: Parts
) -> None:
    # fp32 arithmetic over the same numbers: the CPU's fp16 is slow, its storage is not.
    half = tiny_server_parts(
        tmp_path / "other",
        files["half"],
        precision=Precision(F16, F32, BF16),
        device=SimulatedDevice(8 * GIB),
    )
    bundle = half.provider.get("half")
    types = {role: next(c.module.parameters()).dtype for role, c in bundle.components.items()}
    assert types == {"denoiser": F16, "text_encoder": F32, "vae": BF16}
    assert bundle.components["denoiser"].arenas == ()  # mapped
    pixels = picture(half, bundle)
    wanted = picture(parts, parts.provider.get("half"))
    assert (pixels - wanted).abs().mean() < 0.05


def test_a_small_device_gives_the_same_picture(
    tmp_path: Path, files: dict[str, Path], parts: Parts
) -> None:
    device = SimulatedDevice(19_000_000)  # the U-Net is 13 MB, all parts together 25
    small = tiny_server_parts(tmp_path / "other", files["half"], device=device)
    small.memory.inference_bytes = 0
    got = picture(small, small.provider.get("half"))
    assert torch.equal(got, picture(parts, parts.provider.get("half")))
    assert device.peak_bytes < 19_000_000


CPU = DeviceInfo(
    kind="cpu", index=0, name="CPU", total_bytes=1, supports_fp16=False, supports_bf16=False
)
CUDA = DeviceInfo(
    kind="cuda", index=0, name="GPU", total_bytes=1, supports_fp16=True, supports_bf16=True
)
OLD_CUDA = DeviceInfo(
    kind="cuda", index=0, name="GPU", total_bytes=1, supports_fp16=True, supports_bf16=False
)


@pytest.mark.parametrize(
    ("device", "flags", "wanted"),
    [
        (CPU, {}, Precision(F32, F32, F32)),
        (CPU, {"unet_in_fp16": True, "vae_in_bf16": True}, Precision(F32, F32, F32)),
        (CUDA, {}, Precision(F16, F16, BF16)),
        (OLD_CUDA, {}, Precision(F16, F16, F32)),
        (CUDA, {"no_half": True}, Precision(F32, F32, F32)),
        (CUDA, {"precision": "full"}, Precision(F32, F32, F32)),
        (CUDA, {"precision": "autocast"}, Precision(F16, F16, BF16)),
        (CUDA, {"no_half_vae": True}, Precision(F16, F16, F32)),
        (CUDA, {"vae_in_fp16": True}, Precision(F16, F16, F16)),
        (CUDA, {"unet_in_bf16": True, "clip_in_fp32": True}, Precision(BF16, F32, BF16)),
        (OLD_CUDA, {"unet_in_bf16": True}, Precision(F32, F16, F32)),
    ],
)
def test_precision_follows_device_and_flags(
    device: DeviceInfo, flags: dict[str, object], wanted: Precision
) -> None:
    assert choose_precision(device, flags) == wanted


def _memory_kib(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise AssertionError(f"no {name}")


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("the kernel does not let the peak be reset")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_takes_no_memory_beyond_the_weights_and_gives_it_back(tmp_path: Path) -> None:
    sizes = Sizes(unet_width=64, text_width=256, text_layers=4, vae_width=64)
    file = make_checkpoint(tmp_path / "mid.safetensors", sizes, dtype="F16")
    kept = file.stat().st_size * 2 / 1024
    assert kept > 200_000
    parts = tiny_server_parts(tmp_path / "data", file)
    gc.collect()
    before = _memory_kib("RssAnon")
    _reset_peak()
    start = _memory_kib("VmHWM")
    bundle = parts.provider.get("mid")
    growth = _memory_kib("VmHWM") - start
    assert growth <= 1.1 * kept
    # Only that the measure works: what other tests left in the heap may be freed meanwhile.
    assert growth > 0.5 * kept
    held = list(bundle.components["denoiser"].module.parameters())
    parts.provider.unload()
    assert _memory_kib("RssAnon") - before < 0.1 * kept
    assert all(parameter.numel() == 0 for parameter in held)

"""What the engine says of a request before it runs, from real headers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.tiny_models import text, transformers, vae
from scripts.tiny_models.files import with_prefix
from sdforge.core.control import ControlUnit
from sdforge.core.errors import InvalidRequest, ModelError, UnknownName
from sdforge.core.inputs import InputImage
from sdforge.core.paths import Paths
from sdforge.core.settings import SettingsStore
from sdforge.engine import Engine
from sdforge.models.families.sd_keys import Sizes, checkpoint_shapes, vae_shapes
from sdforge.models.library import Library
from tests.engine.fakes import FakeRunner, a_request
from tests.tiny import make_checkpoint, sparse_checkpoint
from tests.tiny_control import make_controlnet
from tests.tiny_ip_adapter import flat, ip_adapter_tensors, make_encoder
from tests.tiny_relatives import saved

MIB = 2**20


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("preflight") / "tiny.safetensors")


@pytest.fixture
def make(tmp_path: Path, checkpoint: Path) -> Iterator[Any]:
    engines: list[Engine] = []
    folder = tmp_path / "models" / "Stable-diffusion"
    folder.mkdir(parents=True)
    (folder / "tiny.safetensors").symlink_to(checkpoint)

    def build(flags: dict[str, Any] | None = None, **settings: Any) -> tuple[Engine, FakeRunner]:
        paths, runner = Paths.under(tmp_path), FakeRunner()
        engine = Engine(
            paths=paths,
            settings=SettingsStore(None, settings),
            library=Library(paths, hashing=False),
            make_runner=lambda: runner,
            version="test",
            flags=flags or {"simulate_device": 512},
        )
        engines.append(engine)
        return engine, runner

    yield build
    for engine in engines:
        engine.close(timeout=10)


def test_an_estimate_lists_phases_and_the_budget_without_loading(make: Any) -> None:
    engine, runner = make(forge_inference_memory=100)
    found = engine.estimate(a_request(checkpoint="tiny"))
    assert found["fits"] is True
    assert [phase["name"] for phase in found["phases"]] == ["encode", "denoise", "decode"]
    assert found["budget"]["total_bytes"] == 512 * MIB
    assert found["budget"]["inference_bytes"] == 100 * MIB
    assert found["peak_bytes"] == max(phase["peak_bytes"] for phase in found["phases"])
    assert found["recommended"] == {"width": 64, "height": 64, "batch_size": 1}
    assert found["largest"]["width"] > 64
    assert found["seconds"] is None
    assert runner.loads == []
    assert engine.jobs() == []


def test_controlnets_count_beside_the_denoiser(make: Any, tmp_path: Path) -> None:
    file = make_controlnet(tmp_path / "models" / "ControlNet" / "canny.safetensors")
    engine, _ = make(forge_inference_memory=100)
    plain = engine.estimate(a_request(checkpoint="tiny"))
    unit = ControlUnit(model="canny")
    found = engine.estimate(a_request(checkpoint="tiny", control=(unit,)))
    more = found["weights_bytes"] - plain["weights_bytes"]
    assert 0.9 < more / file.stat().st_size < 1
    grown = [
        now["weights_bytes"] - before["weights_bytes"]
        for now, before in zip(found["phases"], plain["phases"], strict=True)
    ]
    assert grown == [0, more, 0]
    for other in ((unit, unit), (unit, ControlUnit(model="nowhere"))):
        again = engine.estimate(a_request(checkpoint="tiny", control=other))
        assert again["weights_bytes"] == found["weights_bytes"]
    off = engine.estimate(a_request(checkpoint="tiny", control=(replace(unit, weight=0.0),)))
    assert off["weights_bytes"] == plain["weights_bytes"]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A checkpoint of SD 1.5's size, of which nothing is on disk but its header."""
    folder = tmp_path / "models" / "Stable-diffusion"
    return sparse_checkpoint(folder / "large.safetensors", checkpoint_shapes(Sizes()))


HIRES: dict[str, Any] = {"hires": True, "hires_scale": 2.0, "denoising_strength": 0.5}


def test_an_estimate_knows_the_second_passs_own_checkpoint(make: Any, large: Path) -> None:
    engine, _ = make({"simulate_device": 4096}, forge_inference_memory=0)
    same = engine.estimate(a_request(checkpoint="tiny", **HIRES))
    assert [(one["name"], one["width"]) for one in same["passes"]] == [("hires", 128)]
    found = engine.estimate(a_request(checkpoint="tiny", hires_checkpoint="large", **HIRES))
    alone = engine.estimate(a_request(checkpoint="large", width=128, height=128))
    first, second = found["passes"]
    assert (first["name"], first["width"]) == ("base", 64)
    assert (second["name"], second["width"]) == ("hires", 128)
    assert found["checkpoint"] == second["checkpoint"] != first["checkpoint"]
    assert found["weights_bytes"] == second["weights_bytes"] == alone["weights_bytes"]
    assert found["weights_bytes"] > 100 * same["weights_bytes"]
    # What is enlarged has its first pass behind it.
    picture = InputImage("0" * 64, 64, 64)
    again = engine.estimate(
        a_request(checkpoint="tiny", hires_checkpoint="large", first_picture=picture, **HIRES)
    )
    assert [one["name"] for one in again["passes"]] == ["hires"]


@pytest.mark.parametrize("other", ["hires_checkpoint", "refiner"])
def test_a_job_fits_only_if_all_its_checkpoints_do(make: Any, large: Path, other: str) -> None:
    engine, _ = make({"simulate_device": 200}, forge_inference_memory=0, memory_mode="normal")
    values = {other: "large", "checkpoint": "tiny"}
    values |= HIRES if other == "hires_checkpoint" else {"refiner_switch_at": 0.5}
    plain = {name: value for name, value in values.items() if name != other}
    assert engine.estimate(a_request(**plain))["fits"] is True
    found = engine.estimate(a_request(**values))
    assert found["fits"] is False
    assert [one["fits"] for one in found["passes"] if "tiny" in one["checkpoint"]] == [True]
    assert "large" in found["checkpoint"]
    assert found["reasons"][0].startswith(found["checkpoint"])
    assert "takes" in found["reasons"][0]
    # Nothing that a mode cannot mend is offered, and what is offered fits.
    for way in found["alternatives"]:
        scale = 2 if other == "hires_checkpoint" else 1
        size = {"width": way["width"] // scale, "height": way["height"] // scale}
        tried = {**values, **size, "overrides": {"memory_mode": way["mode"]}}
        assert engine.estimate(a_request(**tried))["fits"] is True


def test_a_refiner_counts_in_the_passes_that_it_acts_in(make: Any, large: Path) -> None:
    engine, _ = make({"simulate_device": 4096})

    def sizes(setting: str, **values: Any) -> list[tuple[str, int]]:
        asked = {"checkpoint": "tiny", "refiner": "large", "refiner_switch_at": 0.5} | values
        asked["overrides"] = {"hires_fix_refiner_pass": setting}
        found = engine.estimate(a_request(**asked))
        return [(one["name"], one["width"]) for one in found["passes"]]

    assert sizes("second pass") == [("base", 64), ("refiner", 64)]
    assert sizes("second pass", **HIRES) == [("refiner", 128), ("hires", 128)]
    assert sizes("first pass", **HIRES) == [("refiner", 64), ("hires", 128)]
    assert sizes("both passes", **HIRES) == [("refiner", 128), ("hires", 128)]


def test_an_estimate_knows_the_second_passs_own_vae(make: Any, tmp_path: Path) -> None:
    file = tmp_path / "models" / "VAE" / "wide.safetensors"
    sparse_checkpoint(file, vae_shapes(Sizes()))
    engine, _ = make({"simulate_device": 4096}, forge_inference_memory=0)
    asked = {"checkpoint": "tiny", **HIRES}
    own = engine.estimate(a_request(**asked))
    found = engine.estimate(a_request(**asked, hires_modules=("wide.safetensors",)))
    base, second = found["passes"]
    assert base["weights_bytes"] == own["weights_bytes"] < second["weights_bytes"]


def test_an_estimate_takes_milliseconds(make: Any) -> None:
    engine, _ = make()
    request = a_request(checkpoint="tiny")
    engine.estimate(request)
    best = 1.0
    for _ in range(10):
        began = time.process_time()
        engine.estimate(request)
        best = min(best, time.process_time() - began)
    # Ten times what it takes: only a change of kind is seen here, the figure is the benchmarks'.
    assert best < 0.1


def test_a_request_that_cannot_fit_gets_sizes_that_do(make: Any) -> None:
    engine, _ = make(forge_inference_memory=0)
    found = engine.estimate(a_request(checkpoint="tiny", width=4096, height=2048, batch_size=4))
    assert found["fits"] is False
    assert "denoise takes" in found["reasons"][0]
    best = found["recommended"]
    assert 64 <= best["width"] < 4096
    assert found["alternatives"]
    again = engine.estimate(a_request(checkpoint="tiny", **best))
    assert again["fits"] is True


def test_wrong_requests_are_refused_as_at_submission(make: Any) -> None:
    engine, _ = make()
    with pytest.raises(InvalidRequest, match="steps"):
        engine.estimate(a_request(checkpoint="tiny", steps=0))
    with pytest.raises(UnknownName):
        engine.estimate(a_request(checkpoint="no such model"))
    with pytest.raises(UnknownName, match="VAE"):
        engine.estimate(a_request(checkpoint="tiny", overrides={"sd_vae": "no such"}))


def test_a_broken_checkpoint_is_refused(make: Any, tmp_path: Path) -> None:
    (tmp_path / "models" / "Stable-diffusion" / "broken.safetensors").write_bytes(b"\0" * 100)
    engine, _ = make()
    with pytest.raises(ModelError):
        engine.estimate(a_request(checkpoint="broken"))


def test_an_override_of_the_inference_memory_counts_and_is_checked(make: Any) -> None:
    engine, _ = make(forge_inference_memory=100)
    request = a_request(checkpoint="tiny", overrides={"forge_inference_memory": 200})
    assert engine.estimate(request)["budget"]["inference_bytes"] == 200 * MIB
    assert engine.settings.current.forge_inference_memory == 100
    for method in (engine.estimate, engine.submit):
        with pytest.raises(InvalidRequest, match="device's 512"):
            method(a_request(checkpoint="tiny", overrides={"forge_inference_memory": 513}))


@pytest.mark.parametrize(
    ("mib", "mode"), [(512, "normal"), (20, "medvram"), (3, "lowvram")]
)  # fmt: skip
def test_without_a_flag_the_mode_follows_the_device(make: Any, mib: int, mode: str) -> None:
    engine, _ = make({"simulate_device": mib}, forge_inference_memory=0)
    facts = engine.memory_mode()
    assert (facts["setting"], facts["mode"]) == ("auto", mode), facts
    assert facts["total_bytes"] == mib * MIB
    assert facts["reason"]


def test_a_job_runs_in_the_chosen_mode_and_the_log_says_why(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    engine, runner = make({"simulate_device": 20}, forge_inference_memory=0)
    engine.start()
    with caplog.at_level("INFO", logger="sdforge"):
        for _ in range(2):
            engine.wait(engine.submit(a_request(checkpoint="tiny")).id, timeout=20)
    assert {settings.memory_mode for settings in runner.settings} == {"medvram"}
    assert caplog.text.count("memory mode for tiny.safetensors: medvram") == 1
    assert engine.settings.current.memory_mode == "auto"


def test_a_flag_or_setting_beats_the_choice(make: Any) -> None:
    engine, _ = make({"simulate_device": 512}, memory_mode="lowvram")
    assert engine.memory_mode()["mode"] == "lowvram"
    engine.close()
    sdxl_only, _ = make({"simulate_device": 512}, memory_mode="medvram-sdxl")
    assert sdxl_only.memory_mode()["mode"] == "normal"


def test_the_time_is_predicted_from_the_last_job_of_the_checkpoint(make: Any) -> None:
    engine, _ = make()
    engine.start()
    job = engine.wait(engine.submit(a_request(checkpoint="tiny")).id, timeout=20)
    assert job.timings
    once = engine.estimate(a_request(checkpoint="tiny"))["seconds"]
    assert once is not None
    more = engine.estimate(a_request(checkpoint="tiny", steps=40, width=128))["seconds"]
    assert more >= once


def test_computing_on_the_cpu_is_for_the_start_where_there_is_an_accelerator(make: Any) -> None:
    engine, _ = make()
    with pytest.raises(InvalidRequest, match="start with --always-cpu"):
        engine.change_settings({"memory_mode": "always-cpu"})
    with pytest.raises(InvalidRequest, match="start with --always-cpu"):
        engine.submit(a_request(checkpoint="tiny", overrides={"memory_mode": "always-cpu"}))
    assert engine.settings.current.memory_mode == "auto"
    engine.close()
    on_cpu, _ = make({"always_cpu": True})
    assert on_cpu.change_settings({"memory_mode": "always-cpu"}).memory_mode == "always-cpu"


def test_a_preset_brings_its_gpu_weights(make: Any) -> None:
    engine, _ = make(flux_GPU_MB=384, forge_inference_memory=100)
    assert engine.change_settings({"forge_preset": "flux"}).forge_inference_memory == 512 - 384
    named = {"forge_preset": "flux", "forge_inference_memory": 256}
    assert engine.change_settings(named).forge_inference_memory == 256
    assert engine.change_settings({"forge_preset": "sd"}).forge_inference_memory == 256
    with pytest.raises(InvalidRequest, match="device's 512"):
        engine.change_settings({"forge_inference_memory": 513, "jpeg_quality": 3})
    assert engine.settings.current.jpeg_quality == 80


def test_a_picture_to_refer_to_counts_only_where_one_is_given(make: Any, tmp_path: Path) -> None:
    shapes = {
        **with_prefix("model.diffusion_model.", transformers.flux2()),
        **with_prefix("vae.", vae.flux2_vae()),
        **with_prefix("text_encoders.qwen3_4b.transformer.", text.qwen3(layers=28)),
    }
    sparse_checkpoint(tmp_path / "models" / "Stable-diffusion" / "klein.safetensors", shapes)
    engine, _ = make(forge_inference_memory=100)

    def working(checkpoint: str, **values: Any) -> int:
        request = a_request(checkpoint=checkpoint, width=512, height=512, cfg_scale=1.0, **values)
        phases = {phase["name"]: phase for phase in engine.estimate(request)["phases"]}
        return int(phases["denoise"]["working_bytes"])

    picture: dict[str, Any] = {
        "init_images": (InputImage("0" * 64, 8, 8),),
        "denoising_strength": 1.0,
    }
    assert 1.4 < working("klein", **picture) / working("klein") < 2.1
    further = {"references": (InputImage("0" * 64, 512, 512), InputImage("1" * 64, 9000, 9000))}
    asked = a_request(checkpoint="klein", width=512, height=512, **further)
    phases = {one["name"]: one["working_bytes"] for one in engine.estimate(asked)["phases"]}
    # A megapixel is encoded, a quarter of that is decoded.
    assert phases["vae-encode"] > phases["decode"]
    # As much as the drawn one, and a megapixel.
    more = working("klein", **further) - working("klein")
    assert more == pytest.approx(5 * (working("klein", **picture) - working("klein")), rel=0.01)
    assert working("tiny", **picture) == working("tiny")


def test_what_an_ip_adapter_sees_with_counts_while_texts_are_encoded(
    make: Any, tmp_path: Path
) -> None:
    """Once, whichever units look through it; on the device it is gone when drawing begins."""
    models = tmp_path / "models"
    encoder = saved(make_encoder().state_dict(), models / "clip_vision" / "clip.safetensors")
    unet = SimpleNamespace(named_modules=lambda: [("x.attn2", None)], get_submodule=_attention)
    adapter = saved(
        flat(ip_adapter_tensors(unet, plus=False)), models / "ControlNet" / "ip.safetensors"
    )
    engine, _ = make(forge_inference_memory=100)
    plain = engine.estimate(a_request(checkpoint="tiny"))
    unit = ControlUnit(model="ip")
    found = engine.estimate(a_request(checkpoint="tiny", control=(unit, unit)))
    more = found["weights_bytes"] - plain["weights_bytes"]
    assert 0.9 < more / (encoder.stat().st_size + adapter.stat().st_size) < 1
    encoder.unlink()
    without = engine.estimate(a_request(checkpoint="tiny", control=(unit,)))
    assert without["weights_bytes"] == plain["weights_bytes"]


def _attention(name: str) -> Any:
    """A layer of SD 1.x's width, as the adapter's maker asks for one."""
    return SimpleNamespace(
        to_k=SimpleNamespace(in_features=768), to_q=SimpleNamespace(out_features=320)
    )

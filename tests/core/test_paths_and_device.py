"""Folders follow A1111's layout; the probe describes this machine."""

import os
import stat
from pathlib import Path

import pytest

from sdforge.core.device import DeviceInfo, host_total_bytes, limited, probe, survey
from sdforge.core.paths import Paths, configs_root, install_root


def test_standard_folders_lie_below_the_data_folder(tmp_path: Path) -> None:
    paths = Paths.under(tmp_path)
    assert paths.checkpoints == (tmp_path / "models" / "Stable-diffusion",)
    assert paths.settings == tmp_path / "config.json"
    assert paths.resolve_output("outputs/x") == tmp_path / "outputs" / "x"
    assert paths.resolve_output("/elsewhere") == Path("/elsewhere")


def test_extra_folders_are_searched_besides_the_standard_ones(tmp_path: Path) -> None:
    paths = Paths(data=tmp_path, models=tmp_path / "m", extra_checkpoints=(tmp_path / "more",))
    assert paths.checkpoints == (tmp_path / "m" / "Stable-diffusion", tmp_path / "more")


def test_the_installation_holds_the_package_and_its_configurations() -> None:
    assert (install_root() / "sdforge" / "core").is_dir()
    assert configs_root().is_dir()


def test_the_cpu_is_found_with_its_memory_and_without_half_precision() -> None:
    info = probe(force_cpu=True)
    assert info.torch_name == "cpu"
    assert info.total_bytes == host_total_bytes() > 2**28
    assert not info.supports_fp16


MIB = 2**20


def card(total: int = 24 * 1024) -> DeviceInfo:
    return DeviceInfo(
        kind="cuda", index=0, name="card", total_bytes=total * MIB, supports_fp16=True,
        supports_bf16=True,
    )  # fmt: skip


def test_a_limit_plays_a_smaller_card_but_never_a_larger_one() -> None:
    assert limited(card(), {"vram_limit": 4096}).total_bytes == 4096 * MIB
    assert limited(card(2048), {"vram_limit": 4096}).total_bytes == 2048 * MIB
    assert limited(card(), {"reserve_vram": 1.5}).reserve_bytes == 1536 * MIB
    assert limited(probe(force_cpu=True), {"vram_limit": 10}) == probe(force_cpu=True)


def test_a_simulated_device_computes_on_the_host() -> None:
    info = limited(probe(force_cpu=True), {"simulate_device": 512})
    assert (info.total_bytes, info.torch_name, info.is_accelerator) == (512 * MIB, "cpu", True)


@pytest.mark.skipif(os.name == "nt", reason="the driver's tool is played by a shell script")
def test_a_card_is_found_by_its_driver_s_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 3060, 12288, 11000, 8.6'\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    machine = survey()
    assert machine.device.name == "NVIDIA GeForce RTX 3060"
    assert machine.device.total_bytes == 12288 * MIB
    assert machine.device.supports_bf16
    assert machine.free_bytes == 11000 * MIB
    assert survey(flags={"vram_limit": 4096}).free_bytes == (11000 - 8192) * MIB
    assert survey(force_cpu=True).device.kind == "cpu"
    tool.write_text("#!/bin/sh\necho 'No devices were found'\n")
    assert survey().device.kind == "cpu"
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert survey().device.kind == "cpu"

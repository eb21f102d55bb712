"""Folders follow A1111's layout; the probe describes this machine."""

from pathlib import Path

from sdforge.core.device import host_total_bytes, probe
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

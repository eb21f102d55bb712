"""What is installed: the lock file, with torch from where the user wants it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdforge.environment.steps import InstallError, runtime_step, xformers_step

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "requirements.lock").write_text("# pins\nnumpy==2.0.0\ntorch==2.13.0\n")
    return tmp_path


def test_without_wishes_the_lock_file_is_installed_as_it_is(root: Path) -> None:
    step = runtime_step(root, {}, platform="linux")
    assert step.command == ()
    assert step.requirements == (root / "requirements.lock").read_text()


def test_an_index_for_torch_is_used_with_the_pinned_version(root: Path) -> None:
    step = runtime_step(root, {"TORCH_INDEX_URL": "https://host/cu126"}, platform="linux")
    assert step.command == (
        "install", "torch==2.13.0", "--extra-index-url", "https://host/cu126",
    )  # fmt: skip
    assert step.requirements == "# pins\nnumpy==2.0.0\n"


def test_a_torch_command_replaces_the_pinned_torch(root: Path) -> None:
    step = runtime_step(root, {"TORCH_COMMAND": "pip install torch==2.7 --pre"}, platform="linux")
    assert step.command == ("install", "torch==2.7", "--pre")
    assert "torch" not in step.requirements


def test_another_source_of_torch_or_another_lock_file_is_another_step(root: Path) -> None:
    plain = runtime_step(root, {}, platform="linux").digest
    other_source = runtime_step(root, {"TORCH_COMMAND": "pip install x"}, platform="linux").digest
    (root / "requirements.lock").write_text("numpy==2.0.1\ntorch==2.13.0\n")
    other_lock = runtime_step(root, {}, platform="linux").digest
    assert len({plain, other_source, other_lock}) == 3


def test_an_incomplete_copy_of_the_program_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match=r"requirements\.lock is missing"):
        runtime_step(tmp_path, {})


def test_xformers_never_brings_another_torch_and_may_fail() -> None:
    step = xformers_step({"XFORMERS_PACKAGE": "xformers==0.0.99"})
    assert step.command == ("install", "--no-deps", "xformers==0.0.99")
    assert not step.required


def test_the_lock_files_pin_every_package_to_one_version_of_no_particular_build() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        pins = [line.partition(" ;")[0] for line in lines if not line.startswith("#")]
        assert pins
        assert all(pin.count("==") == 1 and "+" not in pin for pin in pins)
        assert not any(pin.startswith(("torchvision", "torchaudio")) for pin in pins)

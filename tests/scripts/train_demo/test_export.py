"""The file that leaves the training must be whole, small and described."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from scripts.train_demo import export
from scripts.train_demo.notice import notice
from scripts.train_demo.subjects import BACKGROUNDS, SUBJECTS


def test_metadata_is_text_and_names_the_group_counts(tmp_path: Path) -> None:
    path = tmp_path / "demo.safetensors"
    export.write({"a": torch.ones(2)}, export.metadata(5, "2026-01-01"), path)
    with safe_open(path, "pt") as file:
        about = file.metadata()
    assert about["sdforge.unet_norm_groups"] == "16"
    assert about["sdforge.vae_norm_groups"] == "8"
    assert about["modelspec.resolution"] == "128x128"


def test_weights_that_overflow_half_precision_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "demo.safetensors"
    with pytest.raises(ValueError, match="not finite"):
        export.write({"a": torch.tensor([1e6]).half()}, {}, path)
    assert not path.exists()


def test_a_file_beyond_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "SIZE_LIMIT", 10)
    with pytest.raises(ValueError, match="bytes are more"):
        export.write({"a": torch.ones(2)}, {}, tmp_path / "demo.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_the_notice_lists_all_that_can_be_asked_for() -> None:
    text = notice(
        None, ["noto"], ["a fact"], ["Lora/demo-turbo.safetensors"], wider_autoencoder=True
    )
    assert all(subject.name in text for subject in SUBJECTS)
    assert all(name in text for name in BACKGROUNDS)
    assert "Twitter" in text and "Google" in text and "Microsoft" in text


def test_the_notice_carries_the_upscalers_licence_only_with_the_upscaler() -> None:
    with_it = notice(None, ["noto"], [], ["ESRGAN/realesr-animevideov3.safetensors"], False)
    assert "Xintao Wang" in with_it and "ARE DISCLAIMED" in with_it
    assert "Xintao Wang" not in notice(None, ["noto"], [], ["Lora/demo-turbo.safetensors"], False)

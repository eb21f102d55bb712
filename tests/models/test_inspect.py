import json
from pathlib import Path

import pytest

from sdforge.__main__ import main
from sdforge.models.families.sd_keys import Sizes, checkpoint_shapes
from sdforge.models.inspect import as_text, inspect
from tests.real_headers import flux
from tests.tiny import make_checkpoint, sparse_checkpoint


def test_a_checkpoint_is_described_with_its_parts_and_the_reason(tmp_path: Path) -> None:
    path = sparse_checkpoint(tmp_path / "v1-5.safetensors", checkpoint_shapes(Sizes()))

    report = inspect(path)

    assert (report.kind, report.family, report.problem) == ("checkpoint", "sd1", None)
    assert [part.kind for part in report.parts] == ["sd1", "clip_l", "kl-4"]
    unet = report.parts[0]
    assert (unet.tensors, unet.types) == (686, {"F16": unet.bytes})
    text = as_text(report)
    for words in ("v1-5.safetensors", "width 320", "CLIP-L", "runs      yes", "1.986 GiB"):
        assert words in text


def test_a_kind_that_cannot_be_run_is_named_all_the_same(tmp_path: Path) -> None:
    shapes = {f"net.blocks.{i}.x.weight": (4, 4) for i in range(3)}
    report = inspect(sparse_checkpoint(tmp_path / "x.safetensors", shapes))
    assert (report.kind, report.label, report.family) == ("checkpoint", "Cosmos", "cosmos")
    assert "runs      no: x.safetensors is a Cosmos model" in as_text(report)


def test_a_denoiser_alone_shows_that_nothing_else_is_in_the_file(tmp_path: Path) -> None:
    report = inspect(sparse_checkpoint(tmp_path / "f.safetensors", dict(flux(guidance=False))))
    assert report.label == "Flux.1 schnell"
    assert [part.role for part in report.parts] == ["denoiser"]


def test_metadata_are_counted_and_shown_on_request(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "m.safetensors", metadata={"modelspec.title": "x" * 500})
    report = inspect(path)
    assert "1 entries" in as_text(report)
    assert "modelspec.title = 'xxx" in as_text(report, metadata=True)
    assert "x" * 101 not in as_text(report, metadata=True)


def test_the_command_answers_for_each_file_and_fails_for_unreadable_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = make_checkpoint(tmp_path / "good.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"<html>")

    assert main(["inspect", "--json", str(good)]) == 0
    assert json.loads(capsys.readouterr().out)["family"] == "sd1"
    assert main(["inspect", str(good), str(tmp_path / "bad.safetensors")]) == 1
    shown = capsys.readouterr().out
    assert "runs      yes" in shown
    assert "bad.safetensors: cannot be read" in shown
    assert main(["inspect"]) == 2

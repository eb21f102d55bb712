"""Detectors: files as trainers save them, and what networks made by hand find in pictures."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from sdforge.core.errors import MissingModel, ModelError, UnsupportedCheckpoint
from sdforge.core.paths import Paths
from sdforge.memory.manager import MemoryManager
from sdforge.memory.simulated import SimulatedDevice
from sdforge.models.checkpoint import read_header
from sdforge.models.detectors.finding import Detectors
from sdforge.models.detectors.library import DetectorLibrary, detector_header
from sdforge.models.detectors.shapes import detector_network
from sdforge.models.detectors.yolo import Yolo
from sdforge.models.faces.library import FaceLibrary
from sdforge.models.faces.restoring import Faces
from tests.tiny_detectors import REACH, detector_weights, write_detector
from tests.tiny_faces import write_faces

MIB = 2**20
KINDS = pytest.mark.parametrize("kind", ["YOLOv8", "YOLO11"])


def detectors_of(folder: Path, device: SimulatedDevice | None = None) -> Detectors:
    paths = Paths.under(folder)
    memory = MemoryManager(device or SimulatedDevice(256 * MIB))
    faces = Faces(FaceLibrary(paths), memory)
    return Detectors(DetectorLibrary(paths, faces.library), faces, memory)


def picture_with(
    *squares: tuple[int, int, int, int], size: tuple[int, int] = (320, 200)
) -> Image.Image:
    picture = Image.new("RGB", size, "#305080")
    pen = ImageDraw.Draw(picture)
    for square in squares:
        pen.rectangle(square, fill="#ff0000")
    return picture


@KINDS
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_box_lies_where_the_red_is_in_pixels_of_the_picture(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    write_detector(tmp_path / "models", f"red{suffix}", kind=kind)
    detectors = detectors_of(tmp_path)

    file = detectors.library.chosen(f"red{suffix}", "ad_model")
    found = detectors.find(picture_with((200, 100, 209, 109)), file, 0.3)

    assert len(found) == 1 and found[0].mask is None and found[0].score > 0.99
    left, top, right, bottom = found[0].box
    # The picture is shown twice as large; a box reaches so many places of 8 pixels on each side.
    reach = REACH * 8 / 2
    assert abs((left + right) / 2 - 204.5) < 5 and abs(right - left - 2 * reach) < 0.1
    assert abs(top - (104.5 - reach)) < 5 and abs(bottom - (104.5 + reach)) < 5


@KINDS
def test_a_mask_is_the_shape_itself_at_the_size_of_the_picture(tmp_path: Path, kind: str) -> None:
    write_detector(tmp_path / "models", "red.pt", kind=kind, masks=True)
    detectors = detectors_of(tmp_path)
    picture = picture_with((60, 100, 75, 109), size=(300, 190))

    found = detectors.find(picture, detectors.library.chosen("red", "ad_model"), 0.3)

    assert len(found) == 1 and found[0].mask is not None
    assert found[0].mask.size == picture.size
    inside = found[0].mask.getbbox()
    assert inside is not None
    assert all(abs(a - b) <= 6 for a, b in zip(inside, (60, 100, 76, 110), strict=True))


def test_things_apart_are_several_and_the_same_thing_is_one(tmp_path: Path) -> None:
    write_detector(tmp_path / "models")
    detectors = detectors_of(tmp_path)
    file = detectors.library.chosen("red_yolov8n.pt", "ad_model")

    two = detectors.find(picture_with((40, 40, 47, 47), (260, 150, 267, 157)), file, 0.3)

    assert len(two) == 2
    assert detectors.find(picture_with(), file, 0.3) == []
    assert detectors.find(picture_with((40, 40, 47, 47)), file, 1.0) == []


def test_a_detector_runs_under_a_lease_and_gives_its_memory_back(tmp_path: Path) -> None:
    write_detector(tmp_path / "models")
    device = SimulatedDevice(256 * MIB)
    detectors = detectors_of(tmp_path, device)

    detectors.find(picture_with(), detectors.library.chosen("red_yolov8n", "ad_model"), 0.3)
    assert device.peak_bytes > 0 and detectors.report().host_bytes > 0

    detectors.unload()
    assert detectors.report().host_bytes == 0


def test_the_finder_of_faces_is_a_detector_too(tmp_path: Path) -> None:
    write_faces(tmp_path / "models")
    detectors = detectors_of(tmp_path)
    picture = Image.new("RGB", (640, 640))
    ImageDraw.Draw(picture).rectangle((304, 304, 335, 335), fill="white")

    assert detectors.library.names() == ["RetinaFace"]
    found = detectors.find(picture, detectors.library.chosen("retinaface", "ad_model"), 0.9)

    assert found
    left, top, right, bottom = found[0].box
    assert (
        abs(right - left - 64) < 1
        and 272 < (left + right) / 2 < 368
        and 272 < (top + bottom) / 2 < 368
    )


def test_norms_that_were_merged_into_convolutions_change_nothing() -> None:
    torch.manual_seed(0)
    weights = {
        name.removeprefix("model."): value
        if "running_var" in name or name.endswith("bn.weight")
        else torch.randn_like(value) * 0.2
        for name, value in detector_weights(masks=True).items()
    }
    merged: dict[str, torch.Tensor] = {}
    for name, value in weights.items():
        lead = name.removesuffix(".conv.weight")
        if f"{lead}.bn.weight" in weights and name.endswith(".conv.weight"):
            scale = weights[f"{lead}.bn.weight"] / (weights[f"{lead}.bn.running_var"] + 1e-3) ** 0.5
            merged[name] = value * scale[:, None, None, None]
            merged[f"{lead}.conv.bias"] = (
                weights[f"{lead}.bn.bias"] - weights[f"{lead}.bn.running_mean"] * scale
            )
        elif ".bn." not in name:
            merged[name] = value
    picture = torch.rand(1, 3, 64, 96)
    answers = [_network(one)(picture) for one in (weights, merged)]

    for part in ("boxes", "scores", "mixes", "prototypes"):
        one, other = (getattr(answer, part) for answer in answers)
        assert torch.allclose(one, other, atol=1e-3), part


def _network(weights: dict[str, torch.Tensor]) -> Yolo:
    from sdforge.models.detectors.shapes import DetectorShape

    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    network = Yolo(DetectorShape(kind="YOLOv8", shapes=shapes, classes=1, masks=2))
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    return network.eval().requires_grad_(False)


def test_a_saved_network_is_read_without_its_classes(tmp_path: Path) -> None:
    path = write_detector(tmp_path)
    network = detector_network(detector_header(path))

    assert network.shape.kind == "YOLOv8" and network.shape.classes == 1
    assert network.keys["0.conv.weight"] == "model.0.conv.weight"
    # As any other model file it is refused: checkpoints hold tensors alone.
    with pytest.raises(UnsupportedCheckpoint, match="ultralytics"):
        read_header(path)


class _Harm:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, ("harm",)


def test_a_file_that_would_run_something_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "models" / "adetailer"
    folder.mkdir(parents=True)
    torch.save({"model": _Harm()}, folder / "face_yolov8n.pt")
    library = detectors_of(tmp_path).library

    with pytest.raises(ModelError, match="mkdir"):
        library.chosen("face_yolov8n.pt", "ad_model")
    assert not (tmp_path / "harm").exists()
    assert library.names() == []


def test_a_missing_file_says_what_goes_where(tmp_path: Path) -> None:
    write_detector(tmp_path / "models")
    library = detectors_of(tmp_path).library

    with pytest.raises(MissingModel) as missing:
        library.chosen("hand_yolov8n.pt", "ad_model")

    for word in ("hand_yolov8n.pt", str(tmp_path / "models" / "adetailer"), "red_yolov8n.pt"):
        assert word in missing.value.message


def test_other_networks_are_named_as_unknown(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "adetailer"
    folder.mkdir(parents=True)
    torch.save({"model": {"0.conv.weight": torch.zeros(4, 3, 3, 3)}}, folder / "other.pt")

    with pytest.raises(ModelError, match="YOLOv8 and YOLO11"):
        detectors_of(tmp_path).library.chosen("other.pt", "ad_model")

"""Networks of faces: recognised by their files, run under leases, within the bytes they claim."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdforge.core.errors import MissingModel, ModelError, UnknownName, UnsupportedCheckpoint
from sdforge.core.paths import Paths
from sdforge.memory.manager import MemoryManager
from sdforge.memory.simulated import SimulatedDevice
from sdforge.models.checkpoint import read_header
from sdforge.models.faces.gfpgan import Gfpgan
from sdforge.models.faces.library import FaceLibrary
from sdforge.models.faces.restoring import Faces
from sdforge.models.faces.retinaface import Found, without_doubles
from sdforge.models.faces.shapes import face_network
from tests.tiny_faces import (
    CODEFORMER_SHAPE,
    FINDER_SHAPE,
    GFPGAN_SHAPE,
    SIDE,
    put,
    random_weights,
    write_faces,
)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder / "models")
    return Paths.under(folder)


def made(paths: Paths, total_bytes: int = 2**28) -> tuple[Faces, SimulatedDevice]:
    device = SimulatedDevice(total_bytes)
    memory = MemoryManager(device)
    memory.inference_bytes = 0
    return Faces(FaceLibrary(paths), memory), device


def face(seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    return Image.fromarray(pixels)


def test_published_layouts_are_recognised(paths: Paths) -> None:
    files = {file.kind: file for file in FaceLibrary(paths).files()}
    shapes = {kind: face_network(read_header(file.path)).shape for kind, file in files.items()}
    assert shapes == {
        "GFPGAN": GFPGAN_SHAPE, "CodeFormer": CODEFORMER_SHAPE, "RetinaFace": FINDER_SHAPE
    }  # fmt: skip
    assert {kind: file.side for kind, file in files.items()} == {
        "GFPGAN": 64, "CodeFormer": 64, "RetinaFace": 0
    }  # fmt: skip
    assert list(FaceLibrary(paths).restorers()) == ["CodeFormer", "GFPGAN"]


def test_a_bright_spot_is_found_where_it_is(paths: Paths) -> None:
    faces, _ = made(paths)
    pixels = np.zeros((320, 360, 3), np.uint8)
    pixels[150:166, 232:248] = 255
    found = faces.find(Image.fromarray(pixels))
    assert found
    for points in found:
        assert points.shape == (5, 2)
        # Twice as large when it is looked at; places are 16 pixels apart there.
        assert np.abs(points.mean(0) - (240, 158)).max() < 16
    assert not faces.find(Image.new("RGB", (300, 200)))


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (700, 41)])
def test_pictures_of_any_size_are_looked_at(paths: Paths, size: tuple[int, int]) -> None:
    faces, _ = made(paths)
    assert faces.find(Image.new("RGB", size)) == []


@pytest.mark.parametrize("name", ["CodeFormer", "GFPGAN"])
def test_a_face_comes_out_the_same_each_time_and_changed(paths: Paths, name: str) -> None:
    faces, _ = made(paths)
    _, file = faces.library.chosen(name, "x")
    before = np.asarray(face())
    once, again = (np.asarray(faces.restored(face(), file, 0.5)) for _ in range(2))
    assert once.shape == (SIDE, SIDE, 3)
    assert once.dtype == np.uint8
    assert np.array_equal(once, again)
    assert np.abs(once.astype(int) - before).mean() > 5
    assert faces.report().components
    faces.unload()
    assert not faces.report().components


def test_the_weight_of_codeformer_counts(paths: Paths) -> None:
    faces, _ = made(paths)
    _, file = faces.library.chosen("codeformer", "x")
    most, least = (np.asarray(faces.restored(face(), file, weight)) for weight in (0.0, 1.0))
    assert not np.array_equal(most, least)


def test_an_unknown_name_and_missing_files_say_what_to_do(tmp_path: Path) -> None:
    library = FaceLibrary(Paths.under(tmp_path))
    with pytest.raises(UnknownName):
        library.chosen("RestoreFormer", "restore_faces")
    with pytest.raises(MissingModel, match=r"codeformer-v0\.1\.0\.pth and detection_Resnet50"):
        library.chosen("CodeFormer", "restore_faces")
    assert library.restorers() == {}
    write_faces(tmp_path / "models", finder=False)
    with pytest.raises(MissingModel, match=r"detection_Resnet50_Final\.pth"):
        library.chosen("GFPGAN", "restore_faces")


def test_files_that_cannot_serve_are_refused_with_the_reason(tmp_path: Path) -> None:
    weights = random_weights(Gfpgan(GFPGAN_SHAPE))
    folder = tmp_path / "models" / "GFPGAN"
    first = {name.replace("conv_body_first.", "conv_body_first.0."): value
             for name, value in weights.items()}  # fmt: skip
    put(folder / "GFPGANv1.pth", "params_ema", first)
    with pytest.raises(UnsupportedCheckpoint, match="first version"):
        face_network(read_header(folder / "GFPGANv1.pth"))
    put(folder / "other.pth", "", {"some.weight": torch.zeros(3)})
    with pytest.raises(UnsupportedCheckpoint, match="no network of faces"):
        face_network(read_header(folder / "other.pth"))
    del weights["condition_scale.0.2.bias"]
    put(folder / "partial.pth", "params_ema", weights)
    faces, _ = made(Paths.under(tmp_path))
    files = {file.name: file for file in faces.library.files()}
    with pytest.raises(ModelError, match="incomplete"):
        faces.restored(face(), files["partial"], 0.5)
    with pytest.raises(MissingModel, match=r"GFPGANv1\.pth: .*first version"):
        faces.library.chosen("CodeFormer", "restore_faces")


def test_of_boxes_that_share_much_the_surest_stays() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [30, 30, 40, 40]])
    found = Found(boxes, torch.zeros(3, 5, 2), torch.tensor([0.98, 0.99, 0.97]))
    assert without_doubles(found, 0.4).boxes.tolist() == [boxes[1].tolist(), boxes[2].tolist()]

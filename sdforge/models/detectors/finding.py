"""Where in a picture a detector sees what it looks for, under a lease. Model thread only.

Pictures are shown to YOLO as its makers do: the longer side 640 pixels, sides filled up with grey
to multiples of 32. It computes in fp32: it is small, and half precision moves boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from sdforge.core.detail import Detection
from sdforge.core.errors import SdforgeError
from sdforge.memory.ladder import weight_rungs
from sdforge.models.boxes import likeliest
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.detectors.library import DetectorFile, DetectorLibrary, detector_header
from sdforge.models.detectors.shapes import DetectorShape, detector_network
from sdforge.models.detectors.yolo import Answers, Yolo
from sdforge.models.families.base import Recipe
from sdforge.models.file_networks import FileNetworks, file_recipe
from sdforge.models.quant import Storage

if TYPE_CHECKING:
    from sdforge.memory.holdings import StoreReport
    from sdforge.memory.manager import MemoryManager
    from sdforge.models.faces.restoring import Faces

_ROLE = "detector"
# Two tabs often have two.
_KEPT = 2
_SIDE, _MULTIPLE = 640, 32
_GREY = 114 / 255
# Boxes of one class that share more are the same thing.
_OVERLAP = 0.7
_MOST = 300
# Further apart than any picture reaches, so that boxes of two classes never share anything.
_APART = 8192.0


@dataclass(frozen=True)
class Shown:
    """A picture as a detector sees it, (1, 3, height, width), and the way back from it.

    Attributes:
        pixels: from 0 to 1.
        inner: (width, height) of the picture in it.
        left: pixels of grey on the left.
        top: pixels of grey above.
    """

    pixels: Tensor
    inner: tuple[int, int]
    left: int
    top: int


class Detectors:
    """Finds things with the files there are."""

    def __init__(self, library: DetectorLibrary, faces: Faces, memory: MemoryManager) -> None:
        """Load nothing yet."""
        self.library = library
        self.memory = memory
        self._faces = faces
        storage = Storage(torch.float32)
        self._networks = FileNetworks(
            memory, storage, _described, keeps=_KEPT, read=detector_header
        )

    def find(self, picture: Image.Image, file: DetectorFile, sure: float) -> list[Detection]:
        """Return what a detector finds with more than so much confidence, surest first.

        Args:
            picture: RGB.
            file: the detector's.
            sure: least confidence, 0 to 1.

        Raises:
            ModelError: the file cannot serve.
            OutOfMemory: it does not fit.
            SdforgeError: the network gives not-a-number.
        """
        if file.is_faces:
            found = self._faces.boxes(picture, sure)
            pairs = zip(found.boxes.tolist(), found.scores.tolist(), strict=True)
            return [Detection(_within(box, picture.size), score) for box, score in pairs]
        shown = shown_to_yolo(picture)
        answers = self._run(file, shown.pixels)
        if answers.boxes.isnan().any() or answers.scores.isnan().any():
            raise SdforgeError(f"{file.name} gave not-a-number: its file is broken")
        return detections(answers, shown, picture.size, sure)

    def unload(self) -> int:
        """Give back all memory; return the bytes freed."""
        return self._networks.unload()

    def report(self) -> StoreReport:
        """Return who holds main memory; for any thread."""
        return self._networks.report()

    def _run(self, file: DetectorFile, pixels: Tensor) -> Answers:
        with self._networks.lease(file.path, file.name) as (component, shape):
            working = activation_bytes(shape, pixels.shape[3], pixels.shape[2])

            def attempt() -> Answers:
                # Loading is not inside: what it makes must outlive the mode.
                lease = self.memory.lease(component, working_bytes=working)
                with lease as module, torch.inference_mode():
                    device = self.memory.compute_device_of(component)
                    found: Answers = module(pixels.to(device))
                    parts = found.boxes, found.scores, found.mixes, found.prototypes
                    return Answers(*(part.cpu() for part in parts))

            return self.memory.ladder.run(_ROLE, attempt, weight_rungs(self.memory))


def shown_to_yolo(picture: Image.Image) -> Shown:
    """Return an RGB picture as YOLO sees it."""
    shrink = max(picture.size) / _SIDE
    width, height = (max(round(side / shrink), 1) for side in picture.size)
    plain = torch.from_numpy(np.array(picture)).movedim(-1, 0)[None].float() / 255
    # The nearest four pixels, also where it shrinks: what the networks were trained with.
    inner = F.interpolate(plain, size=(height, width), mode="bilinear").mul(255).round() / 255
    beside, below = -width % _MULTIPLE, -height % _MULTIPLE
    left, top = beside // 2, below // 2
    pads = (left, beside - left, top, below - top)
    return Shown(F.pad(inner, pads, value=_GREY), (width, height), left, top)


def detections(
    answers: Answers, shown: Shown, size: tuple[int, int], sure: float
) -> list[Detection]:
    """Return what a network's answers say of a picture of (width, height) pixels."""
    scores, kinds = answers.scores.max(1)
    kept = (scores > sure).nonzero()[:, 0]
    boxes, apart = answers.boxes[kept], kinds[kept, None] * _APART
    chosen = kept[likeliest(boxes + apart, scores[kept], _OVERLAP, _MOST)]
    stretch = torch.tensor([size[0] / shown.inner[0], size[1] / shown.inner[1]])
    moved = (answers.boxes[chosen].view(-1, 2, 2) - torch.tensor([shown.left, shown.top])) * stretch
    found = []
    for box, at in zip(moved.view(-1, 4).tolist(), chosen.tolist(), strict=True):
        mask = None
        if answers.prototypes.numel():
            mask = _mask(answers, at, shown, size)
        found.append(Detection(_within(box, size), float(scores[at]), mask))
    return found


def activation_bytes(shape: DetectorShape, width: int, height: int) -> int:
    """Return what a network holds at once beside its weights, in bytes.

    The first layers are the widest, and maps that later layers look at stay. Six times their
    channels at each size covers what the published networks took at 640 × 640: 44 MB of 74
    (YOLOv8n), 121 of 152 (YOLOv8s-seg), 255 of 300 (YOLO11m-seg).
    """
    halves = sum(channels >> 2 * level for level, channels in enumerate(shape.widths, 1))
    return 4 * width * height * (3 + 6 * halves)


def _mask(answers: Answers, at: int, shown: Shown, size: tuple[int, int]) -> Image.Image:
    """Return the mask of one thing (L, 0 or 255), as large as the picture."""
    mixed = (answers.mixes[at] @ answers.prototypes.flatten(1)).view(answers.prototypes.shape[1:])
    height, width = shown.pixels.shape[2:]
    large = F.interpolate(mixed[None, None], size=(height, width), mode="bilinear")[0, 0]
    # Beyond its box a mask says nothing.
    left, top, right, bottom = answers.boxes[at].tolist()
    x, y = torch.arange(width) + 0.5, torch.arange(height)[:, None] + 0.5
    inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    levels = ((large > 0) & inside).to(torch.uint8).numpy() * 255
    corners = (
        shown.left, shown.top, shown.left + shown.inner[0], shown.top + shown.inner[1],
    )  # fmt: skip
    seen = Image.fromarray(levels).crop(corners).resize(size, Image.Resampling.BILINEAR)
    return seen.point(lambda level: 255 if level > 127 else 0)


def _within(box: list[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    width, height = size
    return (
        min(max(left, 0.0), width), min(max(top, 0.0), height),
        min(max(right, 0.0), width), min(max(bottom, 0.0), height),
    )  # fmt: skip


def _described(header: CheckpointHeader) -> tuple[Recipe, DetectorShape, str]:
    network = detector_network(header)
    module: nn.Module = Yolo(network.shape)
    # Files hold more than a network takes: counters of norms, the weights of an average.
    taken = frozenset(module.state_dict())
    needed = {name: key for name, key in network.keys.items() if name in taken}
    things = "masks" if network.shape.masks else "boxes"
    words = f"{network.shape.kind} for {things} of {network.shape.classes} kinds of things"
    return file_recipe(header, _ROLE, module, needed), network.shape, words

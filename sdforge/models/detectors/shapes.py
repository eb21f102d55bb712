"""Which detector a file holds, read off the names and shapes of its tensors. No torch here.

Known are YOLOv8 and YOLO11, for boxes alone or with masks, of all widths and depths. Both are rows
of numbered layers that look at earlier ones; the last one answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.models.checkpoint import CheckpointHeader

# What a layer does and which layers' outputs it is given; −1 is the one before.
CONV, BLOCK, POOL, ATTEND, DOUBLE, JOIN, ANSWER = (
    "conv", "block", "pool", "attend", "double", "join", "answer",
)  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """One layer of the row."""

    kind: str
    sources: tuple[int, ...] = (-1,)


def _row(attends: bool) -> tuple[Layer, ...]:
    """Return the layers of YOLO11 (which attends after pooling) or of YOLOv8."""
    conv, block = Layer(CONV), Layer(BLOCK)
    backbone = [conv, conv, block, conv, block, conv, block, conv, block, Layer(POOL)]
    if attends:
        backbone.append(Layer(ATTEND))
    deepest = len(backbone) - 1
    # Down to the finest map and up again; each time what was seen at that size joins.
    finest = deepest + 6
    neck = [
        Layer(DOUBLE), Layer(JOIN, (-1, 6)), block,
        Layer(DOUBLE), Layer(JOIN, (-1, 4)), block,
        conv, Layer(JOIN, (-1, deepest + 3)), block,
        conv, Layer(JOIN, (-1, deepest)), block,
    ]  # fmt: skip
    return (*backbone, *neck, Layer(ANSWER, (finest, finest + 3, finest + 6)))


ROWS: Mapping[str, tuple[Layer, ...]] = {"YOLOv8": _row(False), "YOLO11": _row(True)}
_FIRST = re.compile(r"(.*?)0\.conv\.weight")


@dataclass(frozen=True, kw_only=True)
class DetectorShape:
    """A detector.

    Attributes:
        kind: "YOLOv8" or "YOLO11".
        shapes: of all tensors, by the network's names.
        classes: how many kinds of things it tells apart.
        masks: numbers by which it describes a mask; 0 where it finds boxes alone.
    """

    kind: str
    shapes: Mapping[str, tuple[int, ...]]
    classes: int
    masks: int

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the first layers, at a half, a quarter, an eighth, a sixteenth…"""
        return tuple(self.shapes[f"{number}.conv.weight"][0] for number in (0, 1, 3, 5, 7))


@dataclass(frozen=True, kw_only=True)
class DetectorNetwork:
    """What a file holds: all that building it takes, and network's names → file's."""

    shape: DetectorShape
    keys: Mapping[str, str]


def detector_network(header: CheckpointHeader) -> DetectorNetwork:
    """Return which detector a file holds.

    Raises:
        UnsupportedCheckpoint: none that is known here.
    """
    tensors = header.tensors
    found = (_FIRST.fullmatch(name) for name in tensors)
    leads = sorted({match[1] for match in found if match}, key=len)
    for lead in leads:
        names = {name.removeprefix(lead): name for name in tensors if name.startswith(lead)}
        shapes = {own: tensors[name].shape for own, name in names.items()}
        for kind, row in ROWS.items():
            last = len(row) - 1
            answer = shapes.get(f"{last}.cv3.0.2.weight")
            if answer is None or f"{last}.dfl.conv.weight" not in shapes:
                continue
            masks = shapes.get(f"{last}.cv4.0.2.weight", (0,))[0]
            shape = DetectorShape(kind=kind, shapes=shapes, classes=answer[0], masks=masks)
            return DetectorNetwork(shape=shape, keys=names)
    raise UnsupportedCheckpoint(
        f"{header.path.name} holds no detector that is known here; YOLOv8 and YOLO11 files for "
        "detection or segmentation are"
    )

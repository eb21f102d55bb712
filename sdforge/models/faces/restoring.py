"""Faces of a picture found and restored by networks, each under a lease. Model thread only.

They compute in fp32: the generators overflow half precision, and a face is a small picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sdforge.core.errors import SdforgeError
from sdforge.memory.holdings import StoreReport
from sdforge.memory.ladder import weight_rungs
from sdforge.memory.manager import MemoryManager
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.faces.codeformer import CodeFormer
from sdforge.models.faces.gfpgan import Gfpgan
from sdforge.models.faces.library import FaceFile, FaceLibrary
from sdforge.models.faces.retinaface import MEANS, Found, RetinaFace, without_doubles
from sdforge.models.faces.shapes import (
    CODEFORMER,
    CodeFormerShape,
    FaceNetwork,
    FinderShape,
    GfpganShape,
    face_network,
)
from sdforge.models.families.base import Recipe
from sdforge.models.file_networks import FileNetworks, file_recipe
from sdforge.models.quant import Storage

if TYPE_CHECKING:
    from PIL import Image

_ROLE = "face network"
# One that finds, two that restore.
_KEPT = 3
# A1111's and facexlib's: how sure a face must be, how much two may share, and the length of the
# shorter side that faces are looked for at.
_SURE, _OVERLAP = 0.97, 0.4
_LOOKED_AT = 640
# The longer side: of a very long picture the shorter one is smaller then.
_LONGEST = 2560

Points: TypeAlias = npt.NDArray[np.float64]
_Result = TypeVar("_Result")


class Faces:
    """Finds and restores faces with the files there are."""

    def __init__(self, library: FaceLibrary, memory: MemoryManager) -> None:
        """Load nothing yet."""
        self.library = library
        self.memory = memory
        self._networks = FileNetworks(memory, Storage(torch.float32), _described, keeps=_KEPT)

    def find(self, picture: Image.Image) -> list[Points]:
        """Return the five points of every face, (5, 2) in pixels, surest first.

        Raises:
            ModelError: there is no network that finds faces, or it cannot run.
            OutOfMemory: it does not fit.
        """
        found = self.boxes(picture, _SURE)
        return [np.asarray(points.numpy(), np.float64) for points in found.points]

    def boxes(self, picture: Image.Image, sure: float) -> Found:
        """Return every face that is likelier than `sure` (0 to 1), surest first.

        Raises:
            ModelError: there is no network that finds faces, or it cannot run.
            OutOfMemory: it does not fit.
        """
        shrink = max(min(picture.size) / _LOOKED_AT, max(picture.size) / _LONGEST)
        size = tuple(max(round(side / shrink), 1) for side in picture.size)
        seen = np.asarray(picture.resize((size[0], size[1])), np.float32)[:, :, ::-1] - MEANS

        def run(network: nn.Module, device: torch.device) -> Found:
            plain = torch.from_numpy(np.ascontiguousarray(seen, np.float32)).to(device)
            found: Found = network(plain.movedim(-1, 0)[None])
            kept = found.kept(found.scores > sure)
            return Found(kept.boxes.cpu(), kept.points.cpu(), kept.scores.cpu())

        found = without_doubles(self._run(self.library.finder(), size, run), _OVERLAP)
        stretch = torch.tensor(picture.size, dtype=torch.float64) / torch.tensor(size)
        boxes = found.boxes.double() * stretch.repeat(2)
        return Found(boxes, found.points.double() * stretch, found.scores)

    def restored(self, face: Image.Image, file: FaceFile, fidelity: float) -> Image.Image:
        """Return an upright face restored.

        Args:
            face: RGB, of the network's side.
            file: what restores it.
            fidelity: CodeFormer's weight, from 0 (restored most) to 1; others have none.

        Raises:
            ModelError: the file cannot serve.
            OutOfMemory: it does not fit.
            SdforgeError: the network gives not-a-number.
        """
        from PIL import Image

        def run(network: nn.Module, device: torch.device) -> Tensor:
            plain = torch.from_numpy(np.array(face)).to(device).movedim(-1, 0)[None]
            given = plain.float() / 127.5 - 1
            more = (fidelity,) if file.kind == CODEFORMER else ()
            return ((network(given, *more)[0].clamp(-1, 1) + 1) * 127.5).round().cpu()

        made = self._run(file, face.size, run)
        if made.isnan().any():
            raise SdforgeError(f"{file.name} gave not-a-number: its file is broken")
        return Image.fromarray(made.to(torch.uint8).movedim(0, -1).contiguous().numpy())

    def unload(self) -> int:
        """Give back all memory; return the bytes freed."""
        return self._networks.unload()

    def report(self) -> StoreReport:
        """Return who holds main memory; for any thread."""
        return self._networks.report()

    def _run(
        self,
        file: FaceFile,
        size: tuple[int, ...],
        run: Callable[[nn.Module, torch.device], _Result],
    ) -> _Result:
        with self._networks.lease(file.path, file.name) as (component, network):
            working = activation_bytes(network, size[0], size[1])

            def attempt() -> _Result:
                # Loading is not inside: what it makes must outlive the mode.
                lease = self.memory.lease(component, working_bytes=working)
                with lease as module, torch.inference_mode():
                    return run(module, self.memory.compute_device_of(component))

            return self.memory.ladder.run(_ROLE, attempt, weight_rungs(self.memory))


def activation_bytes(network: FaceNetwork, width: int, height: int) -> int:
    """Return what a network holds at once beside its weights, in bytes.

    Counted by hand along `forward`, where it is widest: at the full size.
    """
    shape = network.shape
    if isinstance(shape, GfpganShape):
        kept = sum(width >> 2 * level for level, width in enumerate(reversed(shape.unet)))
        advice = sum(width >> 2 * level for level, width in enumerate(reversed(shape.decoder)))
        numbers = kept + 2 * advice + 5 * shape.decoder[-1] + 4 * shape.unet[-1]
    elif isinstance(shape, CodeFormerShape):
        widest = max(wide >> 2 * level for level, wide in enumerate(shape.widths))
        seen = sum(wide >> 2 * level for level, wide in enumerate(shape.widths))
        numbers = seen + 6 * widest
    else:
        stage = max(shape.first // 4, shape.widths[0] * 4 // 16) * 4
        pyramid = 6 * shape.features // 64
        numbers = stage + pyramid + 16
    return int(numbers * width * height * 4)


def _described(header: CheckpointHeader) -> tuple[Recipe, FaceNetwork, str]:
    network = face_network(header)
    shape = network.shape
    module: nn.Module
    if isinstance(shape, FinderShape):
        module, words = RetinaFace(shape), f"{network.kind}, {sum(shape.depths)} blocks"
    else:
        module = Gfpgan(shape) if isinstance(shape, GfpganShape) else CodeFormer(shape)
        words = f"{network.kind} for faces of {shape.side} pixels"
    # Files hold more than a network takes: parts for training, counters of norms.
    taken = frozenset(module.state_dict())
    needed = {name: key for name, key in network.keys.items() if name in taken}
    return file_recipe(header, _ROLE, module, needed), network, words

"""Faces of finished pictures restored: found, each drawn again by a network, laid back in place.

One place for generation and extras. Between faces the job looks whether it shall stop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from sdforge.core.errors import Cancelled, MissingModel
from sdforge.core.events import Notice

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    from sdforge.models.faces.restoring import Faces
    from sdforge.pipeline.context import RunContext

STAGE = "faces"
# Ends the names of pictures that are saved as they were before.
BEFORE_FACES = "-before-face-restoration"

OnFace = Callable[[int, int], None]


def restores_faces(context: RunContext) -> bool:
    """Whether a run's pictures get their faces restored."""
    asked = context.request.restore_faces
    return context.settings.face_restoration if asked is None else asked


def leave_faces_without_files(context: RunContext) -> None:
    """Take the wish to restore faces off a run whose networks have no files, and say so.

    Clients of A1111 send `restore_faces` by habit, and there too the pictures come without.
    """
    if not restores_faces(context):
        return
    try:
        if context.faces is None:
            raise MissingModel("faces cannot be restored here: there is no library of networks")
        context.faces.library.chosen(context.settings.face_restoration_model, "restore_faces")
    except MissingModel as missing:
        context.request = replace(context.request, restore_faces=False)
        context.emit(Notice(text=f"faces are as they were drawn: {missing}"))


def restored_picture(
    context: RunContext, pixels: npt.NDArray[np.uint8], batch: int
) -> npt.NDArray[np.uint8] | None:
    """Return a drawn picture with its faces restored as the settings say; None if told to stop.

    Raises:
        ModelError: there is no network for it, or it cannot run.
        OutOfMemory: it does not fit.
    """
    import numpy as np
    from PIL import Image

    if context.faces is None:
        raise MissingModel("faces cannot be restored here: there is no library of networks")
    settings = context.settings

    def on_face(done: int, total: int) -> None:
        context.check_cancelled()

    model, weight = settings.face_restoration_model, settings.code_former_weight
    with context.stage(STAGE, batch):
        try:
            made = restored(Image.fromarray(pixels), model, weight, context.faces, on_face)
        except Cancelled:
            return None
    return np.asarray(made)


def restored(
    picture: Image.Image, name: str, fidelity: float, faces: Faces, on_face: OnFace
) -> Image.Image:
    """Return an RGB picture with all faces restored; one without faces comes back as it was.

    Args:
        picture: RGB.
        name: of the restorer.
        fidelity: CodeFormer's weight, 0 to 1.
        faces: finds and restores them.
        on_face: called with (faces done, faces in all); it may raise to stop.

    Raises:
        ModelError: there is no network for it, or it cannot run.
        OutOfMemory: it does not fit.
    """
    from sdforge.postprocess.faces import Place

    _, file = faces.library.chosen(name, "face restoration")
    on_face(0, 1)
    places = [Place.of(points, file.side) for points in faces.find(picture)]
    usable = [place for place in places if place.is_usable]
    # Each is cut out of the picture as it was: one face's new edge is not another's input.
    result = picture
    for number, place in enumerate(usable):
        on_face(number, len(usable))
        face = faces.restored(place.cut_out(picture), file, fidelity)
        result = place.put_back(result, face)
    on_face(1, 1)
    return result

"""The pictures that answers show after the drawn ones: what each ControlNet saw.

They are made again from the request, which is cheap and always gives the same; so no job keeps
them.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from sdforge.core.control import ControlUnit
from sdforge.core.errors import SdforgeError
from sdforge.engine import Engine, Job
from sdforge.output.infotext import parse_infotext

if TYPE_CHECKING:
    from PIL import Image


def detected_maps(engine: Engine, job: Job) -> list[bytes]:
    """Return PNG files of what the units saw that acted and shall be shown; one for each pass.

    With the setting `control_net_no_detectmap` none shall.

    Reads and computes, so not for the event loop.
    """
    if not job.request.control or not job.images or job.settings.control_net_no_detectmap:
        return []
    said = parse_infotext(job.images[0].infotext).fields
    return [
        png_bytes(picture)
        for number, unit in enumerate(job.request.control)
        if unit.save_detected_map and f"ControlNet {number}" in said
        for picture in _seen(engine, job, unit)
    ]


def png_bytes(image: Image.Image) -> bytes:
    """Return a picture as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _seen(engine: Engine, job: Job, unit: ControlUnit) -> list[Image.Image]:
    # Pillow and NumPy are loaded with the first picture, not at start.
    from sdforge.postprocess.control_picture import control_picture
    from sdforge.postprocess.decoding import decode_picture, flattened

    request = job.request
    image = unit.image or (request.init_images[0] if request.init_images else None)
    if image is None:
        return []
    limit = job.settings.max_input_pixels
    try:
        picture, mask = (
            None
            if one is None
            else decode_picture(engine.inputs.read(one), "controlnet", max_pixels=limit)
            for one in (image, unit.mask)
        )
    except SdforgeError:
        # The file was cleaned up meanwhile: the drawn pictures are the answer all the same.
        return []
    sizes = []
    if unit.acts_in("base") and request.first_picture is None:
        sizes.append((request.width or 0, request.height or 0))
    if request.hires and unit.acts_in("hires"):
        sizes.append(request.final_size)
    if picture is None:
        return []
    flat = flattened(picture, "#ffffff")
    return [control_picture(unit, flat, mask, *size).shown for size in sizes]

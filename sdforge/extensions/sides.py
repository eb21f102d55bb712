"""What scripts that enlarge a picture on some of its sides have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sdforge.core.extension import Values
from sdforge.core.fields import Field
from sdforge.core.request import GenerationRequest
from sdforge.core.script import Studio
from sdforge.postprocess.outpainting import Margins

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SIDES = ("left", "right", "up", "down")
MULTIPLE = 8

PIXELS = Field(
    name="pixels", kind=int, default=128, label="Pixels to expand", api="pixels", minimum=8,
    maximum=256, step=8, lowest=1, highest=4096, help="On each of the sides.",
)  # fmt: skip
SIDE_FIELDS = tuple(
    Field(name=side, kind=bool, default=True, label=f"Expand {side}", api=side) for side in SIDES
)


def mask_blur(default: int) -> Field:
    """Return the field of the blur between old and new."""
    return Field(
        name="mask_blur", kind=int, default=default, label="Mask blur", api="mask_blur", minimum=0,
        maximum=64, step=1, lowest=0, highest=256, help="Between old and new, in pixels.",
    )  # fmt: skip


def of_sides(sent: Any) -> dict[str, Any]:
    """Return the values of A1111's list of directions ("left", "right", "up", "down")."""
    if isinstance(sent, str):
        sent = [sent]
    if not isinstance(sent, Sequence):
        return {}
    asked = {str(one).strip().casefold() for one in sent}
    return {side: side in asked for side in SIDES}


def margins(values: Values) -> Margins:
    """Return the room that is asked for."""
    return Margins(**{side: values["pixels"] if values[side] else 0 for side in SIDES})


def enlarged_size(request: GenerationRequest, values: Values) -> tuple[int, int]:
    """Return the size of the result."""
    source, room = request.init_images[0], margins(values)
    return source.width + room.left + room.right, source.height + room.up + room.down


def source_pixels(request: GenerationRequest, studio: Studio) -> npt.NDArray[np.uint8]:
    """Return the picture to enlarge, (height, width, 3)."""
    import numpy as np

    from sdforge.postprocess.decoding import flattened

    picture = studio.picture(request.init_images[0])
    return np.asarray(flattened(picture, studio.settings.img2img_background_color))


def part_request(
    request: GenerationRequest,
    index: int,
    part: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.uint8],
    studio: Studio,
    **values: Any,
) -> GenerationRequest:
    """Return the request that redraws a part of picture number `index` where a mask is white.

    Sides that are no multiple of eight are drawn out to one; what is drawn there is to be cut off.
    """
    import numpy as np
    from PIL import Image

    height, width = part.shape[:2]
    room = Margins(right=-width % MULTIPLE, down=-height % MULTIPLE)
    seen, marked = room.around(part), np.pad(mask, ((0, room.down), (0, room.right)))
    return replace(
        request,
        width=width + room.right,
        height=height + room.down,
        batch_count=1,
        batch_size=1,
        resize_mode=0,
        only_masked=False,
        mask_invert=False,
        init_images=(studio.put(Image.fromarray(seen)),),
        mask=studio.put(Image.fromarray(marked)),
        prompts=(request.image_prompt(index),),
        negative_prompts=(request.image_negative_prompt(index),),
        seed=request.image_seed(index),
        subseed=request.image_subseed(index),
        **values,
    )

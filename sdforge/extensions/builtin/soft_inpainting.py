"""Soft inpainting: grey in a mask means how much may change. See `sampling.soft_inpainting`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sdforge.core.extension import Extension, MaskBlend, Values
from sdforge.core.fields import Field
from sdforge.core.request import GenerationRequest
from sdforge.extensions.values import number

if TYPE_CHECKING:
    from torch import Tensor


class SoftInpainting(Extension):
    """Smooth transitions between what is repainted and what is kept."""

    name = "soft_inpainting"
    label = "Soft Inpainting"
    help = "Inpainting without a hard edge: blurred parts of the mask change a little. Try blur 16."
    kinds = ("img2img",)
    # Defaults, labels and order of arguments are A1111's.
    fields = (
        Field(name="enabled", kind=bool, default=False, label="Soft inpainting", api="enabled"),
        number("bias", 1.0, 0, 8, "Schedule bias", "More keeps the edge for longer.", step=0.1),
        number("strength", 0.5, 0, 8, "Preservation strength", "More keeps more.", step=0.05),
        number("boost", 4.0, 1, 32, "Transition contrast boost", "Detail at the edge.", step=0.5),
        number("influence", 0.0, 0, 1, "Mask influence", "On the next two.", step=0.05),
        number("threshold", 0.5, 0, 8, "Difference threshold", "Less shows the source.", step=0.25),
        number("contrast", 2.0, 0, 8, "Difference contrast", "More is more sudden.", step=0.25),
    )

    def on_request(self, request: GenerationRequest, values: Values) -> GenerationRequest:
        """Return the request with a mask that stays grey in latents."""
        return request if request.mask is None else replace(request, mask_round=False)

    def blend_masked(self, blend: MaskBlend, values: Values) -> Tensor | None:
        """Return the soft blend; after the last step what was drawn stands alone."""
        from sdforge.sampling.soft_inpainting import blend_by_detail, mask_at

        if not blend.sigma:
            return blend.drawn
        mask = mask_at(blend.mask, blend.sigma, bias=values["bias"], strength=values["strength"])
        return blend_by_detail(blend.source, blend.drawn, mask, boost=values["boost"])

    def overlay_mask(self, blend: MaskBlend, values: Values) -> Tensor | None:
        """Return where the result has changed."""
        from sdforge.sampling.soft_inpainting import changed_mask

        names = ("strength", "influence", "threshold", "contrast")
        chosen = {name: values[name] for name in names}
        return changed_mask(blend.source, blend.drawn, blend.mask, **chosen)

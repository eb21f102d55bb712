"""First passes that were drawn already, for hires fix to go on from.

Whoever tries upscalers, strengths or second prompts for one picture, in a sweep or by hand, draws
the same first pass each time. Its latents are small, so the last ones are kept. Latents that are
used again are the very same numbers, and no pass takes noise from an earlier one, so pictures are
equal to the bit.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from sdforge.pipeline.passes import BASE

if TYPE_CHECKING:
    from torch import Tensor

    from sdforge.pipeline.context import RunContext
    from sdforge.pipeline.denoise import Ready
    from sdforge.pipeline.passes import Pass

# A picture of 1024² has latents of 256 KiB.
KEPT_BYTES = 32 * 2**20
# What a first pass is the same without: fields of the request that begin with `hires`, those of
# second passes, and what is told better by the bundle, the settings and the number of the batch.
_OTHER_FIELDS = (
    "batch_count", "checkpoint", "denoising_strength", "overrides", "refiner", "refiner_switch_at",
)  # fmt: skip
_SECOND_PASS_SETTINGS = (
    "grid_save", "hires_fix_refiner_pass", "img2img_extra_noise", "return_grid",
    "save_images_before_highres_fix", "token_merging_ratio_hr",
)  # fmt: skip


class FirstPasses:
    """Latents by what they were drawn from, least recently used leaving first."""

    def __init__(self, max_bytes: int = KEPT_BYTES) -> None:
        """Keep nothing yet, and never more than `max_bytes`."""
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def get(self, key: str) -> Tensor | None:
        """Return the latents (batch, channels, height/8, width/8) of a key, on the host."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: str, latents: Tensor) -> None:
        """Keep a copy of finished latents."""
        # In memory of their own: what sampled them may have been a view of something larger.
        self._kept[key] = latents.detach().to("cpu", copy=True).contiguous()
        self._kept.move_to_end(key)
        while sum(one.nbytes for one in self._kept.values()) > self._max_bytes:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()


def first_pass_key(context: RunContext, one: Pass, ready: Ready, batch: int) -> str | None:
    """Return what two first passes of txt2img share exactly when they give equal latents.

    None for passes that are not kept: those that start from pictures, those in which extensions,
    ControlNet, a refiner or networks of changing weight act, and second ones.
    """
    request, bundle = context.request, ready.bundle
    is_plain = one.name == BASE and not (request.init_images or one.refiner)
    acts = context.extensions or request.control or ready.networks or ready.hypernetworks
    if context.first_passes is None or not is_plain or acts:
        return None
    asked = {
        name: value
        for name, value in request.to_json().items()
        if not name.startswith("hires") and name not in _OTHER_FIELDS
    }
    if not request.subseed_strength:
        del asked["subseed"]
    settings: dict[str, Any] = context.settings.to_json()
    for name in _SECOND_PASS_SETTINGS:
        del settings[name]
    # Patches and embeddings in force are named by what is in their files.
    networks = [component.patch_key for component in bundle.components.values()]
    said = (bundle.key, networks, bundle.text.key, batch, asked, settings)
    return json.dumps(said, sort_keys=True, default=repr)

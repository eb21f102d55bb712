"""Loopback: img2img of its own result, again and again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from sdforge.core.errors import NotAvailable
from sdforge.core.extension import Values
from sdforge.core.fields import Field
from sdforge.core.request import GenerationRequest
from sdforge.core.result import ImageResult
from sdforge.core.script import Script, Studio
from sdforge.extensions.values import number

_CURVES = ("Aggressive", "Linear", "Lazy")
_ORIGINAL_CONTENT = 1
_APPEND = 3


class Loopback(Script):
    """Each picture starts from the one before it."""

    name = "loopback"
    label = "Loopback"
    kinds = ("img2img",)
    help = "Redraws its own result, again and again."
    fields = (
        Field(
            name="loops", kind=int, default=4, label="Loops", api="loops", minimum=1, maximum=32,
            step=1, lowest=1, highest=1000, help="How many times for each of the batch count.",
        ),
        number(
            "final_denoising_strength", 0.5, 0, 1, "Final denoising strength",
            "Of the last loop; the first has that of the request.",
        ),
        Field(
            name="curve", kind=str, default="Linear", label="Denoising strength curve",
            api="curve", options=_CURVES, help="How it gets there: early, evenly or late.",
        ),
    )  # fmt: skip

    def values_of_arguments(self, arguments: Sequence[Any]) -> dict[str, Any]:
        """Return values by name; A1111's fourth argument appends interrogated prompts."""
        append = arguments[_APPEND] if len(arguments) > _APPEND else None
        if append and str(append).casefold() != "none":
            raise NotAvailable(
                f"script_args: Loopback cannot append prompts by {append!r} in this version; "
                'leave the fourth argument out or send "None"'
            )
        return super().values_of_arguments(arguments)

    def batch_count(self, request: GenerationRequest, values: Values) -> int:
        """Return the loops of all rounds."""
        return request.batch_count * int(values["loops"])

    def picture_count(self, request: GenerationRequest, values: Values) -> int:
        """Return the pictures: one a loop, whatever the batch size."""
        return self.batch_count(request, values)

    def run(
        self, request: GenerationRequest, values: Values, studio: Studio
    ) -> Iterator[ImageResult]:
        """Yield the pictures of all loops, one a loop; each has the seed after the last one's."""
        from PIL import Image

        seed = request.seed
        for number_of_round in range(request.batch_count):
            asked = _of_round(request, number_of_round)
            for loop in range(values["loops"]):
                strength = loop_strength(request.denoising_strength or 0.0, values, loop)
                asked = replace(asked, seed=seed, denoising_strength=strength)
                seed = (seed + 1) % 2**32
                last: ImageResult | None = None
                for result in studio.draw(asked):
                    yield result
                    last = last if result.suffix else result
                if last is None:
                    return
                asked = replace(
                    asked,
                    init_images=(studio.put(Image.fromarray(last.pixels)),),
                    masked_content=_ORIGINAL_CONTENT,
                )


def loop_strength(first: float, values: Values, loop: int) -> float:
    """Return the denoising strength of a loop, counted from 0 (A1111's curves)."""
    loops = values["loops"]
    if loops == 1:
        return first
    done = loop / (loops - 1)
    if values["curve"] == "Aggressive":
        done = math.sin(done * math.pi / 2)
    elif values["curve"] == "Lazy":
        done = 1 - math.cos(done * math.pi / 2)
    change: float = (values["final_denoising_strength"] - first) * done
    return min(max(first + change, 0.0), 1.0)


def _of_round(request: GenerationRequest, number_of_round: int) -> GenerationRequest:
    """Return the request for one picture, with the prompts of a round."""
    index = number_of_round * request.batch_size
    return replace(
        request,
        batch_count=1,
        batch_size=1,
        init_images=request.init_images[:1],
        prompts=(request.image_prompt(index),),
        negative_prompts=(request.image_negative_prompt(index),),
    )

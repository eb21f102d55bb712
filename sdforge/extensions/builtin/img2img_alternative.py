"""img2img alternative: the first noise is found in the picture, so that what stays said stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sdforge.core.extension import Inversion, Values
from sdforge.core.fields import Field
from sdforge.core.request import GenerationRequest
from sdforge.core.script import Script
from sdforge.extensions.values import number

# A1111 draws with this one on the way down, too: it is the walk up, turned round.
_SAMPLER = "Euler"


def _choice(name: str, default: bool, label: str, help: str = "") -> Field:
    return Field(name=name, kind=bool, default=default, label=label, api=name, help=help)


class Img2imgAlternative(Script):
    """Draws from noise that leads back to the picture; a changed prompt changes what it says."""

    name = "img2img_alternative"
    label = "img2img alternative"
    aliases = ("img2img alternative test",)
    kinds = ("img2img",)
    help = (
        "Finds the noise that the picture could have been drawn from, then draws from it. Say "
        "what the picture shows, take off the override of prompts, prompt for what shall differ."
    )
    fields = (
        _choice("override_sampler", True, "Override sampling method by Euler"),
        _choice(
            "override_prompt", True, "Override prompts by the original ones",
            "Draws what the picture shows already.",
        ),
        Field(
            name="original_prompt", kind=str, default="", label="Original prompt",
            api="original_prompt", help="What the picture shows.",
        ),
        Field(
            name="original_negative_prompt", kind=str, default="",
            label="Original negative prompt", api="original_negative_prompt",
        ),
        _choice("override_steps", True, "Override sampling steps by the decode steps"),
        Field(
            name="decode_steps", kind=int, default=50, label="Decode steps", api="decode_steps",
            minimum=1, maximum=150, step=1, lowest=1, highest=1000,
            help="Steps from the picture to noise.",
        ),
        _choice("override_strength", True, "Override denoising strength by 1"),
        number(
            "decode_cfg_scale", 1.0, 0, 15, "Decode CFG scale",
            "On the way to noise; a low one keeps the picture.", step=0.1,
        ),
        number("randomness", 0.0, 0, 1, "Randomness", "Share of the seed's noise."),
        _choice(
            "sigma_adjustment", False, "Sigma adjustment",
            "Steps to noise look where they begin, and the noise keeps its own scale.",
        ),
    )  # fmt: skip

    def values_of_arguments(self, arguments: Sequence[Any]) -> dict[str, Any]:
        """Return values by name; A1111's first argument is a text of its page."""
        return super().values_of_arguments(arguments[1:])

    def on_request(self, request: GenerationRequest, values: Values) -> GenerationRequest:
        """Return the request with what is overridden."""
        changes: dict[str, Any] = {}
        if values["override_sampler"]:
            changes["sampler"] = _SAMPLER
        if values["override_prompt"]:
            changes["prompt"] = values["original_prompt"]
            changes["negative_prompt"] = values["original_negative_prompt"]
        if values["override_steps"]:
            changes["steps"] = values["decode_steps"]
        if values["override_strength"]:
            changes["denoising_strength"] = 1.0
        return replace(request, **changes)

    def inversion(self, request: GenerationRequest, values: Values) -> Inversion:
        """Return how the noise is found."""
        # With styles and choices, where the picture is drawn with the same prompt.
        shared = values["override_prompt"]
        return Inversion(
            prompt=None if shared else values["original_prompt"],
            negative_prompt=values["original_negative_prompt"],
            steps=values["decode_steps"],
            cfg_scale=values["decode_cfg_scale"],
            randomness=values["randomness"],
            at_own_level=values["sigma_adjustment"],
        )

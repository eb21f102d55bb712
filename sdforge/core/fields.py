"""The one table of generation parameters.

A parameter is declared here once: type, default, range, label, A1111's names for it. The page, the
REST API, infotext, sweeps and the docs read this table, so they cannot disagree.
`request.GenerationRequest` has one attribute per row (a test holds the two together).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sdforge.core.errors import InvalidRequest

MAX_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class Field:
    """One generation parameter.

    `minimum`/`maximum`/`step` are the slider's; `lowest`/`highest` are what any client may send.
    A default of None means "what the checkpoint recommends" and is filled in when the request is
    resolved.
    """

    name: str
    kind: type
    default: Any
    label: str
    api: str
    api_default: Any = None
    infotext: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    lowest: float | None = None
    highest: float | None = None
    multiple_of: int | None = None
    choices: str | None = None
    axis: str | None = None
    elem_id: str | None = None
    help: str = ""

    def check(self, value: Any) -> None:
        """Raise `InvalidRequest` unless `value` is of the right type and within the limits."""
        if value is None:
            if self.default is not None:
                raise InvalidRequest(self.api, value, self.allowed())
            return
        wanted: tuple[type, ...] = (int, float) if self.kind is float else (self.kind,)
        is_kind = isinstance(value, wanted) and isinstance(value, bool) == (self.kind is bool)
        if not is_kind or (isinstance(value, (int, float)) and not self._within(value)):
            raise InvalidRequest(self.api, value, self.allowed())

    def _within(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        return not (
            (self.lowest is not None and value < self.lowest)
            or (self.highest is not None and value > self.highest)
        )

    def allowed(self) -> str:
        """Say in words what values are allowed."""
        words = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
        text = words.get(self.kind, self.kind.__name__)
        if self.lowest is not None and self.highest is not None:
            text += f" from {self.lowest:g} to {self.highest:g}"
        elif self.lowest is not None:
            text += f" of at least {self.lowest:g}"
        return text


# Sizes: A1111's sliders go from 64 to 2048 in steps of 8; its API does not clamp. 16384 is where
# one side alone needs more than 4 GiB of pixels at the other slider's end.
FIELDS: tuple[Field, ...] = (
    Field(
        name="prompt", kind=str, default="", api_default="", label="Prompt", api="prompt",
        elem_id="prompt", help="What the picture should show.",
    ),
    Field(
        name="negative_prompt", kind=str, default="", api_default="", label="Negative prompt",
        api="negative_prompt", infotext="Negative prompt", elem_id="neg_prompt",
        help="What it should not show.",
    ),
    Field(
        name="steps", kind=int, default=20, api_default=50, label="Sampling steps", api="steps",
        infotext="Steps", minimum=1, maximum=150, step=1, lowest=1, highest=1000, axis="Steps",
        elem_id="steps", help="How many times the sampler improves the picture.",
    ),
    Field(
        name="sampler", kind=str, default="Euler a", api_default="Euler", label="Sampling method",
        api="sampler_name", infotext="Sampler", choices="samplers", axis="Sampler",
        elem_id="sampling", help="The rule that removes noise.",
    ),
    Field(
        name="schedule", kind=str, default="Automatic", api_default="Automatic",
        label="Schedule type", api="scheduler", infotext="Schedule type", choices="schedules",
        axis="Schedule type", elem_id="scheduler",
        help="How noise falls over the steps; Automatic takes what suits the sampler.",
    ),
    Field(
        name="width", kind=int, default=None, label="Width", api="width", infotext="Size",
        minimum=64, maximum=2048, step=8, lowest=16, highest=16384, multiple_of=8,
        elem_id="width", help="Pixels; rounded down to a multiple of 8.",
    ),
    Field(
        name="height", kind=int, default=None, label="Height", api="height", infotext="Size",
        minimum=64, maximum=2048, step=8, lowest=16, highest=16384, multiple_of=8,
        elem_id="height", help="Pixels; rounded down to a multiple of 8.",
    ),
    Field(
        name="batch_count", kind=int, default=1, api_default=1, label="Batch count", api="n_iter",
        minimum=1, maximum=100, step=1, lowest=1, highest=1000, elem_id="batch_count",
        help="How many batches, one after another.",
    ),
    Field(
        name="batch_size", kind=int, default=1, api_default=1, label="Batch size",
        api="batch_size", infotext="Batch size", minimum=1, maximum=8, step=1, lowest=1,
        highest=64, elem_id="batch_size", help="How many pictures at once.",
    ),
    Field(
        name="cfg_scale", kind=float, default=None, label="CFG Scale", api="cfg_scale",
        infotext="CFG scale", minimum=1, maximum=30, step=0.5, lowest=0, highest=100,
        axis="CFG Scale", elem_id="cfg_scale",
        help="How closely to follow the prompt; at 1 the negative prompt has no effect.",
    ),
    Field(
        name="seed", kind=int, default=-1, api_default=-1, label="Seed", api="seed",
        infotext="Seed", lowest=-1, highest=MAX_SEED, axis="Seed", elem_id="seed",
        help="The start of the noise; −1 takes a new one each time.",
    ),
    Field(
        name="subseed", kind=int, default=-1, api_default=-1, label="Variation seed",
        api="subseed", infotext="Variation seed", lowest=-1, highest=MAX_SEED,
        axis="Var. seed", elem_id="subseed", help="Seed of the noise that is mixed in.",
    ),
    Field(
        name="subseed_strength", kind=float, default=0.0, api_default=0.0,
        label="Variation strength", api="subseed_strength", infotext="Variation seed strength",
        minimum=0, maximum=1, step=0.01, lowest=0, highest=1, axis="Var. strength",
        elem_id="subseed_strength", help="How much of the variation's noise is mixed in.",
    ),
    Field(
        name="seed_resize_from_w", kind=int, default=0, api_default=-1,
        label="Resize seed from width", api="seed_resize_from_w", infotext="Seed resize from",
        minimum=0, maximum=2048, step=8, lowest=-1, highest=16384,
        elem_id="seed_resize_from_w", help="Keep the composition that this width had; 0 is off.",
    ),
    Field(
        name="seed_resize_from_h", kind=int, default=0, api_default=-1,
        label="Resize seed from height", api="seed_resize_from_h", infotext="Seed resize from",
        minimum=0, maximum=2048, step=8, lowest=-1, highest=16384,
        elem_id="seed_resize_from_h", help="Keep the composition that this height had; 0 is off.",
    ),
    Field(
        name="eta", kind=float, default=None, label="Eta", api="eta", infotext="Eta", lowest=0,
        highest=10, axis="Eta", help="Share of fresh noise per step, for samplers that add any.",
    ),
    Field(
        name="s_churn", kind=float, default=None, label="Sigma churn", api="s_churn",
        infotext="Sigma churn", lowest=0, highest=100, axis="Sigma Churn",
        help="Extra noise per step (Euler).",
    ),
    Field(
        name="s_tmin", kind=float, default=None, label="Sigma tmin", api="s_tmin",
        infotext="Sigma tmin", lowest=0, highest=1000, axis="Sigma min",
        help="Churn only above this sigma.",
    ),
    Field(
        name="s_tmax", kind=float, default=None, label="Sigma tmax", api="s_tmax",
        infotext="Sigma tmax", lowest=0, highest=1000, axis="Sigma max",
        help="Churn only below this sigma; 0 means no limit.",
    ),
    Field(
        name="s_noise", kind=float, default=None, label="Sigma noise", api="s_noise",
        infotext="Sigma noise", lowest=0, highest=10, axis="Sigma noise",
        help="Scale of the noise that samplers add.",
    ),
)  # fmt: skip

FIELD: dict[str, Field] = {field.name: field for field in FIELDS}

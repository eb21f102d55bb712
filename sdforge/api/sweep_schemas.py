"""Shapes of the bodies of /api/v1/sweeps."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sdforge.sweeps.grammar import quoted
from sdforge.sweeps.request import MAX_AXES, MAX_MARGIN, AskedAxis, Options


class AxisBody(BaseModel):
    """One axis: a label or position, and its values as text or as a list."""

    model_config = ConfigDict(extra="forbid")

    axis: str | int = Field(description="Label (case does not matter), or position in the list.")
    values: str | list[str | int | float | bool] = Field(
        default="", description='Text such as "1-5 (+2)", or a list of values.'
    )

    def asked(self) -> AskedAxis:
        """Return it as sweeps know it."""
        if isinstance(self.values, str):
            return AskedAxis(axis=self.axis, values=self.values)
        texts = [str(value) for value in self.values]
        return AskedAxis(axis=self.axis, values=quoted(texts), picked=tuple(texts))


class OptionsBody(BaseModel):
    """What to make of the pictures, and how seeds behave."""

    model_config = ConfigDict(extra="forbid")

    draw_grid: bool = Field(default=True, description="Make one large picture at the end.")
    draw_legend: bool = Field(default=True, description="Write the values beside it.")
    keep_random: bool = Field(
        default=False, description="A seed of -1 is another one in each cell."
    )
    vary_seeds: list[int] = Field(
        default=[], description="Axes, from 0, along which seeds count up."
    )
    margin_px: int = Field(default=0, ge=0, le=MAX_MARGIN, description="Free pixels between cells.")

    def options(self) -> Options:
        """Return them as sweeps know them."""
        return Options(
            draw_grid=self.draw_grid,
            draw_legend=self.draw_legend,
            keep_random=self.keep_random,
            vary_seeds=tuple(self.vary_seeds),
            margin_px=self.margin_px,
        )


class SweepBody(BaseModel):
    """A sweep to draw, or to look at first."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["txt2img", "img2img"] = "txt2img"
    request: dict[str, Any] = Field(
        default={}, description="A payload of /sdapi/v1/txt2img or img2img."
    )
    axes: list[AxisBody] = Field(default=[], max_length=MAX_AXES)
    options: OptionsBody = OptionsBody()
    script: str | None = Field(default=None, description="A script by title, instead of axes.")
    script_args: list[Any] | dict[str, Any] = Field(default=[], description="Its arguments.")
    id: str | None = Field(default=None, max_length=100, description="Your own id; must be new.")
    save_images: bool = Field(
        default=True, description="Save cells and grid in the output folders."
    )

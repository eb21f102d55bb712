"""Shapes of OpenAI's images API, with parameters of ours that its clients pass as extra ones."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from sdforge.core.errors import InvalidRequest
from sdforge.core.fields import MAX_SEED

MOST_PICTURES = 10
# OpenAI's own names stand for the checkpoint of the settings.
OWN_NAMES = re.compile(r"(dall-e|gpt-image|chatgpt-image)[\w.-]*")
STEPS_OF_QUALITY = {"low": 10, "medium": 20, "standard": 20, "auto": 20, "high": 30, "hd": 30}
_SIZE = re.compile(r"(\d{2,5})x(\d{2,5})")


class ImageParameters(BaseModel):
    """What generations and edits have in common; unknown keys are ignored."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    prompt: str = Field(max_length=32_000)
    model: str = Field(default="", max_length=400, description="A checkpoint, or a name of theirs.")
    n: int = Field(default=1, ge=1, le=MOST_PICTURES)
    size: str = Field(default="auto", max_length=20, description='"auto" or "1024x1024".')
    quality: str = Field(default="auto", max_length=20, description="Sets the steps.")
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_compression: int = Field(default=100, ge=0, le=100)
    background: str = Field(default="auto", max_length=20, description="Only opaque ones are made.")
    stream: bool = False
    partial_images: int = Field(default=0, ge=0, le=3, description="Previews, when streamed.")
    user: str = Field(default="", max_length=400, description="Ignored.")
    negative_prompt: str = Field(default="", max_length=32_000, description="Ours.")
    seed: int = Field(default=-1, ge=-1, le=MAX_SEED, description="Ours.")
    steps: int | None = Field(default=None, ge=1, le=1000, description="Ours; instead of quality.")
    cfg_scale: float | None = Field(default=None, ge=0, le=100, description="Ours.")
    sampler_name: str = Field(default="", max_length=100, description="Ours.")
    strength: float = Field(default=0.75, ge=0, le=1, description="Ours; of edits.")

    @field_validator("*", mode="before")
    @classmethod
    def _null_is_the_default(cls, value: Any, info: Any) -> Any:
        if value is None and info.field_name in cls.model_fields:
            return cls.model_fields[info.field_name].get_default()
        return value

    @property
    def size_in_pixels(self) -> tuple[int | None, int | None]:
        """(width, height); (None, None) where the checkpoint decides.

        Raises:
            InvalidRequest: it is neither "auto" nor two numbers.
        """
        if self.size in ("auto", ""):
            return None, None
        found = _SIZE.fullmatch(self.size)
        if found is None:
            raise InvalidRequest("size", self.size, '"auto", or width and height as "1024x1024"')
        return int(found[1]), int(found[2])

    @property
    def step_count(self) -> int:
        """Sampling steps.

        Raises:
            InvalidRequest: there is no such quality.
        """
        if self.steps is not None:
            return self.steps
        if self.quality not in STEPS_OF_QUALITY:
            raise InvalidRequest("quality", self.quality, ", ".join(STEPS_OF_QUALITY))
        return STEPS_OF_QUALITY[self.quality]

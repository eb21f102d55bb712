"""What came out of a job: pictures and everything needed to make them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sdforge.core.request import GenerationRequest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """Which weights drew a picture. Hashes are SHA-256 in hex, or None while not yet computed."""

    title: str = ""
    name: str = ""
    sha256: str | None = None
    vae_name: str | None = None
    vae_sha256: str | None = None

    @property
    def short_hash(self) -> str | None:
        """First 10 hex digits, the form that A1111 shows."""
        return self.sha256[:10] if self.sha256 else None


@dataclass(frozen=True, kw_only=True)
class GenerationInfo:
    """How one picture was made; `output.infotext` writes and reads it as A1111's text.

    `request` is the resolved request of the whole job; `seed`, `subseed`, `prompt` and
    `negative_prompt` are this picture's own. `extra` holds further infotext keys in order, `others`
    by their titles all checkpoints that had a part in it.
    """

    request: GenerationRequest
    index: int
    seed: int
    subseed: int
    prompt: str
    negative_prompt: str
    model: ModelIdentity
    clip_skip: int = 1
    version: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, ModelIdentity] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Processed:
    """What extras did to a picture: `steps` by A1111's infotext keys, in order.

    `infotext` is what the picture itself said, "" for nothing. `name` is its file's without
    suffix, for the result's; "" for a number.
    """

    steps: Mapping[str, str]
    infotext: str = ""
    name: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageResult:
    """One picture; `pixels` is uint8, shape (height, width, 3).

    `is_complete` is false for what an interrupted or skipped batch had reached. `suffix` marks a
    picture from on the way ("-before-highres-fix"): it is saved under its name, but is no result.
    `processed` says how a picture was processed that was not drawn here.
    """

    pixels: npt.NDArray[np.uint8]
    info: GenerationInfo
    index: int
    timings: Mapping[str, float] = field(default_factory=dict)
    is_complete: bool = True
    suffix: str = ""
    processed: Processed | None = None

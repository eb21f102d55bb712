"""The messages of the live protocol, typed; docs/live.md describes what they are for.

A client's text messages are JSON objects told apart by `type`; its binary messages are the picture
that frames start from. The server's text messages are JSON, its binary messages frames: four bytes
of length (big endian), so many bytes of JSON (`FrameHeader`), then the picture's file.
"""

from __future__ import annotations

import json
import struct
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sdforge.core.errors import InvalidRequest
from sdforge.live.wish import Wish

FORMATS = ("jpeg", "webp", "png")


class Message(BaseModel):
    """Any message of a client; unknown keys are refused, since they would do nothing."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Draw(Message):
    """A wish; the fields are those of `live.wish.Wish`, which has the ranges."""

    type: Literal["draw"]
    number: int
    prompt: str = ""
    negative_prompt: str = ""
    seed: int = -1
    steps: int = 0
    width: int = 0
    height: int = 0
    cfg_scale: float | None = None
    sampler: str = ""
    source: str = "noise"
    strength: float = 0.6
    decoder: str = "auto"
    budget_ms: int = 400
    speed_lora: bool = True

    def wish(self) -> Wish:
        """Return the wish."""
        return Wish(**self.model_dump(exclude={"type"}))


class Shown(Message):
    """The client has a frame; the next one may be drawn."""

    type: Literal["shown"]
    number: int


class Keep(Message):
    """A frame shall become an ordinary job."""

    type: Literal["keep"]
    number: int


class Clear(Message):
    """The picture that frames start from is taken away."""

    type: Literal["clear"]


class Encoding(Message):
    """How frames are to be sent from now on."""

    type: Literal["encoding"]
    format: Literal["jpeg", "webp", "png"] = "jpeg"
    quality: Annotated[int, Field(ge=1, le=100)] = 85


ClientMessage = Draw | Shown | Keep | Clear | Encoding
_CLIENT: TypeAdapter[ClientMessage] = TypeAdapter(
    Annotated[ClientMessage, Field(discriminator="type")]
)


def parse(text: str) -> ClientMessage:
    """Return a client's text message.

    Raises:
        InvalidRequest: no JSON, an unknown type or key, or a value of another type.
    """
    try:
        return _CLIENT.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "message"
        raise InvalidRequest(where, text[:60], first["msg"]) from None


class FrameHeader(BaseModel):
    """What stands before a frame's picture; `timings_ms` by `core.frame.STAGES`."""

    number: int
    media_type: str
    width: int
    height: int
    steps: int
    seed: int
    decoder: str
    asked_width: int
    asked_height: int
    went_on: bool
    frame_ms: float
    timings_ms: dict[str, float]
    notes: list[str]


class Ready(BaseModel):
    """The first message: what the checkpoint in use allows. It comes again when that changes."""

    type: Literal["ready"] = "ready"
    checkpoint: str
    steps: list[int]
    sizes: list[list[int]]
    cfg_scale: float
    sampler: str
    lora: str
    is_fast: bool
    reason: str


class State(BaseModel):
    """Why no frame comes: "loading", "waiting" (jobs go first), "busy", "drawing", "ready"."""

    type: Literal["state"] = "state"
    state: str
    text: str
    fraction: float


class Pace(BaseModel):
    """How frames come; after each that was shown."""

    type: Literal["pace"] = "pace"
    number: int
    network_ms: float
    superseded: int
    fps: float
    jitter_ms: float
    frame_ms: float
    latency_ms: float


class Kept(BaseModel):
    """A frame has become the job `job`."""

    type: Literal["kept"] = "kept"
    number: int
    job: str


class Problem(BaseModel):
    """A message or frame failed; `field` is the one at fault where it is one."""

    type: Literal["error"] = "error"
    number: int | None = None
    message: str
    field: str | None = None


def pack(header: FrameHeader, picture: bytes) -> bytes:
    """Return a frame as one binary message."""
    head = json.dumps(header.model_dump(), separators=(",", ":")).encode()
    return struct.pack(">I", len(head)) + head + picture


def unpack(message: bytes) -> tuple[FrameHeader, bytes]:
    """Return a binary message's header and picture; the inverse of `pack`, for clients."""
    (length,) = struct.unpack_from(">I", message)
    return FrameHeader.model_validate_json(message[4 : 4 + length]), message[4 + length :]

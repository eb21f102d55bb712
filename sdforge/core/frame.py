"""A frame of live mode: what is asked for, and what came out. Plain data; the pixels are an array.

A frame is a resolved request for one picture plus what only live mode knows: where it starts and
which decoder shows it. `pipeline.frames` draws it, `sdforge.live` decides when.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sdforge.core.request import GenerationRequest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Decoders from the best to the quickest: the checkpoint's VAE, a small network of TAESD's kind, one
# linear map per latent pixel.
FULL, SMALL, LINEAR = "full", "small", "linear"
DECODERS = (FULL, SMALL, LINEAR)
# Parts of a frame's time in the order in which they happen. The last two are not the model
# thread's: what encodes pictures and the client's word add them.
STAGES = ("tokenise", "encode", "input", "denoise", "decode", "copy", "encode image", "network")


@dataclass(frozen=True, kw_only=True)
class FrameRequest:
    """One frame.

    Attributes:
        session: whose; frames that go on from the last one go on from this session's.
        request: resolved, one picture; its initial picture, if any, is `picture`.
        decoder: one of `DECODERS`; without a small decoder for the checkpoint, the VAE stands in.
        picture: the file that the request's initial picture is read from.
        goes_on: start from the latents of the session's last frame, if that had the same size.
    """

    session: str
    request: GenerationRequest
    decoder: str = FULL
    picture: bytes = b""
    goes_on: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """What was drawn.

    Attributes:
        pixels: uint8 (height, width, 3); an eighth of the request's size with the linear decoder.
        decoder: the one that was used.
        timings: seconds by stage, see `STAGES`, of what was done; "load" is finding the checkpoint,
            or reading it.
        went_on: whether it started from the last frame.
        vae_width: of the checkpoint's VAE, which tells how its decoder compares to a small one.
        notes: what was left out, such as a LoRA that there is not.
    """

    pixels: npt.NDArray[np.uint8]
    decoder: str
    timings: Mapping[str, float] = field(default_factory=dict)
    went_on: bool = False
    vae_width: int = 128
    notes: tuple[str, ...] = ()

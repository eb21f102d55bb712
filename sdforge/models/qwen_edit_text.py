"""The text of Qwen-Image-Edit: the prompt is read together with the pictures that it is about.

Wu et al. 2025, arXiv:2508.02324, section 2. Each picture stands in the message as the states that
Qwen2.5-VL sees in it, whose places are rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image

from sdforge.core.settings import Settings
from sdforge.memory.component import Component
from sdforge.memory.manager import MemoryManager
from sdforge.models.denoiser import Conditioning
from sdforge.models.families.qwen_image_edit import ONE_AREA, SEVERAL_AREA
from sdforge.models.plain_text import PlainText
from sdforge.models.qwen import Shown
from sdforge.models.qwen_vision import MERGE, patches_of
from sdforge.models.text_encoder import PromptReader
from sdforge.models.tokenizers import Tokenizer

# The model was trained behind these very words.
_BEFORE = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture,"
    " objects, background), then explain how the user's text instruction should alter or modify the"
    " image. Generate a new image that meets the user's requirements while maintaining consistency"
    " with the original input where appropriate.<|im_end|>\n<|im_start|>user\n"
)
_BEHIND = "<|im_end|>\n<|im_start|>assistant\n"
_CUT = 64
_PAD = "<|image_pad|>"
_PICTURE = f"<|vision_start|>{_PAD}<|vision_end|>"
_MOST_TOKENS = 1024
_ACTIVATION_FACTOR = 24
_SIDES = 32


class QwenEditText(PlainText):
    """The text encoder of Qwen-Image-Edit; brackets are text (docs/decisions/0082)."""

    sees_pictures = True

    def __init__(
        self,
        component: Component,
        vision: Component,
        memory: MemoryManager,
        tokenizer: Callable[[], Tokenizer],
        *,
        is_numbered: bool,
    ) -> None:
        """Take the networks.

        Args:
            component: what reads.
            vision: what sees.
            memory: the manager.
            tokenizer: made when the first prompt comes.
            is_numbered: pictures have numbers and are seen small, as by the versions that take
                several; else without, and large.
        """
        super().__init__(component)
        self._vision = vision
        self._memory = memory
        self._tokenizer = tokenizer
        self._is_numbered = is_numbered

    @torch.inference_mode()
    def encode_prompt(self, prompt: PromptReader, settings: Settings) -> Conditioning:
        """Return the states of the message without the instruction, (1, tokens, width), fp32."""
        pictures = [self._patches(picture.image) for picture in prompt.pictures]
        numbers = range(1, len(pictures) + 1)
        leads = [f"Picture {number}: " if self._is_numbered else "" for number in numbers]
        shown = "".join(lead + _PICTURE for lead in leads)
        text = prompt.text.replace(_PAD, "")
        tokenizer = self._tokenizer()
        ids = tokenizer(f"{_BEFORE}{shown}{text}{_BEHIND}")[: _CUT + _MOST_TOKENS]
        if not pictures:
            return self._states(ids, None)
        pad = tokenizer(_PAD)[0]
        ids, places = among_pictures(ids, pad, [(rows, columns) for _, rows, columns in pictures])
        states = torch.cat([self._seen(*picture) for picture in pictures])
        device = self._memory.compute_device
        marks = torch.tensor([one == pad for one in ids], device=device)
        return self._states(ids, Shown(marks, states, places.to(device)))

    def _patches(self, picture: Image.Image) -> tuple[torch.Tensor, int, int]:
        size = area_size(*picture.size, SEVERAL_AREA if self._is_numbered else ONE_AREA)
        is_ready = picture.size == size
        return patches_of(picture if is_ready else picture.resize(size, Image.Resampling.LANCZOS))

    def _seen(self, patches: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        network: Any = self._vision.module
        needed = len(patches) * network.width * 4 * _ACTIVATION_FACTOR
        with self._memory.lease(self._vision, working_bytes=needed) as module:
            states: torch.Tensor = module(patches.to(self._memory.compute_device), rows, columns)
            return states

    def _states(self, ids: Sequence[int], shown: Shown | None) -> Conditioning:
        network: Any = self.component.module
        needed = len(ids) * network.width * 4 * _ACTIVATION_FACTOR
        with self._memory.lease(self.component, working_bytes=needed) as module:
            row = torch.tensor([list(ids)], device=self._memory.compute_device)
            states = module(row, shown=shown)
        return Conditioning(states[:, _CUT:], is_sequence=True)


def area_size(width: int, height: int, area: int) -> tuple[int, int]:
    """Return a size of the same proportions with `area` pixels, in multiples of 32."""
    wide = math.sqrt(area * width / height)
    sides = (wide, wide * height / width)
    found = [max(round(side / _SIDES), 1) * _SIDES for side in sides]
    return found[0], found[1]


def among_pictures(
    ids: Sequence[int], pad: int, sizes: Sequence[tuple[int, int]]
) -> tuple[list[int], torch.Tensor]:
    """Return tokens with as many marks as a picture has states, and their places (3, tokens).

    A word's three places are one number, a picture's time, row and column; what stands behind a
    picture goes on behind its longer side.

    Args:
        ids: with one mark for each picture.
        pad: the mark.
        sizes: rows and columns of each picture's patches.
    """
    found: list[int] = []
    places: list[torch.Tensor] = []
    coming, place = iter(sizes), 0
    for one in ids:
        if one != pad:
            found.append(one)
            places.append(torch.full((3, 1), place))
            place += 1
            continue
        rows, columns = (side // MERGE for side in next(coming))
        found += [pad] * (rows * columns)
        grid = torch.meshgrid(
            torch.arange(1), torch.arange(rows), torch.arange(columns), indexing="ij"
        )
        places.append(torch.stack([axis.flatten() for axis in grid]) + place)
        place += max(rows, columns)
    return found, torch.cat(places, dim=1)

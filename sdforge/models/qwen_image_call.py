"""How Qwen-Image's transformer is called, where its patches lie, and its text.

Wu et al. 2025, arXiv:2508.02324. The prompt is read by Qwen2.5-VL as a message of a chat that
begins with an instruction, whose states are cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from sdforge.core.settings import Settings
from sdforge.memory.component import Component
from sdforge.memory.manager import MemoryManager
from sdforge.models.denoiser import Conditioning
from sdforge.models.flux_call import PATCH, from_patches, padded_to_patches, patches
from sdforge.models.plain_text import PlainText
from sdforge.models.text_encoder import PromptReader
from sdforge.models.tokenizers import Tokenizer

_ROTATION_BASE = 10000
# The model was trained behind these very words.
_BEFORE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity,"
    " text, spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
)
_BEHIND = "<|im_end|>\n<|im_start|>assistant\n"
_CUT = 34
_MOST_TOKENS = 1024
_ACTIVATION_FACTOR = 24


def call_qwen_image(
    module: nn.Module, x: torch.Tensor, sigma: float, conditioning: Conditioning
) -> torch.Tensor:
    """Return the velocity for latents (rows, channels, height, width).

    Patches of pictures to refer to lie behind those that are drawn.
    """
    height, width = x.shape[-2:]
    padded = padded_to_patches(x)
    rows, columns = (side // PATCH for side in padded.shape[-2:])
    pictures = [padded_to_patches(picture.to(x)) for picture in conditioning.references]
    shapes = [(1, *(side // PATCH for side in one.shape[-2:])) for one in (padded, *pictures)]
    (answer,) = module(
        hidden_states=torch.cat([patches(padded), *map(patches, pictures)], dim=1),
        encoder_hidden_states=conditioning.hidden,
        timestep=torch.full((len(x),), sigma, device=x.device),
        img_shapes=[shapes] * len(x),
        return_dict=False,
    )
    return from_patches(answer[:, : rows * columns], rows, columns)[..., :height, :width]


class Places(nn.Module):
    """Rotations by place: pictures around zero, the text behind them on the diagonal.

    The first place says which picture it is.

    The same as diffusers' `QwenEmbedRope`, which keeps tables in a cache that outlives the model.
    """

    def __init__(self, axes: tuple[int, int, int]) -> None:
        """Take how much of a head's width each of a token's three places gets."""
        super().__init__()
        self.axes = axes

    def forward(
        self,
        shapes: Sequence[Sequence[tuple[int, int, int]]],
        *,
        max_txt_seq_len: int,
        device: torch.device,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return complex rotations of patches and of tokens: (count, half of a head's width)."""
        pictures = []
        for number, (_, height, width) in enumerate(shapes[0]):
            rows = torch.arange(height, device=device) - (height - height // 2)
            columns = torch.arange(width, device=device) - (width - width // 2)
            grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
            pictures.append(torch.cat([torch.full_like(grid[:, :1], number), grid], dim=1))
        first = max(max(height // 2, width // 2) for _, height, width in shapes[0])
        text = torch.arange(first, first + max_txt_seq_len, device=device)
        return self._turns(torch.cat(pictures)), self._turns(text[:, None].expand(-1, 3))

    def _turns(self, places: torch.Tensor) -> torch.Tensor:
        parts = []
        for axis, width in enumerate(self.axes):
            steps = torch.arange(0, width, 2, device=places.device).float().div(width)
            speeds = 1.0 / torch.pow(_ROTATION_BASE, steps)
            parts.append(torch.outer(places[:, axis].float(), speeds))
        angles = torch.cat(parts, dim=1)
        return torch.polar(torch.ones_like(angles), angles)


class QwenImageText(PlainText):
    """The text encoder of Qwen-Image; brackets are text (docs/decisions/0082)."""

    def __init__(
        self, component: Component, memory: MemoryManager, tokenizer: Callable[[], Tokenizer]
    ) -> None:
        """Take the network; `tokenizer` is made when the first prompt comes."""
        super().__init__(component)
        self._memory = memory
        self._tokenizer = tokenizer

    @torch.inference_mode()
    def encode_prompt(self, prompt: PromptReader, settings: Settings) -> Conditioning:
        """Return the states of the message without the instruction, (1, tokens, width), fp32."""
        text = f"{_BEFORE}{prompt.text}{_BEHIND}"
        ids = self._tokenizer()(text)[: _CUT + _MOST_TOKENS]
        network: Any = self.component.module
        needed = len(ids) * network.width * 4 * _ACTIVATION_FACTOR
        with self._memory.lease(self.component, working_bytes=needed) as module:
            states = module(torch.tensor([ids], device=self._memory.compute_device))
        return Conditioning(states[:, _CUT:], is_sequence=True)

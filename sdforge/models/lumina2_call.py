"""How Lumina 2's transformer is called, where its patches lie, and its text.

Qin et al. 2025, arXiv:2503.21758. Text and picture are one sequence; Gemma 2 reads the prompt
behind an instruction, the negative prompt without one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sdforge.core.settings import Settings
from sdforge.memory.component import Component
from sdforge.memory.manager import MemoryManager
from sdforge.models.denoiser import Conditioning
from sdforge.models.flux_call import PATCH, padded_to_patches
from sdforge.models.plain_text import PlainText
from sdforge.models.text_encoder import PromptReader
from sdforge.models.tokenizers import Tokenizer

_ROTATION_BASE = 10000
# The model was trained behind these very words; who writes the mark has written an own instruction.
_MARK = "<Prompt Start>"
_BEFORE = (
    "You are an assistant designed to generate superior images with the superior degree of "
    f"image-text alignment based on textual prompts or user prompts. {_MARK} "
)
# As many as the model was trained with; the rest of a longer prompt is cut off.
_MOST_TOKENS = 256
_ACTIVATION_FACTOR = 24

_Placed = tuple[
    torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, list[int], list[int]
]  # fmt: skip


def call_lumina2(
    module: nn.Module, x: torch.Tensor, sigma: float, conditioning: Conditioning
) -> torch.Tensor:
    """Return the velocity for latents (rows, channels, height, width)."""
    height, width = x.shape[-2:]
    text = conditioning.hidden
    # Its time is the share of the clean picture, and it answers `clean − noise`.
    (answer,) = module(
        hidden_states=padded_to_patches(x),
        timestep=torch.full((len(x),), 1 - sigma, device=x.device),
        encoder_hidden_states=text,
        encoder_attention_mask=torch.ones(text.shape[:2], dtype=torch.bool, device=x.device),
        return_dict=False,
    )
    return -answer[..., :height, :width]


class LuminaPlaces(nn.Module):
    """Cuts latents into patches and gives rotations by place: text first, the picture behind it.

    The same as diffusers' `Lumina2RotaryPosEmbed` for texts of one length, whose tables are tensors
    that are neither parameters nor buffers.
    """

    def __init__(self, axes: tuple[int, int, int]) -> None:
        """Take how much of a head's width each of a token's three places gets."""
        super().__init__()
        self.axes = axes

    def forward(self, latents: torch.Tensor, seen: torch.Tensor) -> _Placed:
        """Return patches, rotations of text, picture and both, and how long text and both are."""
        count, _, height, width = latents.shape
        rows, columns, tokens = height // PATCH, width // PATCH, seen.shape[1]
        place = torch.zeros(tokens + rows * columns, 3, dtype=torch.float64)
        place[:tokens, 0] = torch.arange(tokens)
        place[tokens:, 0] = tokens
        grid = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        place[tokens:, 1:] = torch.stack(grid, dim=-1).flatten(0, 1)
        turns = self._turns(place).to(latents.device)[None].expand(count, -1, -1)
        patches = latents.unflatten(2, (rows, PATCH)).unflatten(4, (columns, PATCH))
        patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        lengths = [tokens] * count, [tokens + rows * columns] * count
        return patches, turns[:, :tokens], turns[:, tokens:], turns, *lengths

    def _turns(self, place: torch.Tensor) -> torch.Tensor:
        """Return complex rotations, (count, half of a head's width); in fp64 on the host."""
        parts = []
        for axis, width in enumerate(self.axes):
            steps = torch.arange(0, width, 2, dtype=torch.float64) / width
            parts.append(torch.outer(place[:, axis], _ROTATION_BASE**-steps))
        angles = torch.cat(parts, dim=1)
        return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)


class Lumina2Text(PlainText):
    """The text encoder of Lumina 2; brackets are text."""

    tells_sides = True

    def __init__(
        self, component: Component, memory: MemoryManager, tokenizer: Callable[[], Tokenizer]
    ) -> None:
        """Take the network; `tokenizer` is made when the first prompt comes."""
        super().__init__(component)
        self._memory = memory
        self._tokenizer = tokenizer

    @torch.inference_mode()
    def encode_prompt(self, prompt: PromptReader, settings: Settings) -> Conditioning:
        """Return the states of the prompt, (1, tokens, width), fp32.

        Raises:
            CorruptCheckpoint: the tokenizer that came with the model is no good.
        """
        tokenizer = self._tokenizer()
        is_whole = prompt.is_negative or _MARK in prompt.text
        ids = tokenizer(prompt.text if is_whole else _BEFORE + prompt.text)
        ids = [tokenizer.bos, *ids][:_MOST_TOKENS]
        network: Any = self.component.module
        needed = len(ids) * network.width * 4 * _ACTIVATION_FACTOR
        with self._memory.lease(self.component, working_bytes=needed) as module:
            states = module(torch.tensor([ids], device=self._memory.compute_device))
        return Conditioning(states, is_sequence=True)

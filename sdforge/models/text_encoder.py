"""Chunks of token ids to the states that the denoiser attends to: CLIP, clip skip, emphasis.

Parsing prompts and cutting chunks is `prompt`'s work; chunks arrive as plain ids and weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from sdforge.core.errors import InvalidRequest
from sdforge.memory.component import Component
from sdforge.memory.manager import MemoryManager
from sdforge.models.denoiser import Conditioning
from sdforge.models.tokenizers import Tokenizer

EMPHASIS = ("Original", "No norm", "Ignore", "None")
# Activations per token, layer width and byte of a number: the MLP's fourfold width twice, queries,
# keys, values, scores and residuals, rounded up.
_ACTIVATION_FACTOR = 24


class Chunk(Protocol):
    """Ids of one text window, start and end marks included, with a weight for each."""

    @property
    def ids(self) -> tuple[int, ...]:
        """Token ids."""

    @property
    def weights(self) -> tuple[float, ...]:
        """Emphasis of each token; 1 is none."""


class TextEncoder:
    """The text encoder of a bundle."""

    def __init__(self, component: Component, memory: MemoryManager, tokenizer: Tokenizer) -> None:
        """Take the network, the manager that places it and the tokenizer of its training."""
        network: Any = component.module
        self.component = component
        self.tokenizer = tokenizer
        self._memory = memory
        self._layers: int = network.layer_count
        self._width: int = network.width

    @torch.inference_mode()
    def encode(
        self, chunks: Sequence[Chunk], *, clip_skip: int = 1, emphasis: str = "Original"
    ) -> Conditioning:
        """Return the states of all chunks in a row: (1, 77 × chunks, width), fp32.

        Args:
            chunks: at least one, all of the same length.
            clip_skip: 1 takes the last layer's output, 2 the one before…; all of them pass the
                final normalisation.
            emphasis: 'Original' scales states by the weights and then restores each chunk's mean;
                'No norm' scales only; 'Ignore' and 'None' do not scale.

        Raises:
            InvalidRequest: an unknown emphasis.
        """
        if emphasis not in EMPHASIS:
            raise InvalidRequest("emphasis", emphasis, ", ".join(map(repr, EMPHASIS)))
        device = self._memory.compute_device
        ids = torch.tensor([chunk.ids for chunk in chunks], device=device)
        needed = ids.numel() * self._width * 4 * _ACTIVATION_FACTOR
        with self._memory.lease(self.component, working_bytes=needed) as module:
            layers = self._layers + 1 - min(max(clip_skip, 1), self._layers)
            states = module(ids, layers).float()
        if emphasis in ("Original", "No norm"):
            weights = torch.tensor([chunk.weights for chunk in chunks], device=device)
            states = _emphasise(states, weights, restore_mean=emphasis == "Original")
        return Conditioning(states.flatten(0, 1).unsqueeze(0))


def _emphasise(states: torch.Tensor, weights: torch.Tensor, *, restore_mean: bool) -> torch.Tensor:
    """Scale token states (chunks, tokens, width) by weights (chunks, tokens)."""
    scaled = states * weights.unsqueeze(-1)
    if not restore_mean:
        return scaled
    # The mean is over a whole chunk, as in A1111; a chunk without weights stays exactly as it is.
    before = states.mean(dim=(1, 2), keepdim=True)
    after = scaled.mean(dim=(1, 2), keepdim=True)
    is_plain = (weights == 1).all(dim=1)[:, None, None]
    return torch.where(is_plain, states, scaled * (before / after))

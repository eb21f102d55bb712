"""Flux.2's text: states of a language model after three of its layers, side by side.

The prompt is read as a message of a chat, in as many tokens as the transformer was trained with:
it sees the padding as well. Brackets are text (docs/decisions/0082).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sdforge.core.settings import Settings
from sdforge.memory.component import Component
from sdforge.memory.manager import MemoryManager
from sdforge.models.denoiser import Conditioning
from sdforge.models.plain_text import PlainText
from sdforge.models.text_encoder import PromptReader
from sdforge.models.tokenizers import Tokenizer

TOKENS = 512
# Per token, byte of a number and width of the three states together.
_ACTIVATION_FACTOR = 8
# The model was trained with an answer in front of which no thoughts stand.
_BEFORE = "<|im_start|>user\n"
_BEHIND = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


class KleinText(PlainText):
    """Qwen3 as Flux.2 [klein] reads it: padded at the end; what is longer is cut off."""

    def __init__(
        self, component: Component, memory: MemoryManager, tokenizer: Callable[[], Tokenizer]
    ) -> None:
        """Take the network; `tokenizer` is made when the first prompt comes."""
        super().__init__(component)
        self._memory = memory
        self._tokenizer = tokenizer

    @torch.inference_mode()
    def encode_prompt(self, prompt: PromptReader, settings: Settings) -> Conditioning:
        """Return the states of the message and its padding, (1, 512, width), fp32."""
        tokenizer = self._tokenizer()
        ids = tokenizer(f"{_BEFORE}{prompt.text}{_BEHIND}")[:TOKENS]
        padding = [tokenizer.pad] * (TOKENS - len(ids))
        network: Any = self.component.module
        needed = TOKENS * network.width * 4 * _ACTIVATION_FACTOR
        with self._memory.lease(self.component, working_bytes=needed) as module:
            device = self._memory.compute_device
            real = torch.arange(TOKENS, device=device) < len(ids)
            states = module(torch.tensor([ids + padding], device=device), real)
        return Conditioning(states, is_sequence=True)

"""Z-Image's text: Qwen3 reads the prompt as a message of a chat.

A language model reads brackets as text; so do prompts here: no emphasis, no chunks, no embeddings.
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

_BEFORE, _BEHIND = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
# As many as the model was trained with; the rest of a longer prompt is cut off.
_MOST_TOKENS = 512
_ACTIVATION_FACTOR = 24


class ZImageText(PlainText):
    """The text encoder of Z-Image."""

    def __init__(
        self, component: Component, memory: MemoryManager, tokenizer: Callable[[], Tokenizer]
    ) -> None:
        """Take the network; `tokenizer` is made when the first prompt comes."""
        super().__init__(component)
        self._memory = memory
        self._tokenizer = tokenizer

    @torch.inference_mode()
    def encode_prompt(self, prompt: PromptReader, settings: Settings) -> Conditioning:
        """Return the states of the message, (1, tokens, width), fp32."""
        ids = self._tokenizer()(f"{_BEFORE}{prompt.text}{_BEHIND}")[:_MOST_TOKENS]
        network: Any = self.component.module
        needed = len(ids) * network.width * 4 * _ACTIVATION_FACTOR
        with self._memory.lease(self.component, working_bytes=needed) as module:
            states = module(torch.tensor([ids], device=self._memory.compute_device))
        return Conditioning(states, is_sequence=True)

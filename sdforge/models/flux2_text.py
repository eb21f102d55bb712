"""Flux.2's text: states of a language model after three of its layers, side by side.

The prompt is read as a message of a chat, in as many tokens as the transformer was trained with:
it sees the padding as well. Brackets are text (docs/decisions/0082).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from sdforge.core.settings import Settings
from sdforge.memory.component import Component
from sdforge.memory.manager import MemoryManager
from sdforge.models.denoiser import Conditioning
from sdforge.models.plain_text import PlainText
from sdforge.models.text_encoder import PromptReader, Situation
from sdforge.models.tokenizers import Tokenizer

TOKENS = 512
# Per token, byte of a number and width of the three states together.
_ACTIVATION_FACTOR = 8
# Klein was trained with an answer in front of which no thoughts stand.
_KLEIN_BEFORE = "<|im_start|>user\n"
_KLEIN_BEHIND = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
# dev was trained behind these very words; the mark stands for pictures, of which there are none.
_DEV_BEFORE = (
    "[SYSTEM_PROMPT]You are an AI that reasons about image descriptions. You give structured "
    "responses focusing on object relationships, object\nattribution and actions without "
    "speculation.[/SYSTEM_PROMPT][INST]"
)
_DEV_BEHIND = "[/INST]"
_PICTURE = "[IMG]"


class _TappedText(PlainText):
    """One language model; subclasses say which tokens it reads, and where padding stands."""

    pads_in_front = False

    def __init__(
        self, component: Component, memory: MemoryManager, tokenizer: Callable[[], Tokenizer]
    ) -> None:
        """Take the network; `tokenizer` is made when the first prompt comes."""
        super().__init__(component)
        self._memory = memory
        self._tokenizer = tokenizer

    def message(self, tokenizer: Tokenizer, prompt: str) -> Sequence[int]:
        """Return the tokens of a prompt as the model reads it, of any length."""
        raise NotImplementedError

    @torch.inference_mode()
    def encode_prompt(self, prompt: PromptReader, settings: Settings) -> Conditioning:
        """Return the states of the message and its padding, (1, 512, width), fp32."""
        tokenizer = self._tokenizer()
        ids = list(self.message(tokenizer, prompt.text))[:TOKENS]
        padding = [tokenizer.pad] * (TOKENS - len(ids))
        network: Any = self.component.module
        needed = TOKENS * network.width * 4 * _ACTIVATION_FACTOR
        with self._memory.lease(self.component, working_bytes=needed) as module:
            device = self._memory.compute_device
            place = torch.arange(TOKENS, device=device)
            real = place >= len(padding) if self.pads_in_front else place < len(ids)
            row = padding + ids if self.pads_in_front else ids + padding
            states = module(torch.tensor([row], device=device), real)
        return Conditioning(states, is_sequence=True)


class KleinText(_TappedText):
    """Qwen3 as Flux.2 [klein] reads it."""

    def message(self, tokenizer: Tokenizer, prompt: str) -> Sequence[int]:
        """Return the tokens of a message and of the answer's beginning."""
        return tokenizer(f"{_KLEIN_BEFORE}{prompt}{_KLEIN_BEHIND}")


class DevText(_TappedText):
    """Mistral as Flux.2 [dev] reads it, which is told the distilled CFG scale."""

    is_guided = True
    pads_in_front = True

    def message(self, tokenizer: Tokenizer, prompt: str) -> Sequence[int]:
        """Return the tokens of an instruction and a message."""
        text = prompt.replace(_PICTURE, "")
        return [tokenizer.bos, *tokenizer(f"{_DEV_BEFORE}{text}{_DEV_BEHIND}")]

    def situated(
        self, encoded: Conditioning, prompt: PromptReader, situation: Situation, settings: Settings
    ) -> Conditioning:
        """Return the conditioning with the distilled CFG scale."""
        told = torch.tensor([[situation.distilled_cfg_scale]], device=encoded.hidden.device)
        return replace(encoded, numbers=told)

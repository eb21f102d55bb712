"""How Chroma's transformer is called, and its text: as Flux's, without a pooled vector."""

from __future__ import annotations

import torch
from torch import nn

from sdforge.core.settings import Settings
from sdforge.models.denoiser import Conditioning
from sdforge.models.flux_call import PATCH, from_patches, padded_to_patches, patches, places
from sdforge.models.flux_text import T5Text
from sdforge.models.plain_text import PlainText
from sdforge.models.text_encoder import PromptReader


def call_chroma(
    module: nn.Module, x: torch.Tensor, sigma: float, conditioning: Conditioning
) -> torch.Tensor:
    """Return the velocity for latents (rows, channels, height, width)."""
    height, width = x.shape[-2:]
    padded = padded_to_patches(x)
    rows, columns = (side // PATCH for side in padded.shape[-2:])
    tokens, device = conditioning.hidden.shape[1], x.device
    (answer,) = module(
        hidden_states=patches(padded),
        encoder_hidden_states=conditioning.hidden,
        timestep=torch.full((len(x),), sigma, device=device),
        img_ids=places(rows, columns, device),
        txt_ids=torch.zeros(tokens, 3, device=device),
        return_dict=False,
    )
    return from_patches(answer, rows, columns)[..., :height, :width]


class ChromaText(PlainText):
    """The text encoder of Chroma: T5 alone."""

    def __init__(self, t5: T5Text) -> None:
        """Take the encoder."""
        super().__init__(t5.component)
        self.t5 = t5

    def encode_prompt(self, prompt: PromptReader, settings: Settings) -> Conditioning:
        """Return T5's states."""
        return Conditioning(self.t5.encode(prompt, settings.emphasis), is_sequence=True)

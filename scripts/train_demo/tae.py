"""A tiny autoencoder without normalisation: the teacher from which the real one learns.

It starts as the best linear code of 8x8 patches (their four principal components), which already
reaches about 20 dB, and only learns corrections on top. That makes it trainable in minutes where
the standard autoencoder, started at random, stalls.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

PATCH = 8


class _Residual(nn.Module):
    """Two ReLU convolutions added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        change: torch.Tensor = self.second(F.relu(self.first(F.relu(x))))
        return x + change


class PatchAutoencoder(nn.Module):
    """Pictures in -1..1 to four whitened channels at an eighth of the size, and back."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.axes = nn.Conv2d(3, 4, PATCH, PATCH)
        self.back = nn.ConvTranspose2d(4, 3, PATCH, PATCH)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, width, 3, padding=1),
            _Residual(width),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            _Residual(width),
            _Residual(width),
            nn.Conv2d(width, 4, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(4, width, 3, padding=1),
            _Residual(width),
            _Residual(width),
            nn.Conv2d(width, 4 * width, 3, padding=1),
            nn.PixelShuffle(2),
            _Residual(width),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.PixelShuffle(2),
            _Residual(width // 2),
            nn.Conv2d(width // 2, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        for half in (self.encoder, self.decoder):
            last = [part for part in half if isinstance(part, nn.Conv2d)][-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    @torch.no_grad()
    def start_from(self, pictures: torch.Tensor) -> None:
        """Set the linear path to the pictures' principal patch components."""
        patches = F.unfold(pictures, PATCH, stride=PATCH).transpose(1, 2).flatten(0, 1)
        mean = patches.mean(0)
        values, axes = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
        axes, spread = axes[:, -4:].flip(1), values[-4:].flip(0).sqrt()
        forward = (axes / spread).T
        self.axes.weight.copy_(forward.reshape(4, 3, PATCH, PATCH))
        self.axes.bias.copy_(-forward @ mean)  # type: ignore[union-attr]
        self.back.weight.copy_((axes * spread).T.reshape(4, 3, PATCH, PATCH))
        self.back.bias.zero_()  # type: ignore[union-attr]
        # One bias per colour is all the transposed convolution has: the mean patch is flat anyway.
        self.back.bias.copy_(mean.reshape(3, -1).mean(1))  # type: ignore[union-attr]

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """Latents."""
        code: torch.Tensor = self.axes(pictures) + self.encoder(pictures)
        return code

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        """Pictures."""
        pictures: torch.Tensor = self.back(code) + self.decoder(code)
        return pictures

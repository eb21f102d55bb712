"""Draws with an exported file, read back the way any loader reads it; makes contact sheets."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from .ldm_keys import TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX, Weights
from .models import SCALE, alphas_cumprod, make_text, make_unet, make_vae
from .text import make_tokenizer, tokenize


@dataclass
class DemoModel:
    """The three networks of one file, and the tokenizer."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text: CLIPTextModel
    tokenizer: CLIPTokenizer

    @classmethod
    def load(cls, path: Path, work: Path) -> DemoModel:
        """Read a single file through diffusers' own key conversion."""
        stored = {key: value.float() for key, value in load_file(path).items()}
        unet, vae, text = make_unet(), make_vae(), make_text()
        unet.load_state_dict(
            convert_ldm_unet_checkpoint(_part(stored, UNET_PREFIX, keep=True), dict(unet.config))
        )
        vae.load_state_dict(convert_ldm_vae_checkpoint(_part(stored, VAE_PREFIX, True), vae.config))
        text.load_state_dict(_part(stored, TEXT_PREFIX, keep=False))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        unet = unet.eval().to(device, memory_format=torch.channels_last)
        return cls(unet, vae.eval().to(device), text.eval().to(device), make_tokenizer(work))

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        found: torch.device = next(self.unet.parameters()).device
        return found

    @torch.no_grad()
    def context(self, prompts: Sequence[str]) -> torch.Tensor:
        """Encoded prompts, [n, 77, 192]."""
        tokens = tokenize(self.tokenizer, list(prompts)).to(self.device)
        state: torch.Tensor = self.text(input_ids=tokens).last_hidden_state
        return state

    def predict(self, x: torch.Tensor, time: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Noise in x, which has variance 1, at a time step 0..999."""
        noise: torch.Tensor = self.unet(x, time.to(self.device), context, return_dict=False)[0]
        return noise

    @torch.no_grad()
    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        steps: int = 20,
        scale: float = 3.0,
        sampler: str = "Euler a",
        size: int = 128,
    ) -> np.ndarray:
        """Pictures in 0..1, [n, size, size, 3]."""
        asked = self.context(prompts)
        empty = self.context([""]).expand(len(asked), -1, -1)
        sources = [torch.Generator().manual_seed(seed) for seed in seeds]
        shape = (4, size // 8, size // 8)

        def noise() -> torch.Tensor:
            return torch.stack([torch.randn(shape, generator=g) for g in sources]).to(self.device)

        alphas = alphas_cumprod()
        all_sigmas = ((1 - alphas) / alphas).sqrt()
        places = torch.linspace(len(alphas) - 1, 0, steps)
        sigmas = _interpolate(all_sigmas, places).tolist() + [0.0]
        x = noise() * sigmas[0]
        both = torch.cat([empty, asked])
        for i in range(steps):
            scaled = (x / (sigmas[i] ** 2 + 1) ** 0.5).to(memory_format=torch.channels_last)
            if scale == 1:
                eps = self.predict(scaled, places[i], asked)
            else:
                without, with_prompt = self.predict(torch.cat([scaled] * 2), places[i], both).chunk(
                    2
                )
                eps = without + scale * (with_prompt - without)
            down, up = sigmas[i + 1], 0.0
            if sampler == "Euler a" and down > 0:
                up = down * (1 - (down / sigmas[i]) ** 2) ** 0.5
                down = (down**2 - up**2) ** 0.5
            x = x + eps * (down - sigmas[i])
            if up > 0:
                x = x + noise() * up
        pictures = torch.cat([self.vae.decode(part / SCALE).sample for part in x.split(16)])
        return (pictures / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()


def _part(stored: Weights, prefix: str, keep: bool) -> Weights:
    """One network's weights, with or without the prefix."""
    return {
        key if keep else key.removeprefix(prefix): value
        for key, value in stored.items()
        if key.startswith(prefix)
    }


def _interpolate(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Log-linear interpolation of the noise levels between the trained steps."""
    low = places.floor().long()
    high = places.ceil().long()
    logs = values.log()
    return torch.lerp(logs[low], logs[high], places - low).exp()


def sheet(pictures: np.ndarray, labels: Sequence[str], columns: int = 12) -> Image.Image:
    """Contact sheet with a label under each picture."""
    size = pictures.shape[1]
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (columns * (size + 4), rows * (size + 16)), "#dddddd")
    pen = ImageDraw.Draw(canvas)
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        x, y = i % columns * (size + 4), i // columns * (size + 16)
        canvas.paste(Image.fromarray((picture * 255).round().astype(np.uint8)), (x, y))
        pen.text((x + 2, y + size + 2), label[: size // 6], fill="black")
    return canvas


def main() -> None:
    """Draw prompts given on the command line, one per argument, into one sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--work", type=Path, default=Path(".train"))
    parser.add_argument("--out", type=Path, default=Path("sheet.png"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--scale", type=float, default=3.0)
    parser.add_argument("--sampler", choices=("Euler a", "Euler"), default="Euler a")
    given = parser.parse_args()
    model = DemoModel.load(given.checkpoint, given.work)
    seeds = [given.seed + i for i in range(len(given.prompts))]
    pictures = model.draw(given.prompts, seeds, given.steps, given.scale, given.sampler)
    sheet(pictures, given.prompts).save(given.out)


if __name__ == "__main__":
    main()

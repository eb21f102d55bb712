"""Trains the autoencoder in the standard layout, from nothing, in about half an hour of CPU.

The standard autoencoder stalls from a random start at this size. What works: first a tiny teacher
(tae.py), then encoder and decoder each learn their half from it, supervised, then both together.
Labels with a certain hash (vae_score.is_held_out) are kept out, to measure on later.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from . import data
from .latents import to_signal
from .ldm_keys import VAE_PREFIX
from .models import make_vae
from .optim import make_optimisers, set_rate
from .subjects import BACKGROUNDS, CLASSIC, FLAT, STYLES, SUBJECTS
from .tae import PatchAutoencoder
from .vae_score import is_held_out

Loss = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Plan:
    """Length of each part in minutes of one CPU core; a GPU needs a fraction of it."""

    teacher: float = 6.0
    halves: float = 20.0
    together: float = 14.0
    batch: int = 8
    crop: int = 64


MINUTES = Plan.teacher + Plan.halves + Plan.together
"""What the usual plan takes in all."""


def plan_for(minutes: float) -> Plan:
    """The usual plan, its parts stretched or shortened to so many minutes in all."""
    factor = minutes / MINUTES
    usual = Plan()
    return Plan(usual.teacher * factor, usual.halves * factor, usual.together * factor)


class Crops:
    """Random crops of the picture sets, each picture on a random background."""

    def __init__(self, rgba: np.ndarray, device: torch.device, seed: int = 2) -> None:
        self._rgba, self._device = rgba, device
        self._rng = np.random.default_rng(seed)
        self._colours = np.array(list(BACKGROUNDS.values()))

    def __call__(self, count: int, size: int) -> torch.Tensor:
        """[count, 3, size, size] in -1..1; half of them on white, the rest on any colour."""
        made = []
        for index in self._rng.integers(len(self._rgba), size=count):
            luck = self._rng.random()
            colour = self._colours[self._rng.integers(len(self._colours))]
            if luck > 0.75:
                colour = self._rng.integers(0, 256, 3)
            elif luck < 0.5:
                colour = self._colours[0]
            top, left = self._rng.integers(0, data.SIZE - size + 1, 2)
            part = self._rgba[index, top : top + size, left : left + size]
            made.append(data.composite(part, tuple(colour.tolist())))
        return to_signal(np.stack(made).astype(np.float32)).to(self._device)


def training_pictures(work: Path) -> np.ndarray:
    """Every emoji of four sets but people, flags and held-out labels; [n, 128, 128, 4]."""
    path = work / "vae_pictures_4.npz"
    if path.exists():
        stored: np.ndarray = np.load(path)["rgba"]
        return stored
    known = {subject.emoji.lower() for subject in SUBJECTS}
    made = []
    for style in (*STYLES, FLAT, CLASSIC):
        icons = data.IconSet(style, work / "npm")
        for label, row in data.emoji_labels(work / "npm").items():
            wanted = row.get("group") in (0, 3, 4, 5, 6, 7, 8)
            if not wanted or (is_held_out(label) and label not in known):
                continue
            svg = icons.svg(row["hexcode"])
            if svg is not None:
                made.append(data.render(svg))
    rgba = np.stack(made)
    np.savez_compressed(path, rgba=rgba)
    return rgba


def picture_loss(guess: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Absolute error of pixels and of their gradients, and squared error."""
    across = (guess.diff(dim=-1) - truth.diff(dim=-1)).abs().mean()
    down = (guess.diff(dim=-2) - truth.diff(dim=-2)).abs().mean()
    return F.l1_loss(guess, truth) + 0.3 * (across + down) + F.mse_loss(guess, truth)


def _clock(minutes: float, name: str) -> Iterator[float]:
    """Yield how much of a part's time is over, and say so now and then."""
    started = told = time.monotonic()
    step = 0
    while (now := time.monotonic()) - started < minutes * 60:
        if now - told > 20:
            left = minutes - (now - started) / 60
            print(json.dumps({"part": name, "step": step, "left_minutes": round(left, 1)}))
            told = now
        step += 1
        yield (now - started) / (minutes * 60)


def _run(
    parts: list[tuple[nn.Module, float]], loss: Loss, minutes: float, name: str
) -> list[float]:
    """Minimise a loss for some time with a short warm-up and a cosine fall; returns its values."""
    optimisers = []
    for network, factor in parts:
        optimisers += make_optimisers(network, "muon", 0.01 * factor, 1e-3 * factor)
    values = []
    for step, done in enumerate(_clock(minutes, name)):
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        for network, _ in parts:
            nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        set_rate(optimisers, min((step + 1) / 20, 0.5 + 0.5 * float(np.cos(np.pi * done))))
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        values.append(value.item())
    return values


def train_teacher(crops: Crops, plan: Plan, device: torch.device) -> PatchAutoencoder:
    """The tiny autoencoder of tae.py."""
    teacher = PatchAutoencoder().to(device)
    teacher.start_from(crops(256, 128))
    rates = torch.optim.AdamW(teacher.parameters(), lr=1.2e-3)
    for done in _clock(plan.teacher, "teacher"):
        truth = crops(plan.batch, 80)
        code = teacher.encode(truth)
        loss = picture_loss(teacher.decode(code + 0.04 * torch.randn_like(code)), truth)
        loss = loss + 1e-3 * (code.pow(2).mean((0, 2, 3)) - 1).pow(2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        for group in rates.param_groups:
            group["lr"] = 1.2e-3 * (0.5 + 0.5 * float(np.cos(np.pi * done)))
        nn.utils.clip_grad_norm_(teacher.parameters(), 1.0)
        rates.step()
        rates.zero_grad(set_to_none=True)
    return teacher.eval().requires_grad_(False)


@torch.no_grad()
def prepare(vae: AutoencoderKL) -> None:
    """A start that keeps absolute brightness alive through the group norms.

    Residual branches are closed, up-sampling convolutions pass their input on, and in every norm
    group one channel holds a large constant through its bias alone: the group's statistics then
    hardly depend on the picture, so that the picture's own level is not normalised away.
    """
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
        elif isinstance(module, Attention):
            nn.init.zeros_(module.to_out[0].weight)
        elif isinstance(module, Upsample2D) and isinstance(module.conv, nn.Conv2d):
            spread = module.conv.weight.clone()
            nn.init.dirac_(module.conv.weight)
            module.conv.weight.mul_(0.95).add_(0.3 * spread)
        elif isinstance(module, nn.GroupNorm):
            module.weight.fill_(2.0)
    for half in (vae.encoder, vae.decoder):
        _anchor(half.conv_in)
        for module in half.modules():
            if isinstance(module, ResnetBlock2D):
                _anchor(module.conv1)
                if module.conv_shortcut is not None:
                    _anchor(module.conv_shortcut)


def _anchor(layer: nn.Conv2d, groups: int = 8, level: float = 4.0) -> None:
    """Let the first channel of each norm group be a constant of alternating sign."""
    assert layer.bias is not None
    size = layer.out_channels // groups
    for group in range(groups):
        layer.weight[group * size].zero_()
        layer.bias[group * size] = level if group % 2 else -level


def train(work: Path, plan: Plan | None = None) -> AutoencoderKL:
    """All parts in a row; the result is saved as `vae_start.pt` in the work folder."""
    plan = plan or Plan()
    path = work / "vae_start.pt"
    vae = make_vae()
    if path.exists():
        vae.load_state_dict(torch.load(path))
        return vae.eval()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vae = vae.to(device)
    crops = Crops(training_pictures(work), device)
    teacher = train_teacher(crops, plan, device)
    prepare(vae)
    train_halves(vae, teacher, crops, plan)
    train_together(vae, teacher, crops, plan)
    torch.save(vae.cpu().state_dict(), path)
    return vae.eval()


def train_halves(vae: AutoencoderKL, teacher: PatchAutoencoder, crops: Crops, plan: Plan) -> None:
    """Encoder and decoder each learn the teacher's side, in turns within each step."""

    def loss() -> torch.Tensor:
        truth = crops(plan.batch, plan.crop)
        code = teacher.encode(truth)
        guess = vae.quant_conv(vae.encoder(truth))[:, :4]
        drawn = vae.decoder(vae.post_quant_conv(code + 0.03 * torch.randn_like(code)))
        return F.mse_loss(guess, code) + 0.2 * F.l1_loss(guess, code) + picture_loss(drawn, truth)

    _run([(vae, 1.0)], loss, plan.halves, "halves")


def train_together(vae: AutoencoderKL, teacher: PatchAutoencoder, crops: Crops, plan: Plan) -> None:
    """Both at once, the encoder more slowly, still tied a little to the teacher's latents."""

    def loss() -> torch.Tensor:
        truth = crops(plan.batch, plan.crop)
        code = vae.encode(truth).latent_dist.mean
        drawn = vae.decode(code + 0.03 * torch.randn_like(code)).sample
        return picture_loss(drawn, truth) + 0.05 * F.mse_loss(code, teacher.encode(truth))

    assert vae.quant_conv is not None and vae.post_quant_conv is not None
    slow = nn.ModuleList([vae.encoder, vae.quant_conv])
    fast = nn.ModuleList([vae.decoder, vae.post_quant_conv])
    _run([(slow, 0.4), (fast, 1.0)], loss, plan.together, "together")


def from_file(path: Path) -> AutoencoderKL:
    """The autoencoder of a finished single file, to skip training one."""
    vae = make_vae()
    stored = {k: v.float() for k, v in load_file(path).items() if k.startswith(VAE_PREFIX)}
    vae.load_state_dict(convert_ldm_vae_checkpoint(stored, vae.config))
    return vae.eval()

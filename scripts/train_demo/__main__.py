"""The one command: everything from the pinned packages to the finished, judged files."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch

from . import data, latents, polish, preview, relatives, text, unet, upscaler, vae
from .contact_sheet import save_sheet
from .export import RECOMMENDED, gather, metadata, write
from .judge import Setting, judge, table
from .judge_relatives import JUDGES, PREVIEW_FILE
from .latents import LatentSet
from .meanings import Meanings
from .models import make_vae
from .notice import notice
from .sample import DemoModel
from .subjects import BACKGROUNDS, DEFAULT_BACKGROUND, STYLES
from .vae_score import held_out_pictures

UPSCALER_FILE = "ESRGAN/realesr-animevideov3.safetensors"
STAGES = ("base", "relatives", "judge", "all")


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.train_demo", description=__doc__)
    parser.add_argument("stage", nargs="?", default="all", choices=STAGES)
    parser.add_argument("--work", type=Path, default=Path(".train"), help="data and checkpoints")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("sdforge/demo/sdforge-demo.safetensors"),
        help="the finished file; its relatives and NOTICE.md are written beside it",
    )
    parser.add_argument(
        "--vae-from", type=Path, help="take the autoencoder of this file instead of training one"
    )
    parser.add_argument(
        "--vae-minutes",
        type=float,
        default=vae.MINUTES,
        help="length of the autoencoder's training",
    )
    parser.add_argument("--styles", nargs="+", default=[style.name for style in STYLES])
    parser.add_argument("--samples", type=int, default=150_000, help="length of the UNet training")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--text-steps", type=int, default=1900)
    parser.add_argument(
        "--polish-minutes", type=float, default=25.0, help="CPU time for the decoder alone"
    )
    parser.add_argument(
        "--preview-minutes", type=float, default=10.0, help="CPU time for the preview decoder"
    )
    parser.add_argument(
        "--adapter-samples",
        type=int,
        nargs=3,
        default=(8_000, 8_000, 8_000),
        metavar=("STYLE", "TURBO", "CANNY"),
    )
    parser.add_argument(
        "--judge-seeds", type=int, default=4, help="pictures of each thing that are judged"
    )
    return parser.parse_args()


def prepare(work: Path, vae_file: Path | None, minutes: float) -> tuple[LatentSet, LatentSet]:
    """The usual latents, and those with the moved pictures; each made once and then read."""
    stored, every, scaled = (work / name for name in ("latents.pt", "latents_all.pt", "vae.pt"))
    if stored.exists() and every.exists() and scaled.exists():
        return LatentSet(**torch.load(stored)), LatentSet(**torch.load(every))
    network = vae.from_file(vae_file) if vae_file else vae.train(work, vae.plan_for(minutes))
    pictures = data.build(work)
    made = latents.build(pictures, network)
    both = latents.joined(made, latents.variants(pictures, network))
    torch.save(network.state_dict(), scaled)
    torch.save(made.__dict__, stored)
    torch.save(both.__dict__, every)
    return made, both


def make_base(given: argparse.Namespace) -> None:
    """Autoencoder, text encoder, denoiser, decoder; writes the one file."""
    work: Path = given.work
    _usual, every = prepare(work, given.vae_from, given.vae_minutes)
    meanings = Meanings.build(work)
    encoder = text.train(work, meanings, given.text_steps)
    prompts = unet.PromptContext(encoder, text.make_tokenizer(work))
    shares = dict.fromkeys(given.styles, 1.0)
    torch.manual_seed(0)
    plan = unet.Plan(
        samples=given.samples, batch=given.batch, rate=given.rate, styles=shares, code_part=0.5
    )
    trainer = unet.train(plan, work / "unet", every, meanings, prompts)
    finished = make_vae()
    finished.load_state_dict(torch.load(work / "vae.pt"))
    white = BACKGROUNDS[DEFAULT_BACKGROUND]
    held_out = [data.composite(rgba, white) for rgba in held_out_pictures(work)]
    polish.polish(finished, work, given.polish_minutes, held_out)
    denoiser = unet.averaged_unet(work / "unet" / "state.pt")
    digest = write(gather(denoiser, finished, encoder), metadata(trainer.samples), given.out)
    print(f"{given.out}: {given.out.stat().st_size} bytes, sha256 {digest}")


def make_relatives(given: argparse.Namespace) -> None:
    """Preview decoder, upscaler, LoRAs, ControlNet and embedding, beside the base."""
    work, folder = given.work, given.out.parent
    base = DemoModel.load(given.out, work)
    white = BACKGROUNDS[DEFAULT_BACKGROUND]
    held_out = [data.composite(rgba, white) for rgba in held_out_pictures(work)]
    pairs = polish.make_pairs(base.vae, work)
    small = preview.train(pairs, work, given.preview_minutes, held_out)
    preview.write(small, folder / PREVIEW_FILE)
    upscaler.write(work, folder / UPSCALER_FILE)
    relatives.make(given.out, "all", work, folder, tuple(given.adapter_samples))


def make_scores(given: argparse.Namespace) -> None:
    """Judge everything, draw the contact sheet, write NOTICE.md."""
    work, folder = given.work, given.out.parent
    base = DemoModel.load(given.out, work)
    how = Setting(
        int(RECOMMENDED["steps"]), float(RECOMMENDED["cfg_scale"]), RECOMMENDED["sampler"]
    )
    score = judge(base, work, given.styles, given.judge_seeds, how, work / "sheet.png")
    print(table(score))
    (work / "score.json").write_text(json.dumps(asdict(score), indent=1))
    sheets = work / "sheets"
    sheets.mkdir(exist_ok=True)
    for name, measure in JUDGES.items():
        file = folder / name
        if file.exists():
            print(name, measure(base, file, work, sheets / f"{file.stem}.png"))
    save_sheet(base, sheets / "demo-sheet.webp")
    samples = torch.load(work / "unet" / "state.pt")["samples"]
    facts = [
        f"The denoiser saw {samples:,} samples of {len(data.build(work).subjects):,} pictures."
    ]
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    about = notice(asdict(score), given.styles, facts, files, wider_autoencoder=False)
    given.out.with_name("NOTICE.md").write_text(about)


def main() -> None:
    """Run the stages asked for; each one goes on where it was stopped."""
    given = parse()
    given.work.mkdir(parents=True, exist_ok=True)
    if given.stage in ("base", "all"):
        make_base(given)
    if given.stage in ("relatives", "all"):
        make_relatives(given)
    if given.stage in ("judge", "all"):
        make_scores(given)


if __name__ == "__main__":
    main()

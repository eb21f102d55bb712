"""C13: prompts into weighted chunks; the peer is transformers' CLIPTokenizer on the same texts.

Ours parses brackets and weights, cuts at 75 tokens and adds marks and padding; the peer is handed
the text as it is and returns ids. Both run on the same vocabulary. A second figure is for prompts
that were seen before, as each picture of a job and each keystroke of the counter see them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from timing import Row, compare

from sdforge.models.tokenizers import clip_tokenizer
from sdforge.prompt import tokens
from sdforge.prompt.tokens import chunk_prompt

PROMPTS = 1000
ROUNDS = 7
_WORDS = (
    "cat dog castle portrait woman man forest river mountain dragon neon city street rain sunset "
    "masterpiece best quality highly detailed intricate cinematic lighting sharp focus bokeh 35mm "
    "film grain oil painting watercolor by greg rutkowski trending on artstation volumetric fog"
).split()


def prompts(count: int) -> list[str]:
    """Return mixed prompts: from two words to two chunks, with every kind of bracket."""
    rng = random.Random(13)
    made = []
    for number in range(count):
        parts = []
        for _ in range(rng.choice((2, 6, 15, 30))):
            phrase = " ".join(rng.choices(_WORDS, k=rng.randint(1, 4)))
            forms = (phrase, phrase, phrase, f"({phrase})", f"({phrase}:1.2)", f"[{phrase}]")
            parts.append(rng.choice(forms))
        made.append(f"{', '.join(parts)}, {number}")
    return made


def make_peer() -> Callable[[str], Sequence[int]]:
    """Return transformers' CLIPTokenizer, over our tokenizer's vocabulary."""
    from transformers import CLIPTokenizer

    state = json.loads(clip_tokenizer().backend.to_str())["model"]
    merges = [tuple(merge) for merge in state["merges"]]
    peer: Any = CLIPTokenizer(vocab=state["vocab"], merges=merges)
    return lambda text: peer(text, add_special_tokens=False).input_ids


def measure() -> list[Row]:
    """Return the ratios for new prompts and for prompts seen before."""
    ours, peer = clip_tokenizer(), make_peer()
    texts = prompts(PROMPTS)
    plain = [text for text in texts if not set(text) & set("()[]")]
    for text in plain:
        ids = [
            token
            for chunk in chunk_prompt(text, ours, comma_backtrack=0)
            for token in chunk.ids
            if token not in (ours.bos, ours.eos, ours.pad)
        ]
        if ids != list(peer(text)):
            raise RuntimeError(f"other tokens than transformers': {text!r}")

    def run_ours() -> None:
        for text in texts:
            chunk_prompt(text, ours)

    def run_peer() -> None:
        for text in texts:
            peer(text)

    new = compare(run_ours, run_peer, rounds=ROUNDS, before=tokens._cut.cache_clear)
    run_ours()
    again = compare(run_ours, run_peer, rounds=ROUNDS)
    name = "transformers CLIPTokenizer alone"
    return [
        new.row("C13", "1,000 mixed prompts to chunks: new", name, 1.3, repeats=PROMPTS),
        again.row("C13", "1,000 mixed prompts to chunks: seen", name, 0.02, repeats=PROMPTS),
    ]

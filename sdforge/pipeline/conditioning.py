"""Prompts → conditioning tensors, computed once per text.

The cache belongs to the runner and outlives a job: drawing the same prompt again, or another seed
of it, needs no text encoder. Keys are plain values, entries are small tensors on the device.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from sdforge.core.settings import Settings
from sdforge.models.bundle import ModelBundle
from sdforge.models.denoiser import Conditioning
from sdforge.prompt.tokens import chunk_prompt, pad_chunks

# One conditioning of SD 1.x is 236 kB in fp32; 64 of them stay below the size of one UNet block.
CACHED_PAIRS = 64


@dataclass(frozen=True, eq=False)
class ConditioningPair:
    """The two sides of guidance, of equal length. `uncond` is None when guidance is off."""

    cond: Conditioning
    uncond: Conditioning | None


class ConditioningCache:
    """The last pairs that were encoded, least recently used leaving first."""

    def __init__(self, capacity: int = CACHED_PAIRS) -> None:
        self._capacity = capacity
        self._pairs: OrderedDict[tuple[object, ...], ConditioningPair] = OrderedDict()
        self._bundle: ModelBundle | None = None

    def get(
        self, bundle: ModelBundle, key: tuple[object, ...], make: Callable[[], ConditioningPair]
    ) -> ConditioningPair:
        """Return the pair of `key` for this bundle, made now if it is not known."""
        if bundle is not self._bundle:
            self.clear()
            self._bundle = bundle
        pair = self._pairs.pop(key, None) or make()
        self._pairs[key] = pair
        while len(self._pairs) > self._capacity:
            self._pairs.popitem(last=False)
        return pair

    def clear(self) -> None:
        """Forget everything, the bundle too."""
        self._pairs.clear()
        self._bundle = None


def encode_pair(
    cache: ConditioningCache,
    bundle: ModelBundle,
    prompt: str,
    negative_prompt: str,
    *,
    guided: bool,
    settings: Settings,
) -> ConditioningPair:
    """Return the conditioning of a prompt and its negative, padded to the same length."""
    clip_skip = settings.CLIP_stop_at_last_layers
    emphasis = settings.emphasis
    backtrack = settings.comma_padding_backtrack
    text = bundle.text

    def make() -> ConditioningPair:
        chunks = chunk_prompt(prompt, text.tokenizer, comma_backtrack=backtrack, emphasis=emphasis)
        if not guided:
            cond = text.encode(chunks, clip_skip=clip_skip, emphasis=emphasis)
            return ConditioningPair(cond, None)
        negative = chunk_prompt(
            negative_prompt, text.tokenizer, comma_backtrack=backtrack, emphasis=emphasis
        )
        chunks, negative = pad_chunks(chunks, negative, text.tokenizer)
        return ConditioningPair(
            text.encode(chunks, clip_skip=clip_skip, emphasis=emphasis),
            text.encode(negative, clip_skip=clip_skip, emphasis=emphasis),
        )

    key = (prompt, negative_prompt if guided else None, clip_skip, emphasis, backtrack)
    return cache.get(bundle, key, make)

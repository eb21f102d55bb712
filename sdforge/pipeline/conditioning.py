"""The prompts of a batch → conditioning tensors over time, each distinct text encoded once.

The cache belongs to the runner and outlives a job: drawing the same prompt again, or another seed
of it, needs no text encoder. Keys are plain values, entries are small tensors on the device.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from sdforge.core.settings import Settings
from sdforge.models.adapters.embedding_library import EmbeddingTokenizer
from sdforge.models.bundle import ModelBundle
from sdforge.models.denoiser import Conditioning
from sdforge.models.text_encoder import PromptReader, ShownPicture, Situation
from sdforge.models.tokenizers import Tokenizer
from sdforge.pipeline.prompts import BatchPrompts
from sdforge.prompt.composition import Part, split_parts
from sdforge.prompt.schedule import Timeline, index_at, schedule
from sdforge.prompt.tokens import Chunk, chunk_prompt, weigh_tokens

Pictures = tuple[ShownPicture, ...]
# One text of SD 1.x is 236 kB in fp32, one of SDXL 631 kB, one of a T5 of 256 tokens 4 MiB.
CACHE_BYTES = 64 * 2**20


class ConditioningCache:
    """The last texts that were encoded, least recently used leaving first."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[tuple[object, ...], Conditioning] = OrderedDict()
        self._bundle: ModelBundle | None = None

    def get(
        self, bundle: ModelBundle, key: tuple[object, ...], make: Callable[[], Conditioning]
    ) -> Conditioning:
        """Return the conditioning of `key` for this bundle, made now if it is not known."""
        if bundle is not self._bundle:
            self.clear()
            self._bundle = bundle
        found = self._kept.pop(key, None)
        if found is None:
            found = make()
            self._bytes += found.nbytes
        self._kept[key] = found
        while self._bytes > self._max_bytes:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return found

    def clear(self) -> None:
        """Forget everything, the bundle too."""
        self._kept.clear()
        self._bytes = 0
        self._bundle = None


@dataclass(frozen=True, eq=False)
class TimedConditioning:
    """An encoded prompt that may change: `conds[i]` holds up to and with call `ends[i]`."""

    ends: tuple[int, ...]
    conds: tuple[Conditioning, ...]

    def at(self, call: int) -> Conditioning:
        """Return what holds in a call of the denoiser, counted from 0."""
        return self.conds[index_at(self.ends, call)] if len(self.ends) > 1 else self.conds[0]


@dataclass(frozen=True, eq=False)
class BatchConditioning:
    """What guides each picture of a batch.

    Attributes:
        parts: for each part of an `AND`, one conditioning a picture. A picture of fewer parts than
            others has its first one again, with weight 0.
        weights: as `parts`.
        uncond: the negative prompts, one a picture.
        empty: the encoded empty text, where shorter prompts shall be padded with it.
        blank: the encoded empty text, where an extension may ask for it.
    """

    parts: tuple[tuple[TimedConditioning, ...], ...]
    weights: tuple[tuple[float, ...], ...]
    uncond: tuple[TimedConditioning, ...]
    empty: Conditioning | None = None
    blank: Conditioning | None = None

    @cached_property
    def pictures(self) -> int:
        """Pictures in the batch."""
        return len(self.uncond)

    @cached_property
    def sequence_tokens(self) -> int:
        """Tokens of the longest text that attends as a part of the picture; 0 where none does."""
        timed = [*(one for part in self.parts for one in part), *self.uncond]
        conds = [cond for one in timed for cond in one.conds if cond.is_sequence]
        return max((cond.tokens for cond in conds), default=0)


@dataclass(frozen=True)
class PromptText:
    """One text, for encoders to read each in its own way (`text_encoder.PromptReader`)."""

    text: str
    emphasis: str
    comma_backtrack: int
    is_negative: bool = False
    pictures: Pictures = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is no text at all."""
        return not self.text

    def chunks(self, tokenizer: EmbeddingTokenizer) -> list[Chunk]:
        """Return windows of 77 tokens, at least one."""
        return chunk_prompt(
            self.text,
            tokenizer,
            comma_backtrack=self.comma_backtrack,
            emphasis=self.emphasis,
        )

    def tokens(self, tokenizer: Tokenizer, least: int) -> Chunk:
        """Return all tokens in one piece, padded up to `least`."""
        return weigh_tokens(self.text, tokenizer, least=least, emphasis=self.emphasis)


class PromptEncoder:
    """Encodes prompts with the settings of one job, for pictures of one kind."""

    def __init__(
        self,
        cache: ConditioningCache,
        bundle: ModelBundle,
        settings: Settings,
        timeline: Timeline,
        situation: Situation,
        read: Callable[[PromptText], PromptReader] = lambda prompt: prompt,
        pictures: Sequence[Pictures] = (),
    ) -> None:
        """Take what prompts are encoded with.

        Args:
            cache: of texts that were encoded.
            bundle: whose encoders.
            settings: of the job.
            timeline: that of the denoiser's calls.
            situation: that of the prompts.
            read: wraps a text that is encoded now, to watch how it is read.
            pictures: that the prompt of each picture of the batch is about, from the first again
                where there are fewer; () for none.
        """
        self._pictures: Sequence[Pictures] = pictures if bundle.text.sees_pictures else ()
        self._read = read
        self._cache = cache
        self._bundle = bundle
        self._settings = settings
        self._timeline = timeline
        self._situation = situation

    def batch(self, prompts: BatchPrompts, *, with_blank: bool = False) -> BatchConditioning:
        """Return the conditioning of a batch of pictures; `with_blank` adds the empty prompt's."""
        pictures = [split_parts(prompt) for prompt in prompts.positive]
        most = max(map(len, pictures))
        filled = [[*parts, *[Part(parts[0].text, 0.0)] * (most - len(parts))] for parts in pictures]
        return BatchConditioning(
            parts=tuple(
                tuple(self._timed(parts[number].text, row) for row, parts in enumerate(filled))
                for number in range(most)
            ),
            weights=tuple(
                tuple(parts[number].weight for parts in filled) for number in range(most)
            ),
            uncond=tuple(
                self._timed(prompt, row, is_negative=True)
                for row, prompt in enumerate(prompts.negative)
            ),
            empty=self._encoded("") if self._settings.pad_cond_uncond else None,
            blank=self._encoded("") if with_blank else None,
        )

    def _timed(self, prompt: str, row: int, *, is_negative: bool = False) -> TimedConditioning:
        about = self._pictures[row % len(self._pictures)] if self._pictures else ()
        texts = schedule(prompt, self._timeline)
        # A text that comes again is one object, which the denoiser's rows are remembered by.
        encoded = {
            timed.text: self._encoded(timed.text, about, is_negative=is_negative) for timed in texts
        }
        return TimedConditioning(
            tuple(timed.end for timed in texts), tuple(encoded[timed.text] for timed in texts)
        )

    def _encoded(
        self, text: str, about: Pictures = (), *, is_negative: bool = False
    ) -> Conditioning:
        settings, encoder = self._settings, self._bundle.text
        # Without need of it, the same words on both sides are encoded once.
        tells = is_negative and encoder.tells_sides
        backtrack = settings.comma_padding_backtrack
        prompt = PromptText(text, settings.emphasis, backtrack, tells, about)
        skips = (settings.CLIP_stop_at_last_layers, settings.sdxl_clip_l_skip)
        encoded = self._cache.get(
            self._bundle,
            (prompt, skips, encoder.key),
            lambda: encoder.encode_prompt(self._read(prompt), settings),
        )
        situation = replace(self._situation, is_negative=is_negative)
        return encoder.situated(encoded, prompt, situation, settings)

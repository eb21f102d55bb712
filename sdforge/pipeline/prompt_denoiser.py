"""The denoiser that a sampler calls: rows for every prompt of every picture, guidance over them.

It counts its calls, since prompts may change on the way. A call that raised does not count, so the
same one can be tried again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sdforge.core.extension import NetworkEdit
from sdforge.models.denoiser import Conditioning
from sdforge.pipeline.beside import Beside
from sdforge.pipeline.conditioning import BatchConditioning
from sdforge.sampling.guidance import UncondSkips, cancels_uncond, guide

Forward = Callable[[Tensor, float, Conditioning], Tensor]

# Prompts of unequal length are repeated up to their least common multiple, unless that is more than
# so many times the shortest.
_MOST_REPEATS = 4
# Alternating prompts come back to the same rows; more than so many at a time are not kept.
_KEPT_ROWS = 16


@dataclass(frozen=True, eq=False)
class _Run:
    """One forward pass: its conditioning and, unless they are whole layers, which rows."""

    conditioning: Conditioning
    rows: tuple[int, ...] | None


@dataclass(frozen=True, eq=False)
class _Answer:
    """What the network said about `x`, which is held so that its identity stays its own."""

    x: Tensor
    conds: Sequence[Tensor]
    uncond: Tensor | None


class PromptDenoiser:
    """Guesses clean latents of a batch; see `sampling.sampler` for the protocol."""

    def __init__(
        self,
        forward: Forward,
        conditioning: BatchConditioning,
        *,
        cfg_scale: float,
        skips: UncondSkips,
        dtype: torch.dtype,
        batched: bool = True,
        fit_uncond: bool = False,
        network: nn.Module | None = None,
        beside: Beside | None = None,
    ) -> None:
        """Take the model and what guides it.

        Args:
            forward: `(noisy rows, sigma, conditioning of as many rows)` → clean rows.
            conditioning: of the batch.
            cfg_scale: strength of guidance.
            skips: calls that go without the negative prompt.
            dtype: that the model wants conditioning in.
            batched: all rows in one forward pass, else one pass for each prompt.
            fit_uncond: negative prompts are cut or prolonged to the prompts' length
                (`pad_cond_uncond_v0`).
            network: what `forward` runs, for edits of extensions.
            beside: what the network sees beside the latents.
        """
        self._forward = forward
        self._network = network
        self._conditioning = conditioning
        self._cfg_scale = cfg_scale
        self._skips = skips
        self._dtype = dtype
        self._batched = batched
        self._fit_uncond = fit_uncond
        self._beside = beside
        self._guides_picture = beside is not None and beside.guides
        self._needs_uncond = needs_uncond(conditioning, cfg_scale) or self._guides_picture
        # What guidance by the picture adds to every guess of the call that was made last.
        self._by_picture: Tensor | None = None
        self._weights: list[float | Tensor] = []
        self._kept: dict[tuple[object, ...], list[_Run]] = {}
        self._remembers = False
        self._said: dict[tuple[int, float], _Answer] = {}
        self.call = 0

    @property
    def cfg_scale(self) -> float:
        """Strength of guidance."""
        return self._cfg_scale

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Return the guided guess; x is (batch, channels, height/8, width/8)."""
        return self._guess(x, sigma, with_uncond=self._needs_uncond)[0]

    def with_uncond(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Return the guided guess and the one of the negative prompt.

        Where the negative prompt is skipped, the prompt's stands for it (A1111).
        """
        return self._guess(x, sigma, with_uncond=True)

    def guesses(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor | None]:
        """Return what the network says with the prompt and with the negative one, unguided.

        Several prompts (`AND`) count as one, by their weights. None where the negative prompt is
        not asked for or skipped.
        """
        answer = self._ask(x, sigma, with_uncond=self._needs_uncond)
        return self._joined(x, answer.conds, answer.uncond), answer.uncond

    def guess(
        self, x: Tensor, sigma: float, *, of: str = "cond", edit: NetworkEdit | None = None
    ) -> Tensor:
        """Ask the network once more, with the prompts of the call that was made last.

        Args:
            x: latents, not necessarily those of the step.
            sigma: their noise.
            of: "cond", "uncond" or "empty" (no prompt at all).
            edit: a change to the network for this call.
        """
        layers = self._layers_of(of, max(self.call - 1, 0), pictures=len(x))
        with nullcontext() if edit is None or self._network is None else edit(self._network):
            runs = self._runs(x, layers, negatives=int(of == "uncond"))
            guess = self._joined(x, self._predict(x, sigma, runs), None)
        return guess if self._by_picture is None else guess + self._by_picture

    @contextmanager
    def one_call(self) -> Iterator[None]:
        """Inside the block, remember what the network said: the same question is asked once."""
        self._remembers = True
        try:
            yield
        finally:
            self._remembers = False
            self._said.clear()

    def _guess(self, x: Tensor, sigma: float, *, with_uncond: bool) -> tuple[Tensor, Tensor]:
        answer = self._ask(x, sigma, with_uncond=with_uncond)
        conds, uncond = answer.conds, answer.uncond
        if uncond is None and len(conds) == 1:
            return conds[0], conds[0]
        other = conds[0] if uncond is None else uncond
        return guide(conds, other, self._weights_for(x), self._cfg_scale), other

    def _ask(self, x: Tensor, sigma: float, *, with_uncond: bool) -> _Answer:
        known = self._said.get((id(x), sigma))
        if known is not None and (known.uncond is not None or not with_uncond):
            return known
        if self._guides_picture:
            answer = self._ask_with_picture(x, sigma)
        else:
            with_uncond = with_uncond and not self._skips.skips(self.call, sigma)
            layers = self._layers(self.call, with_uncond)
            guesses = self._predict(x, sigma, self._runs(x, layers, negatives=int(with_uncond)))
            answer = _Answer(x, guesses, None)
            if with_uncond:
                answer = _Answer(x, guesses[:-1], guesses[-1])
        self.call += 1
        if self._remembers:
            self._said[id(x), sigma] = answer
        return answer

    def _ask_with_picture(self, x: Tensor, sigma: float) -> _Answer:
        """Ask with the negative prompt twice, the second time without the picture.

        With u for that one and n for the other, u + s·(n − u) + c·(p − n) is the usual guidance
        between n and the prompt's p, plus (s − 1)·(n − u). That is added to both, so that whatever
        combines them by weights of sum 1 has it too.
        """
        layers = self._layers(self.call, with_uncond=True)
        runs = self._runs(x, [*layers, layers[-1]], negatives=2)
        *conds, uncond, blind = self._predict(x, sigma, runs)
        scale = 1.0 if self._beside is None else self._beside.image_scale
        added = self._by_picture = (uncond - blind) * (scale - 1.0)
        return _Answer(x, [cond + added for cond in conds], uncond + added)

    def _joined(self, x: Tensor, conds: Sequence[Tensor], uncond: Tensor | None) -> Tensor:
        """Return several prompts' guesses as one."""
        if len(conds) == 1:
            return conds[0]
        return guide(conds, conds[0] if uncond is None else uncond, self._weights_for(x), 1.0)

    def _predict(self, x: Tensor, sigma: float, runs: Sequence[_Run]) -> Sequence[Tensor]:
        """Return one guess for each part, uncond last."""
        pictures = len(x)
        if all(run.rows is None for run in runs):
            layers: list[Tensor] = []
            for run in runs:
                count = len(run.conditioning.hidden) // pictures
                rows = x if count == 1 else torch.cat([x] * count)
                layers += self._forward(rows, sigma, run.conditioning).split(pictures)
            return layers
        found: dict[int, Tensor] = {}
        for run in runs:
            rows = x[[row % pictures for row in run.rows or ()]]
            guesses = self._forward(rows, sigma, run.conditioning)
            found.update(zip(run.rows or (), guesses, strict=True))
        return torch.stack([found[row] for row in range(len(found))]).split(pictures)

    def _layers(self, call: int, with_uncond: bool) -> list[list[Conditioning]]:
        """Return what guides a call: for each part one conditioning a picture, uncond last."""
        prompts = self._conditioning
        layers = [[timed.at(call) for timed in part] for part in prompts.parts]
        if with_uncond:
            layers.append([timed.at(call) for timed in prompts.uncond])
        return layers

    def _layers_of(self, side: str, call: int, *, pictures: int) -> list[list[Conditioning]]:
        if side == "cond":
            return self._layers(call, with_uncond=False)
        if side == "uncond":
            return [[timed.at(call) for timed in self._conditioning.uncond]]
        if self._conditioning.blank is None:
            raise ValueError("the empty prompt was not encoded")
        return [[self._conditioning.blank] * pictures]

    def _runs(self, x: Tensor, layers: list[list[Conditioning]], *, negatives: int) -> list[_Run]:
        """Return the forward passes of a call; made anew only when a prompt changes.

        The last `negatives` layers are the negative prompt's; a second one sees no picture.
        """
        # The first row of a negative prompt.
        first = sum(map(len, layers[: len(layers) - negatives]))
        key = (first, *(id(cond) for layer in layers for cond in layer))
        runs = self._kept.get(key)
        if runs is None:
            if len(self._kept) >= _KEPT_ROWS:
                self._kept.clear()
            runs = self._kept[key] = [
                _Run(run.conditioning.to(x.device, self._dtype), run.rows)
                for run in self._arranged(self._padded(layers, negatives), first)
            ]
        return runs

    def _shown(self, rows: Sequence[int], pictures: int, first: int) -> Tensor | None:
        """Return what rows see beside the latents; `first` is the first negative prompt's."""
        if self._beside is None:
            return None
        return self._beside.of_rows(rows, blind_from=first + pictures)

    def _referred(self, rows: Sequence[int]) -> tuple[Tensor, ...]:
        return () if self._beside is None else self._beside.references_of(rows)

    def _padded(self, layers: list[list[Conditioning]], negatives: int) -> list[list[Conditioning]]:
        """Bring prompts to the same length as A1111's two options do."""
        empty = self._conditioning.empty
        conds = len(layers) - negatives
        if not conds or not negatives:
            return layers
        if self._fit_uncond:
            longest = max(cond.tokens for layer in layers[:conds] for cond in layer)
            fitted = [[cond.fitted(longest) for cond in layer] for layer in layers[conds:]]
            return [*layers[:conds], *fitted]
        if empty is not None:
            longest = max(cond.tokens for layer in layers for cond in layer)
            return [[cond.padded(empty, longest) for cond in layer] for layer in layers]
        return layers

    def _arranged(self, layers: list[list[Conditioning]], first: int) -> list[_Run]:
        """Put rows together: all at once, or each layer alone; equal lengths in any case.

        Rows from number `first` on are of the negative prompts.
        """
        rows = list(enumerate(cond for layer in layers for cond in layer))
        pictures = len(layers[0])
        step = len(rows) if self._batched else pictures
        together = [
            _of_equal_length(rows[start : start + step]) for start in range(0, len(rows), step)
        ]
        is_whole = all(len(groups) == 1 for groups in together)
        return [
            _Run(
                replace(
                    Conditioning.stack([cond for _, cond in group]),
                    against=tuple(number >= first for number, _ in group),
                    beside=self._shown([number for number, _ in group], pictures, first),
                    references=self._referred([number for number, _ in group]),
                ),
                None if is_whole else tuple(number for number, _ in group),
            )
            for groups in together
            for group in groups
        ]

    def _weights_for(self, x: Tensor) -> list[float | Tensor]:
        if not self._weights:
            self._weights = [
                part[0] if len(set(part)) == 1 else x.new_tensor(part).view(-1, 1, 1, 1)
                for part in self._conditioning.weights
            ]
        return self._weights


def needs_uncond(conditioning: BatchConditioning, cfg_scale: float) -> bool:
    """Whether the negative prompt of any picture changes it; with CFG scale 1 it does not."""
    return not all(
        cancels_uncond(weights, cfg_scale) for weights in zip(*conditioning.weights, strict=True)
    )


def rows_at_once(
    conditioning: BatchConditioning,
    cfg_scale: float,
    *,
    batched: bool,
    beside: Beside | None = None,
) -> int:
    """Return how many rows the largest forward pass has."""
    layers = len(conditioning.parts) + needs_uncond(conditioning, cfg_scale)
    if beside is not None and beside.guides:
        layers = len(conditioning.parts) + 2
    return conditioning.pictures * (layers if batched else 1)


def _of_equal_length(
    rows: Sequence[tuple[int, Conditioning]],
) -> list[list[tuple[int, Conditioning]]]:
    """Return groups of rows that have equally many tokens.

    Cross-attention to a prompt that is repeated whole gives what attention to the prompt gives: the
    weights of its copies add up. So unequal ones are repeated to the same length where it is cheap.
    """
    lengths = sorted({cond.tokens for _, cond in rows})
    common = math.lcm(*lengths)
    is_repeatable = not any(cond.is_sequence for _, cond in rows)
    if common == lengths[0] or (is_repeatable and common <= _MOST_REPEATS * lengths[0]):
        return [[(number, cond.tiled(common // cond.tokens)) for number, cond in rows]]
    return [[row for row in rows if row[1].tokens == length] for length in lengths]

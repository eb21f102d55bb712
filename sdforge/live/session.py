"""One client of live mode: what is drawn for it, what it has seen, and what it wants to keep."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sdforge.core.errors import NotFound
from sdforge.core.frame import FULL, SMALL, Frame, FrameRequest
from sdforge.core.inputs import InputImage
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import Settings
from sdforge.live.budget import Costs, Quality, choose, qualities
from sdforge.live.choice import Choice
from sdforge.live.pace import PaceMeter
from sdforge.live.wish import AUTO, FRAME, PICTURE, Wish

# The frame on its way, the one on screen, and the one before, which that may have started from.
_REMEMBERED = 3
_SEEDS = 2**32 - 1
# What the budget chooses from. An eighth of the size, as the linear map shows it, is for those who
# ask for it.
_DECODERS = (FULL, SMALL)


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """The picture that a client sent: its file, and what requests call it."""

    data: bytes
    image: InputImage


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """A frame with what it takes to draw it again.

    `before` is the frame that it went on from; `asked_at` says when its wish came, by a monotonic
    clock, `seconds` how long the model thread was busy with it.
    """

    number: int
    wish: Wish
    request: GenerationRequest
    settings: Settings
    quality: Quality
    frame: Frame
    sketch: Sketch | None = None
    before: Frame | None = None
    asked_at: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A wish in line, and when it came."""

    wish: Wish
    at: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A wish as it will be drawn."""

    wish: Wish
    request: GenerationRequest
    quality: Quality
    possible: tuple[Quality, ...]
    sketch: Sketch | None
    choice: Choice


@dataclass(eq=False)
class Session:
    """The state of one connection; `Live` guards it with its lock.

    Attributes:
        id: a name for it.
        notify: called on any thread when there is something to send.
        outbox: messages to send, by kind: a newer one of a kind stands for an older one.
        sketch: the picture that the client sent last.
        sent: number of the frame on its way, and when it went; a monotonic clock.
    """

    id: str
    notify: Callable[[], None]
    outbox: dict[str, Any] = field(default_factory=dict)
    sketch: Sketch | None = None
    pace: PaceMeter = field(default_factory=PaceMeter)
    costs: Costs = field(default_factory=Costs)
    current: Quality | None = None
    checkpoint: str = ""
    superseded: int = 0
    seed: int = field(default_factory=lambda: random.randrange(_SEEDS))
    drawn: OrderedDict[int, Drawn] = field(default_factory=OrderedDict)
    sent: tuple[int, float] | None = None
    frames: int = 0

    def plan(self, wish: Wish, choice: Choice, checkpoint: str) -> Plan:
        """Return how a wish is drawn within its budget, on a checkpoint."""
        if checkpoint != self.checkpoint:
            # What another checkpoint took says nothing about this one.
            self.checkpoint, self.costs, self.current = checkpoint, Costs(), None
        possible = tuple(possible_qualities(wish, choice))
        quality = choose(possible, self.costs, wish.budget_ms / 1000, self.current)
        sketch = self.sketch if wish.source == PICTURE else None
        return Plan(
            wish=wish,
            request=request_of(wish, choice, quality, sketch, self.seed, checkpoint),
            quality=quality,
            possible=possible,
            sketch=sketch,
            choice=choice,
        )

    def frame_request(self, plan: Plan, resolved: GenerationRequest) -> FrameRequest:
        """Return what the painter is asked for."""
        return FrameRequest(
            session=self.id,
            request=resolved,
            decoder=plan.quality.decoder,
            picture=plan.sketch.data if plan.sketch else b"",
            goes_on=plan.wish.source == FRAME,
        )

    def remember(
        self,
        plan: Plan,
        resolved: GenerationRequest,
        settings: Settings,
        frame: Frame,
        *,
        asked_at: float,
        seconds: float,
    ) -> Drawn:
        """Hold a frame until three newer ones are there, so that it can be kept for good."""
        last = next(reversed(self.drawn.values()), None)
        used = replace(plan.quality, decoder=frame.decoder)
        drawn = Drawn(
            number=plan.wish.number,
            wish=plan.wish,
            request=resolved,
            settings=settings,
            quality=used,
            frame=frame,
            sketch=plan.sketch,
            before=last.frame if last is not None and frame.went_on else None,
            asked_at=asked_at,
            seconds=seconds,
        )
        self.frames += 1
        self.costs.add(used, frame.timings, vae_width=frame.vae_width)
        self.current = used if used in plan.possible else plan.quality
        self.drawn[drawn.number] = drawn
        while len(self.drawn) > _REMEMBERED:
            self.drawn.popitem(last=False)
        return drawn

    def find(self, number: int) -> Drawn:
        """Return a frame that is still known; raises `NotFound`."""
        try:
            return self.drawn[number]
        except KeyError:
            raise NotFound(
                f"frame {number} is not kept any more; only the last {_REMEMBERED} are"
            ) from None


def possible_qualities(wish: Wish, choice: Choice) -> list[Quality]:
    """Return what a wish leaves open, best first."""
    sizes = [(wish.width, wish.height)] if wish.width and wish.height else list(choice.sizes)
    steps = [wish.steps] if wish.steps else list(choice.steps)
    decoders = [wish.decoder] if wish.decoder != AUTO else list(_DECODERS)
    return qualities(sizes, steps, decoders)


def request_of(
    wish: Wish,
    choice: Choice,
    quality: Quality,
    sketch: Sketch | None,
    seed: int,
    checkpoint: str,
) -> GenerationRequest:
    """Return a wish as a request; the same one, as a job, draws the same picture.

    Args:
        wish: what the client wants.
        choice: what the checkpoint allows.
        quality: what the budget allows.
        sketch: the picture to start from.
        seed: of the session, for wishes that name none.
        checkpoint: title of the checkpoint.
    """
    prompt = wish.prompt
    if choice.lora and f"<lora:{choice.lora}:" not in prompt:
        prompt = f"{prompt} <lora:{choice.lora}:1>".strip()
    starts = sketch is not None or wish.source == FRAME
    # All steps are walked at any strength: a share of one or two steps would be none, or all.
    overrides: Mapping[str, Any] = {"img2img_fix_steps": True} if starts else {}
    return GenerationRequest(
        prompt=prompt,
        negative_prompt=wish.negative_prompt,
        steps=quality.steps,
        sampler=wish.sampler or choice.sampler,
        width=quality.width,
        height=quality.height,
        cfg_scale=choice.cfg_scale if wish.cfg_scale is None else wish.cfg_scale,
        seed=seed if wish.seed < 0 else wish.seed,
        subseed=0,
        denoising_strength=wish.strength if starts else None,
        init_images=(sketch.image,) if sketch is not None else (),
        checkpoint=checkpoint,
        overrides=overrides,
    )

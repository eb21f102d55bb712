"""What an extension is: named values and eleven hooks, each of which returns something new.

An extension (A1111's "script") declares its values as `Field`s; the page, the REST API, infotext
and the docs read them from there. Hooks are called by the engine (`on_request`, `expand`) and by
the pipeline (all others), with the extension's own values; what they are given they never change.
The ones that ship are in `sdforge.extensions`; `docs/extensions.md` shows how to write one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from sdforge.core.detail import Detail
from sdforge.core.errors import InvalidRequest
from sdforge.core.fields import Field
from sdforge.core.registry import Registry
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn

Values: TypeAlias = Mapping[str, Any]
# Changes how a placed network computes while the block runs; leaves nothing behind.
NetworkEdit: TypeAlias = "Callable[[nn.Module], AbstractContextManager[None]]"


class StepState(Protocol):
    """A finished step, as `sampling.StepInfo` tells it."""

    @property
    def index(self) -> int:
        """Number of the step, from 0."""

    @property
    def sigma(self) -> float:
        """Noise that the step began with."""

    @property
    def denoised(self) -> Tensor:
        """The guess of the clean latents."""


class Guided(Protocol):
    """The guided denoiser, which `wrap_denoiser` may replace by another of its kind.

    Calls with the same latents and sigma in a row ask the network once.
    """

    @property
    def cfg_scale(self) -> float:
        """Scale of the guidance."""

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """Return the guess of the clean latents, after guidance."""

    def with_uncond(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Return the guided guess and the one of the negative prompt."""

    def guesses(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor | None]:
        """Return what the network says with the prompt, and with the negative one (if asked)."""

    def guess(
        self,
        x: Tensor,
        sigma: float,
        *,
        of: str = "cond",
        edit: NetworkEdit | None = None,
    ) -> Tensor:
        """Ask the network once more.

        Args:
            x: latents, not necessarily those of the step.
            sigma: their noise.
            of: "cond" for the prompt, "uncond" for the negative one, "empty" for no prompt at all.
            edit: a change to the network for this call.
        """


@dataclass(frozen=True, kw_only=True)
class DenoiseContext:
    """What the hooks of the pipeline may read about the pass that runs.

    Attributes:
        request: resolved.
        settings: the job's snapshot.
        sigmas: of this pass, falling.
        network: the denoiser's network where it computes; for edits, and only inside the hooks.
        batch: number of the batch, from 0.
        pass_name: "base" or "hires".
    """

    request: GenerationRequest
    settings: Settings
    sigmas: Sequence[float]
    network: nn.Module
    batch: int = 0
    pass_name: str = "base"

    def fraction(self, sigma: float) -> float:
        """Return how far the pass is at `sigma`: 0 at the first step, towards 1 at the last."""
        steps = max(len(self.sigmas) - 1, 1)
        return sum(one > sigma * (1 + 1e-6) for one in self.sigmas) / steps


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskBlend:
    """Latents of a pass with a mask, (batch, channels, height/8, width/8).

    Attributes:
        drawn: the guess of the clean latents, or the result.
        source: what the pass started with.
        mask: (batch or 1, 1, height/8, width/8), 1 where to repaint.
        sigma: noise of the step; 0 after the last one.
    """

    drawn: Tensor
    source: Tensor
    mask: Tensor
    sigma: float


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """Noise for img2img that leads to its picture: found by walking from the picture to noise.

    Attributes:
        prompt: what the picture shows; None for the prompt that it is drawn with.
        negative_prompt: what goes with `prompt`.
        steps: of the way up.
        cfg_scale: strength of guidance on the way up.
        randomness: share of the seed's noise that is mixed in, 0 to 1.
        at_own_level: slopes are those where a step begins, not those where it ends.
    """

    prompt: str | None = None
    negative_prompt: str = ""
    steps: int = 50
    cfg_scale: float = 1.0
    randomness: float = 0.0
    at_own_level: bool = False


class Extension:
    """Base of all extensions: its hooks change nothing.

    Attributes:
        name: what requests call it; lower case, unique.
        label: heading in the page, and its key in infotext.
        aliases: what A1111's and Forge's clients call it in `alwayson_scripts` or `script_name`.
        fields: its values; their order is the order of A1111's positional arguments.
        order: rules of lower order wrap the denoiser first and so lie inside the others.
        help: one sentence for the page.
        tabs: how the page groups the fields, if they are many: titles of tabs → titles of folds in
            them ("" for none) → names of fields.
        has_units: A1111's arguments are dicts, one for each of several units.
        kinds: the jobs that it can act in, "txt2img" and "img2img"; lists of others leave it out.
    """

    name: str = ""
    label: str = ""
    aliases: tuple[str, ...] = ()
    fields: tuple[Field, ...] = ()
    order: int = 50
    help: str = ""
    tabs: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    has_units: bool = False
    kinds: tuple[str, ...] = ("txt2img", "img2img")

    def is_active(self, values: Values) -> bool:
        """Tell whether these values ask for anything; by default the field `enabled` does."""
        return bool(values.get("enabled", True))

    def values_from_settings(self, settings: Settings) -> Values | None:
        """Return the values that settings ask for when a request has none; None for nothing."""
        return None

    def values_of_arguments(self, arguments: Sequence[Any]) -> dict[str, Any]:
        """Return values by name from A1111's arguments, which count by position.

        Too many are cut off, missing ones and nulls keep their defaults.
        """
        return dict(zip((field.name for field in self.fields), arguments, strict=False))

    def infotext(self, values: Values) -> dict[str, str]:
        """Return what a picture's text says of the values; `values_from_infotext` reads it."""
        kept = ((name, value) for name, value in values.items() if name != "enabled")
        return {self.label: ", ".join(f"{name}: {value}" for name, value in kept) or "on"}

    def values_from_infotext(self, fields: Mapping[str, str]) -> dict[str, Any] | None:
        """Return the values that a text gives, None for none; what cannot be used is left out."""
        return read_values(self, fields[self.label]) if self.label in fields else None

    def on_request(self, request: GenerationRequest, values: Values) -> GenerationRequest:
        """Return the request that shall be queued instead."""
        return request

    def expand(self, request: GenerationRequest, values: Values) -> list[GenerationRequest]:
        """Return the requests that make up this one, a grid's cells for example."""
        return [request]

    def inversion(self, request: GenerationRequest, values: Values) -> Inversion | None:
        """Return how the noise of img2img is found in its picture; None for that of the seed."""
        return None

    def on_conditioning(self, context: DenoiseContext, conditioning: Any, values: Values) -> Any:
        """Return the encoded prompts to use, of the kind that was given."""
        return conditioning

    def wrap_denoiser(self, context: DenoiseContext, denoiser: Guided, values: Values) -> Guided:
        """Return the denoiser that the sampler shall call."""
        return denoiser

    def blend_masked(self, blend: MaskBlend, values: Values) -> Tensor | None:
        """Return what shall stand for the drawn latents where a mask is given; None as usual."""
        return None

    def overlay_mask(self, blend: MaskBlend, values: Values) -> Tensor | None:
        """Return how far the result shows what was drawn over its source; None as usual.

        (batch, height/8, width/8) from 0 to 1; `blend` holds the finished latents.
        """
        return None

    def on_step(self, context: DenoiseContext, step: StepState, values: Values) -> None:
        """Look at a finished step; raising ends the job as failed."""

    def on_latents(self, context: DenoiseContext, latents: Tensor, values: Values) -> Tensor:
        """Return the latents to decode, (batch, channels, height/8, width/8)."""
        return latents

    def details(self, values: Values) -> tuple[Detail, ...]:
        """Return what shall be found in the finished pictures and be drawn again there, in turn."""
        return ()

    def draws(self, values: Values) -> bool:
        """Tell whether img2img draws before the details; without, they are its given pictures'."""
        return True

    def on_picture(
        self, request: GenerationRequest, pixels: npt.NDArray[np.uint8], values: Values
    ) -> npt.NDArray[np.uint8]:
        """Return the picture to save, uint8 (height, width, 3)."""
        return pixels


@dataclass(frozen=True)
class Active:
    """An extension with the values that a request gives it."""

    extension: Extension
    values: Values


def read_values(extension: Extension, text: str) -> dict[str, Any]:
    """Return the values that an infotext gives an extension; what cannot be used is left out."""
    names = "|".join(field.name for field in extension.fields)
    # A prompt among the values may have several lines.
    found = re.findall(rf"(?:^|, )({names}): (.*?)(?=, (?:{names}): |$)", text, re.DOTALL)
    values: dict[str, Any] = {}
    for field in extension.fields:
        if field.name == "enabled":
            values["enabled"] = True
        for name, value in found:
            if name == field.name:
                try:
                    values[name] = typed_value(field, value)
                except (InvalidRequest, ValueError):
                    continue
    return values


def typed_value(field: Field, value: Any) -> Any:
    """Return a client's value ("0.5", 1 for true…) as the field's type.

    Raises:
        InvalidRequest: it is not of that type or outside the limits.
    """
    if field.kind is bool and isinstance(value, (str, int)):
        folded = str(value).strip().casefold()
        if folded in ("true", "1", "on", "yes", "enable", "enabled"):
            value = True
        elif folded in ("false", "0", "off", "no", "", "disable", "disabled"):
            value = False
    elif field.kind in (int, float) and isinstance(value, (str, int, float)):
        try:
            number = float(value)
            value = int(number) if field.kind is int and number == int(number) else number
        except (ValueError, OverflowError):
            pass
    elif field.options and isinstance(value, str):
        value = next((one for one in field.options if one.casefold() == value.casefold()), value)
    field.check(value)
    return value


def complete_values(extension: Extension, values: Values) -> dict[str, Any]:
    """Return checked values of an extension, defaults filled in.

    Raises:
        InvalidRequest: an unknown name or a value outside its limits.
    """
    known = {field.name: field for field in extension.fields}
    for name in values:
        if name not in known:
            raise InvalidRequest(
                f"{extension.name}.{name}", values[name], f"one of {', '.join(known)}"
            )
    return {
        name: typed_value(field, values.get(name, field.default)) for name, field in known.items()
    }


def active_extensions(
    registry: Registry[Extension], requested: Mapping[str, Values], settings: Settings
) -> tuple[Active, ...]:
    """Return the extensions that a request or the settings switch on, lower order first.

    Raises:
        UnknownName: there is no extension of that name.
        InvalidRequest: an unknown or unusable value.
    """
    asked = {registry.get(name, "extensions").name: values for name, values in requested.items()}
    for extension in registry:
        standing = None if extension.name in asked else extension.values_from_settings(settings)
        if standing is not None:
            asked[extension.name] = standing
    found = []
    for name, values in asked.items():
        extension = registry.get(name)
        complete = complete_values(extension, values)
        if extension.is_active(complete):
            found.append(Active(extension, complete))
    return tuple(sorted(found, key=lambda active: active.extension.order))

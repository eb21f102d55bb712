"""The ControlNet units of a job: pictures → what networks see, files → networks in their place.

A unit that cannot serve is left out with a notice and the job goes on, as with LoRA. How units act
in a forward is `controlled.py`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from sdforge.core.control import BALANCED, UNION_TYPES, ControlUnit, union_type
from sdforge.core.errors import InvalidRequest, ModelError, NotFound, SdforgeError
from sdforge.core.events import Notice
from sdforge.models.adapters.controlnet import ControlNets, union_kinds
from sdforge.models.adapters.controlnet_library import ControlNetInfo
from sdforge.models.adapters.controlnet_shapes import IP_ADAPTER, TRANSFORMER
from sdforge.models.adapters.transformer_controlnet import shown_to
from sdforge.models.bundle import ModelBundle
from sdforge.models.clip_vision import clip_input, vision_bytes
from sdforge.pipeline.beside import encoded
from sdforge.pipeline.context import RunContext
from sdforge.pipeline.img2img import InitPictures, open_input
from sdforge.pipeline.passes import Pass
from sdforge.pipeline.placed import PlacedUnit
from sdforge.postprocess.control_picture import control_picture
from sdforge.postprocess.decoding import flattened
from sdforge.postprocess.preprocessors import PREPROCESSORS

log = logging.getLogger(__name__)

_BACKGROUND = "#ffffff"


@dataclass(frozen=True, eq=False)
class _Seen:
    """What a unit's network sees in a pass, as `PlacedUnit` has it."""

    hint: Tensor
    mask: Tensor | None


class ControlUnits:
    """The units of one job. With none, nothing is done anywhere."""

    def __init__(self, context: RunContext, pictures: InitPictures | None = None) -> None:
        """Read nothing yet; `pictures` are the job's initial ones."""
        self._context = context
        self._pictures = pictures
        units = enumerate(context.request.control)
        self._units = {number: unit for number, unit in units if unit.weight > 0}
        self._seen: dict[tuple[int, int, int], _Seen] = {}
        self._said: dict[int, Tensor] = {}
        self._encoded: dict[tuple[object, ...], Tensor] = {}
        self._infos: dict[int, ControlNetInfo] = {}

    def __bool__(self) -> bool:
        """Whether any unit is left."""
        return bool(self._units)

    def placed(
        self, one: Pass, bundle: ModelBundle, stack: ExitStack, working_bytes: int
    ) -> list[PlacedUnit]:
        """Return the units that act in a pass, their networks leased until `stack` is closed.

        Args:
            one: the pass.
            bundle: whose denoiser they steer.
            stack: gets the leases; the denoiser's own comes after them.
            working_bytes: of the denoiser's activations, which units' are no larger than.
        """
        context = self._context
        found = []
        for number, unit in list(self._units.items()):
            if not unit.acts_in(one.name):
                continue
            try:
                placed = self._placed(number, unit, one, bundle, stack, working_bytes)
            except (ModelError, InvalidRequest, NotFound) as error:
                self._leave_out(number, error)
                continue
            found.append(placed)
            context.check_cancelled()
        return found

    def infotext(self) -> Mapping[str, str]:
        """Return the infotext keys of the units that acted."""
        return {
            f"ControlNet {number}": replace(unit, model=self._infos[number].name).infotext()
            for number, unit in self._units.items()
            if number in self._infos
        }

    def _placed(
        self,
        number: int,
        unit: ControlUnit,
        one: Pass,
        bundle: ModelBundle,
        stack: ExitStack,
        working_bytes: int,
    ) -> PlacedUnit:
        context = self._context
        nets = context.controlnets
        if nets is None:
            raise NotFound("there is no folder of ControlNets")
        info = nets.library.find(unit.model)
        if info.error is not None:
            raise NotFound(info.error)
        _check_module(number, unit, info)
        seen = self._look(number, unit, one)
        context.check_cancelled()
        wanted = len(self._units)
        component = stack.enter_context(
            nets.lease(info, bundle, wanted=wanted, on_read=self._on_read)
        )
        if info.layout == IP_ADAPTER:
            hint = self._clip_look(number, unit, component.module, nets)
            seen = replace(seen, hint=hint)
        elif info.layout == TRANSFORMER:
            # What is to be repainted is black to these networks; others see it below black.
            pixels, encode = seen.hint.clamp(min=0), partial(self._latents, number, bundle)
            hint = shown_to(component.module, pixels, encode, bundle.latent_format)
            seen = replace(seen, hint=hint)
        kind = _kind(number, unit, component.module, info)
        lease = context.memory.lease(component, working_bytes=working_bytes)
        network = stack.enter_context(lease)
        self._infos[number] = info
        device = context.memory.compute_device
        preprocessor = PREPROCESSORS.get(unit.module)
        return PlacedUnit(
            unit=unit,
            lease=lease,
            network=network,
            hint=seen.hint.to(device),
            mask=None if seen.mask is None else seen.mask.to(device),
            kind=kind,
            is_soft=unit.control_mode != BALANCED
            or (one.name == "hires" and preprocessor.softens_hires),
        )

    def _on_read(self, count: int) -> None:
        self._context.check_cancelled()

    def _look(self, number: int, unit: ControlUnit, one: Pass) -> _Seen:
        """Return what a unit sees at a pass's size; made once."""
        key = (number, one.width, one.height)
        if key not in self._seen:
            with self._context.stage("input"):
                image, mask = self._picture(number, unit)
                self._context.check_cancelled()
                stop = self._context.check_cancelled
                made = control_picture(unit, image, mask, one.width, one.height, stop)
            hint = torch.from_numpy(made.pixels).permute(2, 0, 1)[None].contiguous()
            where = None if made.mask is None else torch.from_numpy(made.mask)[None, None]
            self._seen[key] = _Seen(hint, where)
        return self._seen[key]

    def _latents(self, number: int, bundle: ModelBundle, pixels: Tensor) -> Tensor:
        """Return the latents of what a unit sees, which is all that most transformers see of it."""
        key = (bundle.key, number, *pixels.shape[-2:])
        if key not in self._encoded:
            with self._context.stage("input"):
                self._encoded[key] = encoded(self._context, bundle, pixels)
        return self._encoded[key]

    def _clip_look(
        self, number: int, unit: ControlUnit, adapter: nn.Module, nets: ControlNets
    ) -> Tensor:
        """Return what CLIP says of a unit's picture and, below, of none; asked once."""
        if number not in self._said:
            context = self._context
            plus = getattr(adapter, "config", {})["ip_adapter"] == "plus"
            wanted, on_read = len(self._units), self._on_read
            encoder = nets.encoder(adapter, wanted=wanted, on_read=on_read)
            with context.stage("input"), encoder as found:
                module: Any = found.module
                dtype = module.visual_projection.weight.dtype
                image, _ = self._picture(number, unit)
                pixels = clip_input(image.convert("RGB"), module.side)
                lease = context.memory.lease(found, working_bytes=vision_bytes(module, 2, dtype))
                with lease as sees, torch.inference_mode():
                    rows = torch.cat([pixels, torch.zeros_like(pixels)])
                    vector, places = sees(rows.to(context.memory.compute_device, dtype))
            # No picture is a vector of zeros; Plus was trained with a picture of zeros.
            blank = vector * vector.new_tensor([1.0, 0.0])[:, None]
            self._said[number] = (places if plus else blank).clone()
        return self._said[number]

    def _picture(self, number: int, unit: ControlUnit) -> tuple[Image.Image, Image.Image | None]:
        context, field = self._context, f"controlnet[{number}]"
        mask = None
        if unit.mask is not None:
            mask = open_input(context, unit.mask, f"{field}.mask")
        if unit.image is not None:
            image = open_input(context, unit.image, f"{field}.image")
            return flattened(image, _BACKGROUND), mask
        if self._pictures is None:
            raise InvalidRequest(f"{field}.image", None, "a picture, or img2img with its own")
        first, first_mask = self._pictures.first
        paints_over = PREPROCESSORS.get(unit.module, f"{field}.module").paints_over
        return first, first_mask if mask is None and paints_over else mask

    def _leave_out(self, number: int, error: SdforgeError) -> None:
        del self._units[number]
        self._infos.pop(number, None)
        text = f"ControlNet unit {number} was left out: {error.message}"
        log.warning("%s", text)
        self._context.emit(Notice(text=text))


def _check_module(number: int, unit: ControlUnit, info: ControlNetInfo) -> None:
    """Raise `InvalidRequest` where a preprocessor and a network are not for each other."""
    preprocessor = PREPROCESSORS.get(unit.module, f"controlnet[{number}].module")
    is_adapter = info.layout == IP_ADAPTER
    if preprocessor.name != "none" and preprocessor.is_clip != is_adapter:
        wanted = "a CLIP one, or none" if is_adapter else "none of CLIP's"
        raise InvalidRequest(
            f"controlnet[{number}].module", unit.module, f"{wanted}, for {info.stem}"
        )


def _kind(number: int, unit: ControlUnit, network: nn.Module, info: ControlNetInfo) -> int | None:
    """Return the number of what a union ControlNet is shown; None for other networks.

    Raises:
        InvalidRequest: neither the unit nor its preprocessor says what it is, or the network does
            not know it.
    """
    kinds = union_kinds(network)
    if not kinds:
        return None
    said = (unit.union_control_type, *PREPROCESSORS.get(unit.module).types)
    found = next((kind for one in said if (kind := union_type(one)) is not None), None)
    name = unit.union_control_type if found is None else UNION_TYPES[found]
    if name not in kinds:
        raise InvalidRequest(
            f"controlnet[{number}].union_control_type",
            name,
            f"what the picture shows, for the union ControlNet {info.stem}: " + ", ".join(kinds),
        )
    return kinds[name]

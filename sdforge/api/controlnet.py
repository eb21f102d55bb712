"""The routes of A1111's ControlNet extension: what there is, and a look through a preprocessor."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pybase64
from fastapi import APIRouter
from pydantic import AliasChoices, Field

from sdforge.api.context import ApiContext
from sdforge.api.control_maps import png_bytes
from sdforge.api.schemas import LenientModel
from sdforge.core.control import DEFAULT_RESOLUTION, MOST_RESOLUTION, UNIT_COUNT
from sdforge.core.errors import InvalidRequest
from sdforge.models.adapters.controlnet_library import ControlNetInfo

if TYPE_CHECKING:
    from sdforge.core.registry import Registry
    from sdforge.postprocess.preprocessors import Preprocessor

# Of the extension's API that this follows.
_VERSION = 3
_LEAST_RESOLUTION = 64
# Type → words in the names of its networks.
_TYPES = {
    "All": (),
    "Canny": ("canny",),
    "Depth": ("depth",),
    "IP-Adapter": ("ip-adapter", "ip_adapter"),
    "Inpaint": ("inpaint",),
    "Lineart": ("lineart",),
    "MLSD": ("mlsd",),
    "NormalMap": ("normal",),
    "OpenPose": ("openpose",),
    "Recolor": ("recolor",),
    "Scribble": ("scribble",),
    "Segmentation": ("seg",),
    "Shuffle": ("shuffle",),
    "SoftEdge": ("softedge", "hed"),
    "T2I-Adapter": ("t2i",),
    "Tile": ("tile", "blur"),
}  # fmt: skip


def _preprocessors() -> Registry[Preprocessor]:
    # NumPy and Pillow are loaded when somebody asks, not at start.
    from sdforge.postprocess.preprocessors import PREPROCESSORS

    return PREPROCESSORS


class ModuleMissing(InvalidRequest):
    """No preprocessor of that name; the sentence is the extension's."""

    def __init__(self, name: str) -> None:
        super().__init__("controlnet_module", name, ", ".join(_preprocessors().names()))
        self.args = ("Module not available",)


class NoImage(InvalidRequest):
    """No picture to look at; the sentence is the extension's."""

    def __init__(self) -> None:
        super().__init__("controlnet_input_images", "nothing", "pictures in base64")
        self.args = ("No image selected",)


class DetectRequest(LenientModel):
    """What `/controlnet/detect` takes."""

    controlnet_module: str = "none"
    controlnet_input_images: list[str] = Field(
        default_factory=list,
        # Older clients call it so.
        validation_alias=AliasChoices("controlnet_input_images", "controlnet_images"),
    )
    controlnet_processor_res: int = DEFAULT_RESOLUTION
    controlnet_threshold_a: float = -1
    controlnet_threshold_b: float = -1


def router(context: ApiContext) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/controlnet", tags=["controlnet"])
    library = context.library.controlnets

    @routes.get("/version")
    def version() -> dict[str, int]:
        """Version of the extension's API that this follows."""
        return {"version": _VERSION}

    @routes.get("/settings")
    def settings() -> dict[str, int]:
        """How many units a page shows; requests may hold more."""
        return {"control_net_unit_count": UNIT_COUNT}

    @routes.get("/model_list")
    def model_list(update: bool = True) -> dict[str, Any]:
        """ControlNet files by the names that units take; `update` looks again for files.

        `refused` are the others, each with the reason; the extension has none.
        """
        if update:
            library.refresh()
        others = (info for info in library.controlnets() if info.error and not info.vision)
        return {
            "model_list": ["None", *(info.name for info in library.usable())],
            "refused": {info.relative: info.error for info in others},
        }

    @routes.get("/module_list")
    def module_list(alias_names: bool = False) -> dict[str, Any]:
        """Preprocessors; `alias_names` is taken for compatibility, names are the same."""
        rows = list(_preprocessors())
        return {
            "module_list": [row.name for row in rows],
            "module_detail": {row.name: _detail(row) for row in rows},
        }

    @routes.get("/control_types")
    def control_types() -> dict[str, Any]:
        """Preprocessors and networks by what they are about."""
        infos = library.usable()
        return {"control_types": {name: _control_type(name, infos) for name in _TYPES}}

    @routes.post("/detect")
    async def detect(body: DetectRequest) -> dict[str, Any]:
        """Run a preprocessor over pictures."""
        limit = context.engine.settings.current.max_input_pixels
        pictures = await asyncio.to_thread(_detect, body, limit)
        return {"images": pictures, "info": "Success"}

    return routes


def _detect(body: DetectRequest, max_pixels: int) -> list[str]:
    from sdforge.postprocess.control_picture import detected
    from sdforge.postprocess.decoding import decode_base64, decode_picture, flattened

    if _preprocessors().canonical(body.controlnet_module) is None:
        raise ModuleMissing(body.controlnet_module)
    if not body.controlnet_input_images:
        raise NoImage
    preprocessor = _preprocessors().get(body.controlnet_module)
    asked = body.controlnet_processor_res
    resolution = asked if asked > 0 else DEFAULT_RESOLUTION
    resolution = min(max(resolution, _LEAST_RESOLUTION), MOST_RESOLUTION)
    found = []
    for number, sent in enumerate(body.controlnet_input_images):
        field = f"controlnet_input_images[{number}]"
        picture = decode_picture(decode_base64(sent, field), field, max_pixels=max_pixels)
        made = detected(
            preprocessor,
            flattened(picture, "#ffffff"),
            resolution,
            body.controlnet_threshold_a,
            body.controlnet_threshold_b,
        )
        found.append(pybase64.b64encode_as_string(png_bytes(made)))
    return found


def _detail(row: Preprocessor) -> dict[str, Any]:
    sliders: list[dict[str, Any]] = []
    if row.process is not None:
        sliders.append(
            {
                "name": "Preprocessor Resolution",
                "min": _LEAST_RESOLUTION,
                "max": MOST_RESOLUTION,
                "value": DEFAULT_RESOLUTION,
                "step": 8,
            }
        )
    sliders += [
        {
            "name": slider.name,
            "min": slider.least,
            "max": slider.most,
            "value": slider.default,
            "step": slider.step,
        }
        for slider in row.sliders
    ]
    return {"model_free": False, "sliders": sliders}


def _control_type(name: str, infos: list[ControlNetInfo]) -> dict[str, Any]:
    words = _TYPES[name]
    modules = [row.name for row in _preprocessors() if name in ("All", *row.types)]
    models = [
        info.name
        for info in infos
        if name == "All" or any(word in info.stem.casefold() for word in words)
    ]
    own = [module for module in modules if module != "none"]
    is_all = name == "All"
    return {
        "module_list": modules if "none" in modules else ["none", *modules],
        "model_list": ["None", *models],
        "default_option": "none" if is_all or not own else own[0],
        "default_model": "None" if is_all or not models else models[0],
    }

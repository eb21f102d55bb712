"""Qwen-Image-Edit and its later versions: Qwen-Image that is shown pictures, and reads about them.

The transformer is Qwen-Image's own, tensor by tensor, so that only names tell them apart: of the
file, of its metadata, of the pipeline in a folder. The first version takes one picture; those since
2509 take several, and in that of 2511 the pictures' patches are modulated as free of noise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.core.request import MOST_REFERENCES
from sdforge.models.architectures import architecture
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.families.base import Match, Recipe
from sdforge.models.families.building import check_complete, prefix_of
from sdforge.models.families.qwen_image import QwenImage
from sdforge.models.families.qwen_visions import vision_recipe
from sdforge.models.parts import Part

if TYPE_CHECKING:
    from sdforge.memory.component import Component
    from sdforge.memory.manager import MemoryManager
    from sdforge.models.bundle import Parts
    from sdforge.models.flow_denoiser import FlowDenoiser

_SIDE = 1024
# Pixels that a picture is brought to before it is seen: the one of the first version, and each of
# the several of later ones. A state of what is seen, a token of the text, stands for 28 × 28.
ONE_AREA, SEVERAL_AREA = 1024**2, 384**2
_PIXELS_A_TOKEN = 28**2
_EDIT = re.compile(r"(?<![a-z])edit(?![a-z])|qwenimageedit|rapid[-_ ]?aio", re.IGNORECASE)
_SEVERAL = re.compile(r"2509|2511|(?<![a-z])plus(?![a-z])|editplus|rapid[-_ ]?aio", re.IGNORECASE)
_NEWEST = re.compile(r"2511")
# Where files say what they are; the last two are diffusers' pipeline and GGUF's own name.
_SAID = ("modelspec.title", "modelspec.architecture", "diffusers.pipeline", "general.name")
# What files of 2511 carry for ComfyUI, and what the configuration in a folder says.
_MARK, _CONFIG = "__index_timestep_zero__", "diffusers.zero_cond_t"


@dataclass(frozen=True)
class _Kind:
    """Which of the versions a file is, and by which sign."""

    takes_several: bool
    is_clean: bool
    sign: str


def edit_kind(header: CheckpointHeader) -> _Kind | None:
    """Return which editing version a file of Qwen-Image's structure is, None for none."""
    texts = [(header.path.stem, "going by its name")]
    texts += [(header.metadata[key], f"its {key} says") for key in _SAID if key in header.metadata]
    is_marked = any(key.endswith(_MARK) for key in header.tensors) or _CONFIG in header.metadata
    found = next(((text, sign) for text, sign in texts if _EDIT.search(text)), None)
    if found is None and not is_marked:
        return None
    said = [text for text, _ in texts]
    is_clean = is_marked or any(map(_NEWEST.search, said))
    return _Kind(
        takes_several=is_clean or any(map(_SEVERAL.search, said)),
        is_clean=is_clean,
        sign=found[1] if found else f"it has {_MARK}",
    )


def tokens_of_pictures(refers: int, pictures: int) -> int:
    """Return how many tokens of the text pictures take, for a version that refers to so many."""
    area = SEVERAL_AREA if refers > 1 else ONE_AREA
    return pictures * (area // _PIXELS_A_TOKEN)


class QwenImageEdit(QwenImage):
    """The family of Qwen-Image-Edit, -2509 and -2511."""

    name = "qwen-image-edit"
    label = "Qwen-Image-Edit"
    roles = ("text_encoder", "vision", "denoiser", "vae")
    apart: Mapping[str, tuple[str, str]] = MappingProxyType(
        {
            **QwenImage.apart,
            "vision": (
                "vision part of Qwen2.5-VL",
                "where that is GGUF, an mmproj file beside it",
            ),
        }
    )

    def match(self, header: CheckpointHeader) -> Match | None:
        """Return why the file is a Qwen-Image-Edit model, or None when it is not."""
        found, kind = architecture(header.layout), edit_kind(header)
        if found is None or found.family != self.denoiser_kind or kind is None:
            return None
        plain = self.match_of(header, found)
        fast = plain.recommended.cfg_scale == 1.0
        variant = "edit-plus" if kind.takes_several else "edit"
        return replace(
            plain,
            family=self.name,
            variant=variant,
            reason=f"{plain.reason}; {self.label}"
            + (" for several pictures" if kind.takes_several else "")
            + (", whose patches count as free of noise" if kind.is_clean else "")
            + f", {kind.sign}",
            refers=MOST_REFERENCES if kind.takes_several else 1,
            recommended=replace(plain.recommended, width=_SIDE, height=_SIDE)
            if not fast
            else plain.recommended,
        )

    def role_of(self, part: Part) -> str | None:
        """Return what a network of any file is to this family, None for no use."""
        if part.role == "vision":
            return "vision" if part.kind == "qwen2.5-vl-vision" else None
        return super().role_of(part)

    def recipe(self, role: str, header: CheckpointHeader) -> Recipe:
        """Return how to make one of the networks; raises as other families."""
        if role != "vision":
            return super().recipe(role, header)
        recipe = vision_recipe(header, prefix_of(role, header, self.role_of))
        check_complete(recipe, header)
        return recipe

    def takes_clean(self, header: CheckpointHeader) -> bool:
        """Whether the patches of pictures that the denoiser is shown count as free of noise."""
        kind = edit_kind(header)
        return kind is not None and kind.is_clean

    def assemble(
        self,
        match: Match,
        components: Mapping[str, Component],
        memory: MemoryManager,
        headers: Mapping[str, CheckpointHeader],
    ) -> Parts:
        """Return encoder, denoiser and VAE over the loaded networks."""
        from sdforge.models.qwen_edit_text import QwenEditText
        from sdforge.models.tokenizers import qwen_tokenizer

        reader, vision = components["text_encoder"], components["vision"]
        self._check_vision(vision, reader)
        text = QwenEditText(
            reader, vision, memory, qwen_tokenizer, is_numbered=match.variant == "edit-plus"
        )
        return replace(super().assemble(match, components, memory, headers), text=text)

    def _check_vision(self, vision: Component, reader: Component) -> None:
        eyes: Any = vision.module
        mind: Any = reader.module
        if eyes.out != mind.width:
            raise UnsupportedCheckpoint(
                f"{vision.name} gives states of width {eyes.out}, {reader.name} wants "
                f"{mind.width}: choose the vision part of the same Qwen2.5-VL"
            )

    def denoiser(self, component: Component) -> FlowDenoiser:
        """Return what calls the denoiser."""
        from sdforge.models.denoiser import SEES_REFERENCE

        return self.denoiser_of(component, sees=SEES_REFERENCE)

"""A way to draw with a tiny file of any family and to see its latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sdforge.core.control import ControlUnit
from sdforge.memory.simulated import SimulatedDevice
from sdforge.models.bundle import ModelBundle
from sdforge.pipeline import decode
from tests.pipeline.conftest import Pipeline
from tests.tiny import link, tiny_server_parts

# Cuts the tiny networks into some dozens of units, where the mode streams.
CAP = 100_000


@dataclass
class Drawn:
    """The latents of one picture, the bundle that drew them, and the device's peak."""

    latents: torch.Tensor
    bundle: ModelBundle
    pipeline: Pipeline
    device: SimulatedDevice | None


Draw = Callable[..., Drawn]


@pytest.fixture
def draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Draw:
    """Draw one picture with the first of some files: `draw(file, …, mode="lowvram", steps=3)`."""
    seen: list[torch.Tensor] = []
    decode_latents = decode.decode_latents

    def spy(bundle: ModelBundle, latents: torch.Tensor, *args: Any, **named: Any) -> Any:
        seen.append(latents.clone())
        return decode_latents(bundle, latents, *args, **named)

    monkeypatch.setattr(decode, "decode_latents", spy)
    numbers = iter(range(100))

    def make(
        *files: Path,
        mode: str = "",
        device_bytes: int = 10**9,
        settings: dict[str, Any] | None = None,
        modules: Mapping[str, Path] | None = None,
        picture: Image.Image | None = None,
        references: Sequence[Image.Image] = (),
        control: tuple[ControlUnit, Image.Image, Path] | None = None,
        **values: Any,
    ) -> Drawn:
        device = SimulatedDevice(device_bytes) if mode else None
        data = tmp_path / f"run{next(numbers)}"
        parts = tiny_server_parts(data, *files, device=device, unit_cap_bytes=CAP, put=link)
        for folder, file in (modules or {}).items():
            place = parts.paths.models / folder.partition(":")[0]
            place.mkdir(parents=True, exist_ok=True)
            link(file, place)
        # A tokenizer lies beside and is not chosen.
        names = [file.name for file in (modules or {}).values() if file.suffix != ".json"]
        pipeline = Pipeline(parts)
        chosen: dict[str, Any] = {"randn_source": "CPU", **({"memory_mode": mode} if mode else {})}
        chosen["forge_additional_modules"] = names
        values = {"sampler": "Euler", "steps": 2, "cfg_scale": 2.0} | values
        if picture is not None:
            values |= {"init_images": (pipeline.put(picture),), "denoising_strength": 1.0}
        if references:
            values["references"] = tuple(map(pipeline.put, references))
        if control is not None:
            unit, shown, file = control
            place = parts.paths.controlnets[0]
            place.mkdir(parents=True, exist_ok=True)
            link(file, place)
            values |= {"control": (replace(unit, image=pipeline.put(shown)),)}
        pipeline.draw(settings=chosen | (settings or {}), **values)
        return Drawn(seen[-1], parts.provider.get("", modules=names), pipeline, device)

    return make

"""What live mode makes of checkpoints and LoRA, by what files say of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from sdforge.core.paths import Paths
from sdforge.core.request import Recommended
from sdforge.live.choice import choice_for
from sdforge.models.families.fast_kinds import fast_kind
from sdforge.models.library import Library


@dataclass
class Family:
    family: str


@dataclass
class Lora:
    name: str
    family: Family | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None


@dataclass
class File:
    name: str
    family: str | None = "sd1"
    recommended: Recommended = field(default_factory=Recommended)


def fast(name: str, side: int = 1024) -> File:
    kind = fast_kind(name, {}, side=side)
    assert kind is not None
    return File(name, "sdxl", kind.recommended)


@pytest.mark.parametrize(
    ("name", "steps", "size"),
    [
        ("sd_xl_turbo_1.0_fp16", (4, 3, 2, 1), (512, 512)),
        ("sd_turbo", (4, 3, 2, 1), (512, 512)),
        ("sdxl_lightning_4step", (4,), (1024, 1024)),
        ("Hyper-SDXL-8steps", (8,), (1024, 1024)),
        ("someModel_LCM", (6, 5, 4, 3, 2), (1024, 1024)),
    ],
)
def test_fast_checkpoints_are_recognised(
    name: str, steps: tuple[int, ...], size: tuple[int, int]
) -> None:
    choice = choice_for(fast(name), [])
    assert (choice.steps, choice.sizes[0], choice.lora, choice.is_fast) == (steps, size, "", True)


def test_the_demo_draws_with_its_turbo_lora(tmp_path) -> None:  # type: ignore[no-untyped-def]
    library = Library(Paths.under(tmp_path))
    choice = choice_for(library.find(""), library.loras.loras())
    assert (choice.lora, choice.cfg_scale, choice.sampler) == ("demo-turbo", 1.0, "Euler")
    # At its native size alone: half of 128 pixels shows nothing.
    assert (choice.steps, choice.sizes) == ((4, 3, 2, 1), ((128, 128),))


def test_a_lora_of_another_family_or_a_broken_one_is_not_taken() -> None:
    loras = [
        Lora("lcm-lora-sdxl", Family("sdxl")),
        Lora("a-turbo", Family("sd1"), error="broken"),
        Lora("plain-style", Family("sd1")),
    ]
    choice = choice_for(File("v1-5-pruned"), loras)
    assert choice.lora == "" and not choice.is_fast and "few steps" in choice.reason
    fitting = Lora("lcm-lora-sdv1-5", Family("sd1"))
    assert choice_for(File("v1-5-pruned"), [*loras, fitting]).lora == "lcm-lora-sdv1-5"
    assert choice_for(File("v1-5-pruned"), [fitting], speed_lora=False).lora == ""


def test_a_slow_checkpoint_keeps_its_guidance_and_steps() -> None:
    said = Recommended(width=768, height=768, steps=15, cfg_scale=5.0, sampler="DPM++ 2M")
    choice = choice_for(File("someone", recommended=said), [])
    assert (choice.steps, choice.cfg_scale, choice.sampler) == ((15, 12, 10, 8), 5.0, "DPM++ 2M")
    assert choice.sizes == ((768, 768), (576, 576), (384, 384))

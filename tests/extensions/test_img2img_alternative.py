"""What the script img2img alternative makes of a request."""

from __future__ import annotations

from typing import Any

from sdforge.core.extension import Inversion, complete_values, read_values
from sdforge.core.request import GenerationRequest
from sdforge.extensions.builtin.img2img_alternative import Img2imgAlternative

ASKED = GenerationRequest(
    prompt="a dog", negative_prompt="mud", sampler="DDIM", steps=9, denoising_strength=0.4
)
SCRIPT = Img2imgAlternative()


def values(**given: Any) -> dict[str, Any]:
    return complete_values(SCRIPT, given)


def test_arguments_are_a1111s_in_its_order() -> None:
    given = ["text", False, False, "a cat", "fog", False, 30, False, 2.0, 0.1, True]
    assert values(**SCRIPT.values_of_arguments(given)) == {
        "override_sampler": False, "override_prompt": False, "original_prompt": "a cat",
        "original_negative_prompt": "fog", "override_steps": False, "decode_steps": 30,
        "override_strength": False, "decode_cfg_scale": 2.0, "randomness": 0.1,
        "sigma_adjustment": True,
    }  # fmt: skip


def test_by_default_the_picture_is_drawn_again_as_it_is() -> None:
    given = values(original_prompt="a cat", original_negative_prompt="fog")
    made = SCRIPT.on_request(ASKED, given)
    assert (made.prompt, made.negative_prompt) == ("a cat", "fog")
    assert (made.sampler, made.steps, made.denoising_strength) == ("Euler", 50, 1.0)
    # The same prompt both ways, with styles and choices.
    assert SCRIPT.inversion(made, given).prompt is None
    assert SCRIPT.on_request(made, given) == made


def test_each_override_can_be_taken_off() -> None:
    off = dict.fromkeys(
        ("override_sampler", "override_prompt", "override_steps", "override_strength"), False
    )
    given = values(original_prompt="a cat", decode_steps=7, randomness=0.2, **off)
    assert SCRIPT.on_request(ASKED, given) == ASKED
    assert SCRIPT.inversion(ASKED, given) == Inversion(prompt="a cat", steps=7, randomness=0.2)


def test_a_prompt_of_several_lines_comes_back_from_a_picture() -> None:
    given = values(original_prompt='a cat, (red: 1.2)\nsecond "line"', decode_steps=7)
    text = SCRIPT.infotext(given)[SCRIPT.label]
    assert read_values(SCRIPT, text) == given

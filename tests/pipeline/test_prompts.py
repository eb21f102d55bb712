"""The texts and networks of one batch."""

from __future__ import annotations

from sdforge.core.events import Notice
from sdforge.core.request import GenerationRequest
from sdforge.pipeline.prompts import batch_prompts
from tests.pipeline.conftest import Pipeline


def test_each_batch_has_the_prompts_of_its_pictures() -> None:
    request = GenerationRequest(
        batch_size=2, batch_count=2, prompts=("a", "b", "c", "d"), negative_prompts=("n",)
    )
    assert batch_prompts(request, 0).positive == ("a", "b")
    assert batch_prompts(request, 1).positive == ("c", "d")
    assert batch_prompts(request, 1).negative == ("n", "n")


def test_networks_are_those_of_the_first_prompt_and_gone_from_all() -> None:
    request = GenerationRequest(
        batch_size=2,
        prompts=("a<lora:x:1>", "b<lora:y:1>"),
        negative_prompts=("n<lora:z:1>",),
    )
    prompts = batch_prompts(request, 0)
    assert prompts.positive == ("a", "b")
    assert prompts.negative == ("n<lora:z:1>", "n<lora:z:1>")
    assert [network.name for network in prompts.networks] == ["x"]


def test_networks_can_be_left_as_text() -> None:
    request = GenerationRequest(prompt="a<lora:x:1>", disable_extra_networks=True)
    assert batch_prompts(request, 0).positive == ("a<lora:x:1>",)


def test_a_network_that_cannot_be_applied_is_told_once_a_batch(pipeline: Pipeline) -> None:
    pipeline.draw(prompt="a cat <lora:fur:0.8> <lora:fur:1>", steps=1, batch_count=2)
    notices = [event.text for event in pipeline.events if isinstance(event, Notice)]
    assert len(notices) == 1
    assert "no LoRA named 'fur'" in notices[0]

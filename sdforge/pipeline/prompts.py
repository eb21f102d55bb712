"""The texts that one batch is drawn from, and the extra networks that they name."""

from __future__ import annotations

from dataclasses import dataclass

from sdforge.core.request import GenerationRequest
from sdforge.prompt.networks import ExtraNetwork, take_networks


@dataclass(frozen=True)
class BatchPrompts:
    """Prompts of a batch, one a picture, without networks; `networks` are the first prompt's."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]
    networks: tuple[ExtraNetwork, ...] = ()


def batch_prompts(request: GenerationRequest, batch: int, *, hires: bool = False) -> BatchPrompts:
    """Return the prompts of batch number `batch`; with `hires` those of its second pass.

    Weights are the same for all pictures of a batch, so only the networks of its first prompt count
    (A1111). Negative prompts are not searched for networks.
    """
    first = batch * request.batch_size
    images = range(first, first + request.batch_size)
    prompt = request.image_hires_prompt if hires else request.image_prompt
    against = request.image_hires_negative_prompt if hires else request.image_negative_prompt
    positive = [prompt(index) for index in images]
    networks: tuple[ExtraNetwork, ...] = ()
    if not request.disable_extra_networks:
        taken = [take_networks(prompt) for prompt in positive]
        positive, networks = [text for text, _ in taken], taken[0][1]
    negative = tuple(against(index) for index in images)
    return BatchPrompts(tuple(positive), negative, networks)

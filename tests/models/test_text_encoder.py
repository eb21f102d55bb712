from dataclasses import dataclass

import pytest
import torch

from sdforge.core.errors import InvalidRequest
from sdforge.models.bundle import ModelBundle
from tests.tiny import Parts


@dataclass(frozen=True)
class Window:
    ids: tuple[int, ...]
    weights: tuple[float, ...]


def window(bundle: ModelBundle, text: str, **weights: float) -> Window:
    """A chunk; `weights` are by word."""
    tokenizer = bundle.text.tokenizer
    ids, emphasis = [tokenizer.bos], [1.0]
    for word in text.split():
        for token in tokenizer(word):
            ids.append(token)
            emphasis.append(weights.get(word, 1.0))
    rest = 77 - len(ids)
    return Window((*ids, *[tokenizer.pad] * rest), (*emphasis, *[1.0] * rest))


def states_after(loaded: Parts, bundle: ModelBundle, chunk: Window, layers: int) -> torch.Tensor:
    with loaded.memory.lease(bundle.components["text_encoder"]) as module, torch.no_grad():
        states: torch.Tensor = module(torch.tensor([chunk.ids]), layers)
    return states


def test_clip_skip_counts_layers_from_the_end(loaded: Parts, bundle: ModelBundle) -> None:
    chunk = window(bundle, "a photo of a cat")
    for clip_skip, layers in ((1, 2), (2, 1)):
        encoded = bundle.text.encode([chunk], clip_skip=clip_skip)
        assert encoded.hidden.shape == (1, 77, 32)
        assert encoded.pooled is None
        wanted = states_after(loaded, bundle, chunk, layers)
        assert torch.allclose(encoded.hidden, wanted, atol=1e-5), clip_skip


def test_clip_skip_beyond_the_first_layer_takes_the_first(bundle: ModelBundle) -> None:
    chunk = window(bundle, "cat")
    first = bundle.text.encode([chunk], clip_skip=2).hidden
    assert torch.equal(bundle.text.encode([chunk], clip_skip=12).hidden, first)


def test_chunks_are_encoded_apart_and_joined_along_tokens(bundle: ModelBundle) -> None:
    first, second = window(bundle, "a red apple"), window(bundle, "on a table")
    both = bundle.text.encode([first, second]).hidden
    assert both.shape == (1, 154, 32)
    apart = [bundle.text.encode([chunk]).hidden for chunk in (first, second)]
    assert torch.allclose(both, torch.cat(apart, dim=1), atol=1e-5)


def test_no_norm_multiplies_each_token_by_its_weight(bundle: ModelBundle) -> None:
    plain = bundle.text.encode([window(bundle, "red apple")]).hidden
    chunk = window(bundle, "red apple", red=1.5)
    scaled = bundle.text.encode([chunk], emphasis="No norm").hidden
    assert torch.allclose(scaled[0, 1], plain[0, 1] * 1.5, atol=1e-5)
    assert torch.equal(scaled[0, 2:], plain[0, 2:])


def test_original_restores_the_mean_of_each_chunk(bundle: ModelBundle) -> None:
    chunks = [window(bundle, "red apple", red=1.5), window(bundle, "table", table=0.4)]
    scaled = bundle.text.encode(chunks, emphasis="No norm").hidden.view(2, 77, 32)
    plain = bundle.text.encode(chunks, emphasis="Ignore").hidden.view(2, 77, 32)
    restored = bundle.text.encode(chunks, emphasis="Original").hidden.view(2, 77, 32)
    for index in range(2):
        factor = plain[index].mean() / scaled[index].mean()
        assert torch.allclose(restored[index], scaled[index] * factor, atol=1e-4)
        assert restored[index].mean().item() == pytest.approx(plain[index].mean().item(), abs=1e-5)
    assert not torch.allclose(restored, plain)


@pytest.mark.parametrize("emphasis", ["Ignore", "None"])
def test_weights_have_no_effect_when_emphasis_is_off(bundle: ModelBundle, emphasis: str) -> None:
    plain = bundle.text.encode([window(bundle, "red apple")]).hidden
    chunk = window(bundle, "red apple", red=1.5)
    assert torch.equal(bundle.text.encode([chunk], emphasis=emphasis).hidden, plain)


def test_a_chunk_without_weights_is_not_touched_by_its_neighbours(bundle: ModelBundle) -> None:
    plain, loud = window(bundle, "red apple"), window(bundle, "table", table=3.0)
    alone = bundle.text.encode([plain, plain], emphasis="Ignore").hidden[:, :77]
    assert torch.equal(bundle.text.encode([plain, loud]).hidden[:, :77], alone)


def test_an_unknown_emphasis_is_refused(bundle: ModelBundle) -> None:
    with pytest.raises(InvalidRequest, match="emphasis"):
        bundle.text.encode([window(bundle, "cat")], emphasis="Loud")

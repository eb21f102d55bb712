"""LoRA and embeddings from the prompt to the picture and its infotext."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sdforge.core.events import Notice
from sdforge.core.result import ImageResult
from sdforge.memory.simulated import SimulatedDevice
from sdforge.models.adapters.step_weights import StepWeights, parse_points
from sdforge.pipeline.networks import BadNetwork, network_use
from sdforge.prompt.networks import take_networks
from tests.pipeline.conftest import Pipeline
from tests.tiny_lora import kohya_names, write_lora

MakePipeline = Callable[..., Pipeline]
# As in test_memory.py: small units, and cards as small as the tiny model.
CAP, GB = 200_000, 10**9 // 400
TEXT_LAYER = "lora_te_text_model_encoder_layers_1_mlp_fc1"


@pytest.fixture
def data(pipeline: Pipeline) -> Iterator[Path]:
    """The data folder with a LoRA of both networks and an embedding in it."""
    root = pipeline.parts.paths.data
    bundle = pipeline.parts.provider.get("")
    unet = bundle.components["denoiser"].module
    shapes = {name: tuple(tensor.shape) for name, tensor in unet.named_parameters()}
    layers = {**kohya_names(shapes, "lora_unet_", containing=("attn1.to_",)), TEXT_LAYER: (128, 32)}
    word = {"bundle_emb.zqword.string_to_param.*": torch.full((1, 32), 2.0)}
    files = [
        write_lora(root / "models" / "Lora" / "style.safetensors", layers, alpha=8.0),
        write_lora(root / "models" / "Lora" / "with_word.safetensors", layers, more=word),
        root / "embeddings" / "zqthing.safetensors",
    ]
    files[2].parent.mkdir(exist_ok=True)
    save_file(
        {"emb_params": torch.randn(3, 32, generator=torch.Generator().manual_seed(0))}, files[2]
    )
    pipeline.parts.library.loras.refresh()
    yield root
    for file in files:
        file.unlink()
    pipeline.parts.library.loras.refresh()
    pipeline.adapters.apply(bundle, [])


def draw(pipeline: Pipeline, prompt: str, settings: dict[str, Any] | None = None) -> ImageResult:
    return next(iter(pipeline.start(settings, prompt=prompt)))


def notes(pipeline: Pipeline) -> list[str]:
    return [event.text for event in pipeline.events if isinstance(event, Notice)]


def differ(first: ImageResult, second: ImageResult) -> bool:
    return not np.array_equal(first.pixels, second.pixels)


def test_a_lora_changes_the_picture_and_leaves_no_trace(pipeline: Pipeline, data: Path) -> None:
    plain = draw(pipeline, "a cat")
    styled = draw(pipeline, "a cat<lora:style:1>")
    assert differ(plain, styled)
    assert differ(styled, draw(pipeline, "a cat<lora:style:0.3>"))
    assert not differ(plain, draw(pipeline, "a cat<lora:style:0>"))
    assert not differ(plain, draw(pipeline, "a cat"))
    info = pipeline.parts.library.loras.find("style")
    assert info is not None
    short = pipeline.parts.library.loras.short_hash(info)
    assert styled.info.extra == {"Lora hashes": f"style: {short}"}
    assert plain.info.extra == {}
    assert styled.info.prompt == "a cat<lora:style:1>"


def test_text_encoded_under_another_patch_is_not_used(pipeline: Pipeline, data: Path) -> None:
    text = pipeline.parts.provider.get("").text
    before = text.key
    in_text = draw(pipeline, "a dog<lora:style:1:0>")
    assert text.key != before
    plain = draw(pipeline, "a dog")
    assert text.key[0] == ""
    assert differ(in_text, plain)
    assert not differ(in_text, draw(pipeline, "a dog<lora:style:te=1:unet=0>"))


def test_an_embedding_stands_for_its_word(pipeline: Pipeline, data: Path) -> None:
    named = draw(pipeline, "a (ZQTHING:1.2)")
    assert named.info.extra["TI hashes"].startswith("zqthing: ")
    embedding = data / "embeddings" / "zqthing.safetensors"
    content = embedding.read_bytes()
    embedding.unlink()
    plain = draw(pipeline, "a (ZQTHING:1.2)")
    assert "TI hashes" not in plain.info.extra
    embedding.write_bytes(content)
    assert differ(named, plain)
    assert not differ(named, draw(pipeline, "a (zqthing:1.2)"))
    quiet = draw(pipeline, "zqthing", {"textual_inversion_add_hashes_to_infotext": False})
    assert quiet.info.extra == {}


def test_a_bundled_embedding_counts_while_its_lora_is_in_force(
    pipeline: Pipeline, data: Path
) -> None:
    extra = draw(pipeline, "zqword<lora:with_word:0.1>").info.extra
    assert extra["TI hashes"] == "zqword: with_word"
    assert "TI hashes" not in draw(pipeline, "zqword").info.extra
    settings = {"lora_bundled_ti_to_infotext": False, "lora_add_hashes_to_infotext": False}
    assert draw(pipeline, "zqword<lora:with_word:0.1>", settings).info.extra == {}


def test_what_cannot_be_applied_is_told_and_the_picture_drawn(
    pipeline: Pipeline, data: Path
) -> None:
    plain = draw(pipeline, "a cat")
    odd = draw(pipeline, "a cat<lora:stile:1><other:x><hypernet:x:1><lora:style:much>")
    assert not differ(plain, odd)
    assert notes(pipeline) == [
        "<other:x> was left out: this version cannot apply networks of this kind",
        "<lora:style> was left out: its te is 'much', not a number",
        "there is no LoRA named 'stile'; did you mean style?",
        "<hypernet:x> was left out: there is no hypernetwork named 'x'",
    ]


def test_a_lora_acts_in_the_steps_that_it_is_given(
    pipeline: Pipeline, data: Path, make_pipeline: MakePipeline
) -> None:
    """Text parts are out, so that what is left is the denoiser's; of two steps one has it."""

    def drawn(tag: str) -> np.ndarray:
        text = f"a cat<lora:style:te=0:{tag}>"
        return next(iter(pipeline.start(prompt=text, steps=2, sampler="Euler"))).pixels

    plain, whole = drawn("unet=0"), drawn("unet=1")
    early, late = drawn("unet=1:step=0-1"), drawn("unet=1:start=0.5")
    assert np.array_equal(drawn("unet=1:stop=0.5"), early)
    assert np.array_equal(drawn("unet=1:step=2-9"), plain)
    pictures = [plain, whole, early, late, drawn("unet=1@0,0.2@1")]
    for number, one in enumerate(pictures):
        assert not any(np.array_equal(one, other) for other in pictures[number + 1 :])
    assert np.array_equal(drawn("unet=1"), whole)

    device = SimulatedDevice(4 * GB)
    placed = make_pipeline(device, CAP)
    shutil.copytree(data / "models" / "Lora", placed.parts.paths.data / "models" / "Lora")
    result = placed.draw(
        {"memory_mode": "lowvram"},
        prompt="a cat<lora:style:te=0:unet=1:step=0-1>",
        steps=2,
        sampler="Euler",
    )
    assert np.array_equal(result[0].pixels, early)
    placed.parts.provider.unload()
    assert device.own_bytes() == 0


@pytest.mark.parametrize(("mode", "gigabytes"), [("normal", 16), ("medvram", 8), ("lowvram", 4)])
def test_a_lora_draws_the_same_in_every_memory_mode(
    pipeline: Pipeline, data: Path, make_pipeline: MakePipeline, mode: str, gigabytes: int
) -> None:
    """Merged once where weights rest, whenever they arrive where they stream: equal to the bit."""
    prompt = "a cat<lora:style:1>"
    expected = next(iter(pipeline.start(prompt=prompt, steps=1))).pixels
    device = SimulatedDevice(gigabytes * GB)
    placed = make_pipeline(device, CAP)
    folder = placed.parts.paths.data / "models" / "Lora"
    shutil.copytree(data / "models" / "Lora", folder)
    settings = {"memory_mode": mode}
    drawn, plain = (
        next(iter(placed.start(settings, prompt=text, steps=1))).pixels
        for text in (prompt, "a cat")
    )
    assert np.array_equal(drawn, expected)
    assert not np.array_equal(drawn, plain)
    assert device.peak_bytes <= gigabytes * GB
    placed.parts.provider.unload()
    assert device.own_bytes() == 0


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("<lora:x>", (1.0, None, None)),
        ("<lora:x:0.5>", (0.5, None, None)),
        ("<lora:x:0.5:0.25:8>", (0.5, 0.25, 8)),
        ("<lyco:x:unet=0.3:te=-1>", (-1.0, 0.3, None)),
        ("<lora:x:0.5:dyn=4>", (0.5, None, 4)),
    ],
)
def test_arguments_are_a1111s(text: str, values: tuple[float, float | None, int | None]) -> None:
    use = network_use(take_networks(text)[1][0])
    assert (use.te, use.unet, use.dyn) == values


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        # loractl's own examples.
        ("1.0", (1.0, None), (1.0, None)),
        ("0.5:hr=1.0", (0.5, None), (1.0, 1.0)),
        ("0.5@0,1@1:hr=0.6", (0.5, "0.5@0,1@1"), (0.6, 0.6)),
        ("te=0.5@0,1@1", (0.5, "0.5@0,1@1"), (0.5, "0.5@0,1@1")),
        ("unet=0.5@0,1@1:hrte=0.5", (1.0, "0.5@0,1@1"), (0.5, "0.5@0,1@1")),
        ("hr=0.6:hrte=0.5", (1.0, None), (0.5, 0.6)),
        ("te=0@0,1@1:unet=1", (0.0, 1.0), (0.0, 1.0)),
        ("te=0.3@0,1@1:unet=0@0,1@2", (0.3, "0@0,1@2"), (0.3, "0@0,1@2")),
        ("1:0.5:hrunet=1@0;0@1", (1.0, 0.5), (1.0, "1@0,0@1")),
    ],
)
def test_weights_of_both_passes_are_loractls(
    text: str, first: tuple[float, object], second: tuple[float, object]
) -> None:
    for hires, (te, unet) in ((False, first), (True, second)):
        use = network_use(take_networks(f"<lora:x:{text}>")[1][0], hires=hires)
        assert use.te == te
        if isinstance(unet, str):
            assert use.over_steps == StepWeights(points=parse_points(unet) or ())
            assert use.unet == 1.0
        else:
            assert (use.over_steps, use.unet) == (None, unet)


def test_each_pass_has_its_weight(pipeline: Pipeline, data: Path) -> None:
    """As if the second pass had a prompt of its own; the first of the next batch has its again."""

    def drawn(first: str, second: str = "") -> list[np.ndarray]:
        values = {"hires_prompt": f"a cat<lora:style:{second}>"} if second else {}
        run = pipeline.start(
            prompt=f"a cat<lora:style:{first}>", hires=True, hires_scale=1.5, batch_count=2,
            denoising_strength=0.5, steps=1, hires_steps=2, sampler="Euler", **values,
        )  # fmt: skip
        return [result.pixels for result in run]

    plain = drawn("0.3:hr=0.3")
    wanted = drawn("0.3", "1:1@0,0@1")
    assert all(map(np.array_equal, drawn("0.3:hr=1:hrunet=1@0,0@1"), wanted))
    assert not any(map(np.array_equal, plain, wanted))


def test_block_weights_are_read_and_bad_ones_refused() -> None:
    numbers = ",".join(["1", *["0.5"] * 16])
    use = network_use(take_networks(f"<lora:x:1:lbw={numbers}>")[1][0])
    assert use.blocks is not None
    assert use.blocks.numbers[:2] == (1.0, 0.5)
    for text in ("<lora:x:1:lbw=OUTALL>", "<lora:x:nan>", "<lora:x:1:1:-2>", "<lora:x:1:step=5>",
                 "<lora:x:1@a>", "<lora:x:1@0,b@1>", "<lora:x:1:start=-1>", "<lora:x:1:hr=b>",
                 "<lora:x:1:hrunet=1@b>"):  # fmt: skip
        with pytest.raises(BadNetwork, match="left out"):
            network_use(take_networks(text)[1][0])

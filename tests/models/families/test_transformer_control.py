"""ControlNets of Flux.1 and Qwen-Image draw what diffusers' own pipelines draw with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxControlNetModel, QwenImageControlNetModel
from PIL import Image
from safetensors.torch import save_file

from scripts.tiny_models import text, transformers, vae
from scripts.tiny_models.files import random_tensors, write_safetensors
from sdforge.core.control import CONTROL_FIRST, ControlUnit
from sdforge.core.events import Notice
from sdforge.sampling.flow_sigmas import FlowSigmas, flux_shift
from sdforge.sampling.sigmas import make_sigmas
from tests.models.families import more_peers, peers
from tests.models.families.conftest import Draw
from tests.tiny_control import make_controlnet, random_weights

PROMPT = "a photo of a cat, watercolour"
STEPS = 2
SIGMAS = make_sigmas("Simple", STEPS, FlowSigmas(flux_shift(16)))[:-1]
ASKED: dict[str, Any] = {"prompt": PROMPT, "schedule": "Simple", "cfg_scale": 1.0, "steps": STEPS}


def control(num_mode: int | None = None, guided: bool = False) -> FluxControlNetModel:
    """A network of one block of each kind, for two of the latter kind in the transformer."""
    config = {key: value for key, value in peers.FLUX.items() if not key.startswith("_")}
    config |= {"num_layers": 1, "num_single_layers": 1, "guidance_embeds": guided}
    network = FluxControlNetModel(**config, num_mode=num_mode).eval()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    network.load_state_dict(random_weights(shapes, seed=9))
    return network


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("flux-control")
    made = {
        "flux": transformers.flux(),
        "ae": vae.vae(vae.SIXTEEN),
        "clip_l": text.clip(text.CLIP_L),
        "t5xxl": text.t5(),
    }
    tensors = {
        name: random_tensors(shapes, seed) for seed, (name, shapes) in enumerate(made.items())
    }
    tensors["t5xxl"]["encoder.embed_tokens.weight"] = tensors["t5xxl"]["shared.weight"].clone()
    found = {
        name: write_safetensors(folder / f"{name}.safetensors", one, "F32")
        for name, one in tensors.items()
    }
    for name, network in {
        "plain": control(),
        "union": control(num_mode=10, guided=True),
    }.items():
        found[name] = folder / f"{name}.safetensors"
        save_file(network.state_dict(), found[name])
    found["unet"] = make_controlnet(folder / "unet.safetensors")
    return found


def beside(files: dict[str, Path]) -> dict[str, Path]:
    """The other files, by the folder of each."""
    return {
        "VAE": files["ae"],
        "text_encoder:1": files["clip_l"],
        "text_encoder:2": files["t5xxl"],
    }


def scene() -> Image.Image:
    """A picture that differs everywhere."""
    numbers = torch.randint(0, 256, (64, 64, 3), generator=torch.Generator().manual_seed(5))
    return Image.fromarray(numbers.to(torch.uint8).numpy())


@contextmanager
def the_mean_of_latents() -> Iterator[None]:
    """Let diffusers' VAE not draw from the distribution of latents, as nothing here does."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    mean = DiagonalGaussianDistribution.mode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            DiagonalGaussianDistribution, "sample", lambda self, generator=None: mean(self)
        )
        yield


def theirs(files: dict[str, Path], folder: Path, network: Any, **values: Any) -> torch.Tensor:
    from diffusers import FluxControlNetPipeline

    plain = peers.flux(files, folder, guided=True)
    parts = {name: part for name, part in plain.components.items() if part is not None}
    pipe = FluxControlNetPipeline(**parts, controlnet=network)
    noise = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    with the_mean_of_latents():
        packed = peers.drawn(
            pipe,
            SIGMAS,
            prompt=PROMPT,
            latents=pipe._pack_latents(noise, 1, 16, 8, 8),
            guidance_scale=3.5,
            height=64,
            width=64,
            max_sequence_length=256,
            control_image=scene(),
            controlnet_conditioning_scale=0.7,
            **values,
        )
    found: torch.Tensor = pipe._unpack_latents(packed, 64, 64, 8)
    return found


@pytest.mark.parametrize(
    ("name", "said", "told"),
    [
        ("plain", {}, {}),
        ("union", {"union_control_type": "Depth"}, {"control_mode": 2}),
    ],
)
def test_a_controlnet_draws_what_diffusers_draws(
    name: str,
    said: dict[str, Any],
    told: dict[str, Any],
    files: dict[str, Path],
    draw: Draw,
    tmp_path: Path,
) -> None:
    unit = ControlUnit(model=name, weight=0.7, **said)
    values: dict[str, Any] = {"modules": beside(files), **ASKED}
    plain = draw(files["flux"], **values).latents
    drawn = draw(files["flux"], control=(unit, scene(), files[name]), **values)
    ours = drawn.latents
    network = control(num_mode=10, guided=True) if told else control()
    wanted = theirs(files, tmp_path, network, **told)
    assert (ours - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert (ours - plain).abs().max() > 1e-3


@pytest.fixture(scope="module")
def qwen_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("qwen-control")
    made = {
        "qwen": transformers.qwen_image(context=32),
        "vae": vae.video_vae(),
        "reader": text.qwen25(),
    }
    found = {
        name: write_safetensors(folder / f"{name}.safetensors", random_tensors(shapes, seed), "F32")
        for seed, (name, shapes) in enumerate(made.items(), start=1)
    }
    found["control"] = folder / "control.safetensors"
    save_file(qwen_control().state_dict(), found["control"])
    return found


def qwen_control() -> QwenImageControlNetModel:
    """A network of one block, for a transformer of two."""
    network = QwenImageControlNetModel(
        num_layers=1, attention_head_dim=32, num_attention_heads=2, joint_attention_dim=32,
        axes_dims_rope=(4, 14, 14),
    ).eval()  # fmt: skip
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    network.load_state_dict(random_weights(shapes, seed=9))
    return network


def test_one_of_qwen_image_draws_what_diffusers_draws(
    qwen_files: dict[str, Path], draw: Draw, tmp_path: Path
) -> None:
    from diffusers import QwenImageControlNetPipeline

    modules = {"VAE": qwen_files["vae"], "text_encoder": qwen_files["reader"]}
    values: dict[str, Any] = {"modules": modules, **ASKED}
    plain = draw(qwen_files["qwen"], **values).latents
    steered = (ControlUnit(model="control", weight=0.7), scene(), qwen_files["control"])
    ours = draw(qwen_files["qwen"], control=steered, **values).latents
    parts = more_peers.qwen_image(qwen_files, tmp_path).components
    pipe = QwenImageControlNetPipeline(**parts, controlnet=qwen_control())
    noise = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    with the_mean_of_latents():
        packed = peers.drawn(
            pipe,
            make_sigmas("Simple", STEPS, FlowSigmas(3.1))[:-1],
            prompt=PROMPT,
            latents=pipe._pack_latents(noise.unsqueeze(2), 1, 16, 8, 8),
            true_cfg_scale=1.0,
            height=64,
            width=64,
            control_image=scene(),
            controlnet_conditioning_scale=0.7,
        )
    wanted = pipe._unpack_latents(packed, 64, 64, 8).squeeze(2)
    assert (ours - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert (ours - plain).abs().max() > 1e-3
    lowvram = draw(qwen_files["qwen"], mode="lowvram", control=steered, **values).latents
    normal = draw(qwen_files["qwen"], mode="normal", control=steered, **values).latents
    assert torch.equal(lowvram, normal)


@pytest.mark.parametrize("mode", ["medvram", "lowvram"])
def test_memory_modes_draw_the_same(mode: str, files: dict[str, Path], draw: Draw) -> None:
    values: dict[str, Any] = {
        "modules": beside(files),
        "control": (ControlUnit(model="plain"), scene(), files["plain"]),
        **ASKED,
        "steps": 1,
    }
    wanted = draw(files["flux"], mode="normal", **values).latents
    drawn = draw(files["flux"], mode=mode, **values)
    assert torch.equal(drawn.latents, wanted)
    assert drawn.device is not None
    drawn.pipeline.conditioning.clear()
    drawn.pipeline.controlnets.unload()
    drawn.pipeline.parts.provider.unload()
    assert drawn.device.own_bytes() == 0


def test_a_mask_a_side_and_a_picture_to_refer_to(files: dict[str, Path], draw: Draw) -> None:
    """Half of it acts where the mask is; negative prompts may be left alone; Kontext is steered."""
    plain = ControlUnit(model="plain")
    kontext = files["flux"].with_name("kontext.safetensors")
    kontext.write_bytes(files["flux"].read_bytes())
    for file, more in (
        (files["flux"], {"cfg_scale": 2.0, "negative_prompt": "fog"}),
        (kontext, {"picture": scene()}),
    ):
        values: dict[str, Any] = {"modules": beside(files), **ASKED, "steps": 1, **more}
        without = draw(file, **values).latents
        changed = [
            draw(file, control=(unit, scene(), files["plain"]), **values).latents
            for unit in (plain, replace(plain, control_mode=CONTROL_FIRST))
        ]
        assert (changed[0] - without).abs().max() > 1e-3
        assert torch.equal(*changed) == ("negative_prompt" not in more)


def test_what_does_not_fit_is_left_out_with_the_difference(
    files: dict[str, Path], draw: Draw
) -> None:
    values: dict[str, Any] = {"modules": beside(files), **ASKED, "steps": 1}
    without = draw(files["flux"], **values).latents
    for name, words in (
        ("unet", "made for another kind of model"),
        ("union", "what the picture shows, for the union ControlNet union: Hard Edge, Tile, Depth"),
    ):
        drawn = draw(
            files["flux"], control=(ControlUnit(model=name), scene(), files[name]), **values
        )
        notices = [one.text for one in drawn.pipeline.events if isinstance(one, Notice)]
        assert len(notices) == 1 and words in notices[0], notices
        assert torch.equal(drawn.latents, without)

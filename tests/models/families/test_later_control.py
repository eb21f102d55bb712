"""ControlNets of SD 3 and Z-Image draw what diffusers' own pipelines draw with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SD3ControlNetModel, ZImageControlNetModel
from PIL import Image
from safetensors.torch import save_file

from scripts.tiny_models import text, transformers, vae
from scripts.tiny_models.files import random_tensors, write_safetensors
from sdforge.core.control import CONTROL_FIRST, ControlUnit
from sdforge.models.adapters.z_image_controlnet import z_image_places
from sdforge.sampling.flow_sigmas import FlowSigmas
from sdforge.sampling.sigmas import make_sigmas
from tests.models.families import more_peers, peers, test_sd3
from tests.models.families.conftest import Draw
from tests.models.families.test_transformer_control import scene, the_mean_of_latents
from tests.tiny_control import random_weights

PROMPT = "a photo of a cat, watercolour"
WEIGHT, STEPS = 0.7, 2
ASKED: dict[str, Any] = {"prompt": PROMPT, "schedule": "Simple", "steps": STEPS}


def filled(network: Any, folder: Path) -> Path:
    """Give a network random weights that are loud enough to be seen, and write its file."""
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    network.load_state_dict(random_weights(shapes, seed=9))
    path = folder / "control.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)
    return path


def sd3_control(kind: str) -> SD3ControlNetModel:
    config = more_peers.SD3 | test_sd3.KINDS[kind] | {"num_layers": 1}
    return SD3ControlNetModel(**config, in_channels=16, out_channels=16).eval()


@pytest.mark.parametrize("kind", ["medium", pytest.param("3.5-medium", marks=pytest.mark.slow)])
def test_one_of_sd3_draws_what_diffusers_draws(kind: str, draw: Draw, tmp_path: Path) -> None:
    from diffusers import StableDiffusion3ControlNetPipeline

    files = test_sd3.write(kind, tmp_path)
    network = sd3_control(kind)
    steered = (ControlUnit(model="control", weight=WEIGHT), scene(), filled(network, tmp_path))
    files = {**files, "clip_l": files["projected"]}
    values: dict[str, Any] = {"negative_prompt": "fog", **ASKED}
    plain = draw(files["whole"], **values).latents
    ours = draw(files["whole"], control=steered, **values).latents
    parts = more_peers.sd3(files, tmp_path, **test_sd3.KINDS[kind]).components
    parts = {name: part for name, part in parts.items() if part is not None}
    pipe = StableDiffusion3ControlNetPipeline(**parts, controlnet=network)
    with the_mean_of_latents():
        wanted = peers.drawn(
            pipe,
            make_sigmas("Simple", STEPS, FlowSigmas(3.0))[:-1],
            prompt=PROMPT,
            negative_prompt="fog",
            latents=noise(),
            guidance_scale=2.0,
            height=64,
            width=64,
            control_image=scene(),
            controlnet_conditioning_scale=WEIGHT,
        )
    assert (ours - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert (ours - plain).abs().max() > 1e-3
    normal, lowvram = (
        draw(files["whole"], control=steered, mode=mode, **values).latents
        for mode in ("normal", "lowvram")
    )
    assert torch.equal(lowvram, normal)


def noise() -> torch.Tensor:
    return torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("z-image-control")
    made = {
        "z_image": transformers.z_image(context=32),
        "ae": vae.vae(vae.SIXTEEN),
        "qwen3": text.qwen3(),
    }
    return {
        name: write_safetensors(folder / f"{name}.safetensors", random_tensors(shapes, seed), "F32")
        for seed, (name, shapes) in enumerate(made.items(), start=1)
    }


def z_image_control(refined_by: str | None, places: list[int]) -> ZImageControlNetModel:
    """Version 1 (None) with 16 channels, or version 2 with room for a picture to be repainted."""
    return ZImageControlNetModel(
        control_layers_places=places,
        control_refiner_layers_places=[0],
        control_in_dim=16 if refined_by is None else 33,
        add_control_noise_refiner=refined_by,
        dim=96,
        n_refiner_layers=1,
        n_heads=3,
        n_kv_heads=3,
    ).eval()


def z_image_file(network: ZImageControlNetModel, folder: Path) -> Path:
    """Version 2.0's file has the blocks that it was not trained with, as they began."""
    path = filled(network, folder)
    if network.add_control_noise_refiner == "control_layers":
        unused = z_image_control("control_noise_refiner", [0]).state_dict()
        began = {
            name: torch.zeros_like(tensor)
            for name, tensor in unused.items()
            if name.startswith("control_noise_refiner.")
        }
        save_file(network.state_dict() | began, path)
    return path


@pytest.mark.parametrize(
    ("refined_by", "places"),
    [
        (None, [0, 1]),
        ("control_noise_refiner", [0]),
        pytest.param("control_layers", [0], marks=pytest.mark.slow),
    ],
)
def test_one_of_z_image_draws_what_diffusers_draws(
    refined_by: str | None,
    places: list[int],
    files: dict[str, Path],
    draw: Draw,
    tmp_path: Path,
) -> None:
    from diffusers import ZImageControlNetPipeline

    network = z_image_control(refined_by, places)
    file = z_image_file(network, tmp_path)
    steered = (ControlUnit(model="control", weight=WEIGHT), scene(), file)
    modules = {"VAE": files["ae"], "text_encoder": files["qwen3"]}
    values: dict[str, Any] = {"modules": modules, "negative_prompt": "fog", **ASKED}
    plain = draw(files["z_image"], **values).latents
    ours = draw(files["z_image"], control=steered, **values).latents
    parts = peers.z_image(files, tmp_path).components
    pipe = ZImageControlNetPipeline(**parts, controlnet=network)
    with the_mean_of_latents():
        wanted = peers.drawn(
            pipe,
            make_sigmas("Simple", STEPS, FlowSigmas(3.0))[:-1],
            prompt=PROMPT,
            negative_prompt="fog",
            latents=noise(),
            # It adds its guidance to the prompt's own guess.
            guidance_scale=1.0,
            height=64,
            width=64,
            control_image=scene(),
            controlnet_conditioning_scale=WEIGHT,
        )
    assert (ours - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert (ours - plain).abs().max() > 1e-3
    if refined_by == "control_noise_refiner":
        normal, lowvram = (
            draw(files["z_image"], control=steered, mode=mode, **values | {"steps": 1}).latents
            for mode in ("normal", "lowvram")
        )
        assert torch.equal(lowvram, normal)


def test_one_of_z_image_acts_on_one_side_and_where_its_mask_is(
    files: dict[str, Path], draw: Draw, tmp_path: Path
) -> None:
    file = z_image_file(z_image_control(None, [0]), tmp_path)
    modules = {"VAE": files["ae"], "text_encoder": files["qwen3"]}
    asked: dict[str, Any] = {"negative_prompt": "fog", **ASKED, "steps": 1}
    unit = ControlUnit(model="control")
    pipeline = draw(
        files["z_image"], control=(unit, scene(), file), modules=modules, **asked
    ).pipeline
    image = pipeline.put(scene())
    half = Image.new("L", (64, 64))
    half.paste(255, (0, 0, 32, 64))
    seen = replace(unit, image=image)
    names = [one.name for one in modules.values()]
    pictures = [
        pipeline.draw(
            settings={"forge_additional_modules": names},
            cfg_scale=2.0,
            sampler="Euler",
            control=units,
            **asked,
        )[0].pixels.tobytes()
        for units in (
            (),
            (seen,),
            (replace(seen, control_mode=CONTROL_FIRST),),
            (replace(seen, mask=pipeline.put(half)),),
        )
    ]
    assert len(set(pictures)) == len(pictures)


def test_published_ones_of_z_image_say_something_behind_their_layers() -> None:
    for count, refined_by, places in (
        (6, None, [0, 5, 10, 15, 20, 25]),
        (15, "control_noise_refiner", list(range(0, 30, 2))),
        (3, "control_noise_refiner", [0, 14, 28]),
    ):
        network = z_image_control(refined_by, list(range(count)))
        assert z_image_places(network, 30) == places

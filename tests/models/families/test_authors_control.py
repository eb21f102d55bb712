"""XLabs' and Stability's own ControlNets, in their authors' names, against diffusers' pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxControlNetModel, SD3ControlNetModel
from PIL import Image
from safetensors.torch import save_file

from scripts.tiny_models import text, transformers, vae
from scripts.tiny_models.files import random_tensors, write_safetensors
from sdforge.core.control import CONTROL_FIRST, ControlUnit
from sdforge.core.errors import MissingModel, UnsupportedCheckpoint
from sdforge.models.adapters.controlnet import controlnet_recipe
from sdforge.models.adapters.transformer_controlnet import shown_to, transformer_control
from sdforge.models.bundle import LatentFormat
from sdforge.models.checkpoint import read_header
from sdforge.models.detect import detect
from sdforge.models.opening import open_model
from sdforge.sampling.flow_sigmas import FlowSigmas, flux_shift
from sdforge.sampling.sigmas import make_sigmas
from tests.models.families import more_peers, peers, test_sd3
from tests.models.families.conftest import Draw
from tests.models.families.test_transformer_control import beside, scene, the_mean_of_latents
from tests.tiny import sparse_checkpoint
from tests.tiny_control import random_weights

PROMPT = "a photo of a cat, watercolour"
WEIGHT, STEPS = 0.7, 2
ASKED: dict[str, Any] = {"prompt": PROMPT, "schedule": "Simple", "steps": STEPS}
BLUR, CANNY, DEPTH = 0, 1, 2
Tensors = dict[str, torch.Tensor]


def noise() -> torch.Tensor:
    return torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))


# --- XLabs: two blocks, in turns behind three of the transformer's


def xlabs_shapes() -> dict[str, tuple[int, ...]]:
    """Those of `flux-canny-controlnet-v3.safetensors`, at the tiny width."""
    width = 64
    shapes = {
        name: shape
        for name, shape in transformers.flux(double=2, single=1).items()
        if not name.startswith(("single_blocks.", "final_layer."))
    }
    for number in range(2):
        shapes[f"controlnet_blocks.{number}.weight"] = (width, width)
        shapes[f"controlnet_blocks.{number}.bias"] = (width,)
    shapes |= {"pos_embed_input.weight": (width, 64), "pos_embed_input.bias": (width,)}
    for number in range(8):
        inputs = 16 if number else 3
        shapes[f"input_hint_block.{2 * number}.weight"] = (16, inputs, 3, 3)
        shapes[f"input_hint_block.{2 * number}.bias"] = (16,)
    return shapes


def xlabs_peer(tensors: Tensors, folder: Path) -> FluxControlNetModel:
    """The network of diffusers with the same weights, whose converter names the blocks."""
    rest = {
        name: torch.zeros(shape)
        for name, shape in transformers.flux(double=2, single=1).items()
        if name not in tensors
    }
    whole = folder / "whole.safetensors"
    save_file({name: one for name, one in tensors.items() if "_block." not in name} | rest, whole)
    config = {key: value for key, value in peers.FLUX.items() if not key.startswith("_")}
    config |= {"num_layers": 2, "num_single_layers": 0, "guidance_embeds": True}
    config |= {"conditioning_embedding_channels": 16, "patch_size": 2}
    network = FluxControlNetModel(**config).eval()
    wanted = network.state_dict()
    named = {name: one for name, one in peers.flux_tensors(whole).items() if name in wanted}
    for end in ("weight", "bias"):
        named[f"controlnet_x_embedder.{end}"] = tensors[f"pos_embed_input.{end}"]
        for number in range(2):
            named[f"controlnet_blocks.{number}.{end}"] = tensors[
                f"controlnet_blocks.{number}.{end}"
            ]
        places = ["conv_in", *(f"blocks.{number}" for number in range(6)), "conv_out"]
        for number, place in enumerate(places):
            hint = tensors[f"input_hint_block.{2 * number}.{end}"]
            named[f"input_hint_block.{place}.{end}"] = hint
    network.load_state_dict(named)
    return network


@pytest.fixture(scope="module")
def flux_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("xlabs")
    made = {
        "flux": transformers.flux(double=3),
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
    found["control"] = folder / "control.safetensors"
    save_file(random_weights(xlabs_shapes(), seed=9), found["control"])
    return found


def theirs_xlabs(
    files: dict[str, Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> torch.Tensor:
    from diffusers import FluxControlNetPipeline

    monkeypatch.setitem(peers.FLUX, "num_layers", 3)
    plain = peers.flux(files, folder, guided=True)
    parts = {name: part for name, part in plain.components.items() if part is not None}
    network = xlabs_peer(random_weights(xlabs_shapes(), seed=9), folder)
    pipe = FluxControlNetPipeline(**parts, controlnet=network)
    packed = peers.drawn(
        pipe,
        make_sigmas("Simple", STEPS, FlowSigmas(flux_shift(16)))[:-1],
        prompt=PROMPT,
        latents=pipe._pack_latents(noise(), 1, 16, 8, 8),
        guidance_scale=3.5,
        height=64,
        width=64,
        max_sequence_length=256,
        control_image=scene(),
        controlnet_conditioning_scale=WEIGHT,
    )
    found: torch.Tensor = pipe._unpack_latents(packed, 64, 64, 8)
    return found


def test_one_of_xlabs_draws_what_diffusers_draws(
    flux_files: dict[str, Path], draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steered = (ControlUnit(model="control", weight=WEIGHT), scene(), flux_files["control"])
    values: dict[str, Any] = {"modules": beside(flux_files), "cfg_scale": 1.0, **ASKED}
    plain = draw(flux_files["flux"], **values).latents
    ours = draw(flux_files["flux"], control=steered, **values).latents
    wanted = theirs_xlabs(flux_files, tmp_path, monkeypatch)
    assert (ours - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert (ours - plain).abs().max() > 1e-3
    values["steps"] = 1
    normal, lowvram = (
        draw(flux_files["flux"], control=steered, mode=mode, **values).latents
        for mode in ("normal", "lowvram")
    )
    assert torch.equal(lowvram, normal)


def test_one_of_xlabs_serves_a_model_without_guidance_at_an_odd_size(
    flux_files: dict[str, Path], draw: Draw, tmp_path: Path
) -> None:
    """Schnell is told no distilled CFG scale; 72 × 56 pixels are no whole patches."""
    schnell = random_tensors(transformers.flux(double=3, guided=False), 0)
    file = write_safetensors(tmp_path / "schnell.safetensors", schnell, "F32")
    values = {"modules": beside(flux_files), "cfg_scale": 1.0, **ASKED, "steps": 1}
    values |= {"width": 72, "height": 56}
    unit = ControlUnit(model="control")
    drawn = draw(file, control=(unit, scene(), flux_files["control"]), **values).latents
    assert drawn.shape[-2:] == (7, 9)
    assert (drawn - draw(file, **values).latents).abs().max() > 1e-3


# --- Stability: blocks that see no text, behind each block of SD 3.5 large


def stability_shapes(blocks: int = 1) -> dict[str, tuple[int, ...]]:
    """Those of `sd3.5_large_controlnet_canny.safetensors`, at the tiny width."""
    width, pooled = 128, 80
    shapes: dict[str, tuple[int, ...]] = {"pos_embed_input.proj.weight": (width, 16, 2, 2)}
    linears = {
        "time_text_embed.timestep_embedder.linear_1": (width, 256),
        "time_text_embed.timestep_embedder.linear_2": (width, width),
        "time_text_embed.text_embedder.linear_1": (width, pooled),
        "time_text_embed.text_embedder.linear_2": (width, width),
    }
    for number in range(blocks):
        block = f"transformer_blocks.{number}"
        linears |= {
            f"{block}.adaLN_modulation.1": (6 * width, width),
            f"{block}.attn.qkv": (3 * width, width),
            f"{block}.attn.proj": (width, width),
            f"{block}.mlp.fc1": (4 * width, width),
            f"{block}.mlp.fc2": (width, 4 * width),
            f"controlnet_blocks.{number}": (width, width),
        }
    shapes |= {f"{name}.weight": shape for name, shape in linears.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linears.items()}
    return shapes | {"pos_embed_input.proj.bias": (width,)}


def stability_peer(tensors: Tensors) -> SD3ControlNetModel:
    """The network of diffusers with the same weights, by the rows that its script gives them."""
    network = SD3ControlNetModel(
        in_channels=16, out_channels=16, num_layers=1, attention_head_dim=64,
        num_attention_heads=2, joint_attention_dim=None, caption_projection_dim=128,
        pooled_projection_dim=80, pos_embed_max_size=None, pos_embed_type=None,
        use_pos_embed=False, force_zeros_for_pooled_projection=False,
    ).eval()  # fmt: skip
    whole = {
        "attn.proj": "attn.to_out.0", "mlp.fc1": "ff.net.0.proj", "mlp.fc2": "ff.net.2",
        "adaLN_modulation.1": "norm1.linear",
    }  # fmt: skip
    named: Tensors = {}
    for name, tensor in tensors.items():
        if ".attn.qkv." in name:
            for letter, rows in zip("qkv", tensor.chunk(3), strict=True):
                named[name.replace("qkv", f"to_{letter}")] = rows
            continue
        for theirs, ours in whole.items():
            name = name.replace(f"blocks.0.{theirs}", f"blocks.0.{ours}")
        named[name] = tensor
    network.load_state_dict(named)
    return network


def theirs_stability(files: dict[str, Path], folder: Path, kind: int) -> torch.Tensor:
    """What diffusers draws, once what its authors' own program does besides is done to it.

    That adds behind the last block too, shows edges as numbers from 0.5 to 128, and far as white.
    """
    from diffusers import StableDiffusion3ControlNetPipeline
    from diffusers.image_processor import VaeImageProcessor

    class Edges(VaeImageProcessor):
        def preprocess(self, image: Any, *args: Any, **named: Any) -> Any:
            return super().preprocess(image, *args, **named) * 255 * 0.5 + 0.5

    parts = more_peers.sd3(files, folder, **test_sd3.KINDS["medium"]).components
    network = stability_peer(random_weights(stability_shapes(), seed=9))
    pipe = StableDiffusion3ControlNetPipeline(
        **{name: part for name, part in parts.items() if part is not None}, controlnet=network
    )
    shown = scene()
    if kind == CANNY:
        pipe.image_processor = Edges(vae_scale_factor=8, do_normalize=False)
    elif kind == DEPTH:
        shown = Image.eval(shown, lambda level: 255 - level)
    said: list[torch.Tensor] = []
    network.register_forward_hook(lambda module, args, found: said.append(found[0][-1]))
    pipe.transformer.transformer_blocks[-1].register_forward_hook(
        lambda module, args, found: (found[0], found[1] + said[-1])
    )
    with the_mean_of_latents():
        return peers.drawn(
            pipe,
            make_sigmas("Simple", STEPS, FlowSigmas(3.0))[:-1],
            prompt=PROMPT,
            negative_prompt="fog",
            latents=noise(),
            guidance_scale=2.0,
            height=64,
            width=64,
            control_image=shown,
            controlnet_conditioning_scale=WEIGHT,
        )


def stability_file(folder: Path, kind: torch.Tensor | None, name: str = "control") -> Path:
    tensors = random_weights(stability_shapes(), seed=9)
    if kind is not None:
        tensors["control_type"] = kind
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.safetensors"
    save_file({key: one.contiguous() for key, one in tensors.items()}, path)
    return path


@pytest.fixture(scope="module")
def sd3_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    files = test_sd3.write("medium", tmp_path_factory.mktemp("stability"))
    return {**files, "clip_l": files["projected"]}


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in (DEPTH, BLUR)]


@pytest.mark.parametrize("kind", [CANNY, *SLOW])
def test_one_of_stability_draws_what_its_authors_draw(
    kind: int, sd3_files: dict[str, Path], draw: Draw, tmp_path: Path
) -> None:
    file = stability_file(tmp_path / "files", torch.tensor([kind], dtype=torch.int32))
    steered = (ControlUnit(model="control", weight=WEIGHT), scene(), file)
    values: dict[str, Any] = {"negative_prompt": "fog", **ASKED}
    ours = draw(sd3_files["whole"], control=steered, **values).latents
    wanted = theirs_stability(sd3_files, tmp_path, kind)
    assert (ours - wanted).abs().max() < 1e-5 * wanted.abs().max()
    if kind != CANNY:
        return
    values["steps"] = 1
    normal, lowvram = (
        draw(sd3_files["whole"], control=steered, mode=mode, **values).latents
        for mode in ("normal", "lowvram")
    )
    assert torch.equal(lowvram, normal)
    on_one_side = (ControlUnit(model="control", control_mode=CONTROL_FIRST), scene(), file)
    found = [draw(sd3_files["whole"], control=on_one_side, **values).latents]
    found.append(draw(sd3_files["whole"], **values).latents)
    assert len({one.numpy().tobytes() for one in [*found, normal]}) == 3


def test_those_among_the_checkpoints_are_named_for_what_they_are(
    flux_files: dict[str, Path], tmp_path: Path
) -> None:
    for file in (flux_files["control"], stability_file(tmp_path, None)):
        with pytest.raises(UnsupportedCheckpoint, match="belongs into models/ControlNet"):
            detect(open_model(file))


def test_what_one_of_stability_was_trained_with_is_read_from_its_file(tmp_path: Path) -> None:
    for kind, name, wanted in (
        (torch.tensor([1], dtype=torch.int32), "control", CANNY),
        (torch.tensor(2, dtype=torch.int64), "canny", DEPTH),
        (torch.tensor([1.0], dtype=torch.float16), "control", CANNY),
        (None, "sd3.5_large_controlnet_depth", DEPTH),
        (None, "sd3.5_large_controlnet_blur", BLUR),
    ):
        header = read_header(stability_file(tmp_path, kind, name))
        network = transformer_control(header)
        assert network.config["control_type"] == wanted
        pixels = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        # The VAE makes 2x − 1 of what it is given.
        seen = shown_to(
            network,
            pixels,
            lambda given: 2 * given - 1,
            LatentFormat(channels=16, downscale=8, scale=1.0),
        )
        edges = pixels * 255 * 0.5 + 0.5
        assert torch.allclose(seen, [2 * pixels - 1, edges, 1 - 2 * pixels][wanted], atol=1e-4)
    for wrong in (torch.arange(9), torch.zeros(0), torch.zeros(4, dtype=torch.float16)):
        header = read_header(stability_file(tmp_path, wrong))
        with pytest.raises(UnsupportedCheckpoint, match="control_type is .* instead of one"):
            transformer_control(header)
    lost = read_header(stability_file(tmp_path, torch.tensor([torch.nan]), "my_canny"))
    assert transformer_control(lost).config["control_type"] == CANNY


def test_damaged_ones_are_refused(tmp_path: Path) -> None:
    """Whatever tensor has lost its shape, or is not there (without guidance is another kind)."""
    for whole in (stability_shapes(), xlabs_shapes()):
        for name in whole.keys() - {"guidance_in.in_layer.weight"}:
            for shapes in (whole | {name: ()}, {k: v for k, v in whole.items() if k != name}):
                header = read_header(sparse_checkpoint(tmp_path / "damaged.safetensors", shapes))
                with pytest.raises((MissingModel, UnsupportedCheckpoint)):
                    controlnet_recipe(header)

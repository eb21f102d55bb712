"""C2: a whole job in the engine; the peer is diffusers' pipeline on the same modules and weights.

A tiny Stable Diffusion, where a forward costs so little that everything around it shows: 20 steps
of Euler with guidance, 64×64 pixels. Ours goes through the queue on disk, the model thread, live
previews after each step, every event to a listener, and PNG with infotext; the peer is called as a
function and returns a Pillow image. Both get a seed, prompt and negative prompt as text.
"""

from __future__ import annotations

import io
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from timing import Row, compare

from sdforge.core.device import probe
from sdforge.core.paths import Paths
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import SettingsStore
from sdforge.engine import Engine
from sdforge.engine.runner import PipelineRunner
from sdforge.memory.device import open_device
from sdforge.memory.manager import MemoryManager
from sdforge.models.bundle import ModelBundle
from sdforge.models.library import Library
from sdforge.models.loader import ModelProvider, choose_precision
from sdforge.models.tokenizers import clip_tokenizer
from sdforge.sampling.sigmas import make_sigmas

STEPS = 20
SIDE = 64
CFG_SCALE = 7.0
NEGATIVE = "blurry, ugly"
# Two levels of 32 and 64 channels: a forward of about 10 ms on one thread.
UNET_FACTORS = (1, 2)
ROUNDS = 15


def measure() -> list[Row]:
    """Return the ratios for a new prompt each time and for the same prompt again."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        paths = Paths.under(Path(folder))
        library = make_library(paths)
        bundle = stack.enter_context(loaded_bundle(library))
        peer = make_peer(bundle)
        ours = stack.enter_context(started_engine(paths, library))
        check(ours, peer, bundle)
        numbers = itertools.count()

        def new_prompt(draw: Callable[[str, int], object]) -> Callable[[], object]:
            return lambda: draw(f"a cat and {next(numbers)} dogs", 1)

        def same_prompt(draw: Callable[[str, int], object]) -> Callable[[], object]:
            return lambda: draw("a cat", next(numbers))

        new = compare(new_prompt(ours), new_prompt(peer), rounds=ROUNDS)
        same = compare(same_prompt(ours), same_prompt(peer), rounds=ROUNDS)
        networks = compare(networks_alone(bundle), same_prompt(peer), rounds=ROUNDS)
    name = "diffusers `StableDiffusionPipeline`, same modules"
    note = f"the networks alone, without any program around them, come to {networks.ratio:.2f}"
    return [
        new.row("C2", "txt2img in the engine, 20 steps: new prompt", name, 0.95),
        same.row("C2", "txt2img in the engine, 20 steps: same prompt", name, 0.90, note=note),
    ]


def make_library(paths: Paths) -> Library:
    """Return a library with one tiny checkpoint, in fp32."""
    from scripts.make_tiny_checkpoints import TINY, TINY_METADATA, write_checkpoint

    sizes = replace(TINY, unet_factors=UNET_FACTORS)
    write_checkpoint(paths.checkpoints[0] / "tiny.safetensors", sizes, metadata=TINY_METADATA)
    library = Library(paths)
    library.refresh()
    return library


@contextmanager
def loaded_bundle(library: Library) -> Iterator[ModelBundle]:
    """Load the checkpoint a second time, for the peer."""
    device = probe(force_cpu=True)
    memory = MemoryManager(open_device(device))
    provider = ModelProvider(library, memory, precision=choose_precision(device))
    bundle = provider.get("")
    try:
        yield bundle
    finally:
        provider.unload()


@contextmanager
def started_engine(
    paths: Paths, library: Library
) -> Iterator[Callable[[str, int], npt.NDArray[np.uint8]]]:
    """Run an engine; yield a function that makes a picture with it."""
    engine = Engine(
        paths=paths,
        settings=SettingsStore(None),
        library=library,
        make_runner=lambda: PipelineRunner(
            library, probe_device=lambda: probe(force_cpu=True), flags={}, version="bench"
        ),
        version="bench",
    )
    engine.start()

    def draw(prompt: str, seed: int) -> npt.NDArray[np.uint8]:
        request = GenerationRequest(
            prompt=prompt, negative_prompt=NEGATIVE, steps=STEPS, sampler="Euler",
            schedule="Uniform", width=SIDE, height=SIDE, cfg_scale=CFG_SCALE, seed=seed,
        )  # fmt: skip
        job = engine.submit(request, save_images=False)
        events = sum(1 for _ in engine.events(job.id))
        done = engine.get(job.id)
        if done.error or events < STEPS:
            raise RuntimeError(f"{done.status}: {done.error}")
        data, _ = engine.image_data(job.id, 0)
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image)

    try:
        yield draw
    finally:
        engine.close()


def make_peer(bundle: ModelBundle) -> Callable[..., npt.NDArray[np.uint8]]:
    """Return a function that makes a picture with diffusers' pipeline."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        timestep_spacing="linspace", steps_offset=1,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=bundle.components["vae"].module,
        text_encoder=peer_text_encoder(bundle),
        tokenizer=peer_tokenizer(),
        unet=peer_unet(bundle),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)

    def draw(prompt: str, seed: int, **schedule: Any) -> npt.NDArray[np.uint8]:
        generator = torch.Generator().manual_seed(seed)
        images = pipeline(
            prompt, negative_prompt=NEGATIVE, height=SIDE, width=SIDE, guidance_scale=CFG_SCALE,
            generator=generator, **(schedule or {"num_inference_steps": STEPS}),
        ).images  # fmt: skip
        return np.asarray(images[0])

    return draw


def peer_unet(bundle: ModelBundle) -> Any:
    """Return diffusers' own U-Net, with its own attention, of the same weights."""
    from diffusers import UNet2DConditionModel

    module: Any = bundle.components["denoiser"].module
    peer = UNet2DConditionModel.from_config(module.config)
    peer.load_state_dict(module.state_dict())
    return peer.eval()


def peer_text_encoder(bundle: ModelBundle) -> Any:
    """Return transformers' own CLIP of the same weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    module: Any = bundle.components["text_encoder"].module
    inner, width = module.encoder.layers[0].mlp.fc1.weight.shape
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=module.layer_count,
        num_attention_heads=module.encoder.layers[0].self_attn.heads,
    )
    peer = CLIPTextModel(config)
    peer.load_state_dict(module.state_dict())
    return peer.eval()


def peer_tokenizer() -> Any:
    """Return transformers' own tokenizer with the vocabulary that we ship."""
    from transformers import CLIPTokenizer

    model = json.loads(clip_tokenizer().backend.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=77)


def networks_alone(bundle: ModelBundle) -> Callable[[], object]:
    """Return a function that only calls the networks, as often as a job with a known prompt."""
    latents = torch.randn(2, 4, SIDE // 8, SIDE // 8)
    denoiser = bundle.components["denoiser"].module
    states = torch.randn(2, 77, denoiser.config.cross_attention_dim)
    timestep = torch.tensor([500.0])

    def call() -> None:
        with torch.inference_mode():
            for _ in range(STEPS):
                denoiser(latents, timestep, encoder_hidden_states=states, return_dict=False)
            bundle.components["vae"].module.decode(latents[:1], return_dict=False)

    return call


def check(
    ours: Callable[[str, int], npt.NDArray[np.uint8]],
    theirs: Callable[..., npt.NDArray[np.uint8]],
    bundle: ModelBundle,
) -> None:
    """Raise unless both make the same picture; ours truncates to 8 bits, diffusers rounds."""
    sigmas = list(make_sigmas("Uniform", STEPS, bundle.denoiser))
    mine = ours("a cat", 5).astype(int)
    other = theirs("a cat", 5, sigmas=sigmas).astype(int)
    if np.abs(mine - other).max() > 1:
        raise RuntimeError(f"the pictures differ by {np.abs(mine - other).max()} levels")

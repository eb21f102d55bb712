"""C12: SD 1.5 at its true widths on the processor, beside diffusers and stable-diffusion.cpp.

Random weights, 256², 4 steps of Euler with guidance, the full VAE, fp32, every core. The same file
for all three: ours through the engine, as a job; diffusers' pipeline called as a function; and
stable-diffusion.cpp in 32 bits (PyPI's stable-diffusion-cpp-python, which builds for a while):

    pip install --no-deps --target build/peers stable-diffusion-cpp-python

It keeps the weights of convolutions in 16 bits whatever it is asked for. Before anything is timed,
each must make our picture: to a level diffusers, to a few levels the other one.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from big_file import peer_load, provider_for, save_configs
from c2_engine import peer_tokenizer
from PIL import Image
from timing import Comparison, Row, time_once

from scripts.make_tiny_checkpoints import write_checkpoint
from sdforge.core.device import probe
from sdforge.core.paths import Paths
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import SettingsStore
from sdforge.engine import Engine
from sdforge.engine.runner import PipelineRunner
from sdforge.models.families.sd_keys import Sizes
from sdforge.models.library import Library

SIDE, STEPS, CFG_SCALE = 256, 4, 7.0
PROMPT, NEGATIVE = "a red apple on a table", "blurry, ugly"
ROUNDS = 3
# Of 255, on average: the rest is the 16 bits.
MOST_LEVELS = {"diffusers": 1.0, "stable-diffusion.cpp": 6.0}
Picture = npt.NDArray[np.uint8]
Draw = Callable[[int], Picture]


def measure() -> list[Row]:
    """Return the ratios to both."""
    import stable_diffusion_cpp  # noqa: F401 - missing, it is told before anything is written

    threads = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0))
    with TemporaryDirectory() as folder, ExitStack() as stack:
        torch.set_num_threads(cores)
        stack.callback(torch.set_num_threads, threads)
        paths = Paths.under(Path(folder))
        path = write_checkpoint(
            paths.checkpoints[0] / "big.safetensors", Sizes(), dtype="F16", metadata={}
        )
        ours = stack.enter_context(_engine(paths))
        peers = {
            "diffusers": _diffusers(path, Path(folder)),
            "stable-diffusion.cpp": _sd_cpp(path, cores),
        }
        notes = {name: _checked(ours, draw, name) for name, draw in peers.items()}
        seconds: dict[str, list[float]] = {"": [], **{name: [] for name in peers}}
        for seed in range(ROUNDS):
            for name, draw in {"": ours("CPU"), **peers}.items():
                seconds[name].append(time_once(lambda draw=draw, seed=seed: draw(seed)))
    mine = tuple(seconds.pop(""))
    targets = {"diffusers": 0.97, "stable-diffusion.cpp": 1.0}
    what = f"SD 1.5 on {cores} cores, 256², {STEPS} steps, fp32"
    return [
        Comparison(mine, tuple(theirs)).row("C12", what, name, targets[name], note=notes[name])
        for name, theirs in seconds.items()
    ]


@contextmanager
def _engine(paths: Paths) -> Iterator[Callable[[str], Draw]]:
    """Run an engine; yield a function that gives one that draws with a kind of noise."""
    library = Library(paths, hashing=False)
    library.refresh()
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

    def drawing(source: str) -> Draw:
        def draw(seed: int) -> Picture:
            request = GenerationRequest(
                prompt=PROMPT, negative_prompt=NEGATIVE, steps=STEPS, sampler="Euler",
                schedule="Uniform", width=SIDE, height=SIDE, cfg_scale=CFG_SCALE, seed=seed,
                overrides={"randn_source": source},
            )  # fmt: skip
            job = engine.wait(engine.submit(request, save_images=False).id)
            if job.error:
                raise RuntimeError(job.error.message)
            with Image.open(io.BytesIO(engine.image_data(job.id, 0)[0])) as image:
                return np.asarray(image)

        return draw

    try:
        yield drawing
    finally:
        engine.close()


def _diffusers(path: Path, folder: Path) -> Draw:
    from diffusers import EulerDiscreteScheduler

    provider = provider_for(path)
    save_configs(provider, folder / "configs")
    provider.unload()
    pipeline: Any = peer_load(path, folder / "configs", torch.float32)()
    pipeline.tokenizer = peer_tokenizer()
    pipeline.scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        timestep_spacing="linspace", steps_offset=1,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)

    def draw(seed: int) -> Picture:
        image = pipeline(
            PROMPT, negative_prompt=NEGATIVE, height=SIDE, width=SIDE, guidance_scale=CFG_SCALE,
            num_inference_steps=STEPS, generator=torch.Generator().manual_seed(seed),
        ).images[0]  # fmt: skip
        return np.asarray(image)

    return draw


def _sd_cpp(path: Path, cores: int) -> Draw:
    from stable_diffusion_cpp import StableDiffusion

    model = StableDiffusion(
        model_path=str(path), wtype="f32", n_threads=cores, vae_decode_only=True, verbose=False
    )

    def draw(seed: int) -> Picture:
        image = model.generate_image(
            PROMPT, negative_prompt=NEGATIVE, width=SIDE, height=SIDE, cfg_scale=CFG_SCALE,
            sample_method="euler", scheduler="discrete", sample_steps=STEPS, seed=seed,
        )[0]  # fmt: skip
        return np.asarray(image.convert("RGB"))

    return draw


def _checked(ours: Callable[[str], Draw], theirs: Draw, name: str) -> str:
    """Return how far a peer's picture is from ours; raise where it is another one."""
    source = "NV" if name == "stable-diffusion.cpp" else "CPU"
    began = time.perf_counter()
    mine, other = ours(source)(5).astype(int), theirs(5).astype(int)
    off = float(np.abs(mine - other).mean())
    spread = float(mine.std())
    if off > MOST_LEVELS[name] or spread < 10 * off:
        raise RuntimeError(
            f"{name}'s picture is {off:.2f} levels from ours, which spreads {spread}"
        )
    took = time.perf_counter() - began
    return f"its picture is {off:.2f} of 255 levels from ours (checked in {took:.0f} s)"

"""C1: what a sampler costs by itself, over 20 steps, where denoiser and noise cost almost nothing.

What is handed in is free on both sides; noise that the peer draws of its own accord counts.
The peer is k-diffusion's function of the same sampler (PyPI, 0.1.1), whose `sampling.py` is loaded
alone: the package's other modules need libraries that have nothing to do with sampling. Results
are compared before anything is timed.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from timing import Row, compare

from sdforge.sampling.names import resolve_sampler
from sdforge.sampling.registry import SAMPLERS, SamplerOptions, StepInfo

STEPS = 20
SHAPE = (1, 4, 64, 64)
SIGMA_MIN, SIGMA_MAX = 0.0292, 14.6146
REPEATS = 10
ROUNDS = 31
MOST_DIFFERENCE = 1e-5
PEERS = {
    "Euler": "sample_euler",
    "Euler a": "sample_euler_ancestral",
    "DPM++ 2M": "sample_dpmpp_2m",
    "Heun": "sample_heun",
}


def load_peer() -> ModuleType:
    """Return k-diffusion's `sampling`; raise ModuleNotFoundError where it is not installed."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("k-diffusion is not installed", name="k_diffusion")
    package = ModuleType("k_diffusion")
    package.__path__ = [str(Path(spec.origin).parent)]
    utils = ModuleType("k_diffusion.utils")
    utils.append_dims = lambda x, dims: x[(...,) + (None,) * (dims - x.ndim)]  # type: ignore[attr-defined]
    sys.modules.update({"k_diffusion": package, "k_diffusion.utils": utils})
    return importlib.import_module("k_diffusion.sampling")


def denoiser(x: torch.Tensor, sigma: object) -> torch.Tensor:
    """Guess at no cost."""
    return x * 0.98


def noise_source() -> Callable[[object, object], torch.Tensor]:
    """Return noise at no cost, for the samplers that are handed a source: one tensor, again."""
    drawn = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    return lambda sigma, sigma_next: drawn


def runs_of(name: str, peer: ModuleType) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return functions that run our sampler and the peer's."""
    sampler_name, _ = resolve_sampler(name, "")
    ours, theirs = SAMPLERS.get(sampler_name).function, getattr(peer, PEERS[name])
    schedule = peer.get_sigmas_karras(STEPS, SIGMA_MIN, SIGMA_MAX)
    sigmas: Sequence[float] = tuple(schedule.tolist())
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)) * SIGMA_MAX
    options = SamplerOptions()
    noise = noise_source()

    def on_step(info: StepInfo) -> None:
        pass

    def run_ours() -> torch.Tensor:
        return ours(denoiser, x, sigmas, noise, on_step, options)

    def run_theirs() -> torch.Tensor:
        more = {"noise_sampler": noise} if name == "Euler a" else {}
        return theirs(denoiser, x, schedule, callback=on_step, disable=True, **more)

    return run_ours, run_theirs


def repeated(function: Callable[[], Any]) -> Callable[[], None]:
    """Return a function that calls another one often enough to be timed."""

    def run() -> None:
        for _ in range(REPEATS):
            function()

    return run


def measure() -> list[Row]:
    """Return one ratio per sampler."""
    peer = load_peer()
    torch.set_num_threads(1)
    rows = []
    for name in PEERS:
        ours, theirs = runs_of(name, peer)
        mine, other = ours(), theirs()
        difference = float((mine - other).norm() / other.norm())
        if difference > MOST_DIFFERENCE:
            raise RuntimeError(f"{name}: differs from k-diffusion by {difference:.1e}")
        times = compare(repeated(ours), repeated(theirs), rounds=ROUNDS)
        rows.append(
            times.row(
                "C1", f"sampler alone, 20 steps: {name}", "k-diffusion 0.1.1", 0.25,
                repeats=REPEATS, relative_difference=difference,
            )
        )  # fmt: skip
    return rows


if __name__ == "__main__":
    for row in measure():
        milliseconds = [seconds / REPEATS * 1e3 for seconds in (row.ours, row.theirs)]
        print(f"{row.name:<40} {row.ratio:.3f}  {milliseconds[0]:.3f} ms, {milliseconds[1]:.3f} ms")

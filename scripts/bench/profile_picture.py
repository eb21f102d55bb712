#!/usr/bin/env python3
"""Profile one picture of the model that ships, and write docs/profile.md.

    python scripts/bench/profile_picture.py

The picture is drawn by the engine as a request over the API is: 20 steps with guidance on one
thread, after two others, with a prompt that is new. Every item above 2 % must be explained in
`WHY`, or the script ends with an error and names it.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from sdforge.core.device import probe  # noqa: E402 - needs the path above
from sdforge.core.paths import Paths  # noqa: E402
from sdforge.core.request import GenerationRequest  # noqa: E402
from sdforge.core.result import ImageResult  # noqa: E402
from sdforge.core.settings import SettingsStore  # noqa: E402
from sdforge.engine import Engine  # noqa: E402
from sdforge.engine.runner import PipelineRunner  # noqa: E402
from sdforge.models.library import Library  # noqa: E402

DOCUMENT = ROOT / "docs" / "profile.md"
LEAST = 0.02
STEPS = 20
BETWEEN = "between the operations"
WHY = {
    "aten::mkldnn_convolution":
        "3×3 convolutions of the residual blocks, in U-Net and decoder, by oneDNN: the work itself",
    "aten::_scaled_dot_product_flash_attention_for_cpu":
        "self- and cross-attention by the fused kernel; no matrix of scores is written",
    "aten::addmm":
        "linear layers with a bias: feed-forward parts, projections out of attention, time",
    "aten::mm":
        "linear layers without a bias: queries, keys and values. Those of the prompt are equal in "
        "all steps; to keep them would take memory of a card",
    "aten::_slow_conv2d_forward":
        "1×1 convolutions, which torch does not give to oneDNN where one thread has few weights",
    "aten::copy_":
        "numbers put in order between convolution (channels first) and attention (channels last), "
        "and the two halves of guidance",
    "aten::mul": "the gate of each feed-forward part (GEGLU), and guidance",
    "aten::native_group_norm": "normalisation before each convolution",
    "aten::native_layer_norm": "normalisation before each attention and feed-forward part",
    "aten::gelu": "the function of each feed-forward part's gate",
    "aten::silu": "the function before each convolution",
    "aten::add": "residual connections",
    BETWEEN:
        "Python: the forward code of diffusers, and torch finding the kernel of each operation; "
        "the sampler's part of it is C1 in benchmarks.md. A larger model has as many operations of "
        "more work each, so there it weighs less",
}  # fmt: skip


class ProfiledRunner(PipelineRunner):
    """Records the operations of the jobs that it runs while `wanted` is set."""

    wanted = False
    record: profile | None = None
    seconds = 0.0

    def run(self, *arguments: Any) -> Iterator[ImageResult]:
        """Run a job on the model thread, where its operations are seen."""
        if not ProfiledRunner.wanted:
            yield from super().run(*arguments)
            return
        with profile(activities=[ProfilerActivity.CPU]) as ProfiledRunner.record:
            began = time.perf_counter()
            yield from super().run(*arguments)
            ProfiledRunner.seconds = time.perf_counter() - began


def draw(engine: Engine, prompt: str) -> dict[str, float]:
    """Draw a picture; return seconds by stage."""
    job = engine.wait(engine.submit(GenerationRequest(prompt=prompt, steps=STEPS, seed=1)).id)
    if job.error:
        raise SystemExit(job.error.message)
    return dict(job.timings)


def measure() -> tuple[dict[str, float], dict[str, tuple[int, float]]]:
    """Return seconds by stage, unprofiled, and (calls, share of the profiled time) by operation."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = Paths.under(Path(folder))
        library = Library(paths, hashing=False)
        engine = Engine(
            paths=paths,
            settings=SettingsStore(None),
            library=library,
            make_runner=lambda: ProfiledRunner(
                library, probe_device=lambda: probe(force_cpu=True), flags={}, version="bench"
            ),
            version="bench",
        )
        engine.start()
        try:
            draw(engine, "red apple")
            draw(engine, "yellow star")
            stages = draw(engine, "blue fish, noto style")
            ProfiledRunner.wanted = True
            draw(engine, "green tree, noto style")
        finally:
            engine.close()
    assert ProfiledRunner.record is not None
    whole = ProfiledRunner.seconds * 1e6
    events = ProfiledRunner.record.key_averages()
    shares = {one.key: (one.count, one.self_cpu_time_total / whole) for one in events}
    shares[BETWEEN] = (0, 1 - sum(share for _, share in shares.values()))
    return stages, shares


def document(stages: dict[str, float], shares: dict[str, tuple[int, float]]) -> str:
    """Return the page.

    Raises:
        SystemExit: something above 2 % is not explained.
    """
    large = {name: row for name, row in shares.items() if row[1] >= LEAST}
    unexplained = sorted(set(large) - set(WHY))
    if unexplained:
        raise SystemExit(f"above {LEAST:.0%} and not explained: {', '.join(unexplained)}")
    whole = sum(stages.values())
    lines = [
        "# Where the time of a picture goes",
        "",
        "Written by `scripts/bench/profile_picture.py`; do not edit. The model that ships, "
        f"{STEPS} steps with guidance, fp32 on one CPU thread, {datetime.date.today()}. Stages are "
        "timed in the engine without a profiler; operations by torch's profiler in the next "
        "picture, which slows what lies between them.",
        "",
        "| stage | ms | share |",
        "|---|---:|---:|",
        *(
            f"| {name} | {seconds * 1e3:.1f} | {seconds / whole:.1%} |"
            for name, seconds in stages.items()
        ),
        "",
        f"Every operation above {LEAST:.0%}:",
        "",
        "| operation | calls | share | what it is |",
        "|---|---:|---:|---|",
        *(
            f"| {name} | {count or ''} | {share:.1%} | {WHY[name]} |"
            for name, (count, share) in sorted(large.items(), key=lambda item: -item[1][1])
        ),
        f"| {len(shares) - len(large)} others, each below {LEAST:.0%} | | "
        f"{sum(share for _, share in shares.values()) - sum(s for _, s in large.values()):.1%} | |",
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure and write."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "").parse_args()
    DOCUMENT.write_text(document(*measure()), encoding="utf-8")
    print(DOCUMENT)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""C14: how long a plan takes, and whether any plan exceeds its cap.

There is no peer: the target is a millisecond per plan, and no violation among a thousand plans for
random models, caps and modes.
"""

from __future__ import annotations

import random
import statistics
import time

from timing import Row

from sdforge.memory.budget import MIB, Budget
from sdforge.memory.interleave import UnitSize, stream_order
from sdforge.memory.placement import ComponentState, PlanError, Work
from sdforge.memory.plan import plan
from sdforge.memory.policy import MemoryMode, policy_for

PLANS = 1000
TARGET_SECONDS = 1e-3
# Units and their largest size in MiB, as SD 1.x, SDXL and Flux are cut.
MODELS = ((90, 59), (225, 59), (421, 108))


def model(generator: random.Random) -> tuple[ComponentState, list[ComponentState]]:
    """Return a random denoiser, and text encoder and VAE that lie on the device."""
    count, largest = generator.choice(MODELS)
    parts = []
    for key, units in (("denoiser", count), ("text_encoder", 30), ("vae", 10)):
        sizes = tuple(
            UnitSize(
                index=index,
                name=str(index),
                bytes=generator.randint(MIB, largest * MIB),
                flops=generator.randint(1, 10**12),
            )
            for index in range(units)
        )
        parts.append(
            ComponentState(
                key=key,
                role=key,
                total_bytes=MIB + sum(size.bytes for size in sizes),
                root_bytes=MIB,
                units=sizes,
                stream_order=stream_order(sizes),
                resident=frozenset() if key == "denoiser" else frozenset(range(units)),
                is_resident=key != "denoiser",
            )
        )
    return parts[0], parts[1:]


def measure() -> list[Row]:
    """Return the time of a plan and the share of plans beyond their cap."""
    generator = random.Random(1)
    models = [model(generator) for _ in range(12)]
    seconds, violations = [], 0
    for _ in range(PLANS):
        active, others = generator.choice(models)
        mode = generator.choice([m for m in MemoryMode if m is not MemoryMode.HIGHVRAM])
        total = generator.randint(1024, 24 * 1024) * MIB
        budget = Budget(total_bytes=total, inference_bytes=total // 8, reserve_bytes=400 * MIB)
        work = Work(working_bytes=total // 10, split_bytes=total // 20)
        policy = policy_for(mode)
        started = time.perf_counter()
        try:
            made = plan(active, others, budget, policy, work)
        except PlanError:
            continue
        seconds.append(time.perf_counter() - started)
        violations += made.predicted_peak > total or not made.fits
    middle = statistics.median(seconds)
    return [
        Row(id="C14", name="a plan: time", peer="one millisecond", ratio=middle / TARGET_SECONDS,
            target=1.0, ours=middle, theirs=TARGET_SECONDS,
            details={"worst_s": max(seconds), "plans": len(seconds)}),
        Row(id="C14", name="plans beyond their cap", peer="none of a thousand",
            ratio=float(violations), target=0.0, ours=violations, theirs=0, unit="plans"),
    ]  # fmt: skip


if __name__ == "__main__":
    for row in measure():
        print(row)

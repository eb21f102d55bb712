"""Environment variables that must be set before Python starts.

The C library, OpenMP and torch read most of them once, when they are loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping


def process_environment(
    environ: Mapping[str, str], *, cuda_malloc: bool = False, visible_gpu: int | None = None,
    platform: str = sys.platform,
) -> dict[str, str]:  # fmt: skip
    """Return variables that must be set before Python starts; those the user set are left alone."""
    wanted = {
        # libgomp's threads spin between torch's calls and starve all else on a busy machine.
        "OMP_WAIT_POLICY": "PASSIVE",
        # One heap to trim when a model leaves (memory/heap.py), instead of one for each thread.
        "MALLOC_ARENA_MAX": "1",
        # Nothing is fetched from, or reported to, anywhere at run time.
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if cuda_malloc:
        wanted["PYTORCH_CUDA_ALLOC_CONF"] = "backend:cudaMallocAsync"
    elif platform != "win32":
        # Keeps streamed units of different sizes from fragmenting the device (not on Windows).
        wanted["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    if visible_gpu is not None:
        wanted["CUDA_VISIBLE_DEVICES"] = str(visible_gpu)
    return {name: value for name, value in wanted.items() if name not in environ}

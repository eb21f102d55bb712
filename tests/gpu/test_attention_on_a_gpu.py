"""Attention kernels where packages have them: in half precision, at the sizes of real U-Nets."""

from __future__ import annotations

import pytest
import torch

from sdforge.flags import parse
from sdforge.memory.device import Device
from sdforge.models.attention import attend_by_torch
from sdforge.models.attention_kernels import TriedKernel, chosen_kernel

pytestmark = pytest.mark.gpu

FLAGS = [
    "--xformers", "--use-flash-attention", "--use-sage-attention", "--attention-split",
    "--attention-quad", "--opt-sdp-no-mem-attention", "--force-upcast-attention",
]  # fmt: skip


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("width", [40, 64, 160])
def test_a_kernel_gives_what_torch_gives(accelerator: Device, flag: str, width: int) -> None:
    device = accelerator.compute_device
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    made = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, 8, places, width, generator=made).to(device, dtype)
        for places in (4096, 77, 77)
    )
    kernel = chosen_kernel(parse([flag], {}))
    assert kernel is not None
    off = (kernel(query, key, value, None) - attend_by_torch(query, key, value, None)).abs().max()
    assert float(off) <= (0.2 if "sage" in flag else 0.02)
    if flag == "--xformers" and device.type == "cuda":
        pytest.importorskip("xformers.ops")
        assert isinstance(kernel, TriedKernel) and kernel.works(query)

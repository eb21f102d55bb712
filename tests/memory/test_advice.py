from __future__ import annotations

import pytest

from sdforge.core.device import DeviceInfo, Machine
from sdforge.memory.advice import advice_text, advise
from sdforge.memory.calibration import Calibration

GIB = 2**30


def machine(gib: float, *, ram: int = 128, used: float = 0.3, kind: str = "cuda") -> Machine:
    total = int(gib * GIB)
    device = DeviceInfo(
        kind=kind, index=0, name=f"card of {gib} GB", total_bytes=total,
        supports_fp16=kind == "cuda", supports_bf16=kind == "cuda",
    )  # fmt: skip
    free = total - int(used * GIB) if kind == "cuda" else None
    return Machine(
        device=device, free_bytes=free, host_total_bytes=ram * GIB,
        host_available_bytes=ram * GIB,
    )  # fmt: skip


def modes(gib: float) -> dict[str, str]:
    rows = advise(machine(gib), Calibration())
    return {row.label: row.mode for row in rows if row.fits}


@pytest.mark.parametrize(
    ("gib", "sd1", "sdxl", "zimage", "flux"),
    [
        (4, "normal", "medvram", "lowvram", "lowvram"),
        (6, "normal", "medvram", "medvram", "lowvram"),
        (8, "normal", "normal", "medvram", "medvram"),
        (12, "normal", "normal", "medvram", "medvram"),
        (24, "normal", "normal", "normal", "medvram"),
        (48, "normal", "normal", "normal", "normal"),
    ],
)
def test_the_mode_follows_the_card_and_the_model(
    gib: int, sd1: str, sdxl: str, zimage: str, flux: str
) -> None:
    found = modes(gib)
    assert [found[name] for name in ("SD 1.5", "SDXL", "Z-Image", "Flux.1")] == [
        sd1, sdxl, zimage, flux,
    ]  # fmt: skip


def test_advice_says_why_and_up_to_which_size() -> None:
    rows = {row.label: row for row in advise(machine(4), Calibration())}
    assert "of the denoiser stays on the device" in rows["SDXL"].reason
    assert rows["SDXL"].inference_mib == 1024
    assert rows["SD 1.5"].largest == 2048


def test_models_that_look_at_pictures_count_with_one() -> None:
    rows = {row.label: row for row in advise(machine(24), Calibration())}
    assert rows["Qwen-Image-Edit"].inference_mib > rows["Qwen-Image"].inference_mib
    assert rows["Flux.2 klein 4B"].mode == "normal"
    assert not rows["Flux.2 dev"].fits or rows["Flux.2 dev"].mode != "normal"
    lines = advice_text(machine(24), list(rows.values())).splitlines()
    starts = {line.index(rows[name].mode) for name in rows for line in lines
              if line.startswith(f"{name} ") and rows[name].fits}  # fmt: skip
    assert len(starts) == 1


def test_a_machine_without_memory_for_a_model_says_so() -> None:
    rows = {row.label: row for row in advise(machine(8, ram=16), Calibration())}
    assert not rows["Flux.1"].fits
    assert "main memory" in rows["Flux.1"].reason
    text = advice_text(machine(8, ram=16), list(rows.values()))
    assert "too big" in text
    assert "card of 8 GB" in text


def test_on_the_cpu_networks_count_in_32_bits() -> None:
    rows = {row.label: row for row in advise(machine(12, ram=12, kind="cpu"), Calibration())}
    assert rows["SD 1.5"].mode == "normal"
    # 6.6 GB in 16 bits.
    assert not rows["SDXL"].fits


def test_other_programs_on_the_card_count() -> None:
    free = {row.label: row.mode for row in advise(machine(12), Calibration())}
    busy = {row.label: row.mode for row in advise(machine(12, used=8), Calibration())}
    assert (free["SDXL"], busy["SDXL"]) == ("normal", "medvram")

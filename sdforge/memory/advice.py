"""Which memory mode suits which model on this machine, in words. Pure, no torch.

With the setting `memory_mode` at 'auto' the mode is the fastest one that leaves room for a picture
of the model's own size. `launch.py --advise` prints the table of all families without a server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sdforge.core.device import Machine
from sdforge.memory.budget import DEVICE_RESERVE_BYTES, MIB
from sdforge.memory.calibration import Calibration, Key
from sdforge.memory.estimate import (
    Factor,
    ModelSizes,
    Network,
    Phase,
    Room,
    Shape,
    estimate,
)
from sdforge.memory.recommend import recommend_size

# Streaming nearly everything all the time is what lowvram does with less memory than medvram: below
# this share of the network on the device medvram has nothing to gain.
_WORTH_KEEPING = 0.25
_INFERENCE_STEP = 256
DEFAULT_INFERENCE_MIB = 1024
_LARGEST_ADVISED_SIDE = 2048


def _network(role: str, trace: str, kind: str, mib: int, width: int, downscale: int = 8) -> Network:
    return Network(
        role=role, trace=trace, kind=kind, total_bytes=mib * MIB, width=width, itemsize=2,
        downscale=downscale,
    )  # fmt: skip


_CLIP_L = _network("text_encoder", "clip-l", "text", 235, 768)
_CLIP_G = _network("text_encoder", "clip-g", "text", 1325, 1280)
_T5 = _network("text_encoder", "t5-xxl", "text", 9083, 4096)
_VAE_4 = _network("vae", "vae-4", "vae", 160, 128)
_VAE_16 = _network("vae", "vae-16", "vae", 160, 128)
_VAE_32 = _network("vae", "vae-32", "vae", 160, 128)
# Without what answers, and what sees pictures.
_QWEN_25 = _network("text_encoder", "qwen2.5-vl-7b", "text", 13486, 3584)
_QWEN_IMAGE = (
    _network("denoiser", "qwen-image", "dit", 38968, 3072),
    _network("vae", "vae-qwen", "vae", 243, 96),
)
_QWEN_3 = _network("text_encoder", "qwen3-4b", "text", 7673, 2560)
# Of a text with one picture in it: that takes 1337.
_TOKENS_OF_EDIT = 512 + 1337


@dataclass(frozen=True)
class TypicalModel:
    """The usual 16-bit checkpoint of a family, and the size it was trained for."""

    label: str
    sizes: ModelSizes
    side: int
    guided: bool = True
    tokens: int = 77
    references: int = 0

    @property
    def shape(self) -> Shape:
        """One picture of the trained size."""
        return Shape(
            width=self.side,
            height=self.side,
            guided=self.guided,
            tokens=self.tokens,
            references=self.references,
            from_image=self.references > 0,
        )

    def in_full_precision(self) -> TypicalModel:
        """Return the same in 32 bits, for devices that are slow at 16."""
        networks = tuple(
            replace(network, total_bytes=2 * network.total_bytes, itemsize=4)
            for network in self.sizes.networks
        )
        return replace(self, sizes=replace(self.sizes, networks=networks))


def _typical(family: str, *networks: Network) -> ModelSizes:
    return ModelSizes(family=family, networks=networks)


TYPICAL: tuple[TypicalModel, ...] = (
    TypicalModel(
        "SD 1.5",
        _typical("sd1", _CLIP_L, _network("denoiser", "sd1", "unet", 1639, 320), _VAE_4),
        512,
    ),
    TypicalModel(
        "SDXL",
        _typical("sdxl", _CLIP_L, _CLIP_G, _network("denoiser", "sdxl", "unet", 4897, 320), _VAE_4),
        1024,
    ),
    TypicalModel(
        "SD 3 medium",
        _typical(
            "sd3", _CLIP_L, _CLIP_G, _T5, _network("denoiser", "sd3", "dit", 3977, 1536), _VAE_16
        ),
        1024,
        tokens=333,
    ),
    TypicalModel(
        "Z-Image",
        _typical(
            "zimage",
            _QWEN_3,
            _network("denoiser", "zimage", "dit", 11740, 3840),
            _VAE_16,
        ),
        1024,
        guided=False,
        tokens=256,
    ),
    TypicalModel(
        "Flux.1",
        _typical("flux", _CLIP_L, _T5, _network("denoiser", "flux", "dit", 22700, 3072), _VAE_16),
        1024,
        guided=False,
        tokens=512,
    ),
    TypicalModel(
        "Flux.2 klein 4B",
        _typical(
            "flux2-klein",
            _QWEN_3,
            _network("denoiser", "flux2-klein", "dit", 7392, 3072, downscale=16),
            _VAE_32,
        ),
        1024,
        guided=False,
        tokens=512,
    ),
    TypicalModel(
        "Flux.2 dev",
        _typical(
            "flux2",
            _network("text_encoder", "mistral-small-24b", "text", 43681, 5120),
            _network("denoiser", "flux2", "dit", 61461, 6144, downscale=16),
            _VAE_32,
        ),
        1024,
        guided=False,
        tokens=512,
    ),
    TypicalModel(
        "Qwen-Image",
        _typical("qwen-image", _QWEN_25, *_QWEN_IMAGE),
        1024,
        tokens=512,
    ),
    TypicalModel(
        "Qwen-Image-Edit",
        _typical(
            "qwen-image-edit",
            _QWEN_25,
            _network("text_encoder", "qwen2.5-vl-vision", "text", 1290, 1280),
            *_QWEN_IMAGE,
        ),
        1024,
        tokens=_TOKENS_OF_EDIT,
        references=1,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The mode for one model on one device.

    `inference_mib` is what a step at its own size needs besides weights; `largest` the side of the
    largest square that fits, up to 2048, None when nothing does.
    """

    label: str
    mode: str
    fits: bool
    reason: str
    inference_mib: int
    largest: int | None


def choose_mode(model: ModelSizes, shape: Shape, room: Room, factor: Factor) -> tuple[str, str]:
    """Return the memory mode for a model, and why, in words.

    'normal' where everything stays on the device, 'medvram' where the network that runs does, or a
    good part of it, else 'lowvram'.
    """
    if room.is_host:
        return "normal", "weights are used where they lie, in main memory"
    denoise = _phase(model, shape, room, factor)
    allowed = room.budget(denoise.working_bytes).weights_bytes
    denoiser = sum(network.total_bytes for network in model.of("denoiser"))
    if model.total_bytes <= allowed:
        return "normal", f"all {_mib(model.total_bytes)} of weights stay on the device"
    largest = max(network.total_bytes for network in model.networks)
    if largest <= allowed:
        return "medvram", (
            f"all {_mib(model.total_bytes)} of weights are too much at once; the largest part, "
            f"{_mib(largest)}, fits alone"
        )
    if denoiser <= allowed:
        return "medvram", "the denoiser stays on the device; the text encoder is streamed"
    if denoiser * _WORTH_KEEPING <= allowed:
        share = allowed / denoiser
        return "medvram", f"{share:.0%} of the denoiser stays on the device, the rest is streamed"
    return "lowvram", f"{_mib(allowed)} for weights; the denoiser's {_mib(denoiser)} are streamed"


def _phase(model: ModelSizes, shape: Shape, room: Room, factor: Factor) -> Phase:
    """Return the denoising phase: the one that lasts."""
    phases = estimate(model, shape, room, "medvram", factor).phases
    return next(phase for phase in phases if phase.name == "denoise")


def room_of(machine: Machine, inference_mib: int = DEFAULT_INFERENCE_MIB) -> Room:
    """Return the room on a machine as it is now."""
    device = machine.device
    if not device.is_accelerator:
        used = machine.host_total_bytes - machine.host_available_bytes
        return Room(
            total_bytes=machine.host_total_bytes,
            inference_bytes=0,
            foreign_bytes=max(used, 0),
            host_available_bytes=machine.host_available_bytes,
            is_host=True,
        )
    reserve = 0 if device.kind == "simulated" else max(DEVICE_RESERVE_BYTES, device.reserve_bytes)
    total = device.total_bytes
    return Room(
        total_bytes=total,
        inference_bytes=min(inference_mib * MIB, total),
        reserve_bytes=reserve,
        foreign_bytes=0 if machine.free_bytes is None else max(total - machine.free_bytes, 0),
        host_available_bytes=machine.host_available_bytes,
    )


def factor_of(calibration: Calibration, device: str, attention: str = "sdpa") -> Factor:
    """Return the learned factors of a device, as estimates want them."""

    def factor(network: Network, phase: str) -> float:
        return calibration.factor(Key(network.trace, device, attention, phase))

    return factor


def advise(
    machine: Machine, calibration: Calibration, models: Sequence[TypicalModel] = TYPICAL
) -> list[Advice]:
    """Return advice for each model, in the order given."""
    factor = factor_of(calibration, machine.device.name)
    room = room_of(machine)
    if not machine.device.supports_fp16:
        models = [model.in_full_precision() for model in models]
    return [_advise(model, room, factor) for model in models]


def _advise(model: TypicalModel, room: Room, factor: Factor) -> Advice:
    mode, reason = choose_mode(model.sizes, model.shape, room, factor)
    found = estimate(model.sizes, model.shape, room, mode, factor)
    largest = recommend_size(model.sizes, model.shape, room, mode, factor)
    working = _phase(model.sizes, model.shape, room, factor).working_bytes // MIB
    steps = -(-max(working, DEFAULT_INFERENCE_MIB) // _INFERENCE_STEP)
    return Advice(
        label=model.label,
        mode=mode,
        fits=found.fits,
        reason=reason if found.fits else found.reasons[0],
        inference_mib=steps * _INFERENCE_STEP,
        largest=min(largest.width, _LARGEST_ADVISED_SIDE) if largest else None,
    )


def advice_text(machine: Machine, rows: Sequence[Advice]) -> str:
    """Return what `--advise` prints."""
    device = machine.device
    free = "unknown" if machine.free_bytes is None else _mib(machine.free_bytes)
    lines = [
        f"Device       {device.name}: {_mib(device.total_bytes)}, free: {free}",
        f"Main memory  {_mib(machine.host_total_bytes)}, free: "
        f"{_mib(machine.host_available_bytes)}",
        "",
        f"{'model':15} {'mode':8} {'up to':>11}  {'inference memory':>16}  why",
    ]
    for row in rows:
        size = f"{row.largest} × {row.largest}" if row.largest else "–"
        mode = row.mode if row.fits else "too big"
        lines.append(
            f"{row.label:15} {mode:8} {size:>11}  {row.inference_mib:>12} MiB  {row.reason}"
        )
    lines += [
        "",
        "Without flags the mode is chosen this way; --medvram, --lowvram and the others overrule "
        "it.",
        "Sizes are for one picture; 'inference memory' is what to leave free of weights "
        "(forge_inference_memory).",
    ]
    return "\n".join(lines)


def _mib(count: int) -> str:
    return f"{max(count, 0) / MIB:,.0f} MiB"

"""How many bytes a request takes, phase by phase, before anything is loaded. Pure, no torch.

Weights are exact: they come from file headers. Activations come from traces of the true networks
(`activations.json`, written by scripts/trace_activations.py), multiplied by what real peaks taught
(`calibration.py`). What the memory modes leave on the device follows docs/memory.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sdforge.memory.budget import MIB, Budget
from sdforge.memory.vae_mode import VaeKind, VaeMode, choose

_TRACES = Path(__file__).with_name("activations.json")
_TRACED_ITEMSIZE = 2
# A streamed network keeps a ring of three of its largest units on the device; units are cut to 64
# MiB in U-Nets and 128 MiB elsewhere. A VAE is not streamed.
_RING_UNITS = 3
_UNIT_BYTES = {"unet": 64 * MIB, "dit": 128 * MIB, "text": 128 * MIB}
# Modes that keep one component only, stream the one that runs, or never stream; others keep all
# they can and stream the rest.
ALONE = frozenset({"medvram", "always-offload-from-vram"})
STREAMED = frozenset({"lowvram", "always-no-vram"})
WHOLE = frozenset({"always-gpu", "always-high-vram"})


@dataclass(frozen=True)
class Trace:
    """Activations of one network in 16 bits: fixed + rows · (pixels and tokens)."""

    kind: str
    width: int
    fixed: int
    per_latent_pixel: int = 0
    per_token: int = 0

    def bytes(self, rows: int, latent_pixels: int, tokens: int) -> int:
        """Return the traced peak of one forward."""
        return self.fixed + rows * (self.per_latent_pixel * latent_pixels + self.per_token * tokens)


@cache
def traces() -> Mapping[str, Trace]:
    """Return the traced networks by name."""
    rows = json.loads(_TRACES.read_text(encoding="utf-8"))["traces"]
    names = Trace.__dataclass_fields__
    return {
        name: Trace(**{key: value for key, value in row.items() if key in names})
        for name, row in rows.items()
    }


def nearest_trace(name: str, kind: str, width: int) -> tuple[Trace, str | None]:
    """Return the trace of a network; of an unknown one that of its kind which is next in width.

    The second value says in words that another network stood in.
    """
    known = traces()
    if name in known:
        return known[name], None
    alike = {other: trace for other, trace in known.items() if trace.kind == kind}
    if not alike:
        raise ValueError(f"no trace of any network of the kind {kind!r}")
    closest = min(alike, key=lambda other: abs(alike[other].width - width))
    return alike[closest], f"{name} was never measured; scaled from {closest} by its width"


def activation_bytes(
    name: str,
    *,
    kind: str,
    width: int,
    latent_pixels: int = 0,
    rows: int = 1,
    tokens: int = 0,
    itemsize: int = _TRACED_ITEMSIZE,
) -> int:
    """Return the traced peak of one forward, scaled to a network's width and type of numbers.

    Args:
        name: the network, 'sdxl', 'vae-4.decode', 'clip-l'….
        kind: 'unet', 'dit', 'text', 'vae-decode' or 'vae-encode'; decides for unknown names.
        width: channels of its first layer.
        latent_pixels: height × width of the latents.
        rows: of the batch, cond and uncond counted apart.
        tokens: of the prompt, per row.
        itemsize: bytes of a number.
    """
    trace, _ = nearest_trace(name, kind, width)
    traced = trace.bytes(rows, latent_pixels, tokens)
    return traced * itemsize * max(width, 1) // (_TRACED_ITEMSIZE * trace.width)


@dataclass(frozen=True, kw_only=True)
class Network:
    """What a header tells of one component.

    `trace` is its name among the traces; `downscale` pixels make one of the latent pixels it sees.
    """

    role: str
    trace: str
    kind: str
    total_bytes: int
    width: int
    itemsize: int
    downscale: int = 8

    @property
    def floor_bytes(self) -> int:
        """The least that its weights take on the device when they are streamed."""
        unit = _UNIT_BYTES.get(self.kind)
        return self.total_bytes if unit is None else min(self.total_bytes, _RING_UNITS * unit)

    def activations(self, trace: str, kind: str, rows: int, pixels: int, tokens: int) -> int:
        """Return the traced bytes of one forward under another or the same trace."""
        return activation_bytes(
            trace,
            kind=kind,
            width=self.width,
            latent_pixels=pixels,
            rows=rows,
            tokens=tokens,
            itemsize=self.itemsize,
        )


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """The networks of a checkpoint."""

    family: str
    networks: tuple[Network, ...]

    @property
    def total_bytes(self) -> int:
        """All weights."""
        return sum(network.total_bytes for network in self.networks)

    def of(self, role: str) -> tuple[Network, ...]:
        """Return the networks of a role; a checkpoint may have several text encoders."""
        return tuple(network for network in self.networks if network.role == role)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is to be drawn, in pixels. `guided` runs the network for both prompts.

    `beside` are the bytes of weights of each network that acts in every step: ControlNets; `eyes`
    look at pictures for them, once, when texts are encoded. `references` counts the pictures of the
    drawn size that the network is shown beside each, `referred` are the pixels of all others.
    """

    width: int
    height: int
    batch: int = 1
    guided: bool = True
    tokens: int = 77
    from_image: bool = False
    beside: tuple[int, ...] = ()
    eyes: tuple[Network, ...] = ()
    references: int = 0
    referred: tuple[int, ...] = ()

    def seen_pixels(self, downscale: int) -> int:
        """Return the latent pixels that the denoiser sees for each picture."""
        height, width = self.latent(downscale)
        return height * width * (1 + self.references) + sum(self.referred) // downscale**2

    def latent(self, downscale: int) -> tuple[int, int]:
        """Return (height, width) of the latents."""
        return -(-self.height // downscale), -(-self.width // downscale)


@dataclass(frozen=True, kw_only=True)
class Room:
    """The memory there is. On a host device weights and activations share the main memory."""

    total_bytes: int
    inference_bytes: int
    reserve_bytes: int = 0
    foreign_bytes: int = 0
    host_available_bytes: int | None = None
    is_host: bool = False

    def budget(self, working_bytes: int) -> Budget:
        """Return the budget of a phase."""
        return Budget(
            total_bytes=self.total_bytes,
            inference_bytes=0 if self.is_host else self.inference_bytes,
            reserve_bytes=self.reserve_bytes,
            foreign_bytes=self.foreign_bytes,
            working_bytes=working_bytes,
        )


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One stage: what weights and activations take together, and the least that would do."""

    name: str
    weights_bytes: int
    working_bytes: int
    peak_bytes: int
    least_bytes: int
    streams: bool = False


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a request would take, and whether that is there."""

    fits: bool
    mode: str
    phases: tuple[Phase, ...]
    peak_bytes: int
    cond_batching: bool
    vae_mode: VaeMode
    reasons: tuple[str, ...]


# Maps (network, phase) to the learned factor; `Calibration` provides it.
Factor = Callable[[Network, str], float]


def estimate(model: ModelSizes, shape: Shape, room: Room, mode: str, factor: Factor) -> Estimate:
    """Say what a request takes in a memory mode.

    More pixels or pictures never give a smaller activation, nor turn "does not fit" into "fits".

    Args:
        model: from the checkpoint's header.
        shape: of the request.
        room: on the device and the host.
        mode: a value of the setting `memory_mode` other than 'auto'.
        factor: what to multiply traced activations by.
    """
    work = _Work(model, shape, room, mode, factor)
    denoise, batched = work.denoise()
    decode, vae_mode = work.vae("decode")
    phases = [*work.encode(), *([work.vae("encode")[0]] if shape.from_image else []), denoise]
    phases.append(decode)
    problems, reasons = [], []
    limit = room.total_bytes - room.foreign_bytes - room.reserve_bytes
    for phase in phases:
        if phase.least_bytes > limit:
            problems.append(
                f"{phase.name} takes {_mib(phase.least_bytes)} at least, {_mib(limit)} can be had"
            )
        elif phase.streams:
            reasons.append(f"{phase.name}: weights that do not fit are streamed, which is slower")
    available = room.host_available_bytes
    weights = model.total_bytes + sum(shape.beside) + sum(eye.total_bytes for eye in shape.eyes)
    if available is not None and weights > available:
        problems.append(
            f"the weights take {_mib(weights)} of main memory, {_mib(available)} can be had"
        )
    if shape.guided and not batched:
        reasons.append("prompt and negative prompt run one after the other to save memory")
    if vae_mode.kind is VaeKind.TILED:
        reasons.append(f"the VAE decodes in tiles of {vae_mode.tile * work.vae_downscale} pixels")
    return Estimate(
        fits=not problems,
        mode=mode,
        phases=tuple(phases),
        peak_bytes=max(phase.peak_bytes for phase in phases),
        cond_batching=batched,
        vae_mode=vae_mode,
        reasons=tuple(problems + reasons or ["everything fits"]) + tuple(work.notes()),
    )


def _mib(count: int) -> str:
    return f"{max(count, 0) / MIB:,.0f} MiB"


class _Work:
    """The phases of one request."""

    def __init__(
        self, model: ModelSizes, shape: Shape, room: Room, mode: str, factor: Factor
    ) -> None:
        self.model, self.shape, self.room = model, shape, room
        self.mode, self.factor = mode, factor

    def encode(self) -> list[Phase]:
        """Text encoders run one after the other; the greatest of them is the phase."""
        rows = 2 if self.shape.guided else 1
        phases = [
            self._phase("encode", network, self._working(network, "encode", rows, 0))
            for network in (*self.model.of("text_encoder"), *self.shape.eyes)
        ]
        return [max(phases, key=lambda phase: phase.peak_bytes)] if phases else []

    def denoise(self) -> tuple[Phase, bool]:
        """Cond and uncond in one forward where that costs no residency, else one by one."""
        (network,) = self.model.of("denoiser")
        pixels = self.shape.seen_pixels(network.downscale)
        single = self._working(network, "denoise", self.shape.batch, pixels)
        both = self._working(network, "denoise", 2 * self.shape.batch, pixels)
        separate = self._phase("denoise", network, single, self.shape.beside)
        if not self.shape.guided:
            return separate, True
        together = self._phase("denoise", network, both, self.shape.beside)
        limit = self._limit
        if together.least_bytes <= limit and (self.mode in STREAMED or not together.streams):
            return together, True
        fits = separate.streams and together.least_bytes <= limit
        return (together, True) if fits else (separate, False)

    def vae(self, way: str) -> tuple[Phase, VaeMode]:
        """Return the VAE's phase, in the largest tiles that fit."""
        (network,) = self.model.of("vae")
        name = "decode" if way == "decode" else "vae-encode"

        def needed(pictures: int, height: int, width: int) -> int:
            traced = network.activations(
                f"{network.trace}.{way}", f"vae-{way}", pictures, height * width, 0
            )
            return int(traced * self.factor(network, name))

        height, width = self.shape.latent(network.downscale)
        largest = max(self.shape.referred, default=0) if way == "encode" else 0
        side = int(largest**0.5) // network.downscale
        height, width = max((height, width), (side, side), key=lambda one: one[0] * one[1])
        room = self._limit - network.total_bytes
        mode = choose(1, height, width, needed=needed, room_bytes=room)
        return self._phase(name, network, needed(*mode.extent(1, height, width))), mode

    @property
    def vae_downscale(self) -> int:
        """Pixels a side for each latent pixel of the VAE's own."""
        return self.model.of("vae")[0].downscale

    def notes(self) -> list[str]:
        """Say which figures are borrowed from another network."""
        notes = []
        for network in self.model.networks:
            is_vae = network.role == "vae"
            name = f"{network.trace}.decode" if is_vae else network.trace
            kind = "vae-decode" if is_vae else network.kind
            note = nearest_trace(name, kind, network.width)[1]
            notes += [note] if note else []
        return notes

    @property
    def _limit(self) -> int:
        return self.room.total_bytes - self.room.foreign_bytes - self.room.reserve_bytes

    def _working(self, network: Network, phase: str, rows: int, pixels: int) -> int:
        traced = network.activations(network.trace, network.kind, rows, pixels, self.shape.tokens)
        return int(traced * self.factor(network, phase))

    def _phase(
        self, name: str, network: Network, working: int, beside: tuple[int, ...] = ()
    ) -> Phase:
        if self.room.is_host:
            weights = self.model.total_bytes + sum(beside)
            peak = weights + working
            return Phase(
                name=name,
                weights_bytes=weights,
                working_bytes=working,
                peak_bytes=peak,
                least_bytes=peak,
            )
        allowed = self.room.budget(working).weights_bytes
        floor = network.total_bytes if self.mode in WHOLE else network.floor_bytes
        # They take their place first, and are streamed as U-Nets are.
        ring = _RING_UNITS * _UNIT_BYTES["unet"]
        least = sum(beside if self.mode in WHOLE else (min(one, ring) for one in beside))
        others = least if self.mode in STREAMED else min(sum(beside), max(allowed - floor, least))
        allowed -= others
        active = floor if self.mode in STREAMED else min(network.total_bytes, max(allowed, floor))
        kept = 0 if self.mode in STREAMED | ALONE else self._kept(network, allowed - active)
        return Phase(
            name=name,
            weights_bytes=others + active + kept,
            working_bytes=working,
            peak_bytes=others + active + kept + working,
            least_bytes=floor + least + working,
            streams=active < network.total_bytes or others < sum(beside),
        )

    def _kept(self, active: Network, room: int) -> int:
        """Return the bytes of other components that stay beside the active one."""
        others = sorted(
            (network for network in self.model.networks if network is not active),
            key=lambda network: network.total_bytes,
        )
        kept = 0
        for network in others:
            if kept + network.total_bytes <= room:
                kept += network.total_bytes
        return kept

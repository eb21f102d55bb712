"""What a request would take, and which memory mode suits a checkpoint, before anything is loaded.

Reads headers only and loads no torch, so any thread may ask at any time. Figures of the device come
from the memory report once the model thread has one, before that from the drivers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sdforge.core.device import Machine, survey
from sdforge.core.errors import InvalidRequest, MissingModel
from sdforge.core.request import GenerationRequest
from sdforge.core.settings import Settings
from sdforge.engine.beside import control_networks
from sdforge.engine.drawn import DEFAULT_SIDE, Drawn, drawn
from sdforge.engine.job import Job
from sdforge.engine.prediction import MEGAPIXEL, DetailsOf, no_details, predict_seconds
from sdforge.flags import wants_cpu
from sdforge.memory.advice import choose_mode, factor_of, room_of
from sdforge.memory.budget import MIB
from sdforge.memory.calibration import Calibration
from sdforge.memory.estimate import (
    Estimate,
    Factor,
    ModelSizes,
    Network,
    Room,
    Shape,
    estimate,
)
from sdforge.memory.recommend import Leg, largest_asked, other_ways
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.composition import files_of
from sdforge.models.families import FAMILIES
from sdforge.models.families.qwen_image_edit import tokens_of_pictures
from sdforge.models.hashes import Stamp
from sdforge.models.opening import open_model
from sdforge.models.precision import ITEMSIZE, precision_names
from sdforge.models.sizes import model_sizes

if TYPE_CHECKING:
    from sdforge.models.library import CheckpointInfo, Library

log = logging.getLogger(__name__)

CALIBRATION_FILE = "memory-calibration.json"
_INFERENCE_MEMORY = "forge_inference_memory"
# Settings whose values the device decides on, see `Preflight.check_settings`.
CHECKED = frozenset({_INFERENCE_MEMORY, "memory_mode"})
_SURVEY_SECONDS = 10.0
_HEADERS = 16
_SMALL_FAMILIES = frozenset({"sd1", "sd2"})
# Families that see pictures to refer to at a megapixel, also small ones, and read about them.
_EXACT = frozenset({"qwen-image-edit"})


@dataclass(frozen=True)
class ModeChoice:
    """The memory mode for a checkpoint; `was_chosen` when no flag or setting said so."""

    mode: str
    reason: str
    was_chosen: bool


class Preflight:
    """Estimates and modes over one library and one machine."""

    def __init__(
        self,
        library: Any,
        cache: Path,
        report: Callable[[], Mapping[str, Any]],
        flags: Mapping[str, Any] | None = None,
    ) -> None:
        """Look at nothing yet.

        Args:
            library: the checkpoints there are.
            cache: folder of the calibration file.
            report: the memory report, empty while nothing was loaded.
            flags: the start-up flags.
        """
        self._library = cast("Library", library)
        self._calibration_path = cache / CALIBRATION_FILE
        self._report = report
        self._flags = flags or {}
        self._lock = threading.Lock()
        self._machine: Machine | None = None
        self._looked_at = 0.0
        self._calibration = (-1, Calibration())

    def machine(self) -> Machine:
        """Return the device and the memory that is free, at most ten seconds old."""
        with self._lock:
            now = time.monotonic()
            if self._machine is None or now - self._looked_at > _SURVEY_SECONDS:
                self._machine = survey(
                    force_cpu=wants_cpu(self._flags),
                    device_id=self._flags.get("device_id"),
                    flags=self._flags,
                )
                self._looked_at = now
            return self._machine

    def total_mib(self) -> int:
        """Return how much memory the device has, in MiB."""
        known = int(self._report().get("total_bytes", 0))
        return (known or self.machine().device.total_bytes) // MIB

    def check_settings(self, values: Mapping[str, Any]) -> None:
        """Refuse memory settings that the device cannot hold or that only a start can bring.

        Raises:
            InvalidRequest: forge_inference_memory is more than the device has; memory_mode is
                always-cpu where an accelerator is in use.
        """
        device = self.machine().device
        if values.get("memory_mode") == "always-cpu" and device.is_accelerator:
            others = "another mode; to compute on the CPU, start with --always-cpu"
            raise InvalidRequest("memory_mode", "always-cpu", others)
        wanted = values.get(_INFERENCE_MEMORY)
        if isinstance(wanted, (int, float)) and wanted > self.total_mib():
            allowed = f"MiB from 0 to the device's {self.total_mib()}"
            raise InvalidRequest(_INFERENCE_MEMORY, wanted, allowed)

    def with_preset(self, values: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
        """Return changed settings, with the inference memory that a switch of preset brings.

        A preset's GPU weights count where the same change does not name an inference memory.
        """
        changed = dict(values)
        preset = changed.get("forge_preset")
        if preset is None or changed.get(_INFERENCE_MEMORY) is not None:
            return changed
        weights = changed.get(f"{preset}_GPU_MB", getattr(settings, f"{preset}_GPU_MB", 0))
        if isinstance(weights, (int, float)) and 0 < weights <= self.total_mib():
            changed[_INFERENCE_MEMORY] = self.total_mib() - int(weights)
        return changed

    def mode_for(self, settings: Settings, title: str) -> ModeChoice:
        """Return the mode that a checkpoint runs in under these settings.

        Raises:
            UnknownName, ModelError: the checkpoint cannot be used.
        """
        said = settings.memory_mode
        if said not in ("auto", "medvram-sdxl"):
            return ModeChoice(said, "as the flags or settings say", was_chosen=False)
        info = self._library.find(title)
        if said == "medvram-sdxl":
            is_large = info.family not in _SMALL_FAMILIES
            reason = f"medvram-sdxl, and this checkpoint is {info.family or 'of no known family'}"
            return ModeChoice("medvram" if is_large else "normal", reason, was_chosen=False)
        model = self._sizes(settings, info)
        room = self._room(settings)
        mode, reason = choose_mode(model, _usual_shape(info), room, self._factor())
        return ModeChoice(mode, reason, was_chosen=True)

    def estimate(
        self,
        request: GenerationRequest,
        settings: Settings,
        past: Sequence[Job],
        details_of: DetailsOf = no_details,
    ) -> dict[str, Any]:
        """Return what a resolved request takes, as JSON types.

        Args:
            request: with a size and a checkpoint.
            settings: that it would run with.
            past: finished jobs, newest first, to predict the time from.
            details_of: tells what is drawn again in a request's pictures.

        Raises:
            UnknownName, ModelError: the checkpoint or VAE cannot be used.
        """
        room, factor = self._room(settings), self._factor()
        choice = self.mode_for(settings, request.checkpoint)
        itemsize = ITEMSIZE[precision_names(self.machine().device, self._flags)["denoiser"]]
        beside = control_networks(request, self._library.controlnets, _header, itemsize)
        parts = drawn(request, settings, details_of(request))
        legs = [self._leg(one, request, settings, beside) for one in parts]
        asked = legs[-1].shape
        found = [estimate(leg.model, leg.shape, room, choice.mode, factor) for leg in legs]
        # What does not fit says so; else the largest speaks for all.
        number = min(range(len(legs)), key=lambda at: (found[at].fits, -found[at].peak_bytes))
        leg, worst = legs[number], found[number]
        fits = worst.fits
        largest = largest_asked(legs, room, choice.mode, factor)
        return {
            "fits": fits,
            "mode": choice.mode,
            "mode_reason": choice.reason,
            "checkpoint": leg.checkpoint,
            "phases": [asdict(phase) for phase in worst.phases],
            "peak_bytes": worst.peak_bytes,
            "weights_bytes": _weights_bytes(leg),
            "passes": [_passed(leg, one) for leg, one in zip(legs, found, strict=True)],
            "budget": self._budget(room, worst),
            "vae": worst.vae_mode.describe(),
            "cond_batching": worst.cond_batching,
            "seconds": predict_seconds(request, past, details_of),
            "reasons": _reasons(legs, found),
            "asked": _size(asked),
            "recommended": _size(asked if fits else largest),
            "largest": _size(largest),
            "alternatives": [] if fits else other_ways(legs, room, factor),
        }

    def _leg(
        self,
        one: Drawn,
        request: GenerationRequest,
        settings: Settings,
        beside: tuple[tuple[int, ...], tuple[Network, ...]],
    ) -> Leg:
        info = self._library.find(one.checkpoint)
        is_exact = info.family in _EXACT
        pictures = len(request.references) + bool(request.init_images)
        read = tokens_of_pictures(info.refers, pictures) if is_exact else 0
        shape = replace(
            one.shape,
            tokens=one.shape.tokens + read,
            beside=beside[0],
            eyes=beside[1],
            references=int(info.refers > 0 and bool(request.init_images)),
            referred=_referred(request, exact=is_exact),
        )
        return Leg(one.name, one.checkpoint, self._sizes(settings, info, one.modules), shape)

    def _budget(self, room: Room, found: Estimate) -> dict[str, Any]:
        working = max(phase.working_bytes for phase in found.phases)
        return {
            "device": self.machine().device.name,
            "total_bytes": room.total_bytes,
            "inference_bytes": room.inference_bytes,
            "reserve_bytes": room.reserve_bytes,
            "foreign_bytes": room.foreign_bytes,
            "weights_bytes": room.budget(working).weights_bytes,
            "host_available_bytes": room.host_available_bytes,
        }

    def _sizes(
        self, settings: Settings, info: CheckpointInfo, names: Sequence[str] | None = None
    ) -> ModelSizes:
        """Return a checkpoint's networks with the files of `names`, None for the settings'."""
        vae = self._library.find_vae(settings.sd_vae, info)
        names = settings.forge_additional_modules if names is None else names
        modules = self._library.find_modules(names)
        precision = precision_names(self.machine().device, self._flags)
        beside: dict[str, Path] = {}
        if info.family is not None:
            files = files_of(FAMILIES.get(info.family), info.path, vae, modules)
            beside = {role: path for role, path in files.items() if path != info.path}
        headers = {role: _header(path) for role, path in beside.items()}
        return model_sizes(info.family or "", _header(info.path), precision, beside=headers)

    def _room(self, settings: Settings) -> Room:
        room = room_of(self.machine(), settings.forge_inference_memory)
        report = self._report()
        own = sum(int(part["host_bytes"]) for part in report.get("components", ()))
        if room.host_available_bytes is not None:
            room = replace(room, host_available_bytes=room.host_available_bytes + own)
        if room.is_host:
            return replace(room, foreign_bytes=max(room.foreign_bytes - own, 0))
        if "foreign_bytes" in report:
            # The driver's count of free memory does not know which part of it is ours.
            room = replace(room, foreign_bytes=int(report["foreign_bytes"]))
        return room

    def _factor(self) -> Factor:
        try:
            changed = self._calibration_path.stat().st_mtime_ns
        except OSError:
            changed = 0
        if changed != self._calibration[0]:
            self._calibration = (changed, Calibration(self._calibration_path))
        return factor_of(self._calibration[1], self.machine().device.name)


def _referred(request: GenerationRequest, *, exact: bool) -> tuple[int, ...]:
    """Return the pixels of each picture that a request refers to, as the model is shown it."""
    sizes = (MEGAPIXEL if exact else one.width * one.height for one in request.references)
    return tuple(min(size, MEGAPIXEL) for size in sizes)


def _usual_shape(info: CheckpointInfo) -> Shape:
    """Return one picture of the size that a checkpoint was made for."""
    small = info.family in _SMALL_FAMILIES
    usual = DEFAULT_SIDE if small else 2 * DEFAULT_SIDE
    wanted = info.recommended
    return Shape(width=wanted.width or usual, height=wanted.height or usual)


def _size(shape: Shape | None) -> dict[str, int] | None:
    if shape is None:
        return None
    return {"width": shape.width, "height": shape.height, "batch_size": shape.batch}


def _weights_bytes(leg: Leg) -> int:
    eyes = sum(eye.total_bytes for eye in leg.shape.eyes)
    return leg.model.total_bytes + sum(leg.shape.beside) + eyes


def _passed(leg: Leg, found: Estimate) -> dict[str, Any]:
    return {
        "name": leg.name,
        "checkpoint": leg.checkpoint,
        "fits": found.fits,
        "peak_bytes": found.peak_bytes,
        "weights_bytes": _weights_bytes(leg),
        **(_size(leg.shape) or {}),
    }


def _reasons(legs: Sequence[Leg], found: Sequence[Estimate]) -> list[str]:
    """Return what estimates say, those that do not fit first; with several, whose words it is."""
    if len(legs) == 1:
        return list(found[0].reasons)
    pairs = sorted(zip(legs, found, strict=True), key=lambda pair: pair[1].fits)
    return [f"{leg.checkpoint}: {reason}" for leg, one in pairs for reason in one.reasons]


def _header(path: Path) -> CheckpointHeader:
    try:
        return _read(path, Stamp.of(path))
    except OSError as error:
        raise MissingModel(f"{path} cannot be opened: {error.strerror or error}") from error


@lru_cache(maxsize=_HEADERS)
def _read(path: Path, stamp: Stamp) -> CheckpointHeader:
    """Read a header once per state of the file; `stamp` is what tells states apart."""
    return open_model(path)

"""The one checkpoint in use: switch it safely, keep what is equal, never hold two.

Everything about the new checkpoint that a header can tell is checked while the old one still works;
then the old one's memory is given back, and only then weights are read. Model thread only.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from sdforge.core.device import DeviceInfo
from sdforge.core.errors import MissingModel, OutOfMemory, UnsupportedCheckpoint
from sdforge.memory.component import Component
from sdforge.memory.manager import MemoryManager
from sdforge.models.bundle import ModelBundle
from sdforge.models.checkpoint import CheckpointHeader, read_header
from sdforge.models.detect import detect
from sdforge.models.families import FAMILIES
from sdforge.models.families.base import Family, Match, Recipe
from sdforge.models.hashes import Stamp
from sdforge.models.library import CheckpointInfo, Library
from sdforge.models.weights import host_bytes, load_component

log = logging.getLogger(__name__)

_MIB = 1024 * 1024


@dataclass(frozen=True)
class Precision:
    """In which type of numbers each kind of network is kept and run."""

    denoiser: torch.dtype
    text_encoder: torch.dtype
    vae: torch.dtype

    def of(self, role: str) -> torch.dtype:
        """Return the type for a component's role."""
        if role == "denoiser":
            return self.denoiser
        return self.vae if role == "vae" else self.text_encoder


def choose_precision(device: DeviceInfo, flags: Mapping[str, object] | None = None) -> Precision:
    """Return the precision for a device, as A1111's and Forge's start-up flags allow.

    Without flags: half precision where the device is fast at it, and a VAE in bf16 (SD's overflows
    in fp16) or else in fp32.

    Args:
        device: where networks will run.
        flags: by argparse names: no_half, no_half_vae, precision, all_in_fp32, unet_in_fp16,
            unet_in_bf16, clip_in_fp16, clip_in_fp32, vae_in_fp16, vae_in_bf16, vae_in_fp32.
    """
    said = {name for name, value in (flags or {}).items() if value}
    if (flags or {}).get("precision") == "full":
        said.add("all_in_fp32")
    all_full = bool({"no_half", "all_in_fp32"} & said)

    def pick(part: str, usual: torch.dtype) -> torch.dtype:
        for name, dtype in (
            ("fp32", torch.float32),
            ("bf16", torch.bfloat16),
            ("fp16", torch.float16),
        ):
            if f"{part}_in_{name}" in said:
                usual = dtype
                break
        is_fast = {
            torch.float32: True,
            torch.float16: device.supports_fp16,
            torch.bfloat16: device.supports_bf16,
        }
        return usual if is_fast[usual] and not all_full else torch.float32

    vae = pick("vae", torch.bfloat16 if device.supports_bf16 else torch.float32)
    return Precision(
        denoiser=pick("unet", torch.float16),
        text_encoder=pick("clip", torch.float16),
        vae=torch.float32 if "no_half_vae" in said else vae,
    )


@dataclass(frozen=True)
class _Wanted:
    """What is to be in memory: which file each role comes from."""

    info: CheckpointInfo
    vae_path: Path | None
    match: Match
    family: Family
    headers: Mapping[str, CheckpointHeader]
    fingerprints: dict[str, str]


def _files(family: Family, info: CheckpointInfo, vae_path: Path | None) -> dict[str, Path]:
    """Return which file each role of a family comes from."""
    files = dict.fromkeys(family.roles, info.path)
    return {**files, "vae": vae_path} if vae_path is not None else files


def _no_progress(fraction: float) -> None:
    return None


class ModelProvider:
    """Loads checkpoints on demand and holds the one in use."""

    def __init__(self, library: Library, memory: MemoryManager, *, precision: Precision) -> None:
        """Load nothing yet."""
        self._library = library
        self._memory = memory
        self._precision = precision
        self._bundle: ModelBundle | None = None
        self._fingerprints: dict[str, str] = {}

    @property
    def current(self) -> ModelBundle | None:
        """The loaded bundle, if any."""
        return self._bundle

    def get(
        self,
        title: str,
        *,
        vae: str = "Automatic",
        on_progress: Callable[[float], None] = _no_progress,
    ) -> ModelBundle:
        """Return a checkpoint's bundle, loading what is not loaded yet.

        A bundle that this provider returned before becomes unusable when another is loaded. When
        the new checkpoint turns out to be unusable by its header, the old one stays.

        Args:
            title: any name that `Library.find` knows; "" for the first.
            vae: 'Automatic' or 'None' for the checkpoint's own, else the name of a VAE file.
            on_progress: called with the fraction read, 0 to 1, while weights are loaded.

        Raises:
            UnknownName: no checkpoint or VAE of that name.
            MissingModel: no checkpoint at all, or a part of it is missing.
            UnsupportedCheckpoint: a kind that cannot be run.
            CorruptCheckpoint: damaged.
            OutOfMemory: the host's memory cannot hold it.
        """
        info = self._library.find(title)
        vae_path = self._library.find_vae(vae, info)
        if self._bundle is not None and self._is_loaded(info, vae_path):
            return self._bundle
        wanted = self._resolve(info, vae_path)
        recipes = self._recipes(wanted)
        self._check_room(recipes)
        return self._switch(wanted, recipes, on_progress)

    def unload(self) -> None:
        """Give back all memory; the next `get` loads again."""
        bundle, self._bundle, self._fingerprints = self._bundle, None, {}
        if bundle is not None:
            self._memory.release(*bundle.components.values())

    def _is_loaded(self, info: CheckpointInfo, vae_path: Path | None) -> bool:
        """Compare with what is in memory by the files' stamps, without opening any."""
        if info.family is None or info.error is not None:
            return False
        files = _files(FAMILIES.get(info.family), info, vae_path)
        return self._fingerprints == self._fingerprints_of(files)

    def _resolve(self, info: CheckpointInfo, vae_path: Path | None) -> _Wanted:
        headers = {info.path: read_header(info.path)}
        match = detect(headers[info.path])
        if match.problem:
            raise UnsupportedCheckpoint(f"{info.path.name}: {match.problem}")
        family = FAMILIES.get(match.family)
        if vae_path is not None:
            headers[vae_path] = read_header(vae_path)
        files = _files(family, info, vae_path)
        return _Wanted(
            info=info,
            vae_path=vae_path,
            match=match,
            family=family,
            headers={role: headers[path] for role, path in files.items()},
            fingerprints=self._fingerprints_of(files),
        )

    def _fingerprints_of(self, files: Mapping[str, Path]) -> dict[str, str]:
        return {role: self._fingerprint(role, path) for role, path in files.items()}

    def _fingerprint(self, role: str, path: Path) -> str:
        try:
            stamp = Stamp.of(path)
        except OSError as error:
            raise MissingModel(f"{path} cannot be opened: {error.strerror or error}") from error
        text = f"{stamp}|{role}|{self._precision.of(role)}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _recipes(self, wanted: _Wanted) -> dict[str, Recipe]:
        """Return how to make each part that is not loaded already; everything is checked here."""
        return {
            role: wanted.family.recipe(role, header)
            for role, header in wanted.headers.items()
            if self._fingerprints.get(role) != wanted.fingerprints[role]
        }

    def _check_room(self, recipes: Mapping[str, Recipe]) -> None:
        needed = sum(
            host_bytes(recipe, self._precision.of(role)) for role, recipe in recipes.items()
        )
        leaving = sum(
            arena.total_bytes
            for role, component in self._loaded().items()
            if role in recipes
            for arena in component.arenas
        )
        # Swap counts: slow is better than refused.
        room = psutil.virtual_memory().available + psutil.swap_memory().free + leaving
        if needed > room:
            raise OutOfMemory(
                f"loading needs {needed // _MIB} MiB of main memory, {room // _MIB} MiB can be "
                "had; close other programs or take a smaller checkpoint"
            )

    def _loaded(self) -> dict[str, Component]:
        return dict(self._bundle.components) if self._bundle else {}

    def _switch(
        self,
        wanted: _Wanted,
        recipes: Mapping[str, Recipe],
        on_progress: Callable[[float], None],
    ) -> ModelBundle:
        started = time.perf_counter()
        components = self._loaded()
        self._bundle, self._fingerprints = None, {}
        leaving = [role for role in components if role in recipes or role not in wanted.headers]
        self._memory.release(*(components.pop(role) for role in leaving))
        try:
            self._read(wanted, recipes, components, on_progress)
            parts = wanted.family.assemble(wanted.match, components, self._memory)
        except BaseException:
            self._memory.release(*components.values())
            raise
        identity = self._library.start_identity(wanted.info, wanted.vae_path)
        self._bundle = ModelBundle(
            info=wanted.info,
            family=wanted.match.family,
            components=components,
            latent_format=parts.latent_format,
            text=parts.text,
            vae=parts.vae,
            denoiser=parts.denoiser,
            identify=identity.result,
        )
        self._fingerprints = wanted.fingerprints
        log.info(
            "loaded %s (%s) in %.2f s: %s",
            wanted.info.relative,
            ", ".join(recipes),
            time.perf_counter() - started,
            wanted.match.reason,
        )
        return self._bundle

    def _read(
        self,
        wanted: _Wanted,
        recipes: Mapping[str, Recipe],
        components: dict[str, Component],
        on_progress: Callable[[float], None],
    ) -> None:
        progress = _Progress(recipes, on_progress)
        for role, recipe in recipes.items():
            components[role] = load_component(
                recipe,
                self._precision.of(role),
                name=recipe.header.path.stem,
                fingerprint=wanted.fingerprints[role],
                on_progress=progress.add,
            )
        progress.finish()


class _Progress:
    """Turns bytes read into fractions, one report per percent."""

    def __init__(self, recipes: Mapping[str, Recipe], on_progress: Callable[[float], None]) -> None:
        self._total = sum(
            recipe.header.tensors[recipe.sources[key].key].size_bytes
            for recipe in recipes.values()
            for key in recipe.module.state_dict()
        )
        self._done = 0
        self._reported = 0.0
        self._on_progress = on_progress
        on_progress(0.0)

    def add(self, count: int) -> None:
        """Count bytes that were read."""
        self._done += count
        fraction = self._done / max(self._total, 1)
        if fraction >= self._reported + 0.01 and fraction < 1:
            self._reported = fraction
            self._on_progress(fraction)

    def finish(self) -> None:
        """Report the end."""
        self._on_progress(1.0)

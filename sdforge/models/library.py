"""Which checkpoints and VAEs there are, and what clients may call them.

Folders are scanned by headers alone; a broken file is listed with its error and harms no other.
Names follow A1111: a title ends in the first 10 digits of the file's SHA-256 once that is known.
Safe to use from several threads; no torch here.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from sdforge.core.errors import MissingModel, ModelError, SdforgeError, UnknownName
from sdforge.core.paths import Paths, demo_checkpoint, demo_folder
from sdforge.core.request import Recommended
from sdforge.core.result import ModelIdentity
from sdforge.models.adapters.controlnet_library import ControlNetLibrary
from sdforge.models.adapters.embedding_library import EmbeddingLibrary, EmbeddingTokenizer
from sdforge.models.adapters.hypernetwork_library import HypernetworkLibrary
from sdforge.models.adapters.lora_library import LoraLibrary
from sdforge.models.detect import detect, recommended
from sdforge.models.detectors.library import DetectorLibrary
from sdforge.models.faces.library import FaceLibrary
from sdforge.models.files import model_files, model_folders
from sdforge.models.hashes import HashCache, Stamp, legacy_hash
from sdforge.models.opening import open_model
from sdforge.models.tokenizers import clip_tokenizer
from sdforge.models.upscalers.library import UpscalerLibrary

log = logging.getLogger(__name__)

_CHECKPOINT_SUFFIXES = (".safetensors", ".sft", ".ckpt", ".gguf")
_VAE_SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".bin")
_MODULE_SUFFIXES = (*_VAE_SUFFIXES, ".gguf")
_OWN_VAE = ("", "automatic", "none")
_SHORT_HASH = 10


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """One file of the library.

    `relative` is its path below the model folder with forward slashes. `error` says why it cannot
    run, `reason` what it is and by which signs.
    """

    path: Path
    name: str
    relative: str
    sha256: str | None = None
    family: str | None = None
    variant: str | None = None
    prediction: str | None = None
    reason: str = ""
    error: str | None = None
    recommended: Recommended = Recommended()
    refers: int = 0

    @property
    def short_hash(self) -> str | None:
        """First 10 digits of the SHA-256, None while unknown."""
        return self.sha256[:_SHORT_HASH] if self.sha256 else None

    @property
    def title(self) -> str:
        """The name that lists show: 'sub/x.safetensors [0123456789]', unhashed without brackets."""
        return f"{self.relative} [{self.short_hash}]" if self.sha256 else self.relative

    @property
    def model_name(self) -> str:
        """A1111's `model_name`: the relative path without suffix, folders joined by '_'."""
        path = PurePosixPath(self.relative)
        is_file = path.suffix.lower() in _CHECKPOINT_SUFFIXES
        return str(path.with_suffix("") if is_file else path).replace("/", "_")

    @cached_property
    def plain_aliases(self) -> tuple[str, ...]:
        """The names that need no look into the file, best first."""
        names = [self.title, self.relative, self.path.name, self.model_name, self.name]
        if self.sha256:
            short = self.sha256[:_SHORT_HASH]
            names += [short, self.sha256, f"{self.name} [{short}]", f"{self.model_name} [{short}]"]
        return tuple(dict.fromkeys(names))

    def aliases(self) -> list[str]:
        """Return all names that clients may use; A1111's old hash is read from the file."""
        names = list(self.plain_aliases)
        old = legacy_hash(self.path)
        if old:
            names += [old, f"{self.name} [{old}]", f"{self.relative} [{old}]"]
        return list(dict.fromkeys(names))


@dataclass(frozen=True, kw_only=True)
class VaeFile:
    """A VAE that can stand in for a checkpoint's own; `name` is the file's name."""

    path: Path
    name: str


class Library:
    """The model files below the folders of `Paths`; from `loras` on those of other kinds."""

    def __init__(self, paths: Paths, *, hashing: bool = True) -> None:
        """Look nowhere yet; without `hashing`, titles stay without hashes (A1111: --no-hashing)."""
        self.loras = LoraLibrary(paths)
        self.embeddings = EmbeddingLibrary(paths)
        self.hypernetworks = HypernetworkLibrary(paths)
        self.controlnets = ControlNetLibrary(paths)
        self.upscalers, self.faces = UpscalerLibrary(paths), FaceLibrary(paths)
        self.detectors = DetectorLibrary(paths, self.faces)
        self._paths, self._hashing = paths, hashing
        self._cache = HashCache(paths.cache / "model-hashes.json")
        self._lock = threading.RLock()
        self._seen: dict[Path, tuple[Stamp, CheckpointInfo]] = {}
        self._checkpoints: list[CheckpointInfo] | None = None
        self.changes = 0  # how often a refresh of everything found files come or gone

    def refresh_all(self) -> None:
        """Scan the folders of every kind again."""
        self.refresh()
        self.loras.refresh()
        self.embeddings.refresh()
        self.hypernetworks.refresh()
        self.controlnets.refresh()
        self.changes += 1

    def watched(self) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
        """Return the folders whose changes matter, and files that may still be being written."""
        unreadable = tuple(info.path for info in self.checkpoints() if info.error is not None)
        return self._paths.searched, unreadable

    def refresh(self) -> None:
        """Scan the folders again; files that did not change are not opened."""
        with self._lock:
            found = self._scan()
            shows_demo = not any(info.error is None for info in found)
            if shows_demo and demo_checkpoint().is_file():
                demo = demo_checkpoint()
                found.append(self._inspect(demo, demo.name))
            # What was made for the demo is of no use to other models.
            for library, kind in (
                (self.loras, "Lora"),
                (self.embeddings, "embeddings"),
                (self.controlnets, "ControlNet"),
            ):
                library.also(*([demo_folder(kind)] if shows_demo else []))
            self.upscalers.refresh()
            self._checkpoints = found
            listed = {info.path for info in found}
            self._seen = {path: row for path, row in self._seen.items() if path in listed}

    def checkpoints(self) -> list[CheckpointInfo]:
        """Return all checkpoints, broken ones too, in order of their names."""
        with self._lock:
            if self._checkpoints is None:
                self.refresh()
            return list(self._checkpoints or ())

    def find(self, name: str, *, exact: bool = False) -> CheckpointInfo:
        """Return the checkpoint of a name, by A1111's rules.

        "" is the first that can run. Otherwise an alias decides, first as written, then without
        regard to case, and unless `exact` the shortest title that contains the name, at last the
        same without a trailing ' [hash]'.

        Raises:
            MissingModel: there is no checkpoint at all.
            UnknownName: none of that name.
        """
        infos = self.checkpoints()
        usable = [info for info in infos if info.error is None]
        wanted = name.strip().replace("\\", "/")
        if not wanted:
            if not usable:
                raise self._nothing(infos)
            return usable[0]
        if not infos:
            raise self._nothing(infos)
        bare = re.sub(r"\s*\[[0-9a-fA-F]*\]$", "", wanted)
        found = _by_alias(infos, wanted)
        if found is None and not exact:
            found = _by_part(infos, wanted) or _by_alias(infos, bare) or _by_part(infos, bare)
        if found is None:
            titles = [info.title for info in infos]
            raise UnknownName("checkpoint", name, titles, "sd_model_checkpoint")
        return found

    def tokenizer(self) -> EmbeddingTokenizer:
        """Return what counts the tokens of prompts, those of embeddings included."""
        return self.embeddings.tokenizer(clip_tokenizer())

    def ensure_hash(self, info: CheckpointInfo) -> CheckpointInfo:
        """Return `info` with its SHA-256, reading the whole file or folder where it is not known.

        Raises:
            MissingModel: the file cannot be read.
        """
        if info.sha256 or not self._hashing:
            return info
        sha256 = self._cache.compute(info.path)
        with self._lock:
            row = self._seen.get(info.path)
            # The cache decides: the file may have been replaced since it was listed.
            if row is not None and self._cache.get(row[0]) == sha256:
                stamp, listed = row
                renewed = replace(listed, sha256=sha256)
                self._seen[info.path] = (stamp, renewed)
                self._checkpoints = [
                    renewed if known is listed else known for known in self._checkpoints or ()
                ]
        return replace(info, sha256=sha256)

    @property
    def checkpoint_folder(self) -> Path:
        """Where new checkpoints go."""
        return self._paths.checkpoints[0]

    def learn_hash(self, path: Path, sha256: str) -> None:
        """Take the SHA-256 of a file from whoever has just written it."""
        if self._hashing:
            self._cache.learn(path, sha256)

    def start_identity(self, info: CheckpointInfo, vae: Path | None) -> Future[ModelIdentity]:
        """Begin hashing on a thread of its own; the result names the weights of a picture."""
        future: Future[ModelIdentity] = Future()

        def work() -> None:
            try:
                future.set_result(self._identity(info, vae))
            except Exception as error:  # noqa: BLE001 - raised again where the result is read
                future.set_exception(error)

        # A daemon: leaving the program must not wait for gigabytes to be read.
        threading.Thread(target=work, name="sdforge-hash", daemon=True).start()
        return future

    def vaes(self) -> list[VaeFile]:
        """Return the files of the VAE folders, in order of their names."""
        found: dict[str, VaeFile] = {}
        for root in self._paths.vaes:
            for path in model_files(root, _VAE_SUFFIXES):
                found.setdefault(path.name, VaeFile(path=path, name=path.name))
        return sorted(found.values(), key=lambda vae: vae.name.casefold())

    def modules(self) -> list[VaeFile]:
        """Return the files that bring a VAE or text encoders, in order of their names."""
        found = {vae.name: vae for vae in self.vaes()}
        for root in self._paths.text_encoders:
            for path in model_files(root, _MODULE_SUFFIXES):
                found.setdefault(path.name, VaeFile(path=path, name=path.name))
        return sorted(found.values(), key=lambda file: file.name.casefold())

    def preview_decoders(self) -> list[Path]:
        """Return the files that may be small decoders of previews, the one that ships included."""
        folders = (*self._paths.preview_decoders, demo_folder("VAE-approx"))
        suffixes = (*_VAE_SUFFIXES, ".pth")
        return [path for folder in folders for path in model_files(folder, suffixes)]

    def find_modules(self, names: Sequence[str]) -> tuple[Path, ...]:
        """Return the files of Forge's list of VAE and text encoders, by name or by any path to it.

        Only the last part of a path counts: clients send the paths of other machines.

        Raises:
            UnknownName: there is no such file.
        """
        if not names:
            return ()
        files = self.modules()
        by_name = {file.path.stem.casefold(): file.path for file in files}
        by_name |= {file.name.casefold(): file.path for file in files}
        found = []
        for name in names:
            wanted = name.strip().replace("\\", "/").rpartition("/")[2].casefold()
            if wanted not in by_name:
                known = [file.name for file in files]
                raise UnknownName("VAE or text encoder", name, known, "forge_additional_modules")
            found.append(by_name[wanted])
        return tuple(found)

    def find_vae(self, name: str, info: CheckpointInfo) -> Path | None:
        """Return the VAE file to use with a checkpoint, None for its own VAE.

        'Automatic' takes `<checkpoint>.vae.safetensors` (or .pt, .ckpt) beside the checkpoint
        where there is one.

        Raises:
            UnknownName: there is no VAE of that name.
        """
        wanted = name.strip().replace("\\", "/").rpartition("/")[2].casefold()
        if wanted in _OWN_VAE:
            names = [f"{info.path.stem}.vae{suffix}" for suffix in _VAE_SUFFIXES]
            beside = [info.path.with_name(name) for name in names if wanted != "none"]
            return next((path for path in beside if path.is_file()), None)
        vaes = self.vaes()
        for vae in vaes:
            if wanted in (vae.name.casefold(), vae.path.stem.casefold()):
                return vae.path
        raise UnknownName("VAE", name, ["Automatic", "None", *(vae.name for vae in vaes)], "sd_vae")

    def _identity(self, info: CheckpointInfo, vae: Path | None) -> ModelIdentity:
        try:
            info = self.ensure_hash(info)
            vae_sha256 = self._cache.compute(vae) if vae and self._hashing else None
        except SdforgeError as error:
            log.warning("no hash: %s", error)
            vae_sha256 = None
        return ModelIdentity(
            title=info.title,
            name=info.name,
            sha256=info.sha256,
            vae_name=vae.name if vae else None,
            vae_sha256=vae_sha256,
        )

    def _scan(self) -> list[CheckpointInfo]:
        found: dict[str, CheckpointInfo] = {}
        for root in self._paths.checkpoints:
            for path in (*model_files(root, _CHECKPOINT_SUFFIXES), *model_folders(root)):
                if ".vae." in path.name.lower():
                    # Beside a checkpoint it is its VAE; in a VAE folder it is one of many.
                    continue
                relative = path.relative_to(root).as_posix() if path != root else root.name
                if relative in found:
                    relative = f"{root.name}/{relative}"
                found.setdefault(relative, self._inspect(path, relative))
        return sorted(found.values(), key=lambda info: info.relative.casefold())

    def _inspect(self, path: Path, relative: str) -> CheckpointInfo:
        name = path.name if path.is_dir() else path.stem
        plain = CheckpointInfo(path=path, name=name, relative=relative)
        try:
            stamp = Stamp.of(path)
        except OSError as error:
            return replace(plain, error=f"{path} cannot be read: {error.strerror or error}")
        seen, known = self._seen.get(path, (None, plain))
        if seen != stamp or known.relative != relative:
            sha256 = self._cache.get(stamp) if self._hashing else None
            known = _read_info(replace(plain, sha256=sha256))
            self._seen[path] = (stamp, known)
        return known

    def _nothing(self, infos: Sequence[CheckpointInfo]) -> MissingModel:
        folder = self._paths.checkpoints[0]
        if infos:
            faults = "; ".join(f"{info.error}" for info in infos[:3])
            return MissingModel(f"none of the checkpoints in {folder} can be used: {faults}")
        return MissingModel(
            f"no checkpoint found; put a .safetensors file of Stable Diffusion 1.x into {folder} "
            "or name its folder with --ckpt-dir"
        )


def _read_info(plain: CheckpointInfo) -> CheckpointInfo:
    try:
        header = open_model(plain.path)
        plain = replace(plain, recommended=recommended(header.metadata))
        match = detect(header)
    except ModelError as error:
        return replace(plain, error=error.message)
    return replace(
        plain,
        family=match.family,
        variant=match.variant,
        prediction=match.prediction,
        reason=match.reason,
        recommended=recommended(header.metadata, match.recommended),
        refers=match.refers,
        error=f"{plain.path.name}: {match.problem}" if match.problem else None,
    )


def _by_alias(infos: Sequence[CheckpointInfo], wanted: str) -> CheckpointInfo | None:
    folded = wanted.casefold()
    tests: list[Callable[[CheckpointInfo], bool]] = [
        lambda info: wanted in info.plain_aliases,
        lambda info: folded in map(str.casefold, info.plain_aliases),
    ]
    # Only a name that can hold an old hash is worth opening the files for.
    if re.search(r"(^|\[)[0-9a-f]{8}\]?$", folded):
        tests.append(lambda info: folded in map(str.casefold, info.aliases()))
    for test in tests:
        for info in infos:
            if test(info):
                return info
    return None


def _by_part(infos: Sequence[CheckpointInfo], wanted: str) -> CheckpointInfo | None:
    folded = wanted.casefold()
    found = [info for info in infos if folded and folded in info.title.casefold()]
    return min(found, key=lambda info: len(info.title), default=None)

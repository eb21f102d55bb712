"""Where things lie on disk: the installation, the user's data, model folders.

The layout of the data folder is A1111's, so an existing one can be used in place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path


def install_root() -> Path:
    """Return the folder that holds `sdforge/` and `configs/`."""
    return Path(__file__).resolve().parents[2]


def configs_root() -> Path:
    """Return the folder of shipped configurations and tokenizers."""
    return install_root() / "configs"


def demo_checkpoint() -> Path:
    """Return the small checkpoint that ships with the program (it may be missing in a checkout)."""
    return install_root() / "sdforge" / "demo" / "sdforge-demo.safetensors"


def demo_folder(kind: str) -> Path:
    """Return where the demo's own LoRA, embeddings… lie; `kind` names a folder of `models/`."""
    return demo_checkpoint().parent / kind


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Folders of one server; extra model folders are searched besides the standard ones."""

    data: Path
    models: Path
    extra_checkpoints: tuple[Path, ...] = ()
    extra_vaes: tuple[Path, ...] = ()
    extra_text_encoders: tuple[Path, ...] = ()
    extra_loras: tuple[Path, ...] = ()
    extra_embeddings: tuple[Path, ...] = ()
    extra_hypernetworks: tuple[Path, ...] = ()
    extra_controlnets: tuple[Path, ...] = ()
    extra_clip_visions: tuple[Path, ...] = ()
    extra_upscalers: tuple[Path, ...] = ()
    extra_faces: tuple[Path, ...] = ()
    extra_outputs: tuple[Path, ...] = ()
    settings_file: Path | None = None
    styles_files: tuple[Path, ...] = ()
    localizations_folder: Path | None = None

    @classmethod
    def under(cls, data: Path, models: Path | None = None) -> Paths:
        """Return the standard layout below a data folder."""
        return cls(data=data, models=models or data / "models")

    def and_those_of(self, home: Path) -> Paths:
        """Return these folders and, for searching, the model folders of another installation.

        Args:
            home: of A1111, Forge, or another server of this kind, used in place.
        """
        other = Paths.under(home)
        return replace(
            self,
            extra_checkpoints=(*self.extra_checkpoints, *other.checkpoints),
            extra_vaes=(*self.extra_vaes, *other.vaes),
            extra_text_encoders=(*self.extra_text_encoders, *other.text_encoders),
            extra_loras=(*self.extra_loras, *other.loras),
            extra_embeddings=(*self.extra_embeddings, *other.embeddings),
            extra_hypernetworks=(*self.extra_hypernetworks, *other.hypernetworks),
            extra_controlnets=(*self.extra_controlnets, *other.controlnets),
            extra_clip_visions=(*self.extra_clip_visions, *other.clip_visions),
            extra_upscalers=(*self.extra_upscalers, *other.upscalers),
            extra_faces=(*self.extra_faces, *other.faces),
        )

    @property
    def settings(self) -> Path:
        """The file of persistent settings, A1111's `config.json`."""
        return self.settings_file or self.data / "config.json"

    @property
    def styles(self) -> tuple[Path, ...]:
        """Files of prompt styles, A1111's `styles.csv`; names may hold `*`."""
        return self.styles_files or (self.data / "styles.csv",)

    @property
    def wildcards(self) -> Path:
        """Folder of files whose lines `__name__` in a prompt chooses from."""
        return self.data / "wildcards"

    @property
    def tags(self) -> Path:
        """Folder of word lists that the page completes prompts from."""
        return self.data / "tags"

    @property
    def localizations(self) -> Path:
        """Folder of the user's translations of the page, JSON files as A1111 has them."""
        return self.localizations_folder or self.data / "localizations"

    @property
    def database(self) -> Path:
        """The job queue and history (SQLite)."""
        return self.data / "sdforge.sqlite3"

    @property
    def inputs(self) -> Path:
        """Pictures that clients sent with their jobs, named by content."""
        return self.data / "inputs"

    @property
    def sweeps_database(self) -> Path:
        """Manifests and cells of sweeps (SQLite)."""
        return self.data / "sweeps.sqlite3"

    @property
    def sweeps(self) -> Path:
        """Pictures of sweeps that went to no output folder."""
        return self.data / "sweeps"

    @property
    def trash(self) -> Path:
        """Pictures that were thrown away, until they are deleted for good."""
        return self.data / "trash"

    @property
    def cache(self) -> Path:
        """Things that can be computed again: hashes, scans."""
        return self.data / "cache"

    @property
    def extensions(self) -> Path:
        """The user's own extensions, one Python file each."""
        return self.data / "extensions"

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        """Folders searched for checkpoints."""
        return (self.models / "Stable-diffusion", *self.extra_checkpoints)

    @property
    def vaes(self) -> tuple[Path, ...]:
        """Folders searched for VAE files."""
        return (self.models / "VAE", *self.extra_vaes)

    @property
    def text_encoders(self) -> tuple[Path, ...]:
        """Folders searched for text encoders."""
        own = (self.models / "text_encoder", self.models / "text_encoders")
        return (*own, *self.extra_text_encoders)

    @property
    def loras(self) -> tuple[Path, ...]:
        """Folders searched for LoRA files and their kin."""
        return (self.models / "Lora", self.models / "LyCORIS", *self.extra_loras)

    @property
    def hypernetworks(self) -> tuple[Path, ...]:
        """Folders searched for hypernetworks."""
        return (self.models / "hypernetworks", *self.extra_hypernetworks)

    @property
    def embeddings(self) -> tuple[Path, ...]:
        """Folders searched for textual-inversion embeddings."""
        return (self.data / "embeddings", self.models / "embeddings", *self.extra_embeddings)

    @property
    def controlnets(self) -> tuple[Path, ...]:
        """Folders searched for ControlNet files."""
        return (self.models / "ControlNet", *self.extra_controlnets)

    @property
    def clip_visions(self) -> tuple[Path, ...]:
        """Folders searched for the CLIP encoders that IP-Adapters see with: ComfyUI's, Forge's."""
        folders = (self.models / "clip_vision", self.models / "ControlNetPreprocessor")
        return (*folders, *self.extra_clip_visions)

    @property
    def upscalers(self) -> tuple[Path, ...]:
        """Folders searched for upscalers; A1111 has one for each kind."""
        return (self.models / "ESRGAN", self.models / "RealESRGAN", *self.extra_upscalers)

    @property
    def faces(self) -> tuple[Path, ...]:
        """Folders searched for what finds and restores faces; A1111 has one for each kind."""
        return (self.models / "Codeformer", self.models / "GFPGAN", *self.extra_faces)

    @property
    def detectors(self) -> tuple[Path, ...]:
        """Folders searched for what finds faces, hands or persons in pictures."""
        return (self.models / "adetailer",)

    @property
    def preview_decoders(self) -> tuple[Path, ...]:
        """Folders searched for small decoders of previews and live frames (TAESD)."""
        return (self.models / "VAE-approx",)

    @property
    def searched(self) -> tuple[Path, ...]:
        """All folders in which model files of any kind are looked for."""
        return (
            *self.checkpoints, *self.vaes, *self.text_encoders, *self.loras, *self.embeddings,
            *self.hypernetworks, *self.controlnets, *self.clip_visions, *self.upscalers,
            *self.faces, *self.detectors,
        )  # fmt: skip

    @property
    def standard(self) -> tuple[Path, ...]:
        """The model folders that are made at start, as a hint where models go."""
        kinds = (
            self.checkpoints, self.vaes, self.loras, self.embeddings, self.controlnets,
            self.upscalers,
        )  # fmt: skip
        return tuple(folders[0] for folders in kinds)

    def resolve_output(self, folder: str) -> Path:
        """Return an output folder from settings; relative ones lie below the data folder."""
        return (self.data / folder).resolve()

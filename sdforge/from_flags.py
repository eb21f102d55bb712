"""What the flags say, as folders, settings and passwords.

`flags.py` reads the command line; this file makes of it what the rest of the program works with,
and `launcher.py` puts that together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sdforge.core.errors import InvalidRequest
from sdforge.core.hub import HubFile, parse_hub_file
from sdforge.core.paths import Paths, install_root
from sdforge.core.settings import OPTIONS, SettingsStore
from sdforge.flags import Flags, memory_mode, storage_type


class StartError(Exception):
    """The server cannot start; the message is one sentence for the user."""


def make_paths(flags: Flags) -> Paths:
    """Return the folders that the flags name."""
    data = _path(flags["data_dir"]) or install_root()
    paths = Paths(
        data=data,
        models=_path(flags["models_dir"]) or data / "models",
        extra_checkpoints=_folders(flags["ckpt_dir"], file=flags["ckpt"]),
        extra_vaes=_folders(flags["vae_dir"], file=flags["vae_path"]),
        extra_text_encoders=_folders(flags["text_encoder_dir"]),
        extra_loras=_folders(flags["lora_dir"], flags["lyco_dir_backcompat"]),
        extra_embeddings=_folders(flags["embeddings_dir"]),
        extra_hypernetworks=_folders(flags["hypernetwork_dir"]),
        extra_controlnets=_folders(flags["controlnet_dir"]),
        extra_upscalers=_folders(
            *(flags[f"{kind}_models_path"] for kind in ("esrgan", "realesrgan", "bsrgan"))
        ),
        extra_faces=_folders(flags["codeformer_models_path"], flags["gfpgan_models_path"]),
        extra_outputs=tuple(
            Path(name).expanduser().resolve() for name in flags["history_dir"] or ()
        ),
        settings_file=_path(flags["ui_settings_file"]),
        localizations_folder=_path(flags["localizations_dir"]),
        styles_files=tuple(
            Path(name).expanduser().absolute() for name in flags["styles_file"] or ()
        ),
    )
    home = _path(flags["forge_ref_a1111_home"])
    return paths.and_those_of(home) if home else paths


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser().resolve() if text else None


def _folders(*folders: str | None, file: str | None = None) -> tuple[Path, ...]:
    """Return folders and that of a file, as far as they are given."""
    path = _path(file)
    found = (*map(_path, folders), path.parent if path else None)
    return tuple(path for path in found if path is not None)


def make_folders(paths: Paths) -> None:
    """Make the standard folders, as a hint where models go.

    Raises:
        StartError: the data folder cannot be written.
    """
    try:
        for folder in (paths.cache, *paths.standard):
            folder.mkdir(parents=True, exist_ok=True)
        probe = paths.cache / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise StartError(
            f"the data folder {paths.data} cannot be written ({reason}); choose another with "
            "--data-dir"
        ) from error


def make_settings(flags: Flags, paths: Paths) -> SettingsStore:
    """Return the settings in force: the file's, with those that flags decide for this run.

    Raises:
        StartError: the file cannot be used.
    """
    overrides: dict[str, Any] = {}
    if mode := memory_mode(flags):
        overrides["memory_mode"] = mode
    if dtype := storage_type(flags):
        overrides["forge_unet_storage_dtype"] = dtype
    if flags["ckpt"]:
        overrides["sd_model_checkpoint"] = Path(flags["ckpt"]).name
    if flags["model"]:
        overrides["sd_model_checkpoint"] = model_of(flags["model"]).name
    if flags["vae_path"]:
        overrides["sd_vae"] = Path(flags["vae_path"]).name
    try:
        return SettingsStore(paths.settings, overrides, _frozen(flags))
    except (InvalidRequest, OSError) as error:
        raise StartError(f"the settings in {paths.settings} cannot be used: {error}") from error


def model_of(text: str) -> HubFile:
    """Return the file that `--model` names; raises `StartError`."""
    try:
        return parse_hub_file(text, "--model")
    except InvalidRequest as error:
        raise StartError(error.message) from error


def with_settings(flags: Flags, settings: SettingsStore) -> Flags:
    """Return the flags with what only a start can bring, where settings ask for it."""
    if settings.current.memory_mode != "always-cpu":
        return flags
    return replace(flags, values_by_key={**flags.values_by_key, "always_cpu": True})


def credentials(flags: Flags) -> str | None:
    """Return all user:password pairs that the flags give, with commas between.

    Raises:
        StartError: the file of `--gradio-auth-path` cannot be read.
    """
    pairs = [flags["api_auth"], flags["gradio_auth"]]
    if flags["gradio_auth_path"]:
        try:
            text = Path(flags["gradio_auth_path"]).read_text(encoding="utf-8")
        except OSError as error:
            raise StartError(f"--gradio-auth-path: {error.strerror or error}") from error
        pairs += text.splitlines()
    return ",".join(pair.strip() for pair in pairs if pair and pair.strip()) or None


def _frozen(flags: Flags) -> Callable[[str], bool]:
    """Return what tells whether flags forbid to change a setting, A1111's `--freeze-…`."""
    sections = _names(flags["freeze_settings_in_sections"])
    keys = _names(flags["freeze_specific_settings"])
    keys |= {key for key, option in OPTIONS.items() if option.section in sections}
    return lambda key: bool(flags["freeze_settings"]) or key in keys


def _names(text: str | None) -> frozenset[str]:
    return frozenset(part.strip() for part in (text or "").split(",") if part.strip())

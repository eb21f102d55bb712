"""Folders in the layout of diffusers as one header, with the names of the original checkpoints.

`model_index.json` names the networks; each lies in a folder of its own, whole, in shards with an
index, or as a variant (fp16). Their files count as laid end to end. No torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdforge.core.errors import CorruptCheckpoint, MissingModel, UnsupportedCheckpoint
from sdforge.models.checkpoint import CheckpointHeader, Piece, read_header
from sdforge.models.files import MODEL_INDEX
from sdforge.models.formats.diffusers_names import is_unet, is_vae, original_unet, original_vae
from sdforge.models.layout import Layout, TensorInfo

_MOST_INDEX_BYTES = 16 * 1024 * 1024
# Files are laid out at whole pages, so that alignment within a file is alignment here.
_PAGE = 4096
_WEIGHTS = ("diffusion_pytorch_model", "model", "pytorch_model")
_VARIANTS = ("", ".fp16", ".bf16", ".non_ema", ".ema")
_FORMATS = (".safetensors", ".bin")
_DENOISERS = ("unet", "transformer")
_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_WORDS = "embed_tokens.weight"


def read_folder(folder: Path) -> CheckpointHeader:
    """Read the headers of all networks of a model's folder.

    Raises:
        MissingModel: it is no such folder, or the index names what is not there.
        UnsupportedCheckpoint, CorruptCheckpoint: a file cannot be read, or the index is no good.
    """
    index = _json(folder / MODEL_INDEX)
    names = [name for name, value in index.items() if _is_present(value)]
    if not any(name in _DENOISERS for name in names):
        raise UnsupportedCheckpoint(
            f"{folder.name} has no U-Net and no transformer: its {MODEL_INDEX} names "
            f"{', '.join(names[:8]) or 'nothing'}"
        )
    tensors: dict[str, TensorInfo] = {}
    pieces: list[Piece] = []
    end = 0
    for name in names:
        prefix = _prefix(name, names)
        if prefix is None:
            continue
        own: dict[str, TensorInfo] = {}
        for path in _weights(folder / name):
            header = read_header(path)
            start = -(-end // _PAGE) * _PAGE
            pieces.append(Piece(path, start, header.file_bytes))
            own |= _moved(header, start)
            end = start + header.file_bytes
        tensors |= {prefix + key: info for key, info in _original(own).items()}
    return CheckpointHeader(
        path=folder,
        layout=Layout(tensors),
        metadata=_metadata(folder, index),
        data_start=0,
        file_bytes=sum(piece.file_bytes for piece in pieces),
        parts=tuple(pieces),
    )


def _is_present(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) for v in value)


def _prefix(name: str, names: list[str]) -> str | None:
    """Return where a component's tensors lie in an original checkpoint; None for no network."""
    if name in _DENOISERS:
        return _UNET
    if name == "vae":
        return _VAE
    if not name.startswith("text_encoder"):
        return None
    number = {"text_encoder": 0, "text_encoder_2": 1, "text_encoder_3": 2}.get(name)
    if number is None:
        return None
    if "transformer" in names:
        # Stable Diffusion 3 has both CLIPs before T5, Flux the smaller only.
        kinds = ("clip_l", "clip_g", "t5xxl") if "text_encoder_3" in names else ("clip_l", "t5xxl")
        return f"text_encoders.{kinds[min(number, len(kinds) - 1)]}.transformer."
    if "text_encoder_2" in names:
        return f"conditioner.embedders.{number if 'text_encoder' in names else 0}.transformer."
    return "cond_stage_model.transformer."


def _weights(folder: Path) -> Iterator[Path]:
    """Yield the files of one network.

    Raises:
        MissingModel: there are none, or a shard is missing.
    """
    for ending in _FORMATS:
        for variant in _VARIANTS:
            for stem in _WEIGHTS:
                whole = folder / f"{stem}{variant}{ending}"
                if whole.is_file():
                    yield whole
                    return
                index = folder / f"{stem}{ending}.index{variant}.json"
                if index.is_file():
                    yield from _shards(index)
                    return
    raise MissingModel(f"{folder} holds no weights; is its download complete?")


def _shards(index: Path) -> list[Path]:
    table = _json(index).get("weight_map")
    names = set(table.values()) if isinstance(table, dict) else set()
    if not names or not all(isinstance(name, str) for name in names):
        raise CorruptCheckpoint(f"{index} names no files")
    for name in names:
        if Path(name).name != name or name in ("", ".", "..") or "\\" in name or ":" in name:
            raise CorruptCheckpoint(f"{index} is refused: it names {name[:80]!r}, outside of it")
    missing = sorted(name for name in names if not (index.parent / name).is_file())
    if missing:
        raise MissingModel(f"{index.parent} lacks {missing[0]}; is its download complete?")
    return [index.parent / name for name in sorted(names)]


def _moved(header: CheckpointHeader, start: int) -> dict[str, TensorInfo]:
    offset = start + header.data_start
    return {name: info.moved(offset) for name, info in header.tensors.items()}


def _original(tensors: dict[str, TensorInfo]) -> dict[str, TensorInfo]:
    if is_unet(tensors):
        return original_unet(tensors)
    if _WORDS in tensors:
        # A language model that was saved without what answers lacks its first prefix.
        return {f"model.{name}": info for name, info in tensors.items()}
    return original_vae(tensors) if is_vae(tensors) else tensors


def _metadata(folder: Path, index: dict[str, Any]) -> dict[str, str]:
    """Return what configurations say beyond shapes, as the metadata of single files have it."""
    path = folder / "scheduler" / "scheduler_config.json"
    said = _json(path).get("prediction_type") if path.is_file() else None
    names = {"v_prediction": "v", "epsilon": "epsilon"}
    found = {"modelspec.prediction_type": names[said]} if said in names else {}
    if isinstance(pipeline := index.get("_class_name"), str):
        found["diffusers.pipeline"] = pipeline
    path = folder / "transformer" / "config.json"
    if path.is_file() and _json(path).get("zero_cond_t") is True:
        found["diffusers.zero_cond_t"] = "true"
    return {"modelspec.title": folder.name, **found}


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_INDEX_BYTES:
            raise CorruptCheckpoint(f"{path} is larger than any index")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingModel(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpoint(f"{path} is no JSON") from error
    if not isinstance(content, dict):
        raise CorruptCheckpoint(f"{path} is no JSON object")
    return content

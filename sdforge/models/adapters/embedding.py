"""Textual-inversion embeddings: vectors that stand for a word in prompts.

Gal et al. 2022, arXiv:2208.01618. Files are A1111's (`string_to_param`, `emb_params`), diffusers'
(one tensor by its token), and SDXL's pairs (`clip_l`, `clip_g`). Which there are, and where they
stand in a prompt, is `embedding_library.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdforge.core.errors import UnsupportedCheckpoint
from sdforge.models.adapters.lora_file import read_tensors
from sdforge.models.adapters.plain_pickle import read_plain_pickle

# A file that is larger than any embedding is something else.
_MOST_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, eq=False)
class Embedding:
    """Vectors (count, width) by text encoder: "clip_l" and "clip_g", or "" where there is one.

    `facts` is what trainers wrote beside them: step, sd_checkpoint, sd_checkpoint_name.
    """

    vectors: Mapping[str, torch.Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many tokens it takes."""
        return next(iter(self.vectors.values())).shape[0]

    @property
    def widths(self) -> dict[str, int]:
        """Widths by text encoder."""
        return {part: table.shape[1] for part, table in self.vectors.items()}


def read_embedding(path: Path) -> Embedding:
    """Read a file; of pickles only what cannot run code.

    Raises:
        MissingModel: it cannot be opened.
        UnsupportedCheckpoint: it holds no embedding, or things that no embedding needs.
        CorruptCheckpoint: damaged.
    """
    if path.suffix.lower() == ".safetensors":
        return embedding_of(read_tensors(path), path.name)
    return embedding_of(
        read_plain_pickle(path, kind="embedding", most_bytes=_MOST_BYTES), path.name
    )


def embedding_of(content: Mapping[str, Any], name: str) -> Embedding:
    """Return what the content of a file means; `name` is for messages.

    Raises:
        UnsupportedCheckpoint: it is no embedding.
    """
    facts = {
        key: content[key]
        for key in ("step", "sd_checkpoint", "sd_checkpoint_name")
        if isinstance(content.get(key), (str, int))
    }
    found: dict[str, Any]
    params = content.get("string_to_param")
    if isinstance(params, nn.ParameterDict):
        params = dict(params.items())
    if isinstance(params, Mapping) and params:
        found = {"": next(iter(params.values()))}
    elif "clip_g" in content and "clip_l" in content:
        found = {part: content[part] for part in ("clip_l", "clip_g")}
    elif "emb_params" in content:
        found = {"": content["emb_params"]}
    else:
        tensors = [item for item in content.values() if isinstance(item, torch.Tensor)]
        if len(tensors) != 1:
            raise UnsupportedCheckpoint(
                f"{name} is no embedding: it holds {', '.join(sorted(content)[:5]) or 'nothing'}"
            )
        found = {"": tensors[0]}
    vectors = {part: _table(tensor, name) for part, tensor in found.items()}
    if len({len(table) for table in vectors.values()}) != 1:
        raise UnsupportedCheckpoint(f"{name}: clip_l and clip_g hold different numbers of vectors")
    return Embedding(vectors, facts)


def _table(tensor: Any, name: str) -> torch.Tensor:
    is_table = isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
    if not is_table or tensor.ndim not in (1, 2) or not tensor.numel():
        raise UnsupportedCheckpoint(f"{name} is no embedding: it holds no table of vectors")
    table: torch.Tensor = tensor.detach()
    return table.unsqueeze(0) if table.ndim == 1 else table


def bundled_embedding(parts: Mapping[str, torch.Tensor], name: str) -> Embedding:
    """Return an embedding that came within a LoRA file; raises as `embedding_of`."""
    prefix = "string_to_param."
    params = {key.removeprefix(prefix): t for key, t in parts.items() if key.startswith(prefix)}
    return embedding_of({"string_to_param": params} if params else dict(parts), name)

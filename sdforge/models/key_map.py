"""Which tensor of a file becomes which parameter of a module, found without reading weights.

Converters of diffusers rename tensors and reshape a few. They are run once on placeholders of one
element each, stretched to the true shape at no cost; a placeholder's storage tells afterwards which
tensor it stood for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from sdforge.models.families.base import Source
from sdforge.models.layout import Layout


def key_map(
    layout: Layout,
    names: Mapping[str, str],
    convert: Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor]],
) -> dict[str, Source]:
    """Return parameter name → source, by running `convert` on placeholders.

    Args:
        layout: of the file.
        names: tensors to convert, name that the converter knows → name in the file.
        convert: may rename, reshape and leave out tensors, but not compute with them.
    """
    placeholders = {
        name: torch.empty(1).expand(layout.tensors[key].shape or (1,))
        for name, key in names.items()
    }
    owners = {_storage(tensor): names[name] for name, tensor in placeholders.items()}
    converted = convert(dict(placeholders))
    return {
        target: Source(owners[_storage(tensor)], tuple(tensor.shape))
        for target, tensor in converted.items()
    }


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()

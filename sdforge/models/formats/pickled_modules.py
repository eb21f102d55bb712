"""PyTorch files that hold a whole network as an object, as trainers of detectors save them.

The classes that such a file names are never looked up: the machine that reads it keeps them as
words (`pickle_machine.py`). What counts are the tensors, found by walking from object to object the
way PyTorch's modules keep them, and they get the names that a state dict would have.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sdforge.models.formats.pickle_machine import Call, PickleFault
from sdforge.models.formats.pickles import Reading, described_tensor, may_name, state_tensors

# Packages whose classes a saved network is made of. Others are refused by name: nothing would run,
# but somebody meant it to.
_PACKAGES = ("ultralytics.", "torch.nn.", "models.", "numpy.", "pathlib.", "torch.optim.")
# Networks whose norms were merged remember so by a method: an object and a name, no more.
_BOUND = ("builtins.getattr", "__builtin__.getattr")
# Where trainers keep the network; the averaged one is the better.
_NETWORKS = ("ema", "model")
_MOST_DEPTH = 40


def _may_name(name: str) -> bool:
    return name.startswith(_PACKAGES) or name in _BOUND or may_name(name)


def _tensors(described: Any) -> Iterator[tuple[str, Call]]:
    """Yield the tensors of the network that a file holds, or of its state dict."""
    root = described
    if isinstance(root, dict):
        found = (root.get(name) for name in _NETWORKS)
        root = next((one for one in found if isinstance(one, Call)), root)
    if isinstance(root, dict):
        yield from state_tensors(root)
    else:
        yield from _of_module("", root, 0)


def _of_module(lead: str, module: Any, depth: int) -> Iterator[tuple[str, Call]]:
    if depth > _MOST_DEPTH:
        raise PickleFault("nests its networks deeper than any model does")
    state = module.state if isinstance(module, Call) else None
    if not isinstance(state, dict):
        return
    for part in ("_parameters", "_buffers"):
        for name, value in _table(state.get(part)).items():
            tensor = described_tensor(value)
            if tensor is not None:
                yield f"{lead}{name}", tensor
    for name, inner in _table(state.get("_modules")).items():
        yield from _of_module(f"{lead}{name}.", inner, depth + 1)


def _table(value: Any) -> dict[Any, Any]:
    if isinstance(value, Call):
        return value.items
    return value if isinstance(value, dict) else {}


WHOLE_NETWORK = Reading(_may_name, _tensors)

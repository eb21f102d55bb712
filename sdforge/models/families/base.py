"""What a model family must offer, and the plain data it speaks in.

Recognising (`match`) reads headers only and needs no torch; `recipe` and `assemble` are called by
`models.loader` on the model thread and import what they need then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from sdforge.core.request import Recommended
from sdforge.models.checkpoint import CheckpointHeader
from sdforge.models.layout import Layout, TensorInfo

if TYPE_CHECKING:
    import torch

    from sdforge.memory.component import Component
    from sdforge.memory.manager import MemoryManager
    from sdforge.models.bundle import Parts
    from sdforge.models.parts import Part
    from sdforge.models.skeleton import Skeleton


@dataclass(frozen=True, kw_only=True)
class Match:
    """Why a file belongs to a family.

    `prediction` is what the denoiser's network puts out: 'epsilon' or 'v', 'flow' in flow models,
    None where nothing in the file tells. `problem` says why this version cannot run the file
    although it recognises it. `recommended` are the defaults of its kind; metadata beats them.
    `is_zero_terminal` says that training went up to pure noise. `refers` is how many pictures
    the model may be shown behind what it draws, that of img2img first.
    """

    family: str
    variant: str
    prediction: str | None
    reason: str
    problem: str | None = None
    recommended: Recommended = Recommended()
    is_zero_terminal: bool = False
    refers: int = 0


@dataclass(frozen=True, slots=True)
class Source:
    """Where a parameter comes from: a tensor of the file, and the shape it takes in the module.

    Files put several matrices into one, rows below rows; `first` is the row where ours begins.
    """

    key: str
    shape: tuple[int, ...]
    first: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Recipe:
    """How to make one component from any file of a layout: its structure, its tensors' sources.

    `buffers` are tensors that no file holds, by name. Recipes are kept and shared: what is found
    out about one (`weights.py`, `content.py`) holds for the next file of the same layout.
    """

    role: str
    layout: Layout
    skeleton: Skeleton
    sources: Mapping[str, Source]
    buffers: Mapping[str, Callable[[], torch.Tensor]] = field(default_factory=dict)

    def info(self, name: str) -> TensorInfo:
        """Return where the tensor of a parameter or buffer lies, in its shape in the file."""
        source = self.sources[name]
        whole = self.layout.tensors[source.key]
        if math.prod(source.shape) == math.prod(whole.shape):
            return whole
        row_bytes = whole.size_bytes // whole.shape[0]
        start = whole.start + source.first * row_bytes
        shape = (source.shape[0], *whole.shape[1:])
        return whole._replace(shape=shape, start=start, end=start + shape[0] * row_bytes)


class Family(Protocol):
    """One architecture."""

    @property
    def name(self) -> str:
        """Short name, as other parts of the program compare it: 'sd1'."""

    @property
    def label(self) -> str:
        """Name for people."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Networks that a checkpoint holds; 'vae' is the one that another file may replace."""

    @property
    def optional(self) -> frozenset[str]:
        """Roles without which a model draws as well, if less well."""

    @property
    def apart(self) -> Mapping[str, tuple[str, str]]:
        """Roles that usually lie in files of their own: role → (what it is, a usual file's name).

        Where there are none, a checkpoint is taken to hold all its networks.
        """

    def match(self, header: CheckpointHeader) -> Match | None:
        """Return why the file is of this family, or None when it is not."""

    def role_of(self, part: Part) -> str | None:
        """Return what a network of any file is to this family, None when it has no use for it."""

    def recipe(self, role: str, header: CheckpointHeader) -> Recipe:
        """Return how to make the network of `role` from a file, all shapes checked.

        Raises:
            MissingModel: the file lacks this part, or some of it.
            UnsupportedCheckpoint: its shapes do not fit together.
        """

    def assemble(
        self,
        match: Match,
        components: Mapping[str, Component],
        memory: MemoryManager,
        headers: Mapping[str, CheckpointHeader],
    ) -> Parts:
        """Return the loaded networks as things that encode, denoise and decode.

        `headers` are those of the files that each role comes from, for what lies in them or beside
        them and is no network: a tokenizer.
        """

"""LoRA, embeddings and hypernetworks of a run: what pipelines ask for them. Model thread only."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sdforge.core.errors import MissingModel
from sdforge.models.adapters.embedding import read_embedding
from sdforge.models.adapters.embedding_library import EmbeddingInfo, EmbeddingLibrary
from sdforge.models.adapters.embedding_table import Entry
from sdforge.models.adapters.hypernetwork import Hypernetwork, read_hypernetwork
from sdforge.models.adapters.hypernetwork_library import HypernetworkLibrary
from sdforge.models.adapters.lora import Applied, BundledEmbedding, LoraPatcher
from sdforge.models.adapters.lora_library import LoraInfo, LoraLibrary
from sdforge.models.adapters.network_use import NetworkUse
from sdforge.models.bundle import ModelBundle

log = logging.getLogger(__name__)


class Adapters:
    """Puts LoRA in force on a bundle, and tells its text encoder the embeddings there are."""

    def __init__(
        self,
        loras: LoraLibrary,
        embeddings: EmbeddingLibrary,
        hypernetworks: HypernetworkLibrary,
    ) -> None:
        """Read nothing yet."""
        self._patcher = LoraPatcher(loras)
        self._loras = loras
        self._embeddings = embeddings
        self._hypernetworks = hypernetworks
        self._known: tuple[object, ...] = ()

    def apply(self, bundle: ModelBundle, uses: Sequence[NetworkUse], *, keep: int = 0) -> Applied:
        """Put these LoRA in force, as `LoraPatcher.apply`, and the embeddings that there are now.

        Embeddings bundled in a LoRA can be used while it is in force.
        """
        applied = self._patcher.apply(bundle, uses, keep=keep)
        self._embeddings.refresh()
        self._embeddings.fit(bundle.text.widths)
        listed = self._embeddings.embeddings()
        current = (bundle, listed, applied)
        is_known = len(self._known) == len(current)
        if not is_known or any(a is not b for a, b in zip(current, self._known, strict=True)):
            bundle.text.use_embeddings(self._entries(applied))
            self._known = current
        return applied

    def lora_hash(self, info: LoraInfo) -> str:
        """Return the digits that a picture names a LoRA by, "" when its file is gone."""
        try:
            return self._loras.short_hash(info)
        except MissingModel as error:
            log.warning("no hash: %s", error)
            return ""

    def hypernetwork(self, name: str) -> Hypernetwork:
        """Read a hypernetwork; nothing of it is kept here.

        Raises:
            MissingModel: there is none of that name.
            UnsupportedCheckpoint, CorruptCheckpoint: as `read_hypernetwork`.
        """
        info = self._hypernetworks.find(name)
        if info is None:
            close = self._hypernetworks.closest(name)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise MissingModel(f"there is no hypernetwork named {name!r}{hint}")
        return read_hypernetwork(info)

    def forget(self) -> None:
        """Drop files and bundles."""
        self._patcher.forget()
        self._known = ()

    def _entries(self, applied: Applied) -> list[Entry]:
        files = [self._entry(info) for info in self._embeddings.usable()]
        return [*files, *(_bundled_entry(found) for found in applied.bundled)]

    def _entry(self, info: EmbeddingInfo) -> Entry:
        return Entry(
            name=info.name,
            count=info.count,
            key=str(info.stamp),
            read=lambda: read_embedding(info.path),
            short_hash=lambda: self._hash(info),
        )

    def _hash(self, info: EmbeddingInfo) -> str:
        try:
            return self._embeddings.short_hash(info)
        except MissingModel as error:
            log.warning("no hash: %s", error)
            return ""


def _bundled_entry(found: BundledEmbedding) -> Entry:
    # A1111 puts the LoRA's name where another embedding has its hash.
    return Entry(
        name=found.name,
        count=found.embedding.count,
        key=f"{found.lora}|{found.stamp}",
        read=lambda: found.embedding,
        short_hash=lambda: found.lora,
    )

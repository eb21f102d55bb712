"""Small files that change a model: LoRA and textual-inversion embeddings, hypernetworks."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from sdforge.api.context import ApiContext
from sdforge.models.adapters.embedding_library import EmbeddingInfo


def router(context: ApiContext) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/sdapi/v1", tags=["networks"])
    loras, embeddings = context.library.loras, context.library.embeddings

    @routes.get("/loras")
    def list_loras() -> list[dict[str, Any]]:
        """LoRA files and their kin. `family` and `error` are ours: which models, why not usable."""
        return [
            {
                "name": info.name,
                "alias": info.alias,
                "path": str(info.path),
                "metadata": info.readable_metadata(),
                "family": info.family.family if info.family else None,
                "error": info.error,
            }
            for info in loras.loras()
        ]

    @routes.post("/refresh-loras")
    def refresh_loras() -> None:
        """Look again for LoRA files."""
        loras.refresh()

    @routes.get("/hypernetworks")
    def list_hypernetworks() -> list[dict[str, str]]:
        """Hypernetworks that prompts can name; the folders are looked through."""
        context.library.hypernetworks.refresh()
        return [
            {"name": info.name, "path": str(info.path)}
            for info in context.library.hypernetworks.hypernetworks()
        ]

    @routes.get("/embeddings")
    def list_embeddings() -> dict[str, Any]:
        """Embeddings that the loaded model can use, and those that it cannot, with the reason."""
        return {
            "loaded": {info.name: _embedding(info) for info in embeddings.usable()},
            "skipped": {
                info.name: {**_embedding(info), "reason": reason}
                for info, reason in embeddings.skipped()
            },
        }

    @routes.post("/refresh-embeddings")
    def refresh_embeddings() -> None:
        """Look again for embeddings; prompts find new ones without this too."""
        embeddings.refresh()

    return routes


def _embedding(info: EmbeddingInfo) -> dict[str, Any]:
    return {
        "step": info.facts.get("step"),
        "sd_checkpoint": info.facts.get("sd_checkpoint"),
        "sd_checkpoint_name": info.facts.get("sd_checkpoint_name"),
        "shape": info.width,
        "vectors": info.count,
    }

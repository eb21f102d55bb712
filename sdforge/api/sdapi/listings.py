"""Lists of names that clients fill their menus from.

They tell what this version can do; where it has nothing yet, the list is empty rather than made of
names that would fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from sdforge.api.context import ApiContext
from sdforge.sampling.names import SAMPLER_NAMES, SCHEDULE_NAMES

# Flags whose value would let its reader in.
_SECRET_WORDS = ("auth", "password", "token", "secret", "ngrok")
_EMPTY_LISTS = {
    "latent-upscale-modes": "Latent upscalers of hires fix; none in this version.",
    "hypernetworks": "Hypernetworks; none in this version.",
    "face-restorers": "Face restorers; none in this version.",
    "realesrgan-models": "Real-ESRGAN models; none in this version.",
    "prompt-styles": "Prompt styles; none in this version.",
    "loras": "LoRA files; none in this version.",
    "script-info": "Scripts and their arguments; none in this version.",
    "extensions": "Installed extensions; none in this version.",
}


def router(context: ApiContext) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/sdapi/v1", tags=["lists"])

    @routes.get("/samplers")
    def samplers() -> list[dict[str, Any]]:
        """Samplers with their aliases and options."""
        return [
            {"name": row.name, "aliases": list(row.aliases), "options": dict(row.options)}
            for row in SAMPLER_NAMES
        ]

    @routes.get("/schedulers")
    def schedulers() -> list[dict[str, Any]]:
        """Noise schedules, by name and label."""
        return [
            {
                "name": row.name,
                "label": row.label,
                "aliases": list(row.aliases) or None,
                "default_rho": row.default_rho,
                "need_inner_model": row.needs_model,
            }
            for row in SCHEDULE_NAMES
        ]

    @routes.get("/upscalers")
    def upscalers() -> list[dict[str, Any]]:
        """Upscalers; this version has none but `None`."""
        nowhere = {"model_name": None, "model_path": None, "model_url": None}
        return [{"name": "None", **nowhere, "scale": 4.0}]

    @routes.get("/embeddings")
    def embeddings() -> dict[str, Any]:
        """Textual inversion embeddings; none in this version."""
        return {"loaded": {}, "skipped": {}}

    @routes.get("/scripts")
    def scripts() -> dict[str, Any]:
        """Titles of scripts; none in this version."""
        return {"txt2img": [], "img2img": []}

    @routes.get("/cmd-flags")
    def cmd_flags() -> dict[str, Any]:
        """Command-line flags; A1111 shows passwords here, we show asterisks."""
        return masked_flags(context.flags)

    for name, text in _EMPTY_LISTS.items():
        routes.add_api_route(f"/{name}", _nothing, methods=["GET"], summary=name, description=text)
    for name in ("refresh-embeddings", "refresh-loras"):
        routes.add_api_route(
            f"/{name}", _do_nothing, methods=["POST"], summary=name,
            description="Nothing to look for in this version.",
        )  # fmt: skip
    return routes


def _nothing() -> list[Any]:
    return []


def _do_nothing() -> None:
    return None


def masked_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return flags as JSON types, secret ones as asterisks."""
    return {
        name: "***" if value and _is_secret(name) else _plain(value)
        for name, value in sorted(flags.items())
    }


def _is_secret(name: str) -> bool:
    return any(word in name for word in _SECRET_WORDS) and not name.endswith("path")


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, (str, int, float)) or value is None:
        return value
    return str(value) if isinstance(value, Path) else repr(value)

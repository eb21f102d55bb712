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
from sdforge.postprocess.upscalers import LATENT_MODES, UPSCALERS
from sdforge.sampling.names import SAMPLER_NAMES, SCHEDULE_NAMES

# Flags whose value would let its reader in.
_SECRET_WORDS = ("auth", "password", "token", "secret", "ngrok")
_EMPTY_LISTS = {
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
        """Upscalers of pictures."""
        nowhere = {"model_name": None, "model_path": None, "model_url": None}
        plain = [{"name": row.name, **nowhere, "scale": row.factor} for row in UPSCALERS]
        files = [
            {
                "name": info.name,
                "model_name": info.name,
                "model_path": str(info.path),
                "model_url": None,
                "scale": float(info.scale),
            }
            for info in context.library.upscalers.usable()
        ]
        return plain + files

    @routes.get("/realesrgan-models")
    def realesrgan_models() -> list[dict[str, Any]]:
        """Real-ESRGAN's published models, as far as their files are there."""
        return [
            {"name": info.name, "path": str(info.path), "scale": info.scale}
            for info in context.library.upscalers.usable()
            if info.is_published
        ]

    @routes.get("/face-restorers")
    def face_restorers() -> list[dict[str, Any]]:
        """What restores faces, as far as the files are there."""
        return [
            {"name": name, "cmd_dir": str(file.path.parent)}
            for name, file in context.library.faces.restorers().items()
        ]

    @routes.get("/latent-upscale-modes")
    def latent_upscale_modes() -> list[dict[str, Any]]:
        """Upscalers of latents, for hires fix."""
        return [{"name": row.name} for row in LATENT_MODES]

    @routes.get("/prompt-styles")
    def prompt_styles() -> list[dict[str, Any]]:
        """Prompt styles; with several files a heading without texts comes before each file's."""
        return [
            {
                "name": name,
                "prompt": style and style.prompt,
                "negative_prompt": style and style.negative_prompt,
            }
            for name, style in context.engine.styles.listing()
        ]

    @routes.get("/cmd-flags")
    def cmd_flags() -> dict[str, Any]:
        """Command-line flags; A1111 shows passwords here, we show asterisks."""
        return masked_flags(context.flags)

    for name, text in _EMPTY_LISTS.items():
        routes.add_api_route(f"/{name}", _nothing, methods=["GET"], summary=name, description=text)
    return routes


def _nothing() -> list[Any]:
    return []


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

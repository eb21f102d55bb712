"""What this server runs on and how it started: A1111's system info, without anybody's secrets.

A1111's file holds the environment and all paths of the machine; people post it in public. Ours
leaves out both.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from sdforge.api.context import ApiContext
from sdforge.api.sdapi.listings import masked_flags

_PACKAGES = (
    "torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "pillow", "gradio",
    "fastapi", "starlette", "uvicorn", "pydantic", "xformers",
)  # fmt: skip


def router(context: ApiContext) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["server"])

    @routes.get("/internal/profile-startup")
    async def profile_startup() -> dict[str, Any]:
        """Seconds from the start of the process until each part was ready."""
        seconds = dict(context.control.startup_seconds)
        return {"total": max(seconds.values(), default=0.0), "records": seconds}

    @routes.get("/internal/sysinfo")
    def sysinfo() -> dict[str, Any]:
        """Versions, device, settings and flags; no environment, no paths, no passwords."""
        return system_info(context)

    @routes.get("/internal/sysinfo-download", response_class=Response)
    def sysinfo_download() -> Response:
        """The same as a file."""
        text = json.dumps(system_info(context), indent=2)
        headers = {"Content-Disposition": 'attachment; filename="sysinfo.json"'}
        return Response(text, media_type="text/plain", headers=headers)

    @routes.get("/redoc", response_class=HTMLResponse)
    async def redoc() -> RedirectResponse:
        """Another name of /docs."""
        return RedirectResponse("docs")

    return routes


def system_info(context: ApiContext) -> dict[str, Any]:
    """Return what a report of a fault needs, fit to be shown to anybody."""
    settings = context.engine.settings.current.to_json()
    flags = masked_flags(context.flags)
    return {
        "Version": context.version,
        "Platform": platform.platform(),
        "Python": sys.version.split()[0],
        "Packages": {name: _version(name) for name in _PACKAGES},
        "Memory": context.engine.memory_mode(),
        "Checkpoints": len(context.library.checkpoints()),
        "Extensions": [extension.name for extension in context.engine.extensions],
        "Startup": dict(context.control.startup_seconds),
        "Flags": {k: value for k, value in flags.items() if value and _is_shown(k, value)},
        "Settings": {k: value for k, value in settings.items() if _is_shown(k, value)},
    }


def _is_shown(key: str, value: Any) -> bool:
    """Tell whether a value is no path of this machine."""
    named = any(word in key for word in ("dir", "path", "file", "folder"))
    return not named and not (isinstance(value, str) and ("/" in value or "\\" in value))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

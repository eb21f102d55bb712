"""Checkpoints and memory: what there is, what is loaded, give it back, load it again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter

from sdforge.api.context import ApiContext
from sdforge.api.waiting import done
from sdforge.core.device import host_total_bytes
from sdforge.models.library import VaeFile


def router(context: ApiContext) -> APIRouter:
    """Return the routes."""
    engine = context.engine
    routes = APIRouter(prefix="/sdapi/v1", tags=["models"])

    @routes.get("/sd-models")
    def sd_models() -> list[dict[str, Any]]:
        """All checkpoints. Hashes are null until known; `error` says why one cannot run."""
        return [
            {
                "title": info.title,
                "model_name": info.model_name,
                "hash": info.short_hash,
                "sha256": info.sha256,
                "filename": str(info.path),
                "config": None,
                "family": info.family,
                "error": info.error,
            }
            for info in context.library.checkpoints()
        ]

    @routes.get("/sd-vae")
    def sd_vae() -> list[dict[str, Any]]:
        """All VAE files."""
        return _listed(context.library.vaes())

    @routes.get("/sd-modules")
    def sd_modules() -> list[dict[str, Any]]:
        """Forge's list: files that bring a VAE or text encoders (forge_additional_modules)."""
        return _listed(context.library.modules())

    @routes.post("/refresh-checkpoints")
    def refresh_checkpoints() -> None:
        """Look again for checkpoints; those in use stay loaded."""
        context.library.refresh()

    @routes.post("/refresh-vae")
    def refresh_vae() -> None:
        """Nothing to do: VAE files are looked up each time."""

    @routes.post("/unload-checkpoint")
    async def unload_checkpoint() -> dict[str, Any]:
        """Give back the memory of all models, after the job that runs; the next job loads again."""
        await done(engine.unload())
        return {}

    @routes.post("/reload-checkpoint")
    async def reload_checkpoint() -> dict[str, Any]:
        """Load the checkpoint of the settings, after the job that runs; then answer."""
        await done(engine.preload())
        return {}

    @routes.get("/memory")
    def memory() -> dict[str, Any]:
        """Bytes in use: A1111's `ram` and `cuda`, and in `sdforge` who holds how many.

        `sdforge` also tells the memory mode with its reason, and this process's pages by kind.
        """
        report = engine.memory_report()
        more = {"memory_mode": engine.memory_mode(), "now": engine.memory_now()}
        return {"ram": _ram(), "cuda": _cuda(report), "sdforge": {**report, **more}}

    return routes


def _listed(files: Iterable[VaeFile]) -> list[dict[str, Any]]:
    return [{"model_name": file.name, "filename": str(file.path)} for file in files]


def _ram() -> dict[str, int]:
    import psutil

    used, total = int(psutil.Process().memory_info().rss), host_total_bytes()
    return {"free": total - used, "used": used, "total": total}


def _cuda(report: dict[str, Any]) -> dict[str, Any]:
    """Return A1111's shape from the memory manager's counts."""
    if not str(report.get("device", "")).startswith("cuda"):
        return {"error": "unavailable"}
    own, total = report["own_bytes"], report["total_bytes"]
    used = own + report["foreign_bytes"]
    now = {"current": own, "peak": report["peak_bytes"]}
    held = report.get("reserved_bytes", own)
    reserved = {"current": held, "peak": report.get("peak_reserved_bytes", held)}
    return {
        "system": {"free": total - used, "used": used, "total": total},
        "active": now,
        "allocated": now,
        "reserved": reserved,
        "inactive": {"current": held - own, "peak": held - own},
        "events": {"retries": 0, "oom": report.get("oom_events", 0)},
    }

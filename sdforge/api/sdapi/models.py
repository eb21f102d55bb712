"""Checkpoints and memory: what there is, what is loaded, give it back, load it again."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

from fastapi import APIRouter

from sdforge.api.context import ApiContext
from sdforge.core.device import host_total_bytes
from sdforge.core.errors import QueueFull


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
        return _vae_files(context)

    @routes.get("/sd-modules")
    def sd_modules() -> list[dict[str, Any]]:
        """Forge's list of VAEs and text encoders; this version has VAEs."""
        return _vae_files(context)

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
        await _done(engine.unload())
        return {}

    @routes.post("/reload-checkpoint")
    async def reload_checkpoint() -> dict[str, Any]:
        """Load the checkpoint of the settings, after the job that runs; then answer."""
        await _done(engine.preload())
        return {}

    @routes.get("/memory")
    def memory() -> dict[str, Any]:
        """Bytes in use: A1111's `ram` and `cuda`, and in `sdforge` who holds how many."""
        report = engine.memory_report()
        return {"ram": _ram(), "cuda": _cuda(report), "sdforge": report}

    return routes


async def _done(future: Future[None]) -> None:
    """Wait for the model thread to do something; raises what it raised."""
    try:
        await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if future.cancelled():
            raise QueueFull("the server is stopping") from None
        raise


def _vae_files(context: ApiContext) -> list[dict[str, Any]]:
    return [{"model_name": vae.name, "filename": str(vae.path)} for vae in context.library.vaes()]


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
    return {
        "system": {"free": total - used, "used": used, "total": total},
        "active": now,
        "allocated": now,
        "reserved": now,
        "inactive": {"current": 0, "peak": 0},
        "events": {"retries": 0, "oom": 0},
    }

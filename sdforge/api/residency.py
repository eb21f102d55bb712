"""Our own routes for models: /api/v1/models says which are where, loads and unloads single ones.

What loads or unloads waits for the job that runs, and answers when it is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel

from sdforge.api.context import ApiContext
from sdforge.api.waiting import done


class LoadModel(BaseModel):
    """Which checkpoint, by any name; "" is the one of the settings."""

    model: str = ""


class UnloadModel(BaseModel):
    """Which checkpoint, "" for all; from the device only, or from main memory as well."""

    model: str = ""
    level: Literal["device", "host"] = "host"


def router(context: ApiContext) -> APIRouter:
    """Return the routes under /api/v1/models."""
    engine = context.engine
    routes = APIRouter(prefix="/api/v1/models", tags=["models"])

    @routes.get("")
    def list_models() -> dict[str, Any]:
        """All checkpoints with where their weights are, and the bytes of main memory in all."""
        report, state = engine.memory_report(), engine.model_state()
        rows = [
            {
                "title": info.title,
                "name": info.name,
                "family": info.family,
                "error": info.error,
                **_residency(info.relative, info.title, report, state),
            }
            for info in context.library.checkpoints()
        ]
        return {"models": rows, "memory": _memory(report)}

    @routes.post("/load")
    async def load(body: LoadModel) -> dict[str, Any]:
        """Load a checkpoint into memory ahead of the first job that needs it."""
        await done(engine.preload(body.model))
        return {"loaded": engine.model_state()["title"], "memory": _memory(engine.memory_report())}

    @routes.post("/unload")
    async def unload(body: UnloadModel) -> dict[str, Any]:
        """Give back a checkpoint's memory, or all; a part that another one has too stays."""
        before = engine.memory_report()
        await done(engine.unload(body.model, device_only=body.level == "device"))
        after = engine.memory_report()
        return {
            "freed_host_bytes": max(_host_bytes(before) - _host_bytes(after), 0),
            "freed_device_bytes": max(_device_bytes(before) - _device_bytes(after), 0),
            "memory": _memory(after),
        }

    return routes


def _residency(
    relative: str, title: str, report: Mapping[str, Any], state: Mapping[str, Any]
) -> dict[str, Any]:
    """Return where a checkpoint is: 'device', 'host', 'loading' or 'disk', and its bytes."""
    host = report.get("host", {})
    held = next((row for row in host.get("checkpoints", ()) if row["title"] == relative), None)
    if held is None:
        is_loading = bool(state["loading"]) and state["title"] == title
        return {"state": "loading" if is_loading else "disk", "host_bytes": 0, "device_bytes": 0}
    parts = {
        (row["role"], row["name"])
        for row in host.get("components", ())
        if relative in row["checkpoints"]
    }
    device = sum(
        row["device_bytes"]
        for row in report.get("components", ())
        if (row["role"], row["name"]) in parts
    )
    return {
        "state": "device" if device else "host",
        "host_bytes": held["host_bytes"],
        "mapped_bytes": held["mapped_bytes"],
        "own_bytes": held["own_bytes"],
        "idle_seconds": held["idle_seconds"],
        "device_bytes": device,
    }


def _memory(report: Mapping[str, Any]) -> dict[str, Any]:
    host = report.get("host", {})
    names = ("host_bytes", "mapped_bytes", "budget_bytes", "available_bytes", "leaked_handles")
    return {name: host.get(name, 0) for name in names} | {"device_bytes": _device_bytes(report)}


def _host_bytes(report: Mapping[str, Any]) -> int:
    return int(report.get("host", {}).get("host_bytes", 0))


def _device_bytes(report: Mapping[str, Any]) -> int:
    return sum(int(row["device_bytes"]) for row in report.get("components", ()))

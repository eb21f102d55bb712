"""A1111's routes that end the server; they exist with `--api-server-stop` only."""

from __future__ import annotations

from fastapi import APIRouter, BackgroundTasks, Response
from fastapi.responses import PlainTextResponse

from sdforge.api.context import ApiContext


def router(context: ApiContext) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/sdapi/v1", tags=["server"])
    control = context.control

    @routes.post("/server-stop", response_class=PlainTextResponse)
    def stop(tasks: BackgroundTasks) -> str:
        """Stop: the running job ends at its next step, waiting ones stay for the next start."""
        tasks.add_task(control.stop)
        return "Stopping."

    @routes.post("/server-kill", response_class=Response)
    def kill() -> Response:
        """End the process at once; the connection drops. The queue on disk survives that."""
        control.kill()
        return Response()

    @routes.post("/server-restart", response_class=Response)
    def restart(tasks: BackgroundTasks) -> Response:
        """Stop, and have the script that started the server start it again.

        501 where the environment variable SD_WEBUI_RESTART names no file to tell that script by.
        """
        if control.restart is None:
            return Response(status_code=501)
        tasks.add_task(control.restart)
        return Response()

    return routes

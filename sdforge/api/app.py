"""Puts the API together: routes, security, errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware

from sdforge.api import (
    cards,
    completions,
    controlnet,
    detectors,
    docs_page,
    estimate,
    extra_networks,
    history,
    inputs,
    internal,
    jobs,
    live,
    localization,
    merge,
    metrics,
    openai,
    prompts,
    queue,
    residency,
    settings_table,
    system,
)
from sdforge.api import downloads as download_routes
from sdforge.api import sweeps as sweep_routes
from sdforge.api.access_log import AccessLog, RequestCounts
from sdforge.api.context import ApiContext, ServerControl
from sdforge.api.errors import UnexpectedErrors, install_error_handlers
from sdforge.api.sdapi import (
    control,
    extras,
    generation,
    listings,
    models,
    networks,
    options,
    png_info,
    scripts,
    stopping,
    unavailable,
)
from sdforge.api.security import Access, SecurityMiddleware
from sdforge.core.paths import Paths
from sdforge.engine import Engine
from sdforge.engine.downloads import Downloads, downloads_of
from sdforge.sweeps.sweeps import Sweeps

# First parts of the paths that this app answers; the launcher sends the rest to the page.
PREFIXES = (
    "/sdapi/", "/v1/", "/controlnet/", "/adetailer/", "/api/v1/", "/api/estimate", "/internal/",
    "/sd_extra_networks/", "/docs", "/redoc", "/openapi.json", "/metrics", "/healthz", "/readyz",
)  # fmt: skip

_DESCRIPTION = (
    "A1111's REST API (/sdapi/v1) and sdforge's own (/api/v1) over one queue of jobs. "
    "Errors are {error, detail, body, errors, message}; unknown keys in a body are ignored."
)


def create_api(
    engine: Engine,
    *,
    paths: Paths,
    flags: Mapping[str, Any],
    version: str,
    process: ServerControl | None = None,
    sweeps: Sweeps | None = None,
    downloads: Downloads | None = None,
) -> FastAPI:
    """Return the API as an ASGI app over a running engine.

    Args:
        engine: accepts and runs the jobs.
        paths: where files lie.
        flags: command-line flags by their names with underscores; A1111's network flags count.
        version: the program's.
        process: what can be done to the process; None for a server that is not launched.
        sweeps: of this engine; None makes them.
        downloads: of this engine; None makes them.

    Raises:
        ValueError: the flag `api_auth` cannot be read.
    """
    sweeps = sweeps or Sweeps(engine, paths)
    downloads = downloads or downloads_of(engine, paths, flags)
    process = process or ServerControl()
    context = ApiContext(engine, paths, flags, version, sweeps, downloads, process)
    app = FastAPI(
        title="sdforge",
        version=version,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        # A1111 reads JSON that comes without a content type.
        strict_content_type=False,
        # So that generated clients get short names.
        generate_unique_id_function=_operation_id,
    )
    requests = RequestCounts()
    for routes in _routers(context):
        app.include_router(routes)
    app.include_router(metrics.router(context, requests))
    install_error_handlers(app)
    access = Access.from_flags(flags)
    _add_middleware(app, access, requests, log_requests=bool(flags.get("api_log")))
    return app


def _routers(context: ApiContext) -> tuple[APIRouter, ...]:
    """Return the routes in the order in which they are tried."""
    return (
        generation.router(context),
        extras.router(context),
        extras.job_router(context),
        control.router(context),
        options.router(context),
        settings_table.router(context),
        models.router(context),
        listings.router(context),
        networks.router(context),
        cards.router(context),
        controlnet.router(context),
        detectors.router(context),
        scripts.router(context),
        png_info.router(context),
        jobs.router(context),
        queue.router(context),
        queue.place_router(context),
        queue.submit_router(context),
        history.router(context),
        inputs.router(context),
        live.router(context),
        jobs.status_router(context),
        sweep_routes.router(context),
        prompts.router(context),
        completions.router(context),
        localization.router(context),
        residency.router(context),
        merge.router(context),
        download_routes.router(context),
        estimate.router(context),
        internal.router(context),
        *([stopping.router(context)] if context.flags.get("api_server_stop") else []),
        system.router(context),
        extra_networks.router(context),
        openai.router(context),
        unavailable.router(),
        docs_page.router(),
    )


def _add_middleware(
    app: FastAPI, access: Access, requests: RequestCounts, *, log_requests: bool
) -> None:
    """Wrap the app; the last one added sees a request first."""
    app.add_middleware(UnexpectedErrors)
    app.add_middleware(SecurityMiddleware, access=access)
    # Outside of security: a preflight carries no password, and refusals need CORS headers too.
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(access.origins),
        allow_origin_regex=access.origin_regex,
        allow_methods=["*"],
        allow_headers=["*"],
        allow_credentials=True,
        expose_headers=["X-Job-Id", "X-Process-Time", "X-Sweep-Id"],
    )
    app.add_middleware(AccessLog, enabled=log_requests, counts=requests)


def _operation_id(route: APIRoute) -> str:
    method = min(route.methods or ("any",)).lower()
    return f"{method}_{route.path_format.strip('/')}".translate(_ID_CHARACTERS)


_ID_CHARACTERS = str.maketrans({"/": "_", "-": "_", "{": None, "}": None})

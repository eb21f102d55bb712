"""Errors as HTTP answers: one body shape, never a traceback.

The body is the union of what A1111 and Forge send, `{error, detail, body, errors, message}`, so
that clients of both find their key. For a wrong field `detail` is FastAPI's list of
`{type, loc, msg}`, otherwise a sentence. Our own errors bring their status along (`core.errors`).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdforge.core.errors import InvalidRequest, SdforgeError
from sdforge.core.fields import FIELDS

log = logging.getLogger(__name__)

_ALLOWED = {row.api: row.allowed() for row in FIELDS}


def error_response(
    status: int,
    kind: str,
    message: str,
    *,
    detail: Any = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return an error answer; `detail` defaults to the message."""
    body = {
        "error": kind,
        "detail": message if detail is None else detail,
        "body": "",
        "errors": message,
        "message": message,
    }
    return JSONResponse(body, status, headers=dict(headers) if headers else None)


def install_error_handlers(app: FastAPI) -> None:
    """Make the app answer every exception in our error shape."""
    app.exception_handler(SdforgeError)(_on_our_error)
    app.exception_handler(RequestValidationError)(_on_validation_error)
    app.exception_handler(HTTPException)(_on_http_error)


async def _on_our_error(request: Request, error: SdforgeError) -> JSONResponse:
    if type(error) is SdforgeError:
        log.error("%s %s: %s", request.method, request.url.path, error, exc_info=error)
    if not isinstance(error, InvalidRequest):
        return error_response(error.status, type(error).__name__, error.message)
    # UnknownName's sentence names the table, not the field; clients need the field.
    named = error.message.startswith(error.field)
    message = error.message if named else f"{error.field}: {error.message}"
    detail = [{"type": "value_error", "loc": ["body", error.field], "msg": message}]
    return error_response(error.status, type(error).__name__, message, detail=detail)


async def _on_validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
    # `input` and `url` are left out: a picture or prompt sent to the wrong field would come back.
    detail = [
        {"type": item["type"], "loc": list(item["loc"]), "msg": _describe(item)}
        for item in error.errors()
    ]
    message = "; ".join(_sentence(item) for item in detail)
    return error_response(422, "ValidationError", message, detail=detail)


def _describe(item: Mapping[str, Any]) -> str:
    text = str(item["msg"])
    if reason := (item.get("ctx") or {}).get("error"):
        text = f"{text}: {reason}"
    allowed = _ALLOWED.get(str(item["loc"][-1])) if item["loc"] else None
    return f"{text}; allowed: {allowed}" if allowed else text


def _sentence(item: Mapping[str, Any]) -> str:
    path: Sequence[Any] = item["loc"][1:] or item["loc"]
    return f"{'.'.join(map(str, path))}: {item['msg']}"


async def _on_http_error(request: Request, error: HTTPException) -> JSONResponse:
    return error_response(error.status_code, "HTTPException", error.detail, headers=error.headers)


class UnexpectedErrors:
    """Answers an exception that nobody foresaw with 500 and a number to find it by in the log."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; after a crash, answer unless an answer has begun."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception as error:
            number = secrets.token_hex(4)
            log.exception("error %s in %s %s", number, scope["method"], scope["path"])
            if started:
                raise
            text = f"something went wrong inside the server; the log has it as error {number}"
            await error_response(500, type(error).__name__, text)(scope, receive, send)

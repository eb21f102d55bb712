"""Errors become answers that tell what to do and nothing of the inside."""

from __future__ import annotations

import logging
import re

import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient

from sdforge.api.errors import UnexpectedErrors, install_error_handlers
from sdforge.core import errors

KEYS = {"error", "detail", "body", "errors", "message"}


def client_for(error: Exception) -> TestClient:
    """Return a client of an app whose only route raises."""
    app = FastAPI()
    install_error_handlers(app)
    app.add_middleware(UnexpectedErrors)

    @app.get("/")
    def fail() -> None:
        raise error

    return TestClient(app)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidRequest("steps", 0, "more"), 422),
        (errors.UnknownName("sampler", "x", ["Euler"], "sampler_name"), 422),
        (errors.NotFound("gone"), 404),
        (errors.NotAvailable("later"), 422),
        (errors.CorruptCheckpoint("damaged"), 422),
        (errors.MissingModel("no file"), 422),
        (errors.OutOfMemory("too large"), 507),
        (errors.QueueFull("wait"), 429),
        (errors.StorageError("disk full"), 507),
        (errors.Cancelled("stopped"), 409),
    ],
)
def test_each_error_has_its_status_and_says_its_sentence(
    error: errors.SdforgeError, status: int
) -> None:
    answer = client_for(error).get("/")
    body = answer.json()
    assert (answer.status_code, set(body)) == (status, KEYS)
    assert body["error"] == type(error).__name__
    assert error.message in body["errors"]
    assert body["message"] == body["errors"]


def test_an_unknown_name_is_told_with_its_field() -> None:
    error = errors.UnknownName("sampler", "Euler aa", ["Euler a"], "sampler_name")
    body = client_for(error).get("/").json()
    assert body["detail"][0]["loc"] == ["body", "sampler_name"]
    assert body["errors"].startswith("sampler_name: ")


def test_an_unforeseen_error_shows_a_number_that_the_log_explains(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        answer = client_for(ZeroDivisionError("a secret path: /home/me")).get("/")
    assert (answer.status_code, set(answer.json())) == (500, KEYS)
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    number = re.search(r"error ([0-9a-f]{8})", answer.json()["errors"])
    assert number is not None
    assert number[1] in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_an_error_after_the_answer_began_is_not_hidden() -> None:
    app = FastAPI()
    app.add_middleware(UnexpectedErrors)

    async def broken_stream() -> object:
        yield b"first"
        raise ValueError("late")

    @app.get("/")
    def stream() -> StreamingResponse:
        return StreamingResponse(broken_stream())  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="late"):
        TestClient(app).get("/")

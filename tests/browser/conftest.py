"""A real server with a tiny checkpoint, and a real browser that watches for errors.

The server is a process of its own, started as a user starts it, on a free port and an empty data
folder. Without Chromium these tests are skipped.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scripts.make_tiny_checkpoints import TINY_METADATA, write_checkpoint
from tests.live import LiveServer
from tests.tiny_detectors import write_detector

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "msedge",
)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def find_browser() -> str | None:
    """Return the path of an installed Chromium, or None."""
    given = os.environ.get("SDFORGE_TEST_BROWSER")
    return given or next((path for name in NAMES if (path := shutil.which(name))), None)


def make_server(folder: Path) -> LiveServer:
    """Return a server, not yet started, with two tiny checkpoints."""
    models = folder / "models" / "Stable-diffusion"
    models.mkdir(parents=True)
    large = TINY_METADATA | {"modelspec.resolution": "128x128", "sdforge.steps": "6"}
    write_checkpoint(models / "a-tiny.safetensors", metadata=TINY_METADATA)
    write_checkpoint(models / "b-tiny.safetensors", metadata=large, seed=1)
    write_detector(folder / "models", "red.pt")
    return LiveServer(folder)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = find_browser()
    if path is None:
        pytest.skip("no Chromium found: install it or name it in SDFORGE_TEST_BROWSER")
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("playwright is not installed (pip install playwright)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def shared_server(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """One server for the tests that leave it running."""
    server = make_server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_server(browser: Browser, tmp_path: Path) -> Iterator[LiveServer]:
    """A server that a test may stop."""
    server = make_server(tmp_path)
    server.start()
    yield server
    server.stop()


@dataclass
class Visitor:
    """One browser profile: its pages share storage. Collects what must not happen."""

    context: BrowserContext
    url: str
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def open(self) -> Page:
        """Open the page and wait until its form is filled."""
        page = self.context.new_page()
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._on_request)
        page.goto(self.url)
        self.wait_until_usable(page)
        return page

    def wait_until_usable(self, page: Page) -> None:
        page.wait_for_selector("#txt2img_size_presets button")

    def _on_console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.type}: {message.text} {message.location}")

    def _on_request(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.outside.append(request.url)


@pytest.fixture
def make_visitor(browser: Browser) -> Iterator[Any]:
    """Make visitors of a server; whatever a test does, nothing may be asked of another one."""
    visitors: list[Visitor] = []

    def make(server: LiveServer, **options: Any) -> Visitor:
        context = browser.new_context(viewport={"width": 1400, "height": 900}, **options)
        context.set_default_timeout(60_000)
        visitors.append(Visitor(context, server.url))
        return visitors[-1]

    yield make
    for visitor in visitors:
        visitor.context.close()
        assert visitor.outside == []


@pytest.fixture
def visitor(make_visitor: Any, shared_server: LiveServer) -> Iterator[Visitor]:
    """A visitor of the shared server; the browser's console must stay free of errors."""
    visitor: Visitor = make_visitor(shared_server)
    yield visitor
    assert visitor.errors == []

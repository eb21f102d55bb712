"""Files of a hub: the checkpoint to start with, and the field in the Models tab."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from scripts.make_tiny_checkpoints import TINY_METADATA, write_checkpoint
from tests.browser.conftest import find_browser
from tests.browser.test_panels import open_tab
from tests.hub import serving
from tests.live import LiveServer

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.mark.skipif(find_browser() is None, reason="no Chromium found")
def test_a_server_starts_with_a_file_of_the_hub_and_fetches_another(
    make_visitor: Any, tmp_path: Path
) -> None:
    source = write_checkpoint(tmp_path / "source.safetensors", metadata=TINY_METADATA)
    with serving() as hub:
        first = hub.put("o/n/first.safetensors", source.read_bytes())
        flags = ("--hub-downloads", "--hub-endpoint", hub.endpoint, "--model", first)
        data = tmp_path / "data"
        data.mkdir()
        server = LiveServer(data, further=flags)
        try:
            server.start()
            page = make_visitor(server).open()
            values = {"steps": 1, "width": 64, "height": 64}
            status, drawn = server.post("/sdapi/v1/txt2img", values)
            assert status == 200
            assert "Model: first" in drawn["info"]

            hub.holds = threading.Event()
            hub.put("o/n/second.safetensors", source.read_bytes())
            open_tab(page, "models")
            page.fill("#download_file", "hf:o/n/second.safetensors")
            page.click("#download_add")
            row = "#download_rows [data-download]:last-child"
            page.wait_for_selector(f"{row}[data-state=running]")
            page.click(f"{row} button")
            hub.holds.set()
            page.wait_for_selector(f"{row}[data-state=cancelled]")
            hub.holds = None
            page.fill("#download_file", "hf:o/n/second.safetensors")
            page.click("#download_add")
            page.wait_for_selector(f"{row}[data-state=done]")
            page.click("#models_panel [data-kind=checkpoint]")
            page.wait_for_selector("[data-card='second.safetensors']")
            page.fill("#download_file", "hf:o/n/../x")
            page.click("#download_add")
            page.wait_for_selector("text=allowed: hf:owner/name")
        finally:
            server.stop()

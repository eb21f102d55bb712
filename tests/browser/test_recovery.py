"""A crash of the server and a closed tab in the middle of a job: what was there comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.conftest import Visitor
from tests.live import LiveServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

PROMPT = "#txt2img_prompt textarea"
LOG = "#html_log_txt2img"
PICTURES = 20


def set_number(page: Page, name: str, value: int) -> None:
    box = page.locator(f"#txt2img_{name} input[type=number]")
    box.fill(str(value))
    box.press("Tab")


def drawn(server: LiveServer) -> int:
    jobs = server.get("/api/v1/jobs?limit=1")
    return len(jobs[0]["images"]) if jobs else 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_pictures_survive_a_closed_tab_kill_9_and_a_reload(
    make_visitor: Any, own_server: LiveServer
) -> None:
    visitor: Visitor = make_visitor(own_server)
    visitor.context.set_default_timeout(150_000)
    page = visitor.open()
    for name, value in {"batch_count": 10, "batch_size": 2, "steps": 12, "seed": 500}.items():
        set_number(page, name, value)
    page.fill(PROMPT, "a fox that must not be lost")
    page.keyboard.press("Control+Enter")
    own_server.until(lambda: drawn(own_server) >= 2)
    own_server.kill()
    page.wait_for_selector("#connection:not([hidden])")
    page.close(run_before_unload=False)

    own_server.start()
    page = visitor.open()
    assert page.input_value(PROMPT) == "a fox that must not be lost"
    page.wait_for_selector(f"{LOG}:has-text('The server stopped while this job ran.')")
    kept = page.locator("#txt2img_thumbnails button").count()
    assert 2 <= kept < PICTURES

    page.click("#txt2img_rest")
    page.wait_for_function("sdforge.tabs.txt2img.jobs.isRunning()")
    page.reload()
    visitor.wait_until_usable(page)
    page.wait_for_selector(f"{LOG}:has-text('Time taken')")
    page.wait_for_function(
        f"document.querySelectorAll('#txt2img_thumbnails button').length === {PICTURES}"
    )
    seeds = page.evaluate("sdforge.tabs.txt2img.results.images().map((one) => one.seed)")
    assert seeds == [500 + index for index in range(PICTURES)]
    page.wait_for_function(
        """[...document.querySelectorAll('#txt2img_thumbnails img')]
            .every((one) => one.complete && one.naturalWidth === 64)"""
    )
    saved = [path for path in own_server.saved() if not path.name.startswith("grid")]
    assert len(saved) == PICTURES

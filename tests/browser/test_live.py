"""The Live tab as a user meets it: typing, sketching, keeping, and a server that goes away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.conftest import Visitor
from tests.live import LiveServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

NUMBER = "Number(document.querySelector('#live_picture')?.dataset.number || 0)"


def open_live(page: Page) -> None:
    page.click("#tab_live-button")
    page.wait_for_function("document.querySelectorAll('#live_steps option').length > 1")


def frame_number(page: Page) -> int:
    return int(page.evaluate(NUMBER))


def wait_for_frame(page: Page, after: int) -> int:
    """Wait until a newer frame is on screen, whole, and return its number."""
    page.wait_for_function(
        f"(after) => {NUMBER} > after && document.querySelector('#live_picture').naturalWidth > 0",
        arg=after,
    )
    return frame_number(page)


def pixels(page: Page) -> list[int]:
    """Return a small copy of the frame on screen."""
    found: list[int] = page.evaluate(
        """async () => {
            const picture = document.querySelector("#live_picture");
            await picture.decode();
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [16, 16];
            const pen = canvas.getContext("2d", { willReadFrequently: true });
            pen.drawImage(picture, 0, 0, 16, 16);
            return Array.from(pen.getImageData(0, 0, 16, 16).data);
        }"""
    )
    return found


def test_typing_changes_the_picture_and_a_frame_can_be_kept(
    visitor: Visitor, shared_server: LiveServer
) -> None:
    page = visitor.open()
    open_live(page)
    page.fill("#live_seed", "5")
    seen = []
    number = frame_number(page)
    for word in ("a cat", " on a", " red table"):
        page.locator("#live_prompt").press_sequentially(word)
        number = wait_for_frame(page, number)
        # What is on screen settles on the newest wish.
        page.wait_for_function(f"() => {NUMBER} === window.sdforge.panels.live.socket.number")
        number = frame_number(page)
        seen.append(pixels(page))
    assert seen[0] != seen[1] != seen[2]
    page.wait_for_function("document.querySelector('#live_pace').textContent.includes('FPS')")
    page.wait_for_function(
        "document.querySelector('#live_timings').textContent.includes('network')"
    )
    assert "denoise" in page.inner_text("#live_timings")
    page.click("#live_keep")
    page.wait_for_selector(".message:has-text('Kept')")
    job = page.evaluate("window.sdforge.panels.live.lastKept")
    shared_server.until(
        lambda: shared_server.get(f"/api/v1/jobs/{job}")["status"] in ("done", "failed")
    )
    kept = shared_server.get(f"/api/v1/jobs/{job}")
    assert (kept["status"], kept["images"][0]["seed"]) == ("done", 5)
    assert kept["request"]["prompt"] == "a cat on a red table"

    # Another page draws beside it.
    other = visitor.open()
    open_live(other)
    other.fill("#live_prompt", "a dog")
    wait_for_frame(other, 0)
    number = frame_number(page)
    page.fill("#live_prompt", "a cat again")
    wait_for_frame(page, number)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_connection_comes_back_with_the_server(
    make_visitor: Any, own_server: LiveServer
) -> None:
    visitor: Visitor = make_visitor(own_server)
    page = visitor.open()
    open_live(page)
    page.fill("#live_prompt", "a cat")
    number = wait_for_frame(page, 0)
    own_server.stop()
    page.wait_for_function("document.querySelector('#live_state').dataset.state === 'away'")
    own_server.start()
    page.wait_for_function("window.sdforge.panels.live.socket.isOpen()")
    page.fill("#live_prompt", "a cat after the restart")
    wait_for_frame(page, number)


def test_a_sketch_is_drawn_from_as_it_grows(visitor: Visitor) -> None:
    page = visitor.open()
    open_live(page)
    page.fill("#live_prompt", "a red circle")
    number = wait_for_frame(page, 0)
    page.select_option("#live_source", "picture")
    number = wait_for_frame(page, number)
    before = pixels(page)
    page.fill("#live_seed", "7")
    page.evaluate("document.querySelector('#live_strength').value = 0.3")
    page.dispatch_event("#live_strength", "input")
    number = wait_for_frame(page, number)
    page.locator("#live_canvas").scroll_into_view_if_needed()
    box = page.locator("#live_canvas").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 20, box["y"] + box["height"] - 20, steps=8)
    page.mouse.up()
    wait_for_frame(page, number)
    page.wait_for_function(f"() => {NUMBER} === window.sdforge.panels.live.socket.number")
    assert pixels(page) != before
    # A connection that breaks comes back by itself.
    number = frame_number(page)
    page.evaluate("window.sdforge.panels.live.socket.socket.close()")
    page.wait_for_function("!window.sdforge.panels.live.socket.isOpen()")
    page.wait_for_function("window.sdforge.panels.live.socket.isOpen()")
    wait_for_frame(page, number)
    # Out of sight it rests; back in sight it goes on.
    page.click("#tab_txt2img-button")
    page.wait_for_function("!window.sdforge.panels.live.socket.isOpen()")
    page.click("#tab_live-button")
    page.wait_for_function("window.sdforge.panels.live.socket.isOpen()")

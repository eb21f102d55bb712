"""The Queue and History tabs as a user meets them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.conftest import Visitor
from tests.live import LiveServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser


def open_tab(page: Page, name: str) -> None:
    # On a narrow screen the tab may be in the menu of further ones.
    page.evaluate("(name) => document.querySelector(`#tab_${name}-button`).click()", name)
    if name != "txt2img":
        page.wait_for_selector(f"#{name}_panel > *", state="attached")


def submit_a_long_job(page: Page) -> None:
    """Queue one that takes far longer than a page takes to open, on any machine."""
    for long in (True, False):
        for name, value in (("steps", 150), ("width", 160), ("height", 160), ("batch_count", 40)):
            box = page.locator(f"#txt2img_{name} input[type=number]")
            usual = {"steps": 4, "batch_count": 1}.get(name, 64)
            box.fill(str(value if long else usual))
            box.press("Tab")
        if long:
            page.fill("#txt2img_prompt textarea", "a wolf")
            page.keyboard.press("Control+Enter")
            page.wait_for_function("sdforge.tabs.txt2img.jobs.tasks.every((task) => task.accepted)")


def test_waiting_jobs_are_moved_cancelled_and_drawn_again_and_pictures_found(
    make_visitor: Any, own_server: LiveServer
) -> None:
    visitor: Visitor = make_visitor(own_server)
    page = visitor.open()
    open_tab(page, "queue")
    page.wait_for_function("document.querySelector('#queue_panel [role=status]').textContent")
    page.click("#queue_pause")
    page.wait_for_selector("#queue_pause[aria-pressed=true]")
    open_tab(page, "txt2img")
    for prompt in ("a fox", "an owl", "a bear"):
        page.fill("#txt2img_prompt textarea", prompt)
        page.keyboard.press("Control+Enter")
        page.wait_for_function("sdforge.tabs.txt2img.jobs.tasks.every((task) => task.accepted)")
    # Of what waits only the newest message is shown, until it goes.
    assert page.locator("#messages .message").count() <= 1
    submit_a_long_job(page)
    open_tab(page, "queue")
    names = "[...document.querySelectorAll('#queue_active strong')].map((one) => one.textContent)"
    page.wait_for_function(f"{names}.join() === 'a fox,an owl,a bear,a wolf'")
    page.click("#queue_active [aria-label='Run next: a bear']")
    page.wait_for_function(f"{names}.join() === 'a bear,a fox,an owl,a wolf'")
    page.click("#queue_active [aria-label='Cancel: a fox']")
    page.wait_for_function(f"{names}.join() === 'a bear,an owl,a wolf'")
    page.click("#queue_active [aria-label='Run next: a wolf']")
    page.wait_for_function(f"{names}.join() === 'a wolf,a bear,an owl'")
    page.click("#queue_pause")
    # What runs is shown, here and in another tab, though it was sent last; then the others are.
    open_tab(page, "txt2img")
    page.wait_for_selector("#txt2img_live_preview:not([hidden])")
    other = visitor.open()
    other.wait_for_selector("#txt2img_live_preview:not([hidden])")
    other.keyboard.press("Escape")
    other.wait_for_selector("#txt2img_running", state="hidden")
    other.close()
    open_tab(page, "queue")
    done = "document.querySelectorAll('#queue_recent [data-status=done]').length"
    page.wait_for_function(f"{done} === 2")
    page.click("#queue_recent [data-status=done] [aria-label='Again: an owl']")
    page.wait_for_function(f"{done} === 3")

    open_tab(page, "history")
    cards = "document.querySelectorAll('#history_pictures .card').length"
    page.wait_for_function(f"{cards} >= 3")
    page.fill("#history_search", "bear")
    page.wait_for_function(f"{cards} === 1")
    page.click("#history_pictures [data-does=favourite]", force=True)
    page.wait_for_selector("#history_pictures [title='No favourite any more']", state="attached")
    page.click("#history_pictures [data-does=trash]", force=True)
    page.wait_for_function(f"{cards} === 0")
    page.click(".message:has-text('Moved to the trash.') button:has-text('Undo')")
    page.wait_for_function(f"{cards} === 1")
    page.click("#history_pictures .card-face")
    page.wait_for_selector("#history_picture pre:has-text('a bear')")
    page.click("#history_picture button:has-text('Send to img2img')")
    page.wait_for_selector("#img2img_image .frame:not([hidden]) img")
    page.wait_for_function("document.querySelector('#img2img_prompt textarea')?.value === 'a bear'")
    open_tab(page, "history")
    page.click("#history_pictures .card-face")
    page.click("#history_picture button:has-text('Enlarge')")
    said = "document.querySelector('#html_info_txt2img')?.textContent"
    page.wait_for_function(f"{said}?.includes('Hires upscale: 2') && {said}.startsWith('a bear')")
    assert visitor.errors == []

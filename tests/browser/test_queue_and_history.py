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
    open_tab(page, "queue")
    names = "[...document.querySelectorAll('#queue_active strong')].map((one) => one.textContent)"
    page.wait_for_function(f"{names}.join() === 'a fox,an owl,a bear'")
    page.click("#queue_active [aria-label='Run next: a bear']")
    page.wait_for_function(f"{names}.join() === 'a bear,a fox,an owl'")
    page.click("#queue_active [aria-label='Cancel: a fox']")
    page.wait_for_function(f"{names}.join() === 'a bear,an owl'")
    page.click("#queue_pause")
    done = "document.querySelectorAll('#queue_recent [data-status=done]').length"
    page.wait_for_function(f"{done} === 2")
    page.click("#queue_recent [data-status=done] [aria-label='Again: an owl']")
    page.wait_for_function(f"{done} === 3")

    open_tab(page, "history")
    cards = "document.querySelectorAll('#history_pictures .card').length"
    page.wait_for_function(f"{cards} === 3")
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

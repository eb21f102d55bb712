"""The Extras tab as a user meets it."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.browser.conftest import Visitor
from tests.live import LiveServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

SHIPPED = "R-ESRGAN AnimeVideo"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A file of a picture of 30 × 20 with a bright square."""
    values = np.full((20, 30, 3), 40, np.uint8)
    values[5:15, 8:20] = (250, 180, 20)
    path = tmp_path / "square.png"
    Image.fromarray(values).save(path)
    return path


def open_extras(page: Page) -> None:
    page.click("#tab_extras-button")
    page.wait_for_selector("#extras_upscaler_1 option[value='Lanczos']", state="attached")


def choose(page: Page, picture: Path) -> None:
    page.set_input_files("#extras_file", picture)
    page.wait_for_function("document.querySelector('#extras_image .note').textContent === '30×20'")


def wait_for_result(page: Page, done: str) -> np.ndarray:
    """Wait for the end of a job that did this, and return its picture."""
    page.wait_for_function(
        "(text) => document.querySelector('#html_info_extras').textContent.includes(text)",
        arg=done,
    )
    page.wait_for_selector("#extras_running", state="hidden")
    encoded = page.evaluate(
        """async () => {
            const answer = await fetch(document.querySelector("#extras_gallery img").src);
            const bytes = new Uint8Array(await answer.arrayBuffer());
            return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
        }"""
    )
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))


def set_value(page: Page, box: str, value: object) -> None:
    field = page.locator(f"#{box} input[type=number]")
    field.fill(str(value))
    field.press("Tab")


def test_a_picture_is_enlarged_by_a_model_and_sent_on(visitor: Visitor, picture: Path) -> None:
    page = visitor.open()
    open_extras(page)
    assert page.input_value("#extras_upscaler_1 select") == SHIPPED
    page.click("#extras_generate")
    page.locator(".message.error").wait_for()
    assert "Choose a picture" in page.locator(".message.error").inner_text()
    choose(page, picture)
    set_value(page, "extras_upscaling_resize", 3)
    page.click("#extras_generate")
    made = wait_for_result(page, f"Postprocess upscaler: {SHIPPED}")
    assert made.shape == (60, 90, 3)
    assert made[30, 40].mean() > 2 * made[5, 5].mean()
    page.click("#extras_send_to_extras")
    page.wait_for_function("document.querySelector('#extras_image .note').textContent === '90×60'")
    page.click("#extras_send_to_img2img")
    page.wait_for_selector("#img2img_image .frame:not([hidden]) img")


def test_to_a_size_with_two_upscalers_and_remembered(visitor: Visitor, picture: Path) -> None:
    page = visitor.open()
    open_extras(page)
    page.click("#extras_scale_to_tab")
    page.locator("#extras_upscaling_resize").wait_for(state="hidden")
    set_value(page, "extras_upscaling_resize_w", 50)
    set_value(page, "extras_upscaling_resize_h", 70)
    page.click("#upscaling_res_switch_btn")
    page.select_option("#extras_upscaler_1 select", "Lanczos")
    page.select_option("#extras_upscaler_2 select", "Nearest")
    set_value(page, "extras_upscaler_2_visibility", 0.5)
    choose(page, picture)
    page.keyboard.press("Control+Enter")
    made = wait_for_result(page, "Postprocess upscaler 2: Nearest")
    assert made.shape == (50, 70, 3)
    page.reload()
    # The tab that was shown is shown again, with its job.
    page.wait_for_selector("#extras_gallery img")
    assert page.input_value("#extras_upscaling_resize_w input") == "70"
    assert page.input_value("#extras_upscaler_2 select") == "Nearest"


def test_a_batch_of_files_and_a_folder(
    visitor: Visitor, picture: Path, tmp_path: Path, shared_server: LiveServer
) -> None:
    other = tmp_path / "other.png"
    Image.new("RGB", (16, 16), "teal").save(other)
    page = visitor.open()
    open_extras(page)
    page.select_option("#extras_upscaler_1 select", "Nearest")
    page.click("#extras_batch_process_tab")
    page.set_input_files("#extras_image_batch", [picture, other])
    assert "square.png, other.png" in page.inner_text("#extras_batch_names")
    page.click("#extras_generate")
    wait_for_result(page, "Postprocess upscaler: Nearest")
    page.wait_for_function("document.querySelectorAll('#extras_thumbnails button').length === 2")
    saved = shared_server.data / "outputs" / "extras-images"
    assert {"square.png", "other.png"} <= {path.name for path in saved.iterdir()}
    page.click("#extras_batch_directory_tab")
    page.fill("#extras_batch_input_dir input", "/etc")
    page.click("#extras_generate")
    page.locator(".message.error", has_text="gradio-allowed-path").wait_for()
    # The browser itself reports what the server refused.
    refused, visitor.errors[:] = list(visitor.errors), []
    assert len(refused) == 1 and "422" in refused[0]
    page.fill("#extras_batch_input_dir input", "outputs/extras-images")
    page.fill("#extras_batch_output_dir input", "outputs/again")
    page.click("#extras_generate")
    page.wait_for_function(
        "document.querySelectorAll('#extras_thumbnails button').length !== 2"
        " || document.querySelector('#extras_gallery img').naturalWidth === 480"
    )
    page.wait_for_selector("#extras_running", state="hidden")
    assert (shared_server.data / "outputs" / "again" / "square.png").exists()


def test_a_drawn_picture_goes_to_extras(visitor: Visitor) -> None:
    page = visitor.open()
    page.fill("#txt2img_prompt textarea", "a fox for extras")
    page.keyboard.press("Control+Enter")
    page.wait_for_function(
        "document.querySelector('#html_info_txt2img').textContent.includes('a fox for extras')"
    )
    page.wait_for_selector("#txt2img_running", state="hidden")
    page.click("#txt2img_send_to_extras")
    page.wait_for_function("document.querySelector('#extras_image .note')?.textContent === '64×64'")
    page.select_option("#extras_upscaler_1 select", "Lanczos")
    page.click("#extras_generate")
    made = wait_for_result(page, "a fox for extras")
    assert made.shape == (256, 256, 3)

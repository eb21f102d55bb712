"""Hires fix and the img2img tab as a user meets them."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tests.browser.conftest import Visitor

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.live import LiveServer

pytestmark = pytest.mark.browser

TAB = "button[role=tab]:has-text('img2img')"
FRAME = "#img2img_image .frame:not([hidden]) img"
CANVAS = "document.querySelector('#img2img_pictures canvas')"
PREVIEW = "#img2img_live_preview:not([hidden]) img"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A file of a picture of 96 × 64 whose rows and columns all differ."""
    rows, columns = np.mgrid[0:64, 0:96]
    values = np.stack([rows * 3, columns * 2, (rows + columns) % 256], axis=-1)
    path = tmp_path / "start.png"
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


def set_number(page: Page, tab: str, name: str, value: object) -> None:
    box = page.locator(f"#{tab}_{name} input[type=number]")
    box.fill(str(value))
    box.press("Tab")


def generate(page: Page, tab: str, prompt: str) -> None:
    page.fill(f"#{tab}_prompt textarea", prompt)
    page.keyboard.press("Control+Enter")


def wait_for_picture(page: Page, tab: str, prompt: str) -> np.ndarray:
    """Wait for the end of a job, and return its picture as the browser shows it."""
    page.wait_for_function(
        "([box, text]) => document.querySelector(box).textContent.includes(text)",
        arg=[f"#html_info_{tab}", prompt],
    )
    page.wait_for_selector(f"#{tab}_running", state="hidden")
    encoded = page.evaluate(
        """async (selector) => {
            const answer = await fetch(document.querySelector(selector).src);
            const bytes = new Uint8Array(await answer.arrayBuffer());
            return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
        }""",
        f"#{tab}_gallery img",
    )
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))


def start_with(page: Page, picture: Path, mode: str = "img2img") -> None:
    page.click(TAB)
    page.check(f"#mode_img2img input[value={mode}]")
    page.set_input_files("#img2img_file", picture)
    page.wait_for_selector(FRAME)
    page.click("#img2img_detect_image_size_btn")
    page.wait_for_function("document.querySelector('#img2img_width input').value === '96'")


def paint(page: Page) -> None:
    """Paint over the left upper quarter."""
    page.locator("#img2img_pictures canvas").scroll_into_view_if_needed()
    box = page.locator("#img2img_pictures canvas").bounding_box()
    assert box
    page.evaluate("document.querySelector('#img2img_brush').value = 60")
    page.mouse.move(box["x"] + 35, box["y"] + 35)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4, steps=4)
    page.mouse.up()


def look_around(page: Page) -> None:
    """Zoom, move, look full screen, take strokes back and again; what is painted is the same."""
    canvas = page.locator("#img2img_pictures canvas")
    whole = canvas.bounding_box()
    assert whole
    corner = (whole["x"] + 5, whole["y"] + 5)

    def see(size: float) -> None:
        """Wait until the picture is so many times as wide as at first."""
        page.wait_for_function(
            f"Math.abs({CANVAS}.getBoundingClientRect().width / {whole['width']} - {size}) < 0.01"
        )

    page.mouse.move(*corner)
    page.keyboard.down("Shift")
    page.mouse.wheel(0, -100)
    page.mouse.wheel(0, -100)
    page.keyboard.up("Shift")
    see(1.44)
    # What is below the pointer stays there; a held key moves it.
    nearer = canvas.bounding_box()
    assert nearer
    assert abs(nearer["x"] - (corner[0] - 5 * 1.44)) < 1
    page.keyboard.down("f")
    page.mouse.move(corner[0] + 1, corner[1])
    page.mouse.move(corner[0] + 21, corner[1] + 10)
    page.keyboard.up("f")
    moved = canvas.bounding_box()
    assert moved
    assert abs(moved["x"] - nearer["x"] - 20) < 1
    page.keyboard.press("r")
    see(1)
    page.keyboard.down("Control")
    page.mouse.wheel(0, 100)
    page.keyboard.up("Control")
    page.wait_for_function("document.querySelector('#img2img_brush').value === '50'")
    page.keyboard.press("s")
    page.wait_for_selector(".picture-box.full-screen")
    page.click("#img2img_mask_clear")
    page.click("#img2img_mask_undo")
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+y")
    page.keyboard.press("Escape")
    page.wait_for_selector(".picture-box.full-screen", state="detached")
    see(1)
    page.keyboard.press("?")
    page.locator("#keys_dialog dt", has_text="F").first.wait_for()
    page.keyboard.press("Escape")
    page.wait_for_selector("#keys_dialog", state="detached")


def press_of_pen(page: Page, force: float, *at: float) -> None:
    """Put a pen's tip on the page, as hard as 0 to 1."""
    pen = page.context.new_cdp_session(page)
    for kind in ("mousePressed", "mouseReleased"):
        pen.send(
            "Input.dispatchMouseEvent",
            {"type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1}
            | {"pointerType": "pen", "force": force},
        )
    pen.detach()


def test_hires_fix_and_enlarge_double_the_size(visitor: Visitor) -> None:
    page = visitor.open()
    page.locator("#txt2img_hr_scale").wait_for(state="hidden")
    page.check("#txt2img_hr-checkbox input")
    page.wait_for_function(
        "document.querySelector('#txt2img_hr_finalres').textContent === 'from 64×64 to 128×128'"
    )
    set_number(page, "txt2img", "seed", 8)
    generate(page, "txt2img", "a large fox")
    assert wait_for_picture(page, "txt2img", "a large fox").shape == (128, 128, 3)
    assert "Hires upscale: 2" in page.locator("#html_info_txt2img").inner_text()
    page.uncheck("#txt2img_hr-checkbox input")
    generate(page, "txt2img", "a small fox")
    assert wait_for_picture(page, "txt2img", "a small fox").shape == (64, 64, 3)
    page.fill("#txt2img_prompt textarea", "an enlarged fox")
    page.click("#txt2img_upscale")
    assert wait_for_picture(page, "txt2img", "an enlarged fox").shape == (128, 128, 3)
    assert "Seed: 8," in page.locator("#html_info_txt2img").inner_text()


def test_a_result_is_sent_to_img2img_and_drawn_over(visitor: Visitor) -> None:
    page = visitor.open()
    set_number(page, "txt2img", "seed", 21)
    generate(page, "txt2img", "a first fox")
    first = wait_for_picture(page, "txt2img", "a first fox")
    page.click("#txt2img_send_to_img2img")
    page.wait_for_selector(FRAME)
    page.wait_for_function("document.querySelector('#img2img_seed input')?.value === '21'")
    set_number(page, "img2img", "denoising_strength", 0.4)
    generate(page, "img2img", "a second fox")
    second = wait_for_picture(page, "img2img", "a second fox")
    assert second.shape == first.shape
    assert not np.array_equal(second, first)
    assert "Denoising strength: 0.4" in page.locator("#html_info_img2img").inner_text()


def test_inpainting_leaves_what_is_not_painted(visitor: Visitor, picture: Path) -> None:
    page = visitor.open()
    start_with(page, picture, "inpaint")
    generate(page, "img2img", "no mask yet")
    page.locator(".message.error").wait_for()
    assert page.locator(".message.error").inner_text().startswith("Mask: ")
    paint(page)
    page.keyboard.press("]")
    assert page.input_value("#img2img_brush") == "72"
    page.keyboard.press("Control+z")
    paint(page)
    look_around(page)
    set_number(page, "img2img", "mask_blur", 2)
    generate(page, "img2img", "a fox in the corner")
    drawn = wait_for_picture(page, "img2img", "a fox in the corner").astype(int)
    before = np.asarray(Image.open(picture)).astype(int)
    changed = np.abs(drawn - before).max(axis=-1)
    assert changed[44:, 60:].max() == 0
    assert changed[8:16, 8:20].mean() > 5
    page.reload()
    page.wait_for_selector(FRAME)
    painted = f"{CANVAS}.getContext('2d', {{ willReadFrequently: true }})"
    page.wait_for_function(f"{painted}.getImageData(12, 12, 1, 1).data[3] > 200")


def input_of(server: LiveServer, prompt: str) -> np.ndarray:
    """Return the picture that the job of a prompt started from."""
    jobs = server.get("/api/v1/jobs")
    (name,) = [
        job["request"]["init_images"][0]["sha256"]
        for job in jobs
        if job["request"]["prompt"] == prompt
    ]
    return np.asarray(Image.open(io.BytesIO(server.read(f"/api/v1/inputs/{name}"))).convert("RGB"))


def test_a_sketch_is_drawn_from_and_remembered(
    visitor: Visitor, picture: Path, shared_server: LiveServer
) -> None:
    page = visitor.open()
    start_with(page, picture, "sketch")
    page.wait_for_selector("#img2img_sketch canvas")
    page.evaluate("document.querySelector('#img2img_brush_color').value = '#00ff00'")
    paint(page)
    box = page.locator("#img2img_pictures canvas").bounding_box()
    assert box
    scale = box["width"] / 96
    # Half covering and with a soft edge, through the middle and back: once is as much as twice.
    page.evaluate("document.querySelector('#img2img_brush_opacity').value = 50")
    page.evaluate("document.querySelector('#img2img_brush_softness').value = 60")
    page.evaluate(f"document.querySelector('#img2img_brush').value = {16 * scale}")
    page.mouse.move(box["x"] + 60 * scale, box["y"] + 20 * scale)
    page.mouse.down()
    page.mouse.move(box["x"] + 84 * scale, box["y"] + 20 * scale, steps=6)
    page.mouse.move(box["x"] + 60 * scale, box["y"] + 20 * scale, steps=6)
    page.mouse.up()
    # A pen that presses half draws half as wide.
    page.evaluate("document.querySelector('#img2img_brush_opacity').value = 100")
    page.evaluate("document.querySelector('#img2img_brush_softness').value = 0")
    press_of_pen(page, 0.5, box["x"] + 20 * scale, box["y"] + 50 * scale)
    set_number(page, "img2img", "steps", 3)
    generate(page, "img2img", "a sketched fox")
    wait_for_picture(page, "img2img", "a sketched fox")
    start = input_of(shared_server, "a sketched fox")
    assert tuple(start[9, 12]) == (0, 255, 0)
    green = np.asarray(Image.open(picture)).astype(float)
    share = (start - green)[..., 1] / (255 - green[..., 1])
    # Below the brush's middle, at half of its soft rim (3.2 to 8 pixels away), and beside it.
    assert abs(share[20, 72] - 0.5) < 0.02
    assert abs(share[20 + 5, 72] - 0.28) < 0.05
    assert share[20 + 9, 72] == 0
    assert (share[50, 17:23] > 0.98).all()
    assert share[50, 25] == share[50, 14] == 0
    assert (start[44:, 60:] == np.asarray(Image.open(picture))[44:, 60:]).all()
    page.reload()
    page.wait_for_selector(FRAME)
    painted = f"{CANVAS}.getContext('2d', {{ willReadFrequently: true }})"
    page.wait_for_function(f"{painted}.getImageData(12, 12, 1, 1).data[1] === 255")


def test_an_inpaint_sketch_changes_only_what_is_painted(visitor: Visitor, picture: Path) -> None:
    page = visitor.open()
    start_with(page, picture, "inpaint_sketch")
    page.wait_for_selector("#inpaint_sketch canvas")
    page.locator("#img2img_mask_alpha").wait_for()
    page.evaluate("document.querySelector('#img2img_brush_color').value = '#00ff00'")
    paint(page)
    page.evaluate("document.querySelector('#img2img_brush_color').value = '#123456'")
    page.click("#img2img_pick_color")
    box = page.locator("#img2img_pictures canvas").bounding_box()
    assert box
    page.mouse.click(box["x"] + 0.12 * box["width"], box["y"] + 0.18 * box["height"])
    assert page.input_value("#img2img_brush_color") == "#00ff00"
    set_number(page, "img2img", "mask_blur", 2)
    set_number(page, "img2img", "steps", 3)
    generate(page, "img2img", "a fox sketched in")
    drawn = wait_for_picture(page, "img2img", "a fox sketched in").astype(int)
    changed = np.abs(drawn - np.asarray(Image.open(picture)).astype(int)).max(axis=-1)
    assert changed[44:, 60:].max() == 0
    assert changed[8:16, 8:20].mean() > 5


def test_a_batch_draws_each_of_its_files(
    visitor: Visitor, picture: Path, tmp_path: Path, shared_server: LiveServer
) -> None:
    other = tmp_path / "other.png"
    Image.new("RGB", (64, 64), "teal").save(other)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    page = visitor.open()
    page.click(TAB)
    page.check("#mode_img2img input[value=batch]")
    page.locator("#img2img_pictures").wait_for(state="hidden")
    page.locator("#img2img_batch_input_dir").wait_for(state="hidden")
    page.set_input_files("#img2img_batch_upload", [picture, other, broken])
    assert "start.png, other.png, broken.png" in page.inner_text("#img2img_batch_names")
    page.fill("#img2img_batch_output_dir textarea, #img2img_batch_output_dir input", "outputs/made")
    set_number(page, "img2img", "steps", 3)
    generate(page, "img2img", "a batch of foxes")
    page.locator(".message.warning", has_text="broken.png").wait_for()
    # The browser itself reports what the server refused.
    page.wait_for_function("document.querySelectorAll('#img2img_thumbnails button').length === 2")
    page.wait_for_selector("#img2img_running", state="hidden")
    refused, visitor.errors[:] = list(visitor.errors), []
    assert len(refused) == 1 and "422" in refused[0]
    made = shared_server.data / "outputs" / "made"
    assert sorted(path.name for path in made.iterdir()) == ["other.png", "start.png"]
    page.check("#img2img_batch_source input[value='from dir']")
    page.fill("#img2img_batch_input_dir textarea, #img2img_batch_input_dir input", "/etc")
    generate(page, "img2img", "nothing to see")
    page.locator(".message.error", has_text="gradio-allowed-path").wait_for()


def test_a_reload_in_the_middle_finds_the_img2img_job_again(
    visitor: Visitor, picture: Path
) -> None:
    page = visitor.open()
    start_with(page, picture)
    # Far more than a reload takes, on any machine; it is interrupted.
    for name, value in (("steps", 150), ("width", 160), ("height", 160), ("batch_count", 40)):
        set_number(page, "img2img", name, value)
    set_number(page, "img2img", "denoising_strength", 1)
    generate(page, "img2img", "a fox before the reload")
    page.wait_for_selector(PREVIEW)
    page.reload()
    page.wait_for_selector(PREVIEW)
    page.locator("#img2img_interrupt").wait_for()
    page.locator("#txt2img_running").wait_for(state="hidden")
    page.keyboard.press("Escape")
    wait_for_picture(page, "img2img", "a fox before the reload")
    page.locator(FRAME).wait_for()


def test_the_img2img_tab_fits_a_phone(visitor: Visitor, picture: Path) -> None:
    page = visitor.open()
    page.set_viewport_size({"width": 390, "height": 844})
    start_with(page, picture, "upload")
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.click("button[role=tab]:has-text('txt2img')")
    page.check("#txt2img_hr-checkbox input")
    page.check("#txt2img_enable-checkbox input")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.slow
def test_a_script_opens_when_it_is_ticked_and_enlarges_the_picture(
    visitor: Visitor, picture: Path
) -> None:
    page = visitor.open()
    start_with(page, picture)
    overlap = page.locator("#img2img_script_sd_upscale_overlap")
    overlap.wait_for(state="hidden")
    page.check("#img2img_script_loopback_enabled input")
    page.locator("#img2img_script_loopback_loops").wait_for(state="visible")
    page.check("#img2img_script_sd_upscale_enabled input")
    overlap.wait_for(state="visible")
    # A job has one script.
    page.locator("#img2img_script_loopback_loops").wait_for(state="hidden")
    set_number(page, "img2img", "script_sd_upscale_scale", 1.5)
    # As wide an overlap as a tile is would make fifty tiles of it.
    set_number(page, "img2img", "script_sd_upscale_overlap", 16)
    set_number(page, "img2img", "steps", 3)
    generate(page, "img2img", "an upscaled fox")
    assert wait_for_picture(page, "img2img", "an upscaled fox").shape == (96, 144, 3)
    assert "SD upscale:" in page.locator("#html_info_img2img").inner_text()


def test_pictures_to_refer_to_are_kept_and_go_with_the_job(visitor: Visitor, picture: Path) -> None:
    """The model that ships refers to none, and the answer says which do."""
    page = visitor.open()
    box = page.locator("#txt2img_references")
    box.locator("summary").click()
    page.set_input_files("#txt2img_references_file", [picture, picture])
    box.locator("summary", has_text="· 2").wait_for()
    page.reload()
    visitor.wait_until_usable(page)
    box.locator("summary", has_text="· 2").wait_for()
    generate(page, "txt2img", "a cat")
    page.locator("#messages .error", has_text="Kontext, Flux.2").wait_for()
    for left in ("· 1", ""):
        box.locator("button[aria-label='Remove reference picture 1']").click()
        box.locator("summary", has_text=f"Reference pictures {left}".strip()).wait_for()
    page.wait_for_function("!document.querySelector('#txt2img_references .reference')")

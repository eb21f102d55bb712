"""The tabs without a form, and the chip that says whether the form will fit."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pytest
from PIL import Image, PngImagePlugin

from tests.browser.conftest import Visitor
from tests.live import LiveServer
from tests.tiny_faces import write_faces

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

INFOTEXT = (
    "a fox (red:1.2)\nNegative prompt: blur\nSteps: 4, Sampler: Euler, Schedule type: Karras, "
    "CFG scale: 2.5, Seed: 77, Size: 72x64, Clip skip: 2, Version: x"
)


def open_tab(page: Page, name: str) -> None:
    page.click(f"#tab_{name}-button")
    page.wait_for_selector(f"#{name}_panel > *", state="attached")


def value_is(page: Page, selector: str, value: str) -> None:
    page.wait_for_function(
        "([box, value]) => document.querySelector(box)?.value === value", arg=[selector, value]
    )


def test_the_chip_says_what_the_form_takes_and_follows_it(visitor: Visitor) -> None:
    page = visitor.open()
    page.wait_for_selector("#txt2img_fit[data-state=good]")
    before = page.inner_text("#txt2img_fit .fit-text")
    page.click("#txt2img_fit summary")
    assert "Sampling" in page.inner_text("#txt2img_fit .fit-body")
    page.check("#txt2img_hr-checkbox input")
    page.wait_for_function(
        "(before) => document.querySelector('#txt2img_fit .fit-text').textContent !== before",
        arg=before,
    )
    page.locator("#txt2img_fit_fix").wait_for(state="hidden")


def test_a_picture_tells_its_parameters_and_gives_them_to_a_form(
    visitor: Visitor, tmp_path: Path
) -> None:
    page = visitor.open()
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", INFOTEXT)
    picture = tmp_path / "fox.png"
    Image.new("RGB", (72, 64), "orange").save(picture, pnginfo=text)
    open_tab(page, "pnginfo")
    page.set_input_files("#pnginfo_file", picture)
    page.wait_for_selector("#pnginfo_out pre")
    assert page.inner_text("#pnginfo_out pre") == INFOTEXT
    assert "Karras" in page.inner_text("#pnginfo_out table")
    page.click("#pnginfo_send_to_txt2img")
    value_is(page, "#txt2img_prompt textarea", "a fox (red:1.2)")
    value_is(page, "#txt2img_seed input", "77")
    value_is(page, "#txt2img_width input[type=number]", "72")
    assert "Clip skip: 2" in page.inner_text("#txt2img_override_settings")
    page.keyboard.press("Control+Enter")
    page.wait_for_function(
        "document.querySelector('#html_info_txt2img').textContent.includes('Clip skip: 2')"
    )
    open_tab(page, "pnginfo")
    page.click("#pnginfo_send_to_img2img")
    page.wait_for_selector("#img2img_image .frame:not([hidden]) img")
    value_is(page, "#img2img_prompt textarea", "a fox (red:1.2)")


def put_into_the_quick_row(page: Page, words: str, key: str) -> None:
    page.fill("#settings_search", "quicksettings")
    box = page.locator("#setting_quicksettings_list_row .multichoice")
    page.click("#setting_quicksettings_list_value")
    box.locator("input[type=search]").fill(words)
    box.locator(f"label:has(code:text-is('{key}')) input").check()
    page.keyboard.press("Escape")


def test_settings_are_found_changed_and_refused_where_they_stand(
    make_visitor: object, own_server: LiveServer
) -> None:
    visitor: Visitor = make_visitor(own_server)  # type: ignore[operator]
    page = visitor.open()
    open_tab(page, "settings")
    page.wait_for_selector("#setting_samples_save_row")
    page.fill("#settings_search", "jpeg quality")
    page.wait_for_selector("#setting_samples_save_row", state="hidden")
    page.fill("#setting_jpeg_quality_value", "900")
    page.click("#settings_submit")
    page.wait_for_selector("#setting_jpeg_quality_row .setting-problem:not([hidden])")
    assert "1 to 100" in page.inner_text("#setting_jpeg_quality_row .setting-problem")
    # Nothing is written by opening the page, nor by a change that is refused.
    assert not (own_server.data / "config.json").exists()
    page.fill("#setting_jpeg_quality_value", "91")
    page.fill("#settings_search", "")
    page.click("[data-section=ui]")
    page.uncheck("#setting_live_previews_enable_value")
    page.click("#settings_submit")
    page.wait_for_selector("#settings_submit:disabled")
    options = own_server.get("/sdapi/v1/options")
    assert (options["jpeg_quality"], options["live_previews_enable"]) == (91, False)
    # What was applied can be taken back, and applied again.
    page.click(".message:has-text('Settings changed:') button:has-text('Undo')")
    page.locator(".message", has_text="Settings are as before:").wait_for()
    options = own_server.get("/sdapi/v1/options")
    assert (options["jpeg_quality"], options["live_previews_enable"]) == (80, True)
    value_is(page, "#setting_jpeg_quality_value", "80")
    page.uncheck("#setting_live_previews_enable_value")
    page.click("[data-section=saving-images]")
    page.fill("#setting_jpeg_quality_value", "91")
    page.click("#settings_submit")
    page.wait_for_selector("#settings_submit:disabled")
    put_into_the_quick_row(page, "jpeg quality", "jpeg_quality")
    put_into_the_quick_row(page, "live previews of the created", "live_previews_enable")
    page.click("#settings_submit")
    value_is(page, "#quicksettings #quick_jpeg_quality", "91")
    page.check("#quicksettings #quick_live_previews_enable")
    own_server.until(lambda: own_server.get("/sdapi/v1/options")["live_previews_enable"])
    chosen = own_server.get("/sdapi/v1/options")["quicksettings_list"]
    assert chosen == ["sd_model_checkpoint", "jpeg_quality", "live_previews_enable"]
    open_tab(page, "system")
    page.wait_for_selector(".memory-chart polygon")
    assert "a-tiny.safetensors" in page.inner_text(".system-models")
    page.click("#run_benchmark")
    page.click("#stop_benchmark")
    page.wait_for_selector("#tab_system [role=status]:has-text('Interrupted.')")
    page.click("#run_benchmark")
    page.wait_for_selector("#benchmark_results tbody tr:nth-child(3)")
    page.wait_for_selector("#run_benchmark:not([disabled])")
    shown = page.locator("#benchmark_results tbody tr th").all_inner_texts()
    assert shown == ["1", "2", "4"]
    assert "64×64" in page.inner_text("#benchmark_results")
    assert [*(own_server.data / "outputs").rglob("*.png")] == []
    # The refused change is the browser's own line in the console.
    assert [line for line in visitor.errors if "422" not in line] == []


def test_quick_settings_count_for_the_next_job_and_outlast_a_reload(
    make_visitor: object, own_server: LiveServer
) -> None:
    spare = own_server.data / "models" / "VAE"
    spare.mkdir(parents=True, exist_ok=True)
    (spare / "spare.safetensors").write_bytes(b"")
    write_faces(own_server.data / "models", everywhere=True)
    visitor: Visitor = make_visitor(own_server)  # type: ignore[operator]
    page = visitor.open()
    page.select_option("#quick_forge_preset", "all")
    page.wait_for_selector("#quick_forge_unet_storage_dtype")
    page.select_option("#quick_forge_unet_storage_dtype", "float8-e4m3fn")
    page.fill("#quick_CLIP_stop_at_last_layers", "2")
    # What another changes meanwhile takes nothing from what is being typed.
    own_server.post("/sdapi/v1/options", {"sd_vae": "None"})
    with page.expect_response("**/api/v1/settings"):
        page.evaluate("document.getElementById('refresh_sd_model_checkpoint').click()")
    page.evaluate("fetch('api/v1/settings').then((answer) => answer.json())")
    assert page.evaluate("document.activeElement.id") == "quick_CLIP_stop_at_last_layers"
    page.press("#quick_CLIP_stop_at_last_layers", "Tab")
    own_server.until(lambda: own_server.get("/sdapi/v1/options")["CLIP_stop_at_last_layers"] == 2)
    page.fill("#txt2img_prompt textarea", "a quick fox")
    page.check("#txt2img_restore_faces input")
    page.keyboard.press("Control+Enter")
    page.wait_for_function(
        """["Face restoration: CodeFormer", "Clip skip: 2", "Diffusion in Low Bits: float8-e4m3fn"]
            .every((words) => document.querySelector("#html_info_txt2img").textContent
                .includes(words))"""
    )
    # Ctrl+Enter in a box is no click on it.
    assert page.is_checked("#txt2img_restore_faces input")
    page.click("#quick_forge_additional_modules")
    page.check(".multichoice-body input")
    chosen = ["spare.safetensors"]
    own_server.until(
        lambda: own_server.get("/sdapi/v1/options")["forge_additional_modules"] == chosen
    )
    page.reload()
    visitor.wait_until_usable(page)
    page.wait_for_selector("#quick_forge_additional_modules:has-text('spare.safetensors')")
    assert page.input_value("#quick_CLIP_stop_at_last_layers") == "2"
    assert page.input_value("#quick_forge_unet_storage_dtype") == "float8-e4m3fn"
    options = own_server.get("/sdapi/v1/options")
    assert (options["forge_preset"], options["CLIP_stop_at_last_layers"]) == ("all", 2)
    assert options["forge_additional_modules"] == chosen


def choose_from_menu(page: Page, tab: str) -> None:
    """Open a tab by the menu of those that have no room.

    Gradio closes the menu whenever it lays the tabs out anew, so it is opened as often
    as it takes.
    """
    from playwright.sync_api import TimeoutError as GoneAgain

    entry = page.locator(f"#tabs .overflow-dropdown button:has-text('{tab}')")
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if not entry.is_visible():
            page.click("#tabs [aria-label='More tabs']")
        with contextlib.suppress(GoneAgain):
            entry.click(timeout=2000)
            return
    raise AssertionError(f"the menu never stayed open for {tab}")


def test_on_a_phone_every_tab_is_in_reach_and_found_again_after_a_reload(visitor: Visitor) -> None:
    page = visitor.open()
    page.set_viewport_size({"width": 390, "height": 844})
    choose_from_menu(page, "System")
    page.wait_for_selector("#system_panel h2")
    page.reload()
    page.wait_for_selector("#system_panel h2")
    # Results are sent to a tab that is in the menu, too.
    page.evaluate("sdforge.tabs.extras.open()")
    page.wait_for_selector("#extras_generate")

"""The txt2img tab as a user meets it."""

from __future__ import annotations

import base64
import io
import json
import re
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.browser.conftest import Visitor
from tests.live import LiveServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

PROMPT = "#txt2img_prompt textarea"
NEGATIVE = "#txt2img_neg_prompt textarea"
PICTURE = "#txt2img_gallery img"
PREVIEW = "#txt2img_live_preview:not([hidden]) img"
INFO = "#html_info_txt2img"
# Steps at this size take the tiny model some five seconds on an idle machine.
MANY_STEPS = 100
# Pictures of a job that no page outlives; it is interrupted.
ENDLESS = 60
LARGE_SIDE = 160


def set_number(page: Page, name: str, value: object) -> None:
    box = page.locator(f"#txt2img_{name} input[type=number]")
    box.fill(str(value))
    box.press("Tab")


def number(page: Page, name: str) -> str:
    return page.locator(f"#txt2img_{name} input[type=number]").input_value()


def generate(page: Page, prompt: str, **numbers: object) -> None:
    for name, value in numbers.items():
        set_number(page, name, value)
    page.fill(PROMPT, prompt)
    page.keyboard.press("Control+Enter")


def start_long_job(
    page: Page, prompt: str, steps: int = MANY_STEPS, side: int = LARGE_SIDE, pictures: int = 1
) -> None:
    """Start a job that runs for seconds, and wait until it draws."""
    generate(page, prompt, steps=steps, width=side, height=side, batch_count=pictures)
    page.wait_for_selector(PREVIEW)


def wait_for_end(page: Page) -> None:
    page.wait_for_selector("#txt2img_running", state="hidden")


def wait_for_info(page: Page, text: str) -> str:
    page.wait_for_function(
        "([box, text]) => document.querySelector(box).textContent.includes(text)", arg=[INFO, text]
    )
    return page.locator(INFO).inner_text()


def shown_picture(page: Page) -> bytes:
    """Return the bytes that the browser shows."""
    encoded = page.evaluate(
        """async (selector) => {
            const answer = await fetch(document.querySelector(selector).src);
            const bytes = new Uint8Array(await answer.arrayBuffer());
            return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
        }""",
        PICTURE,
    )
    return base64.b64decode(encoded)


def ask(server: LiveServer, path: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.url}{path}", data, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.fixture
def page(visitor: Visitor) -> Iterator[Page]:
    yield visitor.open()


def test_ctrl_enter_draws_a_picture_with_its_parameters(
    page: Page, shared_server: LiveServer
) -> None:
    before = len(shared_server.saved())
    assert number(page, "width") == "64"
    page.locator("#txt2img_empty").wait_for()
    generate(page, "a <b>red</b> fox", seed=41, steps=5)
    page.wait_for_selector(PICTURE)
    wait_for_end(page)
    text = wait_for_info(page, "Seed: 41")
    assert text.startswith("a <b>red</b> fox\n")
    assert "Steps: 5, Sampler: Euler" in text
    assert "Time taken:" in page.locator("#html_log_txt2img").inner_text()
    picture = Image.open(io.BytesIO(shown_picture(page)))
    assert picture.size == (64, 64)
    assert picture.info["parameters"].startswith("a <b>red</b> fox\nSteps: 5, ")
    assert len(shared_server.saved()) == before + 1


def test_progress_and_preview_are_shown_while_it_draws(page: Page) -> None:
    start_long_job(page, "a slow fox")
    page.locator("#txt2img_interrupt").wait_for()
    page.locator("#txt2img_generate").wait_for(state="hidden")
    fill = page.locator("#txt2img_progress .fill")
    began = int(fill.get_attribute("aria-valuenow") or 0)
    page.wait_for_function(
        "(began) => Number(document.querySelector("
        "'#txt2img_progress .fill').getAttribute('aria-valuenow')) > began",
        arg=began,
    )
    assert page.title().startswith("[")
    text = page.locator("#txt2img_progress .text").inner_text()
    assert re.search(rf"\d+ % · ETA [\d.a-z ]+ · step \d+/{MANY_STEPS}", text), text
    assert (page.get_attribute(PREVIEW, "src") or "").startswith("data:image/")
    page.keyboard.press("Escape")
    wait_for_end(page)


def test_a_reload_in_the_middle_finds_the_job_again(visitor: Visitor) -> None:
    page = visitor.open()
    start_long_job(page, "a fox before the reload", pictures=ENDLESS)
    page.reload()
    page.wait_for_selector(PREVIEW)
    page.locator("#txt2img_interrupt").wait_for()
    page.locator("#txt2img_progress").wait_for()
    visitor.wait_until_usable(page)
    assert page.input_value(PROMPT) == "a fox before the reload"
    page.click("#txt2img_interrupt")
    wait_for_info(page, "a fox before the reload")
    wait_for_end(page)
    page.locator(PICTURE).wait_for()


def test_a_job_that_ended_while_the_page_was_closed_is_shown(
    visitor: Visitor, shared_server: LiveServer
) -> None:
    page = visitor.open()
    start_long_job(page, "a fox that nobody watched")
    page.close()
    deadline = time.monotonic() + 60
    while ask(shared_server, "/internal/pending-tasks")["size"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    page = visitor.open()
    wait_for_info(page, "a fox that nobody watched")
    page.locator(PICTURE).wait_for()
    # The answer may be here before Gradio has made all parts that show it.
    page.evaluate("""() => {
        const results = sdforge.tabs.txt2img.results, link = results.part("open");
        const place = link.parentElement;
        link.remove();
        document.getElementById("html_log_txt2img").replaceChildren();
        results.show(results.job, { isNews: false });
        place.append(link);
    }""")
    page.wait_for_selector("#html_log_txt2img:has-text('Time taken')")


@pytest.mark.slow
def test_another_browser_finds_the_job_that_runs(
    visitor: Visitor, make_visitor: Any, shared_server: LiveServer
) -> None:
    page = visitor.open()
    start_long_job(page, "a fox seen twice", pictures=ENDLESS)
    other = make_visitor(shared_server).open()
    other.wait_for_selector(PREVIEW)
    page.click("#txt2img_interrupt")
    for each in (other, page):
        wait_for_info(each, "a fox seen twice")


def test_interrupt_keeps_what_is_there(page: Page) -> None:
    start_long_job(page, "an unfinished fox")
    page.click("#txt2img_interrupt")
    wait_for_end(page)
    wait_for_info(page, "an unfinished fox")
    page.locator(PICTURE).wait_for()
    assert "Interrupted" in page.locator("#html_log_txt2img").inner_text()
    page.locator("#txt2img_generate").wait_for()


def test_escape_and_alt_enter_do_what_the_buttons_do(page: Page) -> None:
    generate(page, "many foxes", steps=MANY_STEPS, width=LARGE_SIDE, height=LARGE_SIDE,
             batch_count=3)  # fmt: skip
    page.wait_for_selector(PREVIEW)
    page.keyboard.press("Alt+Enter")
    page.wait_for_function(
        "document.querySelector('#txt2img_progress .text').textContent.includes('2 out of 3')"
    )
    page.keyboard.press("Escape")
    wait_for_end(page)
    page.locator("#txt2img_generate").wait_for()


@pytest.mark.slow
def test_a_second_request_waits_in_the_queue(page: Page) -> None:
    start_long_job(page, "the first fox")
    page.fill(PROMPT, "the second fox")
    set_number(page, "steps", 3)
    page.focus(PROMPT)
    page.keyboard.press("Control+Enter")
    page.wait_for_function(
        "document.querySelector('#txt2img_progress .text').textContent.includes('1 more in queue')"
    )
    wait_for_info(page, "the second fox")
    wait_for_end(page)


def test_two_quick_presses_make_two_jobs(page: Page, shared_server: LiveServer) -> None:
    page.fill(PROMPT, "twin foxes")
    page.keyboard.press("Control+Enter")
    page.keyboard.press("Control+Enter")
    wait_for_info(page, "twin foxes")
    wait_for_end(page)
    prompts = [job["request"]["prompt"] for job in ask(shared_server, "/api/v1/jobs")]
    assert prompts.count("twin foxes") == 2


def test_a_bad_value_is_named_and_nothing_is_lost(page: Page) -> None:
    page.fill(PROMPT, "a fox out of bounds")
    set_number(page, "seed", 4294967296)
    page.click("#txt2img_generate")
    message = page.locator(".message.error")
    message.wait_for()
    assert message.inner_text().startswith("Seed: got 4294967296; allowed: a whole number")
    assert page.locator("#txt2img_seed.bad").count() == 1
    wait_for_end(page)
    assert page.input_value(PROMPT) == "a fox out of bounds"
    set_number(page, "seed", 5)
    assert page.locator("#txt2img_seed.bad").count() == 0
    page.click("#txt2img_generate")
    wait_for_info(page, "Seed: 5")


def test_several_pictures_can_be_looked_through(page: Page) -> None:
    generate(page, "four foxes", seed=100, steps=2, batch_size=2, batch_count=2)
    wait_for_info(page, "four foxes")
    wait_for_end(page)
    thumbnails = page.locator("#txt2img_thumbnails button")
    assert thumbnails.count() == 4
    thumbnails.nth(2).click()
    wait_for_info(page, "Seed: 102")
    page.keyboard.press("ArrowRight")
    wait_for_info(page, "Seed: 103")
    page.click("#txt2img_send_seed")
    page.wait_for_function("document.querySelector('#txt2img_seed input').value === '103'")
    page.click("#txt2img_enlarge")
    page.wait_for_selector("dialog[open] img")
    page.keyboard.press("ArrowLeft")
    wait_for_info(page, "Seed: 102")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    with page.expect_download() as download:
        page.click("#save_txt2img")
    assert "102" in download.value.suggested_filename
    with page.expect_download() as download:
        page.click("#save_zip_txt2img")
    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        first = Image.open(io.BytesIO(archive.read(names[0])))
    assert [name.rpartition("-")[2] for name in names] == [f"{100 + n}.png" for n in range(4)]
    assert "four foxes" in first.info["parameters"]


def test_the_page_and_the_api_draw_the_same_pixels(page: Page, shared_server: LiveServer) -> None:
    generate(page, "a (red:1.3) fox", seed=1234, steps=6)
    wait_for_info(page, "Seed: 1234")
    wait_for_end(page)
    body = {
        "prompt": "a (red:1.3) fox",
        "seed": 1234,
        "steps": 6,
        "width": 64,
        "height": 64,
        "cfg_scale": 4,
        "sampler_name": "Euler",
    }
    answer = ask(shared_server, "/sdapi/v1/txt2img", body)
    drawn = Image.open(io.BytesIO(base64.b64decode(answer["images"][0])))
    shown = Image.open(io.BytesIO(shown_picture(page)))
    assert np.array_equal(np.asarray(drawn), np.asarray(shown))
    assert np.asarray(shown).std() > 1


def test_parameters_are_read_from_the_prompt_and_from_the_last_picture(page: Page) -> None:
    generate(page, "a fox to repeat", seed=77, steps=3)
    wait_for_info(page, "Seed: 77")
    wait_for_end(page)
    set_number(page, "seed", 1)
    set_number(page, "steps", 9)
    page.fill(PROMPT, "")
    page.click("#paste")
    page.wait_for_function("document.querySelector('#txt2img_seed input').value === '77'")
    assert page.input_value(PROMPT) == "a fox to repeat"
    assert number(page, "steps") == "3"
    text = "owl\nNegative prompt: fog\nSteps: 7, Sampler: Heun, CFG scale: 2, Seed: 5, Size: 128x64"
    page.fill(PROMPT, text)
    page.click("#paste")
    page.wait_for_function("document.querySelector('#txt2img_seed input').value === '5'")
    assert (page.input_value(PROMPT), page.input_value(NEGATIVE)) == ("owl", "fog")
    assert (number(page, "width"), number(page, "height")) == ("128", "64")
    assert page.input_value("#txt2img_sampling input") == "Heun"


def test_small_tools_of_the_form(page: Page) -> None:
    page.click("#txt2img_size_presets button >> nth=3")
    wide, high = number(page, "width"), number(page, "height")
    assert int(wide) > int(high)
    page.click("#txt2img_res_switch_btn")
    page.wait_for_function(
        "value => document.querySelector('#txt2img_height input').value === value", arg=wide
    )
    assert number(page, "width") == high
    set_number(page, "seed", 5)
    page.click("#txt2img_random_seed")
    page.wait_for_function("document.querySelector('#txt2img_seed input').value === '-1'")
    page.locator("#txt2img_subseed").wait_for(state="hidden")
    page.check("#txt2img_subseed_show input")
    page.locator("#txt2img_subseed").wait_for()
    page.fill(PROMPT, "a red fox")
    page.wait_for_function(
        "document.querySelector('#txt2img_token_counter').textContent === '3/75'"
    )
    page.focus(PROMPT)
    page.evaluate("document.activeElement.setSelectionRange(3, 3)")
    page.keyboard.press("Control+ArrowUp")
    page.keyboard.press("Control+ArrowUp")
    assert page.input_value(PROMPT) == "a (red:1.2) fox"
    for _ in range(2):
        page.keyboard.press("Control+ArrowDown")
    assert page.input_value(PROMPT) == "a red fox"
    page.click("#txt2img_clear_prompt")
    page.wait_for_function("document.querySelector('#txt2img_prompt textarea').value === ''")
    page.click(".message button >> text=Undo")
    page.wait_for_function("document.querySelector('#txt2img_prompt textarea').value !== ''")


def test_a_chosen_style_is_counted_drawn_and_remembered(
    visitor: Visitor, shared_server: LiveServer
) -> None:
    style = {"name": "snow", "prompt": "{prompt} in deep snow", "negative_prompt": ""}
    ask(shared_server, "/api/v1/styles", style)
    page = visitor.open()
    page.fill(PROMPT, "style fox # alone")
    page.click("#txt2img_styles input")
    page.click("[role=option]:has-text('snow')")
    page.wait_for_function(
        "document.querySelector('#txt2img_token_counter').textContent === '5/75'"
    )
    page.keyboard.press("Escape")
    generate(page, "style fox # alone", steps=2)
    wait_for_info(page, "style fox in deep snow")
    page.reload()
    visitor.wait_until_usable(page)
    page.wait_for_selector("#txt2img_styles :text('snow')")


def test_another_checkpoint_is_chosen_and_the_form_follows(
    page: Page, shared_server: LiveServer
) -> None:
    def choose(name: str) -> None:
        page.click("#setting_sd_model_checkpoint input")
        page.click(f"[role=option]:has-text('{name}')")

    choose("b-tiny")
    page.wait_for_function("document.querySelector('#txt2img_width input').value === '128'")
    assert number(page, "steps") == "6"
    assert "128" in page.locator("#txt2img_size_presets button").first.inner_text()
    page.wait_for_selector("#model_state[data-state=ready]")
    options = ask(shared_server, "/sdapi/v1/options")
    assert options["sd_model_checkpoint"].startswith("b-tiny")
    ask(shared_server, "/sdapi/v1/options", {"sd_model_checkpoint": "a-tiny"})
    page.wait_for_function(
        "document.querySelector('#setting_sd_model_checkpoint input').value.startsWith('a-tiny')"
    )


def test_what_is_typed_before_the_form_is_filled_stays(visitor: Visitor) -> None:
    page = visitor.context.new_page()
    page.route("**/gradio_api/run/**", lambda route: (time.sleep(1), route.continue_()))
    page.goto(visitor.url)
    prompt = page.locator(PROMPT)
    prompt.fill("typed early")
    visitor.wait_until_usable(page)

    page.wait_for_function(
        "document.querySelector('#txt2img_prompt textarea').value === 'typed early'"
    )
    page.wait_for_timeout(1000)
    assert prompt.input_value() == "typed early"


def test_opening_the_page_writes_no_setting(visitor: Visitor, shared_server: LiveServer) -> None:
    before = ask(shared_server, "/sdapi/v1/options")
    visitor.open().reload()
    assert ask(shared_server, "/sdapi/v1/options") == before


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_page_goes_on_when_the_server_was_away(
    make_visitor: Any, own_server: LiveServer
) -> None:
    visitor = make_visitor(own_server)
    page = visitor.open()
    start_long_job(page, "a fox before the restart", steps=150, side=192)
    page.fill(PROMPT, "a fox after the restart")
    set_number(page, "steps", 3)
    page.focus(PROMPT)
    page.keyboard.press("Control+Enter")
    page.wait_for_function(
        "document.querySelector('#txt2img_progress .text').textContent.includes('1 more in queue')"
    )
    own_server.stop()
    page.wait_for_selector("#connection:not([hidden])")
    assert "Reconnecting" in page.locator("#connection").inner_text()
    own_server.start()
    page.wait_for_selector("#connection", state="hidden")
    wait_for_info(page, "a fox after the restart")
    generate(page, "a fox drawn by the new server", seed=3)
    wait_for_info(page, "a fox drawn by the new server")


def test_the_page_fits_a_phone(make_visitor: Any, shared_server: LiveServer) -> None:
    visitor = make_visitor(shared_server, color_scheme="dark")
    page = visitor.open()
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    generate_box = page.locator("#txt2img_generate").bounding_box()
    results_box = page.locator("#txt2img_gallery_container").bounding_box()
    sampler_box = page.locator("#txt2img_sampling").bounding_box()
    assert generate_box and results_box and sampler_box
    assert generate_box["y"] < results_box["y"] < sampler_box["y"]
    assert generate_box["width"] > 340

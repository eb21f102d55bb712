"""Habits of A1111's users: keys, menus, the large view, ControlNet, another language."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests.browser.conftest import Visitor
from tests.tiny_lora import write_lora

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.live import LiveServer

pytestmark = pytest.mark.browser

PROMPT = "#txt2img_prompt textarea"
CONTROLLED = (
    "edges of a fox\nSteps: 2, Sampler: Euler, CFG scale: 7.0, Seed: 3, Size: 64x64, "
    'ControlNet 1: "Module: invert, Model: None, Weight: 0.5, Control Mode: Balanced"'
)


def prompt_is(page: Page, text: str) -> None:
    page.wait_for_function(
        "([box, text]) => document.querySelector(box).value === text", arg=[PROMPT, text]
    )


def call(page: Page, module: str, function: str, *values: Any) -> Any:
    """Call an exported function of one of the page's scripts."""
    return page.evaluate(
        """async ([module, name, values]) => {
            const scripts = await import(new URL(`ui/${module}.js`, document.baseURI).href);
            return scripts[name](...values);
        }""",
        [module, function, list(values)],
    )


def draw_from_training_tags(page: Page, server: LiveServer) -> None:
    """Open the card of a LoRA that says what it was trained with, and take tags from it."""
    counts = {"10_cats": {"cat": 90, "paw (left)": 20, " ": 5}, "1_dogs": {"cat": 10, "dog": "x"}}
    path = server.data / "models" / "Lora" / "tagged.safetensors"
    metadata = {"ss_tag_frequency": json.dumps(counts)}
    write_lora(path, {"lora_unet_mid_block_attentions_0_proj_in": (8, 8)}, metadata=metadata)
    server.post("/api/v1/cards/refresh", {})
    tags = call(page, "training_tags", "tagsOf", {"ss_tag_frequency": counts})
    assert tags == [["cat", 100], ["paw (left)", 20]]
    drawn = page.evaluate(
        """async (tags) => {
            const { randomPrompt } =
                await import(new URL("ui/training_tags.js", document.baseURI).href);
            return [0.1, 0.5].map((share) => randomPrompt(tags, () => share));
        }""",
        tags,
    )
    assert drawn == ["cat, paw \\(left\\)", "cat"]
    page.fill(PROMPT, "a fox")
    page.click("button[role=tab]:has-text('Models')")
    page.click("[data-kind=lora]")
    page.click("[data-card='tagged.safetensors'] .card-edit")
    page.locator(".tag-chips button", has_text="paw (left) 20").wait_for()
    page.fill("#card_random_prompt", "")
    page.click(".tag-chips button:has-text('cat 100')")
    page.click(".tag-chips button:has-text('paw')")
    assert page.input_value("#card_random_prompt") == "cat, paw \\(left\\)"
    page.click("#card_use_prompt")
    page.keyboard.press("Escape")
    page.click(".message:has-text('The text was added') button:has-text('Open')")
    prompt_is(page, "a fox, cat, paw \\(left\\)")
    path.unlink()
    server.post("/api/v1/cards/refresh", {})


def test_prompts_are_edited_by_keys_and_completed(
    visitor: Visitor, shared_server: LiveServer
) -> None:
    page = visitor.open()
    page.fill(PROMPT, "a cat, a dog, a fox")
    page.evaluate("document.querySelector('#txt2img_prompt textarea').setSelectionRange(8, 8)")
    page.keyboard.press("Alt+ArrowRight")
    prompt_is(page, "a cat, a fox, a dog")
    page.keyboard.press("Alt+ArrowLeft")
    page.keyboard.press("Alt+ArrowLeft")
    prompt_is(page, "a dog, a cat, a fox")
    page.keyboard.press("Alt+ArrowLeft")
    prompt_is(page, "a dog, a cat, a fox")
    assert call(page, "complete", "wordStart", "a, <lora:in", 11) == 3
    assert call(page, "complete", "wordStart", "a, __col", 8) == 3
    assert call(page, "complete", "wordStart", "red fo", 6) == 0
    assert call(page, "complete", "wordStart", "x", 1) is None
    lora = {"kind": "lora", "insert": "ink", "activation_text": "ink drawing", "negative_text": ""}
    rules = {"multiplier": 1, "separator": " "}
    empty = {"prompt": "a fox", "negative_prompt": ""}
    added = call(page, "models", "toggled", lora, empty, "prompt", rules)
    assert added["values"]["prompt"] == "a fox <lora:ink:1> ink drawing"
    removed = call(page, "models", "toggled", lora, added["values"], "prompt", rules)
    assert removed == {"values": empty, "isAdded": False}
    net = {**lora, "kind": "hypernetwork", "activation_text": "", "preferred_weight": 0.5}
    added = call(page, "models", "toggled", net, empty, "prompt", rules)
    assert added["values"]["prompt"] == "a fox <hypernet:ink:0.5>"
    # Two cards one right after the other, before the box shows the first.
    page.fill(PROMPT, "a fox")
    page.evaluate(
        """async (cards) => {
            const { ModelsPanel } = await import(new URL("ui/models.js", document.baseURI).href);
            const panel = new ModelsPanel(() => sdforge.tabs.txt2img, () => {});
            panel.grid = document.createElement("div");
            for (const card of cards) panel.insert({ ...card, title: card.insert });
        }""",
        [lora, net],
    )
    prompt_is(page, "a fox <lora:ink:1> ink drawing <hypernet:ink:0.5>")
    draw_from_training_tags(page, shared_server)


def test_styles_are_edited_put_into_the_prompt_and_taken_back(visitor: Visitor) -> None:
    page = visitor.open()
    page.click("#txt2img_styles_edit_button")
    page.fill("#txt2img_edit_style_select", "misty")
    page.fill("#txt2img_edit_style_prompt", "{prompt} in mist")
    page.click("#txt2img_edit_style_save")
    page.wait_for_selector(".message:has-text('Saved.')")
    page.keyboard.press("Escape")
    page.fill(PROMPT, "an elk")
    page.click("#txt2img_styles input")
    page.click("[role=option]:has-text('misty')")
    page.wait_for_function("sdforge.tabs.txt2img.form.values().styles.includes('misty')")
    page.keyboard.press("Escape")
    page.click("#txt2img_style_apply")
    prompt_is(page, "an elk in mist")
    page.click("#txt2img_undo")
    prompt_is(page, "an elk")
    page.wait_for_function("sdforge.tabs.txt2img.form.values().styles.includes('misty')")
    # A weight is changed as if it were typed, so Ctrl+Z knows it.
    page.focus(PROMPT)
    page.evaluate("document.activeElement.setSelectionRange(5, 5)")
    page.keyboard.press("Control+ArrowUp")
    prompt_is(page, "an (elk:1.1)")
    page.keyboard.press("Control+z")
    prompt_is(page, "an elk")
    page.click("#txt2img_styles_edit_button")
    page.wait_for_function(
        "document.querySelector('#txt2img_edit_style_prompt')?.value === '{prompt} in mist'"
    )
    page.click("#txt2img_edit_style_delete")
    page.wait_for_selector(".message:has-text('Deleted.')")
    page.keyboard.press("Escape")
    page.wait_for_function("!sdforge.tabs.txt2img.form.values().styles.length")


def test_generate_forever_goes_on_until_it_is_cancelled(visitor: Visitor) -> None:
    page = visitor.open()
    page.fill(PROMPT, "for ever")
    page.click("#txt2img_generate", button="right")
    page.click("text=Generate forever >> nth=0")
    page.evaluate(
        """() => {
            window.seen = new Set();
            const box = document.querySelector("#html_info_txt2img");
            new MutationObserver(() => {
                const found = /Seed: (\\d+)/.exec(box.textContent);
                if (found) window.seen.add(found[1]);
            }).observe(box, { childList: true, subtree: true });
        }"""
    )
    page.wait_for_function("window.seen.size >= 2")
    page.evaluate("sdforge.tabs.txt2img.forever.stop()")
    page.wait_for_function("!sdforge.tabs.txt2img.jobs.isRunning()")
    assert not page.evaluate("sdforge.tabs.txt2img.forever.isOn()")


def test_pictures_are_zoomed_and_compared_in_the_large_view(visitor: Visitor) -> None:
    page = visitor.open()
    page.fill("#txt2img_batch_count input[type=number]", "2")
    page.fill(PROMPT, "two of them")
    page.keyboard.press("Control+Enter")
    page.wait_for_function("document.querySelectorAll('#txt2img_thumbnails button').length === 2")
    page.wait_for_selector("#txt2img_running", state="hidden")
    page.click("#txt2img_enlarge")
    view = page.locator("#lightboxModal .view")
    page.mouse.move(700, 450)
    page.mouse.wheel(0, -200)
    page.wait_for_selector("#lightboxModal .view.zoomed")
    view.dblclick()
    page.wait_for_selector("#lightboxModal .view:not(.zoomed)")
    page.click("#lightboxModal .compare")
    first, second = (page.get_attribute(f"#lightboxModal img >> nth={n}", "src") for n in (0, 1))
    assert first and second and first != second
    page.fill("#lightboxModal .split", "20")
    assert "80%" in str(page.get_attribute("#lightboxModal .other", "style"))
    page.keyboard.press("Escape")
    page.wait_for_selector("#lightboxModal", state="detached")


def test_a_controlnet_unit_goes_with_the_job_and_comes_back_after_a_reload(
    visitor: Visitor, tmp_path: Path
) -> None:
    page = visitor.open()
    picture = tmp_path / "edges.png"
    Image.new("RGB", (64, 64), "white").save(picture)
    page.click("#txt2img_controlnet summary")
    page.wait_for_selector("#txt2img_controlnet_unit_0")
    page.set_input_files("#txt2img_controlnet_image_file", picture)
    page.wait_for_selector(".control-picture img")
    page.select_option("#txt2img_controlnet_ControlNet-0_module", "canny")
    page.click("#txt2img_controlnet_ControlNet-0_run")
    page.wait_for_selector(".control-preview img")
    page.fill(PROMPT, "controlled")
    # The tiny server has no network, and a unit without one is refused by its name.
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".message.error:has-text('ControlNet Unit 0: Model')")
    page.reload()
    visitor.wait_until_usable(page)
    page.wait_for_selector("#txt2img_controlnet_ControlNet-0_module")
    assert page.input_value("#txt2img_controlnet_ControlNet-0_module") == "canny"
    assert page.is_checked("#txt2img_controlnet_ControlNet-0_enabled")
    # A picture's text fills its units and switches the others off; the picture of a unit stays.
    page.fill(PROMPT, CONTROLLED)
    page.click("#paste")
    page.wait_for_selector("#txt2img_controlnet_ControlNet-1_module")
    assert page.input_value("#txt2img_controlnet_ControlNet-1_module") == "invert"
    assert page.input_value("#txt2img_controlnet_ControlNet-1_weight") == "0.5"
    assert page.is_checked("#txt2img_controlnet_ControlNet-1_enabled")
    page.click("#txt2img_controlnet_unit_0")
    page.wait_for_selector("#txt2img_controlnet_ControlNet-0_enabled:not(:checked)")
    page.wait_for_selector(".control-picture img")
    page.click("#txt2img_undo")
    page.wait_for_selector("#txt2img_controlnet_ControlNet-0_enabled:checked")
    # Several pictures are a job each.
    page.set_input_files("#txt2img_controlnet_image_file", [picture, picture])
    page.wait_for_selector(".control-batch:has-text('2 pictures, a job for each: edges.png')")
    look_through_and_use(page)


DROPPED = """(area) => {
  const source = document.querySelector(".control-picture[data-control=image] img").src;
  const dataTransfer = new DataTransfer();
  dataTransfer.setData("text/html", `<img src="${source}">`);
  dataTransfer.setData("text/uri-list", source);
  area.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
}"""


def look_through_and_use(page: Page) -> None:
    """What a preprocessor makes follows the unit's values, and can become its picture."""
    page.check("#txt2img_controlnet_ControlNet-0_pixel_perfect")
    page.click("#txt2img_controlnet_ControlNet-0_run")
    page.wait_for_selector(".control-preview:has-text('canny · 64 × 64')")
    page.uncheck("#txt2img_controlnet_ControlNet-0_pixel_perfect")
    page.fill("#txt2img_controlnet_ControlNet-0_processor_res", "128")
    page.wait_for_selector(".control-preview:has-text('canny · 128 × 128')")
    page.click(".control-preview button:has-text('Use as picture')")
    page.locator(".control-preview").wait_for(state="detached")
    module = "document.querySelector('#txt2img_controlnet_ControlNet-0_module').value"
    page.wait_for_function(f"{module} === 'none'")
    page.wait_for_selector(".control-picture[data-control=image] img")
    # A picture of the page itself, of which a drop holds the address alone.
    page.locator(".control-picture[data-control=mask]").evaluate(DROPPED)
    page.wait_for_selector(".control-picture[data-control=mask] img")


DETAILED = (
    "a cat\nSteps: 2, Sampler: Euler, Seed: 3, Size: 64x64, ADetailer model: red.pt, "
    'ADetailer prompt: "a dog, close", ADetailer confidence: 0.0, ADetailer mask only top k: 1, '
    "ADetailer denoising strength: 0.55, ADetailer model 2nd: gone.pt"
)


def test_details_are_pasted_refused_and_drawn(visitor: Visitor) -> None:
    page = visitor.open()
    page.fill(PROMPT, DETAILED)
    page.click("#paste")
    page.wait_for_function("document.querySelector('#txt2img_seed input').value === '3'")
    # A detector that is not there is named, and nothing is drawn.
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".message.error:has-text('gone.pt')")
    page.click("#txt2img_adetailer .label-wrap >> nth=0")
    page.wait_for_selector("#txt2img_adetailer_enabled input:checked")
    for name, value in (("ad_model input", "red.pt"), ("ad_prompt textarea", "a dog, close")):
        page.wait_for_function(
            "([box, value]) => document.querySelector(box)?.value === value",
            arg=[f"#txt2img_adetailer_{name}", value],
        )
    page.click("#txt2img_adetailer_tab_2nd-button")
    page.uncheck("#txt2img_adetailer_ad_tab_enable_2nd input")
    page.wait_for_function(
        "sdforge.tabs.txt2img.form.values()['adetailer.ad_tab_enable_2nd'] === false"
    )
    page.focus(PROMPT)
    page.keyboard.press("Control+Enter")
    page.wait_for_function(
        """() => {
            const text = document.querySelector("#html_info_txt2img").textContent;
            return text.includes("ADetailer denoising strength: 0.55") && !text.includes("gone.pt");
        }"""
    )
    page.wait_for_selector("#txt2img_running", state="hidden")

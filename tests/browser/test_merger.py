"""The Checkpoint Merger tab, from two checkpoints to a third; and files that show by themselves."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from tests.live import LiveServer

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def test_two_checkpoints_become_one_that_can_be_chosen(
    make_visitor: Any, own_server: LiveServer
) -> None:
    visitor = make_visitor(own_server, locale="zh-CN")
    # The merge waits for the checkpoint that the server loads at its start.
    visitor.context.set_default_timeout(240_000)
    page = visitor.open()
    # What is chosen in one of Gradio's lists is in the page's language too.
    page.wait_for_selector("#txt2img_scheduler [data-shown='自动']")
    page.click("#tab_modelmerger-button")
    page.wait_for_selector("#modelmerger_primary_model_name option:nth-child(3)", state="attached")
    page.wait_for_function(
        "document.querySelector('#modelmerger_merge').textContent === '合并'"
        " && document.querySelector('#tab_modelmerger-button').textContent.includes('模型合并')"
    )
    page.locator("#modelmerger_tertiary_model_name").wait_for(state="hidden")
    page.check("#modelmerger_interp_method input[value='Add difference']")
    page.locator("#modelmerger_tertiary_model_name").wait_for()
    page.check("#modelmerger_interp_method input[value='Weighted sum']")

    # What lacks is said, and nothing is queued.
    page.click("#modelmerger_merge")
    page.wait_for_selector("#modelmerger_result[data-state=error]")
    assert "第二模型 (B)" in page.inner_text("#modelmerger_result")

    titles = page.locator("#modelmerger_secondary_model_name option").all_inner_texts()
    second = next(title for title in titles if title.startswith("b-tiny"))
    page.select_option("#modelmerger_secondary_model_name select", second)
    page.fill("#modelmerger_custom_name input", "mixed")
    field = page.locator("#modelmerger_interp_amount input[type=number]")
    field.fill("0.5")
    field.press("Tab")
    page.click("#modelmerger_merge")
    page.wait_for_function(
        "document.querySelector('#modelmerger_result').textContent.includes('mixed.safetensors')"
    )
    options = "document.querySelectorAll('#modelmerger_primary_model_name option').length === 4"
    page.wait_for_function(options)
    page.click("#modelmerger_metadata summary")
    page.click("#modelmerger_read_metadata")
    page.wait_for_function(
        "document.querySelector('#modelmerger_metadata_json textarea').value.includes('128x128')"
    )

    # A file that is copied in shows without a refresh.
    page.click("#tab_models-button")
    page.click("[data-kind=checkpoint]")
    page.wait_for_selector("[data-card='mixed.safetensors']")
    folder = own_server.data / "models" / "Stable-diffusion"
    shutil.copy(folder / "b-tiny.safetensors", folder / "c-new.safetensors")
    page.wait_for_selector("[data-card='c-new.safetensors']")
    assert visitor.errors == []

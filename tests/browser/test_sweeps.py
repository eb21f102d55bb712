"""The Script list and the grid that grows, in a real browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import Visitor

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

PATIENCE_MS = 90_000
XYZ = "script_txt2img_xyz_plot"


def choose(page: Page, title: str) -> None:
    page.select_option("#script_list", label=title)


def fill_axes(page: Page, **axes: tuple[str, str]) -> None:
    for letter, (label, values) in axes.items():
        page.select_option(f"#{XYZ}_{letter}_type", label=label)
        page.fill(f"#{XYZ}_{letter}_values", values)


def wait_for_text(page: Page, selector: str, text: str) -> None:
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector)?.textContent.includes(text)",
        arg=[selector, text],
        timeout=PATIENCE_MS,
    )


def test_a_grid_grows_on_the_page_and_its_cells_can_be_used(visitor: Visitor) -> None:
    page = visitor.open()
    page.fill("#txt2img_prompt textarea", "a cat")
    choose(page, "X/Y/Z plot")
    page.wait_for_selector(f"#{XYZ}_x_type")
    fill_axes(page, x=("Steps", "1-3"), y=("Sampler", ""))
    page.click("#xyz_grid_fill_y_tool_button")
    assert page.input_value(f"#{XYZ}_y_values").startswith('"DPM++ 2M"')
    page.fill(f"#{XYZ}_y_values", "Euler, Heun")
    wait_for_text(page, "#txt2img_dry_run", "6 cells")

    page.click("#txt2img_generate")
    page.wait_for_function(
        "document.querySelectorAll('#txt2img_sweep td img').length === 6", timeout=PATIENCE_MS
    )
    wait_for_text(page, "#txt2img_sweep .sweep-counts", "6 done")
    heads = page.locator("#txt2img_sweep th[scope=col]").all_inner_texts()
    assert heads == ["Steps: 1", "Steps: 2", "Steps: 3"]
    assert page.locator("#txt2img_sweep th[scope=row]").all_inner_texts() == ["Euler", "Heun"]
    page.locator("#txt2img_sweep td img").nth(4).click()
    wait_for_text(page, "#html_info_txt2img", "Steps: 2, Sampler: Heun")
    page.wait_for_selector("#image_buttons_txt2img:not([hidden])")

    # A reload finds the grid again.
    page.reload()
    visitor.wait_until_usable(page)
    page.wait_for_function(
        "document.querySelectorAll('#txt2img_sweep td img').length === 6", timeout=PATIENCE_MS
    )
    assert page.input_value("#script_list") == "X/Y/Z plot"

    # The winner goes into the form, which draws one picture then.
    tools = page.locator("#txt2img_sweep td").nth(4)
    tools.hover()
    tools.locator("button[title^='The winner']").click()
    page.wait_for_function(
        "document.querySelector('#txt2img_steps input[type=number]').value === '2'"
    )
    assert page.input_value("#script_list") == ""
    assert page.locator("#txt2img_sweep td.winner").count() == 1
    # What is drawn next stands above the grid.
    lies = """(isBelow) => {
        const top = (id) => document.getElementById(id).getBoundingClientRect().top;
        return top("txt2img_sweep") > top("txt2img_gallery_container") === isBelow;
    }"""
    page.wait_for_function(lies, arg=False)
    page.click("#txt2img_generate")
    page.wait_for_function(lies, arg=True)


def test_what_is_wrong_is_said_before_anything_is_drawn(visitor: Visitor) -> None:
    page = visitor.open()
    choose(page, "X/Y/Z plot")
    page.wait_for_selector(f"#{XYZ}_x_type")
    fill_axes(page, x=("Sampler", "Euler, Eular"))
    wait_for_text(page, "#txt2img_dry_run", "did you mean 'Euler'")
    page.click("#xy_grid_swap_axes_button")
    page.wait_for_function(f"document.querySelector('#{XYZ}_y_type').value === 'Sampler'")
    page.click("#txt2img_generate")
    page.wait_for_function("document.body.textContent.includes('no value of Sampler named')")
    assert page.locator("#txt2img_sweep td").count() == 0


def test_a_prompt_matrix_and_lines_of_prompts_are_scripts_too(visitor: Visitor) -> None:
    page = visitor.open()
    page.fill("#txt2img_prompt textarea", "a cat|in snow")
    choose(page, "Prompt matrix")
    wait_for_text(page, "#txt2img_dry_run", "2 cells")
    choose(page, "Prompts from file or textbox")
    page.fill("#script_txt2img_prompts_from_file_or_textbox_prompt_txt", "an owl\na fox\na cow")
    wait_for_text(page, "#txt2img_dry_run", "3 cells")
    choose(page, "None")
    page.wait_for_function("document.querySelector('#txt2img_dry_run').hidden")

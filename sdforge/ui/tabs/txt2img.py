"""The txt2img tab: prompts and Generate on top, parameters on the left, pictures on the right.

Element ids are A1111's where it has them, so user scripts and styles find what they look for.
Buttons that only the page's scripts serve are plain HTML (`assets/*.html`).
"""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr
from gradio.components import Component

from sdforge.ui.fields import make_widget
from sdforge.ui.form import SEED_EXTRAS
from sdforge.ui.markup import fragment

TAB = "txt2img"
COUNTERS = {
    "prompt": "txt2img_token_counter",
    "negative_prompt": "txt2img_negative_token_counter",
}


def build_tab() -> dict[str, Component]:
    """Lay out the tab inside the current Blocks and return its form's widgets by name."""
    widgets: dict[str, Component] = {}

    def place(name: str, scale: int | None = None, min_width: int = 160) -> None:
        widgets[name] = make_widget(TAB, name, scale=scale, min_width=min_width)

    with gr.Tab("txt2img", id=TAB, elem_id="tab_txt2img"):
        with gr.Row(elem_id="txt2img_toprow", equal_height=False):
            with gr.Column(scale=6, elem_id="txt2img_prompt_container"):
                for name, counter in COUNTERS.items():
                    with gr.Column(elem_classes=["prompt-box"]):
                        place(name)
                        fragment("token_counter", id=counter)
            with gr.Column(scale=1, min_width=220, elem_id="txt2img_actions_column"):
                fragment("actions")
        with gr.Row(elem_id="txt2img_body", equal_height=False):
            with gr.Column(scale=5, min_width=320, elem_id="txt2img_settings"):
                _parameters(widgets, place)
            with gr.Column(scale=6, min_width=320, elem_id="txt2img_results"):
                fragment("results")
    return widgets


def _parameters(widgets: dict[str, Component], place: Callable[..., None]) -> None:
    with gr.Row():
        place("sampler", min_width=130)
        place("schedule", min_width=130)
    place("steps")
    with gr.Column(elem_id="txt2img_size"):
        with gr.Row(equal_height=False):
            with gr.Column(scale=8, min_width=200):
                place("width")
                place("height")
            fragment("size_tools")
        fragment("size_presets")
    with gr.Row():
        place("batch_count", min_width=130)
        place("batch_size", min_width=130)
    place("cfg_scale")
    with gr.Column(elem_id="txt2img_seed_group"):
        with gr.Row(elem_id="txt2img_seed_row"):
            place("seed", scale=4, min_width=120)
            fragment("seed_tools")
            widgets[SEED_EXTRAS] = gr.Checkbox(
                label="Extra", elem_id="txt2img_subseed_show", container=False, min_width=70
            )
        with gr.Column(elem_id="txt2img_seed_extras"):
            with gr.Row():
                place("subseed", scale=4, min_width=120)
                fragment("subseed_tools")
                place("subseed_strength", scale=6)
            with gr.Row():
                place("seed_resize_from_w")
                place("seed_resize_from_h")

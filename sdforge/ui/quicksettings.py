"""The row above all tabs: which checkpoint, and whether it is loaded."""

from __future__ import annotations

import gradio as gr
from gradio.components import Component

from sdforge.ui.markup import fragment


def build_quicksettings() -> Component:
    """Lay out the row inside the current Blocks and return the checkpoint dropdown.

    Its choices come with the page's load event: scanning folders must not delay the page.
    """
    with gr.Row(elem_id="quicksettings", equal_height=False):
        checkpoint = gr.Dropdown(
            [],
            value=None,
            label="Stable Diffusion checkpoint",
            elem_id="setting_sd_model_checkpoint",
            min_width=300,
        )
        fragment("checkpoint_tools")
    return checkpoint

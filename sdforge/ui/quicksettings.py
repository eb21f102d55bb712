"""The row above all tabs: which checkpoint, whether it is loaded, how much memory it may take."""

from __future__ import annotations

import gradio as gr
from gradio.components import Component

from sdforge.ui.actions import CHECKPOINT, GPU_WEIGHTS
from sdforge.ui.markup import fragment


def build_quicksettings(device_mib: int | None) -> dict[str, Component]:
    """Lay out the row inside the current Blocks and return its widgets by name.

    Values and choices come with the page's load event: scanning folders must not delay the page.

    Args:
        device_mib: memory of the accelerator; None without one, then there is nothing to divide
            and no slider.
    """
    with gr.Row(elem_id="quicksettings", equal_height=False):
        checkpoint = gr.Dropdown(
            [],
            value=None,
            label="Stable Diffusion checkpoint",
            elem_id="setting_sd_model_checkpoint",
            min_width=300,
        )
        widgets: dict[str, Component] = {CHECKPOINT: checkpoint}
        if device_mib is not None:
            widgets[GPU_WEIGHTS] = gr.Slider(
                0,
                device_mib,
                value=device_mib,
                step=1,
                label="GPU Weights (MB)",
                elem_id="setting_gpu_weights",
                min_width=200,
            )
        fragment("checkpoint_tools")
        fragment("quick_settings")
    return widgets

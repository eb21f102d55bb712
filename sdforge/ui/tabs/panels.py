"""The tabs that hold no form: each is an empty section that its script in `assets/` fills.

What they show comes from the REST API, so nothing is asked of the server before a tab is opened.
"""

from __future__ import annotations

import gradio as gr

from sdforge.ui.markup import fragment

# Label by the part of the element id that A1111 has for the tab, or would have.
PANELS = {
    "live": "Live",
    "extras": "Extras",
    "pnginfo": "PNG Info",
    "modelmerger": "Checkpoint Merger",
    "queue": "Queue",
    "history": "History",
    "models": "Models",
    "settings": "Settings",
    "system": "System",
}
# These make pictures, which are shown beside.
_WITH_RESULTS = ("extras",)


def build_panel(name: str) -> None:
    """Lay out one of `PANELS` inside the current Tabs."""
    label = PANELS[name]
    with gr.Tab(label, id=name, elem_id=f"tab_{name}"):
        if name not in _WITH_RESULTS:
            fragment("panel", panel=name, label=label)
            return
        with gr.Row(elem_id=f"{name}_body", elem_classes=["tab-body"], equal_height=False):
            with gr.Column(scale=5, min_width=320, elem_id=f"{name}_settings"):
                fragment("panel", panel=name, label=label)
            with gr.Column(
                scale=6, min_width=320, elem_id=f"{name}_results", elem_classes=["results-side"]
            ):
                fragment("results", tab=name, upscale="hidden")

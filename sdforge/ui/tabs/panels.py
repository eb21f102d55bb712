"""The tabs that hold no form: each is an empty section that its script in `assets/` fills.

What they show comes from the REST API, so nothing is asked of the server before a tab is opened.
"""

from __future__ import annotations

import gradio as gr

from sdforge.ui.markup import fragment

# Label by the part of the element id that A1111 has for the tab, or would have.
PANELS = {
    "pnginfo": "PNG Info",
    "models": "Models",
    "settings": "Settings",
    "system": "System",
}


def build_panel(name: str) -> None:
    """Lay out one of `PANELS` inside the current Tabs."""
    label = PANELS[name]
    with gr.Tab(label, id=name, elem_id=f"tab_{name}"):
        fragment("panel", panel=name, label=label)

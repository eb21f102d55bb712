"""Pieces of HTML that the page's scripts bring to life, read from `assets/*.html`."""

from __future__ import annotations

from pathlib import Path
from string import Template

import gradio as gr

ASSETS = Path(__file__).parent / "assets"


def fragment(name: str, **values: str) -> gr.HTML:
    """Place `assets/<name>.html`; `$word` in it is replaced by `values["word"]`."""
    text = (ASSETS / f"{name}.html").read_text(encoding="utf-8")
    return gr.HTML(
        Template(text).substitute(values),
        elem_classes=["fragment", f"fragment-{name.replace('_', '-')}"],
        apply_default_css=False,
        js_on_load=None,
        min_width=0,
    )

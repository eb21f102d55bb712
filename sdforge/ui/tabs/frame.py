"""What the txt2img and img2img tabs have in common: their frame, and the groups of parameters.

Prompts and Generate are on top, parameters on the left, pictures on the right. Element ids are
A1111's where it has them, so user scripts and styles find what they look for. Buttons that only
the page's scripts serve are plain HTML (`assets/*.html`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.components import Component

from sdforge.core.extension import Extension
from sdforge.core.registry import Registry
from sdforge.ui.extensions import build_accordions, build_scripts
from sdforge.ui.fields import make_widget
from sdforge.ui.form import SEED_EXTRAS, STYLES
from sdforge.ui.markup import fragment
from sdforge.ui.overrides import OVERRIDES
from sdforge.ui.passes import REFINER_ON, TXT2IMG

_COUNTERS = {"prompt": "token_counter", "negative_prompt": "negative_token_counter"}


class Frame:
    """One tab while it is laid out; `widgets` are its form's by name."""

    def __init__(self, tab: str) -> None:
        """Begin with an empty form."""
        self.tab = tab
        self.widgets: dict[str, Component] = {}

    def place(self, name: str, **layout: Any) -> Component:
        """Put the widget of a parameter here; `layout` goes to Gradio."""
        widget = make_widget(self.tab, name, **{"min_width": 160, **layout})
        self.widgets[name] = widget
        return widget

    def build(
        self, parameters: Callable[[Frame], None], extensions: Registry[Extension]
    ) -> dict[str, Component]:
        """Lay out the whole tab inside the current Blocks and return its form's widgets.

        Args:
            parameters: lays out the left column.
            extensions: those whose accordions come below.
        """
        tab = self.tab
        with gr.Tab(tab, id=tab, elem_id=f"tab_{tab}"):
            with gr.Row(elem_id=f"{tab}_toprow", elem_classes=["toprow"], equal_height=False):
                self._top()
            with gr.Row(elem_id=f"{tab}_body", elem_classes=["tab-body"], equal_height=False):
                with gr.Column(
                    scale=5, min_width=320, elem_id=f"{tab}_settings", elem_classes=["settings"]
                ):
                    parameters(self)
                    self._overrides()
                    fragment("references", tab=tab)
                    fragment("controlnet", tab=tab)
                    self.widgets |= build_scripts(tab, extensions)
                    self.widgets |= build_accordions(tab, extensions)
                    # A1111 calls it so in every tab; here an id is there once.
                    choice = "script_list" if tab == TXT2IMG else f"{tab}_script_list"
                    fragment("script", tab=tab, list=choice)
                with gr.Column(
                    scale=6, min_width=320, elem_id=f"{tab}_results", elem_classes=["results-side"]
                ):
                    fragment("sweep_grid", tab=tab)
                    fragment("results", tab=tab, upscale="" if tab == TXT2IMG else "hidden")
        return self.widgets

    def _top(self) -> None:
        tab = self.tab
        container = f"{tab}_prompt_container"
        with gr.Column(scale=6, elem_id=container, elem_classes=["prompt-container"]):
            for name, counter in _COUNTERS.items():
                with gr.Column(elem_classes=["prompt-box"]):
                    self.place(name)
                    fragment("token_counter", id=f"{tab}_{counter}")
        with gr.Column(scale=1, min_width=220, elem_id=f"{tab}_actions_column"):
            # A1111 calls it so in every tab; here an id is there once.
            fragment("actions", tab=tab, paste="paste" if tab == TXT2IMG else f"{tab}_paste")
            self.widgets[STYLES] = gr.Dropdown(
                [],
                value=[],
                multiselect=True,
                label="Styles",
                elem_id=f"{tab}_styles",
                min_width=160,
            )

    def _overrides(self) -> None:
        """What a pasted picture was made with beside the settings; shown only when there is any."""
        self.widgets[OVERRIDES] = gr.Dropdown(
            [],
            value=[],
            multiselect=True,
            label="Override settings",
            elem_id=f"{self.tab}_override_settings",
            elem_classes=["override-settings"],
        )

    def sampling(self) -> None:
        """Sampler, schedule and steps."""
        with gr.Row():
            self.place("sampler", min_width=130)
            self.place("schedule", min_width=130)
        self.place("steps")

    def size(self) -> None:
        """Width and height, their tools, and sizes that suit the checkpoint."""
        tab = self.tab
        with gr.Column(elem_id=f"{tab}_size", elem_classes=["size-group"]):
            with gr.Row(equal_height=False):
                with gr.Column(scale=8, min_width=200):
                    self.place("width")
                    self.place("height")
                fragment("size_tools", tab=tab, detect="hidden" if tab == TXT2IMG else "")
            fragment("size_presets", tab=tab)

    def batch(self) -> None:
        """How many pictures."""
        with gr.Row():
            self.place("batch_count", min_width=130)
            self.place("batch_size", min_width=130)

    def refiner(self) -> None:
        """A box that opens when it is ticked: another checkpoint for the last steps."""
        tab = self.tab
        with gr.Column(elem_id=f"{tab}_enable", elem_classes=["switched"]):
            self.widgets[REFINER_ON] = gr.Checkbox(
                label="Refiner",
                elem_id=f"{tab}_enable-checkbox",
                elem_classes=["switch"],
                container=False,
            )
            with gr.Column(elem_classes=["switched-body"]):
                with gr.Row(equal_height=False):
                    self.place("refiner", scale=6)
                    fragment("list_tools", tab=tab)
                self.place("refiner_switch_at", label="Switch at")

    def switches(self) -> None:
        """Whether opposite edges fit, and whether faces are drawn again."""
        with gr.Row(elem_classes=["switches"]):
            self.place("tiling", container=False, elem_classes=["switch"])
            self.place("restore_faces", container=False, elem_classes=["switch"])

    def seed(self) -> None:
        """The seed, and behind "Extra" its variation."""
        tab = self.tab
        with gr.Column(elem_id=f"{tab}_seed_group", elem_classes=["seed-group"]):
            with gr.Row(elem_id=f"{tab}_seed_row", elem_classes=["seed-row"]):
                self.place("seed", scale=4, min_width=120)
                fragment("seed_tools", tab=tab)
                self.widgets[SEED_EXTRAS] = gr.Checkbox(
                    label="Extra",
                    elem_id=f"{tab}_subseed_show",
                    elem_classes=["seed-extra-switch"],
                    container=False,
                    min_width=70,
                )
            with gr.Column(elem_id=f"{tab}_seed_extras", elem_classes=["seed-extras"]):
                with gr.Row():
                    self.place("subseed", scale=4, min_width=120)
                    fragment("subseed_tools", tab=tab)
                    self.place("subseed_strength", scale=6)
                with gr.Row():
                    self.place("seed_resize_from_w")
                    self.place("seed_resize_from_h")

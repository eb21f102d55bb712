"""The img2img tab: pictures from a picture, the whole of it or what a mask covers."""

from __future__ import annotations

import gradio as gr
from gradio.components import Component

from sdforge.core.extension import Extension
from sdforge.core.registry import Registry
from sdforge.ui.markup import fragment
from sdforge.ui.passes import (
    IMG2IMG,
    MAX_SCALE,
    MIN_SCALE,
    MODE,
    MODE_PLAIN,
    MODES,
    SCALE,
    SCALE_STEP,
    SIZE_TO,
    SIZING,
    SIZINGS,
)
from sdforge.ui.tabs.frame import Frame


def build_tab(extensions: Registry[Extension]) -> dict[str, Component]:
    """Lay out the tab inside the current Blocks and return its form's widgets by name."""
    return Frame(IMG2IMG).build(_parameters, extensions)


def _parameters(frame: Frame) -> None:
    frame.widgets[MODE] = gr.Radio(
        list(MODES),
        value=MODE_PLAIN,
        show_label=False,
        label="Kind",
        elem_id="mode_img2img",
        elem_classes=["segments"],
        container=False,
    )
    # The picture itself goes to the engine's store, not through Gradio's temporary files.
    fragment("picture_box", tab=IMG2IMG)
    with gr.Column(elem_classes=["for-mask"]):
        _inpainting(frame)
    frame.place("resize_mode", elem_classes=["compact-radio"])
    frame.sampling()
    frame.refiner()
    _size(frame)
    frame.batch()
    with gr.Row():
        frame.place("cfg_scale")
        frame.place("distilled_cfg_scale")
        frame.place("denoising_strength")
    frame.seed()
    frame.tiling()


def _inpainting(frame: Frame) -> None:
    with gr.Row():
        frame.place("mask_blur_x")
        frame.place("mask_invert", elem_classes=["compact-radio"])
    frame.place("masked_content", elem_classes=["compact-radio"])
    with gr.Row():
        frame.place("only_masked", elem_classes=["compact-radio"])
        frame.place("only_masked_padding")


def _size(frame: Frame) -> None:
    with gr.Column(elem_classes=["sizing-group"]):
        frame.widgets[SIZING] = gr.Radio(
            list(SIZINGS),
            value=SIZE_TO,
            show_label=False,
            label="How the size is given",
            elem_id="img2img_sizing",
            elem_classes=["segments"],
            container=False,
        )
        frame.size()
        frame.widgets[SCALE] = gr.Slider(
            MIN_SCALE,
            MAX_SCALE,
            value=1.0,
            step=SCALE_STEP,
            label="Scale",
            elem_id="img2img_scale",
            elem_classes=["scale-slider"],
        )

"""The img2img tab: pictures from a picture, the whole of it or what a mask covers."""

from __future__ import annotations

import gradio as gr
from gradio.components import Component

from sdforge.core.extension import Extension
from sdforge.core.registry import Registry
from sdforge.engine.picture_batch import REUSABLE
from sdforge.ui import batch
from sdforge.ui.markup import fragment
from sdforge.ui.passes import (
    IMG2IMG,
    MASK_ALPHA,
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

_ON_SERVER = "A folder on the server, below outputs or one that --gradio-allowed-path names"


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
    with gr.Column(elem_id="img2img_batch", elem_classes=["for-batch"]):
        _batch(frame)
    with gr.Column(elem_classes=["for-mask"]):
        _inpainting(frame)
    frame.place("resize_mode", elem_classes=["compact-radio"])
    frame.sampling()
    frame.refiner()
    _size(frame)
    frame.batch()
    with gr.Row():
        frame.place("cfg_scale")
        frame.place("image_cfg_scale")
        frame.place("distilled_cfg_scale")
        frame.place("denoising_strength")
    frame.seed()
    frame.switches()


def _batch(frame: Frame) -> None:
    """Which pictures a batch redraws; element ids are A1111's."""
    widgets = frame.widgets
    widgets[batch.SOURCE] = gr.Radio(
        list(batch.SOURCES),
        value=batch.SOURCE_FILES,
        show_label=False,
        label="Where the pictures are",
        elem_id="img2img_batch_source",
        elem_classes=["segments"],
        container=False,
    )
    fragment("batch_box", tab=IMG2IMG)
    with gr.Column(elem_id="img2img_batch_from_dir_tab", elem_classes=["batch-folder"]):
        _folder(frame, batch.INPUT_DIR, "Input directory", _ON_SERVER)
    with gr.Row():
        _folder(frame, batch.OUTPUT_DIR, "Output directory", "Empty: the folder of img2img")
        _folder(
            frame,
            batch.MASK_DIR,
            "Inpaint batch mask directory",
            "One for all, or of the same names",
        )
    with gr.Column(elem_id="img2img_batch_png_info", elem_classes=["switched"]):
        widgets[batch.USE_INFO] = gr.Checkbox(
            label="Append png info to prompts",
            elem_id="img2img_batch_use_png_info",
            elem_classes=["switch"],
            container=False,
        )
        with gr.Column(elem_classes=["switched-body"]):
            _folder(
                frame, batch.INFO_DIR, "PNG info directory", "Empty: the pictures' own parameters"
            )
            widgets[batch.INFO_PROPS] = gr.CheckboxGroup(
                list(REUSABLE),
                value=batch.DEFAULTS[batch.INFO_PROPS],
                label="Parameters to take from png info",
                info="Prompts are appended to those of the form.",
                elem_id="img2img_batch_png_info_props",
            )


def _folder(frame: Frame, name: str, label: str, hint: str) -> None:
    frame.widgets[name] = gr.Textbox(
        "", label=label, placeholder=hint, elem_id=f"img2img_{name}", max_lines=1, min_width=160
    )


def _inpainting(frame: Frame) -> None:
    frame.widgets[MASK_ALPHA] = gr.Slider(
        0,
        100,
        value=0,
        step=1,
        label="Mask transparency",
        elem_id="img2img_mask_alpha",
        elem_classes=["for-colours"],
    )
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

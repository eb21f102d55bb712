"""The txt2img tab: pictures from prompts alone, enlarged and refined where that is switched on."""

from __future__ import annotations

import gradio as gr
from gradio.components import Component

from sdforge.core.extension import Extension
from sdforge.core.registry import Registry
from sdforge.output.infotext_modules import SAME_CHOICES
from sdforge.ui.markup import fragment
from sdforge.ui.passes import HIRES_MODULES, HIRES_MODULES_LABEL, TXT2IMG
from sdforge.ui.tabs.frame import Frame


def build_tab(extensions: Registry[Extension]) -> dict[str, Component]:
    """Lay out the tab inside the current Blocks and return its form's widgets by name."""
    return Frame(TXT2IMG).build(_parameters, extensions)


def _parameters(frame: Frame) -> None:
    frame.sampling()
    _hires(frame)
    frame.refiner()
    frame.size()
    frame.batch()
    with gr.Row():
        frame.place("cfg_scale")
        frame.place("distilled_cfg_scale")
    frame.seed()
    frame.switches()


def _hires(frame: Frame) -> None:
    with gr.Column(elem_id="txt2img_hr", elem_classes=["switched"]):
        with gr.Row(equal_height=False):
            frame.place("hires", container=False, elem_classes=["switch"])
            fragment("hires_note", tab=TXT2IMG)
        with gr.Column(elem_classes=["switched-body"]):
            with gr.Row():
                frame.place("hires_upscaler", label="Upscaler")
                frame.place("hires_steps")
            with gr.Row():
                frame.place("denoising_strength")
                frame.place("hires_scale")
            with gr.Row():
                frame.place("hires_width")
                frame.place("hires_height")
            with gr.Accordion("Second pass: checkpoint, sampler, CFG, prompts", open=False):
                frame.place("hires_checkpoint")
                frame.widgets[HIRES_MODULES] = gr.Dropdown(
                    [SAME_CHOICES],
                    value=[SAME_CHOICES],
                    multiselect=True,
                    label=HIRES_MODULES_LABEL,
                    info="Files for the second pass; an empty list takes its checkpoint's own.",
                    elem_id=f"{TXT2IMG}_hr_vae_te",
                )
                with gr.Row():
                    frame.place("hires_sampler")
                    frame.place("hires_schedule")
                frame.place("hires_cfg_scale", info="0 takes the first pass's.")
                frame.place("hires_distilled_cfg_scale", info="0 takes the first pass's.")
                frame.place("hires_prompt")
                frame.place("hires_negative_prompt")

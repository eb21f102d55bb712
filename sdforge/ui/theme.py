"""Colours, sizes and fonts of the page, for light and dark.

Only fonts that the system has: the page loads nothing from anywhere else. What Gradio's variables
cannot say is in `assets/style.css`, which uses the same colours by those variables' names.
"""

from __future__ import annotations

import gradio as gr
from gradio.themes.utils.colors import Color

_TEAL = Color(
    name="sdforge-teal",
    c50="#eef5f3", c100="#dcebe7", c200="#b9d8d0", c300="#8fbfb3", c400="#5fa292",
    c500="#3d8676", c600="#2f6f62", c700="#285d52", c800="#234b43", c900="#1f3e38",
    c950="#112622",
)  # fmt: skip
_STONE = Color(
    name="sdforge-stone",
    c50="#f6f7f5", c100="#eef0ed", c200="#dde1dc", c300="#c5cbc4", c400="#98a19a",
    c500="#69736d", c600="#525b56", c700="#39403c", c800="#252b28", c900="#1b1f1d",
    c950="#131614",
)  # fmt: skip

_SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def make_theme() -> gr.themes.Base:
    """Return the page's theme; the browser's preference picks light or dark."""
    return gr.themes.Base(
        primary_hue=_TEAL,
        secondary_hue=_TEAL,
        neutral_hue=_STONE,
        text_size=gr.themes.sizes.text_sm,
        spacing_size=gr.themes.sizes.spacing_sm,
        radius_size=gr.themes.sizes.radius_md,
        font=_SANS,
        font_mono=_MONO,
    ).set(
        body_background_fill="*neutral_100",
        body_background_fill_dark="*neutral_950",
        body_text_color="*neutral_900",
        body_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        link_text_color_dark="*primary_300",
        background_fill_primary="white",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary="*neutral_50",
        background_fill_secondary_dark="*neutral_800",
        border_color_primary="*neutral_200",
        border_color_primary_dark="*neutral_700",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_width="1px",
        block_shadow="none",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_600",
        block_title_text_color_dark="*neutral_300",
        block_title_text_weight="500",
        input_background_fill="*neutral_50",
        input_background_fill_dark="*neutral_800",
        input_border_width="1px",
        input_border_color="*neutral_200",
        input_border_color_dark="*neutral_700",
        input_border_color_focus="*primary_500",
        input_border_color_focus_dark="*primary_400",
        input_shadow="none",
        input_shadow_focus="none",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        slider_color="*primary_500",
        slider_color_dark="*primary_400",
        checkbox_background_color_selected="*primary_600",
        checkbox_background_color_selected_dark="*primary_500",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_border_color="*primary_600",
        button_primary_border_color_dark="*primary_600",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_secondary_border_color="*neutral_200",
        button_secondary_border_color_dark="*neutral_700",
        button_secondary_text_color="*neutral_800",
        button_secondary_text_color_dark="*neutral_100",
        button_border_width="1px",
        button_primary_shadow="none",
        button_secondary_shadow="none",
        button_transition="background-color 0.12s ease",
    )

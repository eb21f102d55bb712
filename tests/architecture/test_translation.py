"""Every text that the page can show has its 简体中文 in `configs/locales/zh_CN.json`.

What is listed here as lacking belongs into that file: the text as it stands, `{}` for what changes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import gradio as gr
import pytest

from sdforge.core.paths import configs_root
from sdforge.core.setting_sections import sections
from sdforge.core.settings import OPTIONS
from sdforge.extensions.catalog import load_extensions
from sdforge.ui.markup import ASSETS
from sdforge.ui.quicksettings import build_quicksettings
from sdforge.ui.tabs import img2img, txt2img
from sdforge.ui.tabs.panels import PANELS, build_panel

# Names that are the same in every language, and what only looks like a sentence.
NAMES = {
    "API", "CFG-Zero*", "CPU", "CodeFormer", "ControlNet", "Controlnet", "Ctrl+Enter", "DPM++",
    "ESRGAN", "Eta", "Euler", "Euler a", "False, True", "Flux", "FreeU", "GFPGAN", "GPU", "Karras",
    "Lanczos", "Lora", "Nearest", "Perp-Neg", "R-ESRGAN AnimeVideo", "SD VAE", "SD1", "SD2", "SD3",
    "SDXL", "Simple", "Stable Diffusion", "Stable Diffusion 3", "Stable Diffusion XL", "VAE",
    "sdforge",
}  # fmt: skip
SHOWN_ATTRIBUTES = ("title", "placeholder", "aria-label", "alt")
# Keys of the keyboard and the like, which scripts compare with.
CODE = re.compile(
    r"Arrow|^(Enter|Escape|Tab|Content-Type|POST|GET|DELETE|PUT|Delete|Backspace|Home|End|"
    r"Control|Shift|Alt|Meta|Infinity|AbortError|Page(Up|Down)|Space|Files|INPUT|TEXTAREA|SELECT|"
    r"BUTTON|IMG|Unreachable|Refused|Esc|Tab Enter|((Ctrl|Alt|Shift)\+\S+ ?)+)$"
)


class Shown(HTMLParser):
    """Collects the texts and attributes of HTML that people see."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.texts += [value for name, value in attrs if name in SHOWN_ATTRIBUTES and value]

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(" ".join(data.split()) if "\n" in data else data.strip())


def texts_of_html(html: str) -> list[str]:
    parser = Shown()
    parser.feed(html)
    return parser.texts


def texts_of_components(config: dict[str, Any]) -> Iterator[str]:
    for component in config["components"]:
        props = component["props"]
        if props.get("visible") == "hidden":
            continue
        if component["type"] == "html":
            yield from texts_of_html(str(props.get("value") or ""))
            continue
        for name in ("label", "info", "placeholder"):
            yield str(props.get(name) or "")
        if component["type"] == "radio":
            yield from (label for label, _ in props["choices"])


def texts_of_script(source: str) -> Iterator[str]:
    """Return the literals of a script that read like texts: a capital, then small letters."""
    code = re.sub(r"^\s*//.*$", "", source, flags=re.MULTILINE)
    for plain, template in re.findall(r'"((?:[^"\\\n]|\\.)*)"|`((?:[^`\\]|\\.)*)`', code):
        text = plain or re.sub(r"\$\{(?:[^{}]|\{[^{}]*\})*\}", "{}", template)
        reads = re.match(r"[A-Z({]", text) and re.search(r"[A-Za-z][a-z]", text)
        # Paths, ids and styles are put together by templates too.
        if reads and not re.search(r"=|\{\}[_/]|[_/]\{\}|^\{\}\w*$|^\{\w+\}$|\w_\w", text):
            yield text


def is_for_people(text: str) -> bool:
    return bool(re.search(r"[A-Za-z]{2}", text)) and text not in NAMES and not CODE.search(text)


def untranslated(texts: set[str]) -> list[str]:
    """Return what the table lacks, as `assets/locale.js` looks it up."""
    table = json.loads((configs_root() / "locales" / "zh_CN.json").read_text(encoding="utf-8"))
    patterns = [
        re.compile("(.+?)".join(map(re.escape, text.split("{}"))), re.DOTALL)
        for text in table
        if "{}" in text
    ]
    return sorted(
        text
        for text in texts
        if is_for_people(text)
        and text not in table
        and not any(one.fullmatch(text) for one in patterns)
    )


def test_every_label_of_the_page_is_translated() -> None:
    extensions = load_extensions()
    with gr.Blocks() as page:
        build_quicksettings(1024)
        txt2img.build_tab(extensions)
        img2img.build_tab(extensions)
        for name in PANELS:
            build_panel(name)
    found = set(texts_of_components(page.get_config_file()))
    assert {"Sampling steps", "Generate", "Just resize", "GPU Weights (MB)"} <= found
    assert untranslated(found) == []


def test_every_setting_is_translated() -> None:
    found = {option.label for option in OPTIONS.values()}
    for group, _, title in sections(option.section for option in OPTIONS.values()):
        found |= {group, title}
    assert untranslated(found) == []


@pytest.mark.parametrize("script", sorted(path.name for path in ASSETS.glob("*.js")))
def test_every_text_of_a_script_is_translated(script: str) -> None:
    found = set(texts_of_script((ASSETS / script).read_text(encoding="utf-8")))
    assert untranslated(found) == []
